"""A validation set that the user gives to ``fit``."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone
from skorch.callbacks import EarlyStopping

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    UnreadableSamplesError,
    load_backbone,
    load_word_vectors,
)
from tests.finetuning.conftest import network
from tests.support import images, tiny_backbone

SETTINGS = {"trainable": "all", "lr": 0.05, "max_epochs": 6, "random_state": 0}


def classifier(**settings):
    return FineTunedClassifier(load_backbone(network()), **SETTINGS | settings)


def regressor(**settings):
    return FineTunedRegressor(load_backbone(network()), **SETTINGS | settings)


def mean_log_loss(model, X, y):
    proba = model.predict_proba(X)
    return -np.log(proba[np.arange(len(y)), np.searchsorted(model.classes_, y)]).mean()


def test_the_epoch_with_the_lowest_loss_on_it_is_restored(data):
    X, y = data
    model = classifier().fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    losses = [row["valid_loss"] for row in model.history_]
    assert len(losses) == 6
    assert model.best_epoch_ == np.argmin(losses) + 1 or model.best_epoch_ == 0
    found = mean_log_loss(model, X[60:], y[60:])
    assert found <= min(losses) + 1e-5
    if model.best_epoch_:
        np.testing.assert_allclose(found, min(losses), rtol=1e-5)
    assert len(model.validation_indices_) == 0


def test_given_validation_samples_are_as_if_they_had_been_held_out(data):
    X, y = data
    held = classifier(validation_fraction=0.3).fit(X, y)
    rows = held.validation_indices_
    train = np.setdiff1d(np.arange(len(X)), rows)
    given = classifier().fit(X[train], y[train], X_val=X[rows], y_val=y[rows])
    np.testing.assert_allclose(
        [row["valid_loss"] for row in given.history_],
        [row["valid_loss"] for row in held.history_],
        rtol=1e-4,
    )
    np.testing.assert_allclose(given.predict_proba(X), held.predict_proba(X), atol=1e-4)


def test_given_validation_samples_stop_training(data):
    X, y = data
    wrong = np.roll(y[60:], 1)
    model = classifier(callbacks=[EarlyStopping(patience=1)], max_epochs=30).fit(
        X[:60], y[:60], X_val=X[60:], y_val=wrong
    )
    assert len(model.history_) < 30


def test_a_fit_with_validation_samples_and_weights_is_repeatable_and_pickled(data):
    X, y = data
    weight = np.linspace(0, 2, 60)
    model = classifier().fit(X[:60], y[:60], weight, X_val=X[60:], y_val=y[60:])
    again = clone(model).fit(X[:60], y[:60], sample_weight=weight, X_val=X[60:], y_val=y[60:])
    assert np.array_equal(model.predict_proba(X), again.predict_proba(X))
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict(X), model.predict(X))


def test_numbers_and_indicator_matrices(data):
    X, y = data
    numbers = X[:, :2] * 3
    model = regressor().fit(X[:60], numbers[:60], X_val=X[60:], y_val=numbers[60:])
    scaled = ((model.predict(X[60:]) - numbers[60:]) / numbers[:60].std(0)) ** 2
    best = min([row["valid_loss"] for row in model.history_])
    if model.best_epoch_:
        np.testing.assert_allclose(scaled.mean(), best, rtol=1e-3)
    indicator = np.c_[y == "ant", y == "bee"].astype(int)
    model = classifier().fit(X[:60], indicator[:60], X_val=X[60:], y_val=indicator[60:])
    assert "valid_loss" in model.history_[0]


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({}, {"X_val": 0}, "y_val= is missing"),
        ({}, {"y_val": 0}, "X_val= is missing"),
        ({"validation_fraction": 0.2}, {"X_val": 0, "y_val": 0}, "set it to 0"),
        ({}, {"X_val": 0, "y_val": ["ant"] * 29 + ["fly"]}, r"y does not have: \['fly'\]"),
        ({}, {"X_val": 0, "y_val": ["ant"] * 29 + [None]}, "Input y_val contains"),
        ({}, {"X_val": 0, "y_val": ["ant"] * 3}, "y_val has 3 values for 30 samples"),
    ],
)
def test_what_does_not_fit_is_refused(settings, given, message, data):
    X, y = data
    given = given | ({"X_val": X[60:]} if "X_val" in given else {})
    given = given | ({"y_val": y[60:]} if given.get("y_val", 1) == 0 else {})
    with pytest.raises(ValueError, match=message):
        classifier(**settings).fit(X[:60], y[:60], **given)


def test_validation_targets_with_other_columns_are_refused(data):
    X, _ = data
    with pytest.raises(ValueError, match="y_val has 1 columns, and y has 2"):
        regressor().fit(X, X[:, :2], X_val=X, y_val=X[:, 0])


@pytest.mark.parametrize(
    "change", [lambda y: y * 5 - 2, lambda y: y * 0.5, lambda y: y.astype(str)]
)
def test_an_indicator_matrix_of_other_values_is_refused(change, data):
    X, y = data
    y = np.c_[y == "ant", y == "bee", y != "wasp"].astype(int)
    with pytest.raises(ValueError, match="y_val with several columns must be an indicator matrix"):
        classifier().fit(X, y, X_val=X, y_val=change(y))


def test_unreadable_samples_of_it_are_named():
    X, y = images(6), list("abcabc")
    model = FineTunedClassifier(tiny_backbone(), max_epochs=1)
    with pytest.raises(UnreadableSamplesError, match=r"1 sample of X_val could .*\n.*sample 1"):
        model.fit(X, y, X_val=[X[0], "nowhere.jpg"], y_val=["a", "b"])


def test_words_of_validation_texts_may_be_others_than_those_of_training():
    names = ["good", "bad", "film", "a", "fine", "poor"]
    vectors = load_word_vectors(dict(zip(names, np.eye(6, dtype=np.float32), strict=True)))
    model = FineTunedClassifier(vectors, trainable="all", max_epochs=2, random_state=0)
    model.fit(["good film", "bad film"] * 4, [1, 0] * 4, X_val=["fine", "poor"], y_val=[1, 0])
    assert model.predict(["good", "bad"]).tolist() == [1, 0]


def test_a_checkpoint_belongs_to_one_validation_set(data, tmp_path):
    X, y = data
    model = classifier(checkpoint=tmp_path, max_epochs=2)
    first = model.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:]).predict_proba(X)
    again = model.fit(X[:60], y[:60], X_val=X[60:], y_val=y[60:])
    assert np.array_equal(again.predict_proba(X), first)
