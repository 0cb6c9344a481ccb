import ast
import doctest
import importlib
import inspect
import pkgutil
import re

import pytest

import sktransfer
from tests.support import own_registry

validate = pytest.importorskip("numpydoc.validate")


def find(name):
    found = sktransfer
    for part in name.split("."):
        found = getattr(found, part)
    return found


PUBLIC = [*sktransfer.__all__, *(f"inspection.{name}" for name in sktransfer.inspection.__all__)]
CLASSES = [name for name in PUBLIC if inspect.isclass(find(name))]
METHODS = [
    f"{cls}.{name}"
    for cls in CLASSES
    for name, member in vars(find(cls)).items()
    if inspect.isfunction(member) and not name.startswith("_")
]
DOCUMENTED = sorted([*PUBLIC, *METHODS])
MODULES = sorted(m.name for m in pkgutil.walk_packages(sktransfer.__path__, "sktransfer."))

# What numpydoc finds and this project wants: https://numpydoc.readthedocs.io/en/latest/validation.html
WANTED = {
    *("GL01", "GL02", "GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "GL10"),
    *("SS01", "SS02", "SS03", "SS04", "SS05", "SS06"),
    *("PR01", "PR02", "PR03", "PR05", "PR06", "PR08", "PR09", "PR10"),
    *("RT01", "YD01", "SA02", "SA03", "SA04"),
}
SHORTER = {"GL01", "SS06"}  # a summary may begin on the line of the quotes, and be long


def documented_defaults(name):
    """The text after "default=" for each parameter that has it."""
    doc = validate.get_doc_object(find(name))
    pairs = {p.name: re.search(r"default=(.+)$", p.type) for p in doc["Parameters"]}
    return {
        single.strip(" *"): match.group(1)
        for names, match in pairs.items()
        if match
        for single in names.split(",")
    }


@pytest.mark.parametrize("name", DOCUMENTED)
def test_docstrings_are_numpydoc_and_name_the_parameters_of_the_signature(name):
    problems = validate.validate(f"sktransfer.{name}")["errors"]
    assert [p for p in problems if p[0] in WANTED - SHORTER] == []


@pytest.mark.parametrize("name", DOCUMENTED)
def test_documented_defaults_are_those_of_the_signature(name):
    parameters = inspect.signature(find(name)).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    documented = documented_defaults(name)
    ignored = {"y", "input_features"}  # there for scikit-learn's sake, and said to be ignored
    assert defaults.keys() - ignored == documented.keys() - ignored
    for parameter, text in documented.items():
        assert ast.literal_eval(text) == defaults[parameter], parameter


def test_public_names_are_all_there_and_sorted():
    assert sktransfer.__all__ == sorted(sktransfer.__all__)
    assert sktransfer.inspection.__all__ == sorted(sktransfer.inspection.__all__)
    assert all(find(name).__doc__ for name in PUBLIC)


LOADED = {}  # networks of the examples, each of which is loaded once


def examples():
    for module in MODULES:
        if not module.endswith("__main__"):
            yield from doctest.DocTestFinder(exclude_empty=True).find(
                importlib.import_module(module), module
            )


@pytest.mark.slow
@pytest.mark.parametrize("example", [e for e in examples() if e.examples], ids=lambda e: e.name)
def test_examples_run_and_give_what_they_show(example):
    report = []
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE, verbose=False)
    with own_registry(LOADED):
        failed, tried = runner.run(example, out=report.append)
    assert failed == 0, "".join(report)
    assert tried == len(example.examples)


def test_the_main_names_have_examples():
    names = [example.name.rpartition(".")[2] for example in examples() if example.examples]
    main = {"PretrainedFeatureExtractor", "PretrainedClassifier", "FeatureStore"}
    assert main | {"load_backbone", "register_backbone", "list_layers"} <= set(names)
