"""Check the types of the examples of README.md and docs/, as an editor does.

    python docs/check_types.py [FILE...]

Pyright in basic mode (the package basedpyright, which needs no other download) reads the examples
of each page as one file.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from check_examples import ROOT, examples

# Libraries without types, or with types that their own examples contradict: they are any object.
UNTYPED = ["distributed", "matplotlib/pyplot", "webdataset"]
UNTYPED += ["sklearn/datasets", "sklearn/metrics", "sklearn/model_selection"]
SETTINGS = {
    "typeCheckingMode": "basic",
    "reportMissingModuleSource": False,
    "reportMissingTypeStubs": False,
}


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
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages += sorted((ROOT / "docs" / "examples").glob("plot_*.py"))
    errors = check([Path(name).resolve() for name in sys.argv[1:]] or pages)
    print(*errors, f"{len(errors)} errors", sep="\n")
    sys.exit(bool(errors))


if __name__ == "__main__":
    main()
