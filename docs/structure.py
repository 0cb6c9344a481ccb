"""Print the figures of docs/architecture.md about the structure of the package.

    python docs/structure.py [FOLDER...]

Each folder holds a version of the package, such as ``sktransfer`` (the default). Counted are

- files: Python files, and those with more than 400 lines;
- parts: packages, and files beside them;
- levels: parts on the longest chain of imports between parts,
  imports inside functions left out;
- imports: pairs of files of which one imports the other, imports inside functions included;
- circles: groups of files that import one another, directly or not, imports inside functions
  included; and the files in them;
- comparisons with a kind: comparisons of something called ``kind``, ``modality`` or the like with
  the name of a kind of sample, such as ``backbone.kind == "image"``, and the files that hold them.
  The packages that define the kinds (``data``, ``backbones``) are left out;
- lines of a function: lines of its body without the docstring, blank lines and comments.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import numpy as np

KINDS = {"image", "images", "text", "texts", "array", "arrays", "words"}
NAMES = {"kind", "input", "modality", "name", "noun"}
NO_CODE = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


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

    def part(self, path: Path) -> str:
        return path.relative_to(self.root).parts[0]

    def body_lengths(self) -> np.ndarray:
        lengths = []
        for path, tree in self.tree.items():
            code = lines_of_code(self.text[path])
            lengths += [body_length(node, code) for node in ast.walk(tree) if is_function(node)]
        return np.array(lengths)

    def comparisons(self) -> dict[Path, int]:
        """Return how often each file outside data/ and backbones/ compares with a kind."""
        counts = {
            path: sum(compares_kind(node) for node in ast.walk(tree))
            for path, tree in self.tree.items()
            if not {"data", "backbones"} & set(path.relative_to(self.root).parts)
        }
        return {path: count for path, count in counts.items() if count}


def at_import(tree: ast.Module) -> Iterator[ast.AST]:
    """Yield the nodes outside functions and outside ``if TYPE_CHECKING``."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        if not is_function(node) and not is_for_types(node):
            waiting.extend(ast.iter_child_nodes(node))


def is_function(node: ast.AST) -> bool:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)


def is_for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def lines_of_code(text: str) -> set[int]:
    """Return the numbers of the lines that are neither blank nor comments."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def body_length(node: ast.FunctionDef, code: set[int]) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return sum(len(code & set(range(s.lineno, s.end_lineno + 1))) for s in body)


def compares_kind(node: ast.AST) -> bool:
    if not isinstance(node, ast.Compare):
        return False
    sides = [ast.unparse(side).rpartition(".")[2] for side in (node.left, *node.comparators)]
    values = {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}
    return any(s in NAMES for s in sides) and bool(
        {value for value in values if isinstance(value, str)} & KINDS
    )


def circles(graph: dict[Path, set[Path]]) -> list[set[Path]]:
    """Return the groups of files of which each reaches every other by imports."""
    reach = {path: reachable(graph, path) for path in graph}
    groups = {frozenset(b for b in reach[a] if a in reach[b]) for a in graph if a in reach[a]}
    return [set(group) for group in groups]


def reachable(graph: dict[Path, set[Path]], start: Path) -> set[Path]:
    found: set[Path] = set()
    waiting = list(graph[start])
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(graph[path])
    return found


def n_levels(graph: dict[str, set[str]]) -> int | str:
    """Return the number of parts on the longest chain of imports."""
    depth: dict[str, int] = {}
    try:
        for part in TopologicalSorter(graph).static_order():
            depth[part] = 1 + max((depth[other] for other in graph[part]), default=0)
    except CycleError:
        return "circular"
    return max(depth.values())


def figures(package: Package) -> dict[str, object]:
    """Return the figures by name."""
    lazy, lengths = package.graph(lazy=True), package.body_lengths()
    found, compared = circles(lazy), package.comparisons()
    long = [text for text in package.text.values() if len(text.splitlines()) > 400]
    median, most = np.quantile(lengths, [0.5, 0.9], method="lower")
    return {
        "files": len(package.text),
        "files with more than 400 lines": len(long),
        "parts of the package": len(package.parts()),
        "levels": n_levels(package.parts()),
        "imports": sum(map(len, lazy.values())),
        "circles (files in them)": f"{len(found)} ({sum(map(len, found))})",
        "comparisons with a kind (files)": f"{sum(compared.values())} ({len(compared)})",
        "functions": len(lengths),
        "lines of a function: median / 90 % / most": f"{median} / {most} / {lengths.max()}",
    }


def main() -> None:
    roots = [Path(name).resolve() for name in sys.argv[1:]]
    default = Path(__file__).resolve().parents[1] / "sktransfer"
    columns = [figures(Package(root)) for root in roots or [default]]
    for name in columns[0]:
        print("|", " | ".join([name, *(str(column[name]) for column in columns)]), "|")


if __name__ == "__main__":
    main()
