"""Check the types of public names, and of the examples of README.md and docs/, as an editor does.

    python docs/check_types.py [--names] [FILE...]

Pyright (the package basedpyright, which needs no other download) must know the type of every public
name, as its strict mode asks of a package with py.typed. Then it reads the examples of each page as
one file, in basic mode. With ``--names``, names without a type are listed, and no example is read.
"""

import ast
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from check_examples import ROOT, examples

# Libraries without types, or with types that their own examples contradict: they are any object.
UNTYPED = ["distributed", "matplotlib/pyplot", "onnxruntime", "webdataset"]
UNTYPED += ["sklearn/datasets", "sklearn/metrics", "sklearn/model_selection"]
WITHOUT_TYPES = ("sklearn", "skorch", "scipy")  # of which the package inherits or returns objects
CLASS = """class {}:
    def __init__(self, *args: Any, **kwargs: Any) -> None: ...
    def __getattr__(self, name: str) -> Any: ..."""
SETTINGS = {
    "typeCheckingMode": "basic",
    "reportMissingModuleSource": False,
    "reportMissingTypeStubs": False,
}


def names_without_type() -> tuple[list[str], int]:
    """Return public names whose type is not fully known, with the reason, and how many names are.

    Libraries without types are stubs in which everything is any object, so that of classes which
    inherit from scikit-learn, the own attributes count.
    """
    with tempfile.TemporaryDirectory() as folder:
        write_stubs(Path(folder))
        command = ["basedpyright", "--verifytypes", "sktransfer", "--ignoreexternal"]
        command += ["--outputjson", "--pythonpath", sys.executable]
        paths = os.pathsep.join([folder, str(ROOT)])
        done = subprocess.run(
            command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}
        )
    found = json.loads(done.stdout)["typeCompleteness"]["symbols"]
    names = [name for name in found if name["isExported"]]
    return [
        f"{name['name']}: {' '.join(' '.join(d['message'] for d in name['diagnostics']).split())}"
        for name in names
        if not name["isTypeKnown"] or name["isTypeAmbiguous"]
    ], len(names)


def write_stubs(folder: Path) -> None:
    """Write stubs of the libraries without types in which every imported name is any object."""
    for (module, library), names in sorted(imported_names().items()):
        path = folder / f"{library}-stubs" / Path(*module.split(".")[1:], "__init__.pyi")
        for parent in [path.parent, *path.parent.relative_to(folder).parents][:-1]:
            (folder / parent).mkdir(parents=True, exist_ok=True)
            (folder / parent / "__init__.pyi").touch()
        lines = [
            CLASS.format(name) if name[0].isupper() else f"{name}: Any" for name in sorted(names)
        ]
        own = path.read_text() if path.exists() else ""
        path.write_text("\n".join([own, "from typing import Any", *lines, ""]))


def imported_names() -> dict[tuple[str, str], set[str]]:
    """Return the names that the package imports from libraries without types, by module."""
    found: dict[tuple[str, str], set[str]] = {}
    for file in (ROOT / "sktransfer").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            module = node.module if isinstance(node, ast.ImportFrom) and not node.level else None
            library = (module or "").partition(".")[0]
            if module and library in WITHOUT_TYPES:
                found.setdefault((module, library), set()).update(a.name for a in node.names)
    return found


def code(page: Path) -> str:
    """Return the examples of a page at the lines at which they stand."""
    if page.suffix == ".py":
        return page.read_text(encoding="utf-8")
    lines = [""] * page.read_text(encoding="utf-8").count("\n")
    for example in examples(page).examples:
        for i, line in enumerate(example.source.splitlines()):
            lines[example.lineno + i] = line
    return "\n".join(lines)


def check(pages: list[Path]) -> list[str]:
    """Return the errors, with page and line."""
    with tempfile.TemporaryDirectory() as folder:
        by_name = {}
        for i, page in enumerate(pages):
            by_name[f"page_{i}.py"] = page
            (Path(folder) / f"page_{i}.py").write_text(code(page), encoding="utf-8")
        for name in UNTYPED:
            stub = Path(folder) / "typings" / name / "__init__.pyi"
            stub.parent.mkdir(parents=True)
            stub.write_text("from typing import Any\ndef __getattr__(name: str) -> Any: ...\n")
        settings = SETTINGS | {"extraPaths": [str(ROOT)], "include": ["."]}
        (Path(folder) / "pyrightconfig.json").write_text(json.dumps(settings))
        command = ["basedpyright", "--outputjson", "--pythonpath", sys.executable, "-p", folder]
        done = subprocess.run(command, capture_output=True, text=True)
    found = json.loads(done.stdout)["generalDiagnostics"]
    return [
        f"{by_name[Path(one['file']).name].relative_to(ROOT)}:{one['range']['start']['line'] + 1}: "
        f"{one['message']}"
        for one in found
        if one["severity"] == "error"
    ]


def main() -> None:
    named = [Path(name).resolve() for name in sys.argv[1:] if name != "--names"]
    if not named:
        unknown, n_names = names_without_type()
        print(*unknown, f"{n_names - len(unknown)} of {n_names} names have a type", sep="\n")
        if unknown or "--names" in sys.argv:
            sys.exit(bool(unknown))
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages += sorted((ROOT / "docs" / "examples").glob("plot_*.py"))
    errors = check(named or pages)
    print(*errors, f"{len(errors)} errors", sep="\n")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
