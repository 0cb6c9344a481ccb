"""The transformer that ``to_features`` returns is fitted."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    load,
    load_backbone,
    load_word_vectors,
    save,
)
from tests.finetuning.conftest import network
from tests.finetuning.test_training import encoder
from tests.support import tiny_backbone

rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, (12, 20, 24, 3), np.uint8)
LABELS = np.array(["ant", "bee", "cat"] * 4)
TEXTS = [
    f"{word} film {other}" for other in ("good", "bad") for word in ("good", "bad", "long")
] * 2
WORDS = {"good": [1.0, 0.0], "bad": [-1.0, 0.5], "film": [0.0, 1.0], "long": [0.3, 0.2]}


class Table(nn.Embedding):
    def forward(self, codes):
        return super().forward(codes.long())


class Codes(nn.Sequential):
    """A network of whole numbers, each of which has a row in a table."""

    def __init__(self):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            layers = nn.Flatten(), nn.Linear(12, 6), nn.ReLU(), nn.Linear(6, 2)
            super().__init__(Table(5, 4), *layers)


def tune(cls=FineTunedClassifier, backbone=None, **settings):
    backbone = tiny_backbone() if backbone is None else backbone
    return cls(backbone, max_epochs=1, random_state=0, **settings)


CASES = {
    "images, known size": (lambda: tune(image_size=12), IMAGES),
    "images": (tune, IMAGES),
    "images, all stages": (lambda: tune(trainable="all"), IMAGES),
    "images, head": (lambda: tune(trainable="head"), IMAGES),
    "flattened images": (
        lambda: tune(image_shape=(20, 24, 3)),
        IMAGES.reshape(12, -1).astype(float) / 255,
    ),
    "arrays": (lambda: tune(backbone=load_backbone(network())), rng.normal(size=(12, 6))),
    "whole numbers": (
        lambda: tune(backbone=load_backbone(Codes(), modality="array")),
        rng.integers(0, 5, (12, 3)),
    ),
    "texts, encoder": (lambda: tune(backbone=encoder(), trainable="all"), TEXTS),
    "texts": (lambda: tune(backbone=load_word_vectors(WORDS), trainable="all"), TEXTS),
}


def assert_fitted_alike(found, X):
    """Compare an extractor with its clone, which is fitted to X."""
    fitted = clone(found).fit(X)
    np.testing.assert_array_equal(found.transform(X), fitted.transform(X))
    assert list(found.get_feature_names_out()) == list(fitted.get_feature_names_out())
    assert found.n_features_out_ == fitted.n_features_out_
    public = {name for name in vars(fitted) if name.endswith("_") and not name.startswith("_")}
    assert {name for name in vars(found) if name.endswith("_")} == public
    assert found.columns_ == fitted.columns_ and found.layers_ == fitted.layers_
    assert found.image_size_ == fitted.image_size_


@pytest.mark.parametrize("case", CASES)
def test_features_of_a_tuned_model_transform_at_once_as_after_a_fit(case, tmp_path):
    make, X = CASES[case]
    model = make().fit(X, LABELS)
    expected = model.to_features().transform(X)
    assert_fitted_alike(model.to_features(), X)
    for name, again in {
        "pickled": pickle.loads(pickle.dumps(model)).to_features(),
        "fitted clone": clone(model).fit(X, LABELS).to_features(),
        "pickled extractor": pickle.loads(pickle.dumps(model.to_features())),
    }.items():
        np.testing.assert_array_equal(again.transform(X), expected, err_msg=name)


@pytest.mark.parametrize("case", ["images", "images, known size", "texts"])
def test_features_of_a_model_from_a_file_are_fitted_too(case, tmp_path):
    make, X = CASES[case]
    model = make().fit(X, LABELS)
    expected = model.to_features().transform(X)
    for name, what in {"model": model, "features": model.to_features()}.items():
        save(what, tmp_path / f"{name}.skt")
        again = load(tmp_path / f"{name}.skt", modules={"tinynet": tiny_backbone})
        again = again.to_features() if name == "model" else again
        np.testing.assert_array_equal(again.transform(X), expected, err_msg=name)


@pytest.mark.parametrize(
    "settings",
    [{"layer": ["2", -1]}, {"pooling": "flatten", "layer": "2"}, {"pooling": ["avg", "max"]}],
)
def test_layers_and_poolings_are_those_of_a_fit(settings):
    assert_fitted_alike(tune().fit(IMAGES, LABELS).to_features(**settings), IMAGES)


def test_a_regressor_that_was_trained_again_gives_its_last_features():
    model = tune(FineTunedRegressor, warm_start=True, trainable="all")
    before = model.fit(IMAGES, np.arange(12.0)).to_features().transform(IMAGES)
    features = model.fit(IMAGES, np.arange(12.0)[::-1]).to_features()
    assert_fitted_alike(features, IMAGES)
    assert np.abs(features.transform(IMAGES) - before).max() > 0


def test_features_of_a_tuned_model_take_samples_of_another_size():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = torch.rand(12, 3, 10, 10).numpy()
    model = tune(backbone=load_backbone(module, modality="array")).fit(images, LABELS)
    assert_fitted_alike(model.to_features(), torch.rand(5, 3, 14, 12).numpy())


def test_what_learns_from_samples_is_not_fitted():
    model = tune().fit(IMAGES, LABELS)
    with pytest.raises(NotFittedError):
        model.to_features(layer="auto").transform(IMAGES)
    assert model.to_features(layer="auto").fit(IMAGES, LABELS).layer_choice_.layer
    words = CASES["texts"][0]().fit(TEXTS, LABELS)
    with pytest.raises(NotFittedError):
        words.to_features(pooling="sif").transform(TEXTS)


class Years(nn.Module):
    """Refuses small numbers."""

    def forward(self, x):
        if x.min() < 100:
            raise ValueError("no years")
        return x / 1000


def test_a_network_that_takes_only_some_numbers_gives_what_fits_to_samples():
    module = nn.Sequential(Years(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    X = rng.integers(1900, 2100, (12, 6)).astype(float)
    model = tune(backbone=load_backbone(module, modality="array")).fit(X, LABELS)
    with pytest.raises(NotFittedError):
        model.to_features().transform(X)
    assert model.to_features().fit_transform(X).shape == (12, 4)


def test_a_layer_that_does_not_exist_is_an_error_at_once():
    model = tune().fit(IMAGES, LABELS)
    with pytest.raises(ValueError, match="layr"):
        model.to_features(layer="layr")


def test_a_sample_that_a_damaged_file_describes_as_huge_is_refused():
    model = tune().fit(IMAGES, LABELS)
    state = model.__getstate__()
    state["_probe"] = [[3, 2**20, 2**20], "float32"]
    damaged = clone(model)
    damaged.__setstate__(state)
    with pytest.raises(ValueError, match="too large for backbone"):
        damaged.to_features()
