"""Which libraries are loaded when: their imports take longer than a prediction."""

import importlib

import pytest

import sktransfer
from tests.support import run_python

TRANSFORM = """
import numpy as np
from sktransfer import PretrainedFeatureExtractor
X = np.random.default_rng(0).integers(0, 255, (2, 40, 60, 3), np.uint8)
assert PretrainedFeatureExtractor().fit(X).transform(X).shape == (2, 1280)
"""


def loaded_by(code: str) -> set[str]:
    """The packages that are loaded in a new process after some code."""
    code += "\nimport sys\nprint(*{name.partition('.')[0] for name in sys.modules})"
    return set(run_python(code).split())


def test_importing_the_package_loads_no_library():
    loaded = loaded_by("import sktransfer\nassert 'FineTunedClassifier' in dir(sktransfer)")
    assert not {"torch", "torchvision", "skorch", "sklearn", "numpy"} & loaded


def test_features_of_the_default_backbone_load_few_libraries():
    loaded = loaded_by(TRANSFORM)
    assert "torch" in loaded
    assert not {"torchvision", "skorch", "sympy", "matplotlib"} & loaded


def test_the_extractor_loads_no_other_estimators_texts_or_partitions():
    code = "from sktransfer import PretrainedFeatureExtractor\nimport sys\nprint(*sys.modules)"
    loaded = set(run_python(code).split())
    assert {"sklearn.base", "sktransfer.features.extractor"} <= loaded
    others = {"linear_model", "model_selection", "preprocessing", "pipeline", "decomposition"}
    assert not {f"sklearn.{name}" for name in others} & loaded
    rare = {"transferability", "backbones.words", "backbones.huggingface", "features.partitions"}
    assert not {f"sktransfer.{name}" for name in rare} & loaded


@pytest.mark.parametrize("name", sktransfer.__all__)
def test_public_names_are_those_of_their_packages(name):
    package = importlib.import_module(f"sktransfer.{sktransfer._PACKAGE_OF[name]}")
    assert getattr(sktransfer, name) is getattr(package, name)


def test_the_table_of_names_is_complete():
    assert list(sktransfer._PACKAGE_OF) == sktransfer.__all__


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'sktransfer' has no attribute 'Extractor'"):
        sktransfer.Extractor  # noqa: B018
