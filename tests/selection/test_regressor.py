import pickle

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import make_friedman1
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor, TransferRegressor, load_backbone
from tests.selection.support import deeper_backbone
from tests.support import Vectors, images


def friedman(n):
    X, y = make_friedman1(n, 6, random_state=0)
    return X.astype(np.float32), y


def test_a_blend_of_numbers_is_better_than_ridge_regression_on_the_last_features():
    X, y = friedman(300)
    backbone = load_backbone(Vectors())
    model = TransferRegressor(backbone, random_state=0).fit(X[:200], y[:200])
    one = make_pipeline(PretrainedFeatureExtractor(backbone), RidgeCV()).fit(X[:200], y[:200])
    assert model.score(X[200:], y[200:]) >= one.score(X[200:], y[200:]) - 0.02 > 0.5
    assert len(model.members_) == len(model.weights_) and model.weights_.sum() == pytest.approx(1)


def test_several_targets_have_the_form_and_the_units_of_y():
    X, y = friedman(120)
    both = np.column_stack([1e6 * y + 1e7, -y])
    model = TransferRegressor(load_backbone(Vectors()), random_state=0).fit(X, both)
    assert model.predict(X).shape == (120, 2) and model.score(X, both) > 0.5
    assert model.fit(X, y).predict(X).shape == (120,)
    assert model.fit(X, y[:, None]).predict(X).shape == (120, 1)


def test_weights_are_as_repeated_samples():
    X, y = friedman(60)
    times = np.arange(60) % 3
    rows = np.repeat(np.arange(60), times)
    model = TransferRegressor(load_backbone(Vectors()), random_state=0)
    expected = model.fit(X[rows], y[rows]).predict(X)
    np.testing.assert_allclose(model.fit(X, y, sample_weight=times).predict(X), expected)


def test_images_are_told_by_their_brightness(tmp_path):
    X = images(40)
    y = np.array([image.mean() for image in X])
    model = TransferRegressor(deeper_backbone(), random_state=0, memory=tmp_path).fit(X, y)
    assert model.score(images(20, seed=1), [i.mean() for i in images(20, seed=1)]) > 0.8
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict(X), model.predict(X))


@pytest.mark.slow
def test_more_samples_than_are_compared():
    X, y = friedman(700)
    model = TransferRegressor(load_backbone(Vectors()), random_state=0).fit(X[:650], y[:650])
    assert model.score(X[650:], y[650:]) > 0.5
    assert cross_val_score(clone(model), X[:60], y[:60], cv=2).min() > 0.2


@pytest.mark.parametrize("n", [1, 2])
def test_one_or_two_samples_are_fitted(n):
    X, y = friedman(n)
    model = TransferRegressor(load_backbone(Vectors())).fit(X, y)
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("y", [["a", "b"] * 3, [np.nan] * 6, [1.0] * 5, None])
def test_what_are_no_numbers_is_refused(y):
    with pytest.raises(ValueError, match="y"):
        TransferRegressor(load_backbone(Vectors())).fit(friedman(6)[0], y)
