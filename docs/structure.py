"""Print the figures of docs/architecture.md about the structure of the package.

    python docs/structure.py [FOLDER...]

Each folder holds a version of the package, such as ``sktransfer`` (the default). Three tables count

- the code: files; packages; the longest chain of imports between packages (levels); pairs of files
  of which one imports the other, imports inside functions included; groups of files that import one
  another (circles); functions and the lines of their bodies;
- the lines of each package: of code (neither blank, comment nor docstring) and of docstrings;
- five calls: the files and functions of the package that a second, warm call runs, in all threads,
  and how deep its functions call one another. Lambdas are functions, comprehensions are not.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import subprocess
import sys
import tempfile
import threading
import tokenize
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np

NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef
WITH_DOCSTRING = ast.Module | ast.ClassDef | DEFINITIONS


class Package:
    """The files of a package and what can be counted in them.

    Parameters
    ----------
    root : Path
        Its folder.
    """

    def __init__(self, root: Path):
        self.root = root
        paths = sorted(path for path in root.rglob("*.py") if "__pycache__" not in path.parts)
        self.text = {path: path.read_text(encoding="utf-8") for path in paths}
        self.tree = {path: ast.parse(text) for path, text in self.text.items()}
        self.names = {self.dotted(path): path for path in paths}

    def dotted(self, path: Path) -> str:
        parts = path.relative_to(self.root.parent).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    def part(self, path: Path) -> str:
        """Return the package that a file belongs to, or the name of a file in the root."""
        return path.relative_to(self.root).parts[0]

    def imports(self, path: Path, lazy: bool) -> set[Path]:
        """Return the files of the package that a file imports."""
        nodes = ast.walk(self.tree[path]) if lazy else at_import(self.tree[path])
        names = {name for node in nodes for name in self.imported(path, node)}
        return {self.names[name] for name in names if name in self.names} - {path}

    def imported(self, path: Path, node: ast.AST) -> Iterator[str]:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            folder = path.parent.relative_to(self.root.parent).parts
            start = folder[: len(folder) - node.level + 1] if node.level else ()
            base = ".".join([*start, *([node.module] if node.module else [])])
            inner = [f"{base}.{alias.name}" for alias in node.names]
            files = [name for name in inner if name in self.names]
            yield from files
            if len(files) < len(inner):  # something that is defined in the module itself
                yield base

    def graph(self, lazy: bool) -> dict[Path, set[Path]]:
        return {path: self.imports(path, lazy) for path in self.text}

    def parts(self) -> dict[str, set[str]]:
        """Return the imports between packages and single files in the root."""
        graph: dict[str, set[str]] = {}
        for path, imported in self.graph(lazy=False).items():
            own = self.part(path)
            graph.setdefault(own, set()).update(set(map(self.part, imported)) - {own})
        return graph

    def lines(self) -> dict[str, tuple[int, int]]:
        """Return the lines of code and of docstrings of each package, and of all together."""
        counts: dict[str, tuple[int, int]] = {}
        for path, tree in self.tree.items():
            code, docstrings = lines_of_code(self.text[path]), docstring_lines(tree)
            blank = {
                n for n, line in enumerate(self.text[path].splitlines(), 1) if not line.strip()
            }
            code, docstrings = code - docstrings, docstrings - blank
            for part in (self.part(path), "all"):
                before = counts.get(part, (0, 0))
                counts[part] = (before[0] + len(code), before[1] + len(docstrings))
        return counts

    def body_lengths(self) -> np.ndarray:
        """Return the number of lines of code in the body of each function."""
        lengths = []
        for path, tree in self.tree.items():
            code = lines_of_code(self.text[path]) - docstring_lines(tree)
            functions = [node for node in ast.walk(tree) if isinstance(node, DEFINITIONS)]
            for node in functions:
                first = node.body[0].lineno
                lengths.append(len(code & set(range(first, node.end_lineno + 1))))
        return np.array(lengths)


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes outside functions and outside ``if TYPE_CHECKING``."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        if not isinstance(node, DEFINITIONS) and not for_types:
            waiting.extend(ast.iter_child_nodes(node))


def lines_of_code(text: str) -> set[int]:
    """Return the numbers of the lines that are neither blank nor comments."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def docstring_lines(tree: ast.Module) -> set[int]:
    owners = [node for node in ast.walk(tree) if isinstance(node, WITH_DOCSTRING)]
    docstrings = [node.body[0] for node in owners if ast.get_docstring(node) is not None]
    return {n for node in docstrings for n in range(node.lineno, node.end_lineno + 1)}


def circles(graph: dict[Path, set[Path]]) -> list[set[Path]]:
    """Return the groups of files of which each reaches every other by imports."""
    reach = {path: reachable(graph, path) for path in graph}
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}
    return [set(group) for group in groups]


def reachable(graph: dict[Path, set[Path]], start: Path) -> set[Path]:
    reached: set[Path] = set()
    waiting = list(graph[start])
    while waiting:
        path = waiting.pop()
        if path not in reached:
            reached.add(path)
            waiting.extend(graph[path])
    return reached


