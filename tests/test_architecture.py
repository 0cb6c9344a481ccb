import ast
import functools
from pathlib import Path

import pytest

import sktransfer
from tests.support import run_python

ROOT = Path(sktransfer.__file__).parent

# Each package imports only those before it in this list. All imports count, those inside functions
# too; the root may import everything and is imported by nobody.
ORDER = [
    "_compat",
    "_printable",
    "data",
    "transferability",
    "backbones",
    "engines",
    "features",
    "finetuning",
    "selection",
    "inspection",
    "persistence",
    "cli",
    "__main__",
    "__init__",
]
WITHOUT_TORCH = ["data", "transferability"]
# One file for each source of backbones, the only one that imports its library.
SOURCES = {
    "timm": ["backbones/timm.py"],
    "transformers": [
        "backbones/image_folders.py",
        "backbones/model_folders.py",
    ],
}
OPTIONAL = {"rich", "pandas", "polars", "timm", "transformers", "gensim", "dask", "typer"}
OPTIONAL |= {"captum", "cleanlab", "jinja2", "matplotlib", "skops"}


# What scikit-learn asks every estimator to define.
PROTOCOL = {"_parameter_constraints"}


@functools.cache
def modules():
    return sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


@functools.cache
def tree_of(path: str) -> ast.Module:
    return ast.parse((ROOT / path).read_text())


@functools.cache
def nodes_of(path: str) -> list[ast.AST]:
    return list(ast.walk(tree_of(path)))


def package(path: str) -> str:
    """The package that a file belongs to, or the file's name in the root."""
    return path.removesuffix(".py").partition("/")[0]


def imports(path: str, top_level: bool = False):
    """Yield the absolute dotted names that a file imports, wherever in it or when loaded."""
    folder = ["sktransfer", *Path(path).parts[:-1]]
    for node in tree_of(path).body if top_level else nodes_of(path):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            # "from .. import x" and "from . import x" import the submodule x, where there is one.
            yield from (inner_name(module, alias.name) for alias in node.names)


@functools.cache
def inner_name(module: str, name: str) -> str:
    """The submodule that is imported, or the module that a name is imported from."""
    path = ROOT.parent / module.replace(".", "/") / name
    is_module = path.with_suffix(".py").exists() or (path / "__init__.py").exists()
    return f"{module}.{name}" if is_module else module


def inner_imports(path: str):
    """Yield the modules of the package that a file imports, as paths; "" is the root."""
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top == "sktransfer":
            yield rest


def file_of(module: str) -> str:
    path = module.replace(".", "/")
    return f"{path}/__init__.py" if (ROOT / path).is_dir() else f"{path}.py"


def test_imports_follow_the_order_of_packages():
    for path in modules():
        own = package(path)
        assert own in ORDER, f"{path}: add {own!r} to ORDER and to docs/architecture.md"
        others = {name.partition(".")[0] for name in inner_imports(path)} - {own}
        assert "" not in others, f"{path} imports the root"
        upward = [other for other in others if ORDER.index(other) >= ORDER.index(own)]
        assert not upward, f"{path} imports {upward}, which do not come before {own!r} in ORDER"


def test_no_files_import_each_other_in_a_circle():
    graph = {path: {file_of(m) for m in inner_imports(path)} - {path} for path in modules()}
    while leaves := [path for path, found in graph.items() if not found & graph.keys()]:
        for path in leaves:
            del graph[path]
    assert not graph, f"these files import each other in a circle: {sorted(graph)}"


def test_the_first_packages_do_not_import_torch():
    for path in (p for p in modules() if package(p) in WITHOUT_TORCH):
        tops = {name.partition(".")[0] for name in imports(path)}
        assert not tops & {"torch", "torchvision"}, path


@pytest.mark.parametrize(("library", "only"), SOURCES.items())
def test_a_library_of_networks_is_imported_by_one_file(library, only):
    users = [p for p in modules() if library in {n.partition(".")[0] for n in imports(p)}]
    assert users == only


# The tests around it would hold of nothing if they found nothing.
def test_the_imports_above_are_read_from_real_files():
    assert {"data/images.py", "engines/torch.py", "backbones/words/table.py"} <= set(modules())
    assert set(inner_imports("features/extractor.py")) >= {"backbones", "features.base"}
    assert "torch" in {name.partition(".")[0] for name in imports("engines/torch.py")}
    assert ORDER == [p for p in ORDER if p in {package(path) for path in modules()}]


def test_helpers_have_owners():
    assert not [path for path in modules() if Path(path).stem in ("utils", "helpers", "common")]


def test_importing_the_package_loads_no_optional_library():
    optional = ["timm", "transformers", "gensim", "matplotlib", "dask", "typer"]
    optional += ["captum", "cleanlab", "jinja2", "skops"]
    code = f"import sys, sktransfer; print([m for m in {optional} if m in sys.modules])"
    assert run_python(code).strip() == "[]"


def test_optional_libraries_are_imported_where_they_are_used():
    # scikit-learn loads some of these itself, where they are installed, so that sys.modules
    # would not tell.
    for path in (p for p in modules() if package(p) != "cli"):
        tops = {name.partition(".")[0] for name in imports(path, top_level=True)}
        assert not tops & OPTIONAL, path


