import ast
from pathlib import Path

import pytest
from conftest import run_python

import sktransfer

ROOT = Path(sktransfer.__file__).parent

# Imports point from a higher rank to a lower one. Equal ranks do not import one another.
RANKS = {
    "scaling": 0,
    **dict.fromkeys(["samples", "cache", "transferability", "rules"], 0.5),
    "backbones": 1,
    **dict.fromkeys(["layers", "augment"], 2),
    **dict.fromkeys(["heads", "rows"], 2.1),
    "engine": 2.5,
    "tail": 2.6,
    "watching": 2.8,
    **dict.fromkeys(["features", "training"], 3),
    "range_test": 3.2,
    **dict.fromkeys(["base", "weighting"], 3.5),
    **dict.fromkeys(["probing", "evidence"], 3.6),
    "tuning": 3.7,
    **dict.fromkeys(["extractor", "pretrained", "finetune"], 4),
    **dict.fromkeys(["candidates", "ranking"], 4.3),
    "study": 4.6,
    "strategy": 5,
    **dict.fromkeys(["persistence", "display", "distributed", "demo"], 6),
    "cli": 7,
    "__main__": 8,
    "__init__": 9,
}
# Upward doors, opened inside a method: a tuned network becomes a transformer, a recommendation a
# plot.
DOORS = {("tuning", "extractor"), ("rules", "display")}
# One file for each source of backbones, the only one that imports its library.
SOURCES = {
    "timm": "backbones/timm.py",
    "gensim": "backbones/wordvectors.py",
    "transformers": "backbones/encoders.py",
}


def modules():
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def component(path: str) -> str:
    """The part of the package that a file belongs to."""
    return path.removesuffix(".py").partition("/")[0]


def imports(path: str, top_level: bool = False):
    """Yield the absolute dotted names that a file imports, wherever in it or when loaded."""
    folder = ["sktransfer", *Path(path).parts[:-1]]
    tree = ast.parse((ROOT / path).read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            yield ".".join([*base, *([node.module] if node.module else [])])


def inner_imports(path: str):
    """Yield the parts of the package that a file imports; "" is the package root."""
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "sktransfer":
            yield rest.partition(".")[0]


@pytest.mark.parametrize("path", modules())
def test_imports_point_down_and_never_through_the_root(path):
    own = component(path)
    assert own in RANKS, f"{path} has no rank: give it one in this test and in docs"
    found = set(inner_imports(path)) - {own}
    assert "" not in found, f"{path} imports the package root"
    upward = [other for other in found if RANKS[other] >= RANKS[own] and (own, other) not in DOORS]
    assert not upward, f"{path} imports {upward}, of no lower rank"


@pytest.mark.parametrize("path", [path for path in modules() if RANKS.get(component(path), 1) < 1])
def test_the_lowest_rank_knows_no_torch(path):
    assert not {name.partition(".")[0] for name in imports(path)} & {"torch", "torchvision"}


@pytest.mark.parametrize(("library", "only"), SOURCES.items())
def test_a_library_of_networks_is_imported_by_one_file(library, only):
    users = [p for p in modules() if library in {n.partition(".")[0] for n in imports(p)}]
    assert users == [only]


# The tests around it would hold of nothing if they found nothing.
def test_the_map_above_is_read_from_real_files():
    assert {"samples.py", "cache.py", "engine.py", "backbones/base.py"} <= set(modules())
    assert set(inner_imports("extractor.py")) >= {"base", "engine", "layers"}
    assert "backbones" in set(inner_imports("backbones/base.py"))
    assert "torch" in {name.partition(".")[0] for name in imports("engine.py")}


def test_helpers_have_owners():
    assert not [path for path in modules() if Path(path).stem in ("utils", "helpers", "common")]


def test_importing_the_package_loads_no_optional_library():
    optional = ["timm", "transformers", "gensim", "matplotlib", "dask", "typer"]
    code = f"import sys, sktransfer; print([m for m in {optional} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


@pytest.mark.parametrize("path", [path for path in modules() if RANKS.get(component(path), 0) < 6])
def test_optional_libraries_are_imported_where_they_are_used(path):
    # scikit-learn loads some of these itself, where they are installed, so that sys.modules
    # would not tell.
    optional = {"rich", "pandas", "polars", "timm", "transformers", "gensim", "dask", "typer"}
    tops = {name.partition(".")[0] for name in imports(path, top_level=True)}
    assert not tops & optional