def n_levels(graph: dict[str, set[str]]) -> int | str:
    """Return the number of parts on the longest chain of imports."""
    depth: dict[str, int] = {}
    try:
        for part in TopologicalSorter(graph).static_order():
            depth[part] = 1 + max((depth[other] for other in graph[part]), default=0)
    except CycleError:
        return "circular"
    return max(depth.values())


def count_code(package: Package) -> dict[str, str]:
    """Return the figures of the first table by name."""
    lazy, lengths = package.graph(lazy=True), package.body_lengths()
    in_circles = circles(lazy)
    sizes = [len(text.splitlines()) for text in package.text.values()]
    median, most = np.quantile(lengths, [0.5, 0.9], method="lower")
    return {
        "files": str(len(package.text)),
        "lines of a file: median / most": f"{int(np.median(sizes))} / {max(sizes)}",
        "parts of the package": str(len(package.parts())),
        "levels": str(n_levels(package.parts())),
        "imports": str(sum(map(len, lazy.values()))),
        "circles (files in them)": f"{len(in_circles)} ({sum(map(len, in_circles))})",
        "functions": str(len(lengths)),
        "lines of a function: median / 90 % / most": f"{median} / {most} / {lengths.max()}",
    }


def count_lines(package: Package) -> dict[str, str]:
    """Return the lines of code and of docstrings by package."""
    counts = {part: n for part, n in package.lines().items() if not part.startswith("__")}
    return {f"lines: {part}": f"{code} + {doc}" for part, (code, doc) in counts.items()}


class CallCounter:
    """Count the files and functions of a package that run, and the depth of their calls.

    Parameters
    ----------
    root : str
        The folder of the package.
    """

    def __init__(self, root: str):
        self.root = root + os.sep
        self.functions: set[tuple[str, int]] = set()
        self.deepest = 0
        self.depth = threading.local()

    def __call__(self, frame, event: str, _argument) -> None:
        code = frame.f_code
        if event not in ("call", "return") or not code.co_filename.startswith(self.root):
            return
        if code.co_name.startswith("<") and code.co_name != "<lambda>":
            return
        now = getattr(self.depth, "value", 0) + (1 if event == "call" else -1)
        self.depth.value = max(now, 0)
        if event == "call":
            self.functions.add((code.co_filename, code.co_firstlineno))
            self.deepest = max(self.deepest, now)

    def count(self, function: Callable[[], object]) -> list[int]:
        """Call a function; return the numbers of files and functions, and the depth."""
        function()
        threading.setprofile(self)
        sys.setprofile(self)
        try:
            function()
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        return [len({file for file, _ in self.functions}), len(self.functions), self.deepest]


def count_calls() -> dict[str, list[int]]:
    """Run the five calls with the package that is imported in this process."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    import sktransfer

    root = str(Path(sktransfer.__file__).parent)
    with tempfile.TemporaryDirectory() as folder:
        paths, labels = [], []
        for name, photo in zip(["temple", "flower"], load_sample_images().images, strict=True):
            for i in range(12):
                paths.append(f"{folder}/{name}{i}.jpg")
                Image.fromarray(photo[: 300 + 10 * i, 20 * i : 20 * i + 400]).save(paths[-1])
                labels.append(name)
        extractor = sktransfer.PretrainedFeatureExtractor().fit(paths)
        tuned = sktransfer.FineTunedClassifier(trainable=2, max_epochs=2, random_state=0)
        blend = sktransfer.TransferClassifier(random_state=0)
        calls = {
            "PretrainedFeatureExtractor.transform": lambda: extractor.transform(paths),
            "FineTunedClassifier.fit": lambda: tuned.fit(paths, labels),
            "FineTunedClassifier.predict": lambda: tuned.predict(paths),
            "TransferClassifier.fit": lambda: blend.fit(paths, labels),
            "TransferClassifier.predict": lambda: blend.predict(paths),
        }
        return {name: CallCounter(root).count(call) for name, call in calls.items()}


def count_calls_of(root: Path) -> dict[str, str]:
    """Run the five calls in a new process, with the package in a folder."""
    environment = os.environ | {"PYTHONPATH": str(root.parent)}
    command = [sys.executable, "-W", "ignore", __file__, "--calls"]
    process = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True, cwd=root.parent
    )
    counts = json.loads(process.stdout.splitlines()[-1])
    return {f"call: {name}": " / ".join(map(str, three)) for name, three in counts.items()}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("folders", nargs="*", type=Path)
    options.add_argument("--calls", action="store_true", help=argparse.SUPPRESS)
    args = options.parse_args()
    if args.calls:
        print(json.dumps(count_calls()))
        return
    default = Path(__file__).resolve().parents[1] / "sktransfer"
    roots = [folder.resolve() for folder in args.folders] or [default]
    packages = [Package(root) for root in roots]
    columns = [
        count_code(package) | count_lines(package) | count_calls_of(package.root)
        for package in packages
    ]
    names = dict.fromkeys(name for column in columns for name in column)
    for name in names:
        print("|", " | ".join([name, *(column.get(name, "-") for column in columns)]), "|")


if __name__ == "__main__":
    main()
