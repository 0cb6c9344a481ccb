"""Every public estimator refuses a bad value of a parameter by the parameter's name."""

import re

import numpy as np
import pytest
from torch import nn

from sktransfer import (
    Augmentation,
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    load_backbone,
)
from tests.finetuning.conftest import network
from tests.support import images, tiny_backbone

ESTIMATORS = {
    FineTunedClassifier: {"max_epochs": 1},
    FineTunedRegressor: {"max_epochs": 1},
    PretrainedFeatureExtractor: {},
    PretrainedClassifier: {"class_map": "learn"},
    TransferClassifier: {"strategy": "features"},
    TransferRegressor: {},
}
OBJECT = object()
# Values of all kinds, of which most parameters take a few; those that they take are no failure.
VALUES = [
    OBJECT,
    -1,
    0,
    10**30,
    "nope",
    "",
    True,
    b"x",
    -0.5,
    1.5,
    float("nan"),
    float("inf"),
    (),
    [1],
    [1, 2],
    ["a"],
    [None],
    [("a",)],
    {"a": 1},
    {1: 1},
    {"callbacks": 1},
    {"optimizer__nope": 1},
    {"iterator_train__shuffle": True},
    {"lr"},
    np.array([1.0]),
    int,
    lambda *args: args,
    nn.Linear(2, 2),
]
N_REFUSED = 10  # of these values, at least, by each parameter
CASES = [(cls, name) for cls in ESTIMATORS for name in cls().get_params(deep=False)]


def unnamed_errors(cls, name, settings, X, y, values):
    """Return the errors that do not name the parameter, and how many values were refused."""
    unnamed, n_refused = [], 0
    for value in values:
        try:
            cls(**settings | {name: value}).fit(X, y)
        except Exception as error:
            n_refused += 1
            message = str(error)
            if not re.search(rf"\b{name}\b", message) or len(message) > 500:
                unnamed.append((value, type(error).__name__, message[:200]))
    return unnamed, n_refused


@pytest.fixture(scope="module")
def vectors():
    X = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    return X, np.array(["ant", "bee"] * 12)


@pytest.fixture(scope="module")
def backbone():
    return load_backbone(network(), classes=list("abcd"))


@pytest.mark.filterwarnings("ignore")  # of values that are taken
@pytest.mark.parametrize(("cls", "name"), CASES)
def test_an_error_about_a_parameter_names_it(cls, name, vectors, backbone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # memory="nope" is the name of a folder
    X, y = vectors
    is_number = cls in (FineTunedRegressor, TransferRegressor)
    y = np.arange(24.0) if is_number else y
    settings = {"backbone": backbone} | ESTIMATORS[cls]
    unnamed, n_refused = unnamed_errors(cls, name, settings, X, y, VALUES)
    assert not unnamed
    assert n_refused >= N_REFUSED


SHAPES = [(20, 24, 3), (24, 20, 3), (0, 0, 3), (-1, -1, 3), (10**10, 10**10, 3), (3,)]
OF_IMAGES = [
    (cls, name)
    for cls, names in {
        FineTunedClassifier: ["augment", "image_shape", "image_size"],
        PretrainedFeatureExtractor: ["image_shape", "image_size", "pooling", "layer"],
        PretrainedClassifier: ["image_shape", "image_size", "class_map"],
    }.items()
    for name in names
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("cls", "name"), OF_IMAGES)
def test_an_error_about_a_parameter_of_images_names_it(cls, name):
    settings = {"backbone": tiny_backbone()} | ESTIMATORS[cls]
    if cls is FineTunedClassifier:
        settings |= {"augment": Augmentation(n_views=1)}
    X = np.stack(images(8))
    X = X.reshape(8, -1) if name == "image_shape" else X
    y = np.array(["ant", "bee"] * 4)
    unnamed, n_refused = unnamed_errors(cls, name, settings, X, y, VALUES + SHAPES)
    assert not unnamed
    assert n_refused >= N_REFUSED