# Where the name of a modality may decide something: the modalities and the sources of backbones.
MODALITIES = {"image", "text", "array"}
MODALITY_CLASSES = {"ImageModality", "TextModality", "ArrayModality"}
SOURCES_OF_BACKBONES = ["huggingface", "imagenet", "lite", "model_folders", "timm", "torchvision"]
SOURCES_OF_BACKBONES += ["wordvectors"]
KNOW_MODALITIES = (
    "data/",
    "backbones/words/",
    *(f"backbones/{s}.py" for s in SOURCES_OF_BACKBONES),
)


def constants(node: ast.AST) -> set:
    return {n.value for n in ast.walk(node) if isinstance(n, ast.Constant)}


def names(node: ast.AST) -> set:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}


def branches_on_modality(tree: ast.AST):
    """Yield comparisons with a modality's name, tables by such names, and checks of the class."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue) and constants(node) & MODALITIES:
            yield node
        if isinstance(node, ast.Dict):
            keys = {k.value for k in node.keys if isinstance(k, ast.Constant)}
            if len(keys & MODALITIES) > 1:
                yield node
        if isinstance(node, ast.Compare | ast.Call) and names(node) & MODALITY_CLASSES:
            yield node


def test_no_file_outside_data_and_the_sources_branches_on_a_modality():
    others = [path for path in modules() if not path.startswith(KNOW_MODALITIES)]
    found = [f"{p}:{n.lineno}" for p in others for n in branches_on_modality(tree_of(p))]
    assert len(others) > 30
    assert not found


@pytest.mark.parametrize(
    "code",
    [
        'x = backbone.kind == "text"',
        'x = "image" != modality.name',
        'if modality.name in ("text", "array"): pass',
        'size = {"image": 1, "array": 2}[modality.name]',
        "x = isinstance(modality, TextModality)",
        'match name:\n    case "image": pass',
    ],
)
def test_a_branch_on_a_modality_would_be_found(code):
    assert list(branches_on_modality(ast.parse(code)))


def test_no_module_branches_on_the_name_of_a_task():
    """A task is an object; only ``find_target`` knows the values of ``task=``."""
    names = {"multiclass", "multilabel", "regression", "classification"}

    def compared(path: str) -> bool:
        compares = [node for node in nodes_of(path) if isinstance(node, ast.Compare)]
        texts = [n.value for c in compares for n in ast.walk(c) if isinstance(n, ast.Constant)]
        return bool(names & {text for text in texts if isinstance(text, str)})

    outside = [path for path in modules() if package(path) not in ("data", "transferability")]
    assert not [path for path in outside if compared(path)]
    assert compared("data/targets.py")


def private_names(path: str) -> set[str]:
    """The attributes with an underscore that classes of a file define."""
    names = set()
    for node in nodes_of(path):
        if isinstance(node, ast.ClassDef):
            names |= {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            targets = [item.target for item in node.body if isinstance(item, ast.AnnAssign)]
            targets += [
                x for item in node.body if isinstance(item, ast.Assign) for x in item.targets
            ]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_own(node):
            names.add(node.attr)
    return {name for name in names if name.startswith("_") and not name.startswith("__")}


def is_own(node: ast.Attribute) -> bool:
    """Whether an attribute is one of ``self``, ``cls`` or ``super()``."""
    owner = node.value.func if isinstance(node.value, ast.Call) else node.value
    return isinstance(owner, ast.Name) and owner.id in ("self", "cls", "super")


def private_reads(path: str) -> set[str]:
    """The attributes with an underscore that a file uses of other objects."""
    nodes = [n for n in nodes_of(path) if isinstance(n, ast.Attribute)]
    return {node.attr for node in nodes if node.attr.startswith("_") and not is_own(node)}


def test_no_package_uses_private_attributes_of_anothers_objects():
    by_package: dict[str, set[str]] = {}
    for path in modules():
        by_package.setdefault(package(path), set()).update(private_names(path))
    ours = set().union(*by_package.values()) - PROTOCOL
    found = {
        (path, name)
        for path in modules()
        for name in private_reads(path) & ours - by_package[package(path)]
    }
    assert {"_fit_backbone", "_outputs"} <= ours  # the check finds what there is
    assert not found


# Attributes with an underscore that Python documents, of named tuples.
DOCUMENTED = {"_asdict", "_exit", "_fields", "_replace"}


def own_names(path: str) -> set[str]:
    """Private attributes and functions that a file defines."""
    nodes = nodes_of(path)
    functions = {n.name for n in nodes if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return private_names(path) | functions


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_names_of_others(path: str, ours: set[str]):
    """Yield the private names that a file imports from another library, or reads there."""
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            names = [part for alias in node.names for part in alias.name.split(".")]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [*node.module.split("."), *(alias.name for alias in node.names)]
        elif isinstance(node, ast.Attribute):
            names = [] if node.attr in ours else [node.attr]
        elif isinstance(node, ast.Call) and names_called(node) & {"getattr", "hasattr"}:
            name = node.args[1]
            names = (
                [name.value] if isinstance(name, ast.Constant) and name.value not in ours else []
            )
        else:
            continue
        yield from (name for name in names if is_private(name) and name not in DOCUMENTED)


def names_called(node: ast.Call) -> set[str]:
    return {node.func.id} if isinstance(node.func, ast.Name) else set()


def test_private_names_of_other_libraries_stand_in_compat():
    ours = set().union(*(own_names(path) for path in modules()))
    users = {
        (path, name)
        for path in modules()
        if package(path) != "_compat"
        for name in private_names_of_others(path, ours)
    }
    assert not users
    found = set(private_names_of_others("_compat/sklearn.py", ours))
    assert found >= {"_param_validation", "_num_samples", "_score_func", "_callback_fit_ctx"}
