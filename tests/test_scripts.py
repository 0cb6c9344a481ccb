"""The scripts beside the package: what they import exists, and they document their use."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = sorted([*ROOT.glob("benchmarks/*.py"), *ROOT.glob("docs/*.py")])
# Sphinx runs docs/conf.py.
RUN = [path for path in SCRIPTS if not path.name.startswith("_") and path.name != "conf.py"]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_names_that_a_script_imports_from_the_package_exist(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sktransfer"):
            module = importlib.import_module(node.module)
            missing = [a.name for a in node.names if not has(module, a.name)]
            assert not missing, f"line {node.lineno}: {node.module} has no {missing}"


def has(module, name: str) -> bool:
    if hasattr(module, name):
        return True
    return importlib.util.find_spec(f"{module.__name__}.{name}") is not None


@pytest.mark.parametrize("path", RUN, ids=lambda path: path.stem)
def test_a_script_says_how_to_run_it_and_does_nothing_when_imported(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert f"python {path.parent.name}/{path.name}" in ast.get_docstring(tree)
    assert ast.unparse(tree.body[-1]).startswith("if __name__ == '__main__':")


def test_the_structure_script_counts_a_small_package(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    structure = importlib.import_module("structure")
    files = {
        "__init__.py": "from .a import f",
        "a.py": "def f():\n    '''Doc.'''\n    # comment\n\n    from . import b\n    return b\n",
        "b.py": "from .a import f\ndef g(x):\n    if x.kind == 'text':\n        return f\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    package = structure.Package(tmp_path)
    counts = structure.count_code(package)
    assert counts["files"] == "3"
    assert counts["imports"] == "3"
    assert counts["levels"] == "2"
    assert counts["circles (files in them)"] == "1 (2)"
    assert counts["lines of a function: median / 90 % / most"] == "2 / 2 / 2"
    assert package.lines()["all"] == (8, 1)
    sys.modules.pop("structure")


def test_the_structure_script_counts_what_a_call_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.syspath_prepend(str(tmp_path))
    structure = importlib.import_module("structure")
    folder = tmp_path / "counted_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "a.py").write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "from .b import leaf\n"
        "def middle(x):\n    return [leaf(y) for y in x]\n"
        "def top():\n"
        "    with ThreadPoolExecutor(1) as pool:\n        pool.submit(leaf, 1).result()\n"
        "    return middle([1, 2])\n"
    )
    (folder / "b.py").write_text("def leaf(x):\n    return abs(x)\n")
    top = importlib.import_module("counted_package.a").top
    assert structure.CallCounter(str(folder)).count(top) == [2, 3, 3]
    for name in [*sys.modules]:
        if name == "structure" or name.startswith("counted_package"):
            sys.modules.pop(name)
