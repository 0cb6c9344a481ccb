import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedRegressor, PretrainedFeatureExtractor
from tests.support import tiny_backbone

X = np.arange(10, dtype=np.float32).reshape(2, 5)


@pytest.fixture
def extractor():
    return PretrainedFeatureExtractor(nn.Linear(5, 3)).fit(X)


def test_masked_values_are_refused(extractor):
    masked = np.ma.array(X, mask=X > 7)
    for method in (extractor.fit, extractor.transform):
        with pytest.raises(ValueError, match="X has masked values: replace them"):
            method(masked)


def test_a_masked_array_without_masked_values_and_a_tensor_are_arrays(extractor):
    expected = extractor.transform(X)
    for given in (np.ma.array(X, mask=False), torch.from_numpy(X), X.astype(np.float64)):
        np.testing.assert_array_equal(extractor.transform(given), expected)


def reversals(array):
    """An array reversed along its rows, along all other axes, along all, and of one row."""
    others = (slice(None), *[slice(None, None, -1)] * (array.ndim - 1))
    return [
        array[::-1],
        array[others],
        array[(slice(None, None, -1), *others[1:])],
        array[:1][::-1],
    ]


@pytest.mark.parametrize("reverse", range(4))
def test_reversed_arrays_give_the_features_of_their_copies(extractor, reverse):
    given = reversals(X)[reverse]
    np.testing.assert_array_equal(extractor.transform(given), extractor.transform(given.copy()))


PHOTOS = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
KINDS = {"RGB": PHOTOS, "floats": PHOTOS / 255, "grey": PHOTOS[..., 0]}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [16, 12])
def test_mirrored_images_give_the_features_of_their_copies(kind, size):
    extractor = PretrainedFeatureExtractor(tiny_backbone(), image_size=size).fit(PHOTOS)
    for given in [*reversals(KINDS[kind]), PHOTOS[:, :1, ::-1][:, ::-1]]:
        np.testing.assert_array_equal(extractor.transform(given), extractor.transform(given.copy()))


def test_what_a_transform_returns_may_be_reversed():
    def mirrored(image):
        return np.asarray(image, np.float32).transpose(2, 0, 1)[:, :, ::-1]

    backbone = tiny_backbone(preprocess=mirrored)
    plain = tiny_backbone(preprocess=lambda image: mirrored(image).copy())
    features = [PretrainedFeatureExtractor(b).fit_transform(PHOTOS) for b in (backbone, plain)]
    np.testing.assert_array_equal(*features)


@pytest.mark.parametrize("trainable", ["head", "all"])
@pytest.mark.parametrize("reverse", range(3))
def test_networks_are_tuned_on_reversed_arrays_and_targets(trainable, reverse):
    y = np.array([0.0, 1.0])
    given = reversals(X)[reverse]
    settings = {"trainable": trainable, "max_epochs": 1, "random_state": 0}
    module = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3))
    a, b = (FineTunedRegressor(module, **settings) for _ in range(2))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the few samples
        a.fit(given, y[::-1], sample_weight=np.array([1.0, 2.0])[::-1])
        b.fit(given.copy(), y[::-1].copy(), sample_weight=[2.0, 1.0])
    np.testing.assert_array_equal(a.predict(given), b.predict(given.copy()))
