"""Which libraries are loaded when: their imports take longer than a prediction."""

import importlib

import pytest

import sktransfer
from tests.support import run_python

PROGRAM = """
import sys
from sktransfer import PretrainedFeatureExtractor
print(*sys.modules)
import numpy as np
X = np.random.default_rng(0).integers(0, 255, (2, 40, 60, 3), np.uint8)
assert PretrainedFeatureExtractor().fit(X).transform(X).shape == (2, 1280)
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded():
    """The modules that are loaded by the import of the extractor, and after its use."""
    return [set(line.split()) for line in run_python(PROGRAM).splitlines()]


def test_importing_the_package_loads_no_library():
    code = "import sys, sktransfer\nassert 'FineTunedClassifier' in dir(sktransfer)"
    loaded = run_python(code + "\nprint(*sys.modules)").split()
    assert not {"torch", "torchvision", "skorch", "sklearn", "numpy"} & {*loaded}


def test_features_of_the_default_backbone_load_few_libraries(loaded):
    _, after = loaded
    assert "torch" in after
    assert not {"torchvision", "skorch", "sympy", "matplotlib"} & after


def test_the_extractor_loads_no_other_estimators_texts_or_partitions(loaded):
    loaded, _ = loaded
    assert {"sklearn.base", "sktransfer.features.extractor"} <= loaded
    others = {"linear_model", "model_selection", "preprocessing", "pipeline", "decomposition"}
    assert not {f"sklearn.{name}" for name in others} & loaded
    rare = {"transferability", "backbones.words", "backbones.huggingface", "features.partitions"}
    assert not {f"sktransfer.{name}" for name in rare} & loaded


def test_public_names_are_those_of_their_packages():
    for name in sktransfer.__all__:
        public = getattr(sktransfer, name)
        module = importlib.import_module(public.__module__)
        assert module is not sktransfer and getattr(module, name) is public, name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sktransfer' has no attribute 'Extractor'"):
        sktransfer.Extractor  # noqa: B018
