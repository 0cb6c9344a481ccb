"""Losses that the user gives."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor, load_backbone
from tests.finetuning.conftest import network

SETTINGS = {"trainable": "all", "lr": 0.02, "max_epochs": 3, "random_state": 0}


def classifier(**settings):
    return FineTunedClassifier(load_backbone(network()), **SETTINGS | settings)


def regressor(**settings):
    return FineTunedRegressor(load_backbone(network()), **SETTINGS | settings)


def own_cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def mean_cross_entropy(outputs, targets):
    return own_cross_entropy(outputs, targets).mean()


def focal(outputs, targets):
    loss = own_cross_entropy(outputs, targets)
    return (1 - torch.exp(-loss)) ** 2 * loss


@pytest.mark.parametrize("loss", [own_cross_entropy, mean_cross_entropy, nn.CrossEntropyLoss()])
def test_the_usual_loss_given_as_a_function_trains_the_same_model(loss, data):
    X, y = data
    usual = classifier(validation_fraction=0.2).fit(X, y)
    found = classifier(validation_fraction=0.2, loss=loss).fit(X, y)
    assert np.array_equal(found.predict_proba(X), usual.predict_proba(X))
    np.testing.assert_allclose(
        [row["valid_loss"] for row in found.history_],
        [row["valid_loss"] for row in usual.history_],
        rtol=1e-6,
    )


@pytest.mark.parametrize("loss", [own_cross_entropy, nn.CrossEntropyLoss()])
def test_weights_apply_to_a_loss_of_the_users(loss, data):
    X, y = data
    weight = np.linspace(0, 3, len(X))
    usual = classifier(class_weight="balanced").fit(X, y, weight)
    found = classifier(class_weight="balanced", loss=loss).fit(X, y, weight)
    assert np.array_equal(found.predict_proba(X), usual.predict_proba(X))


def test_another_loss_trains_another_model(data):
    X, y = data
    usual, found = (classifier(loss=loss).fit(X, y) for loss in ("auto", focal))
    assert np.abs(found.predict_proba(X) - usual.predict_proba(X)).max() > 1e-3
    assert found.score(X, y) > 0.8


def test_numbers_are_standardised_for_a_loss_of_the_users(data):
    X, _ = data
    y = 100 + 50 * X[:, :2]
    seen = []

    def loss(outputs, targets):
        seen.append(targets)
        return nn.functional.huber_loss(outputs, targets, reduction="none")

    found = regressor(loss=loss, batch_size=90).fit(X, y)
    assert abs(float(seen[0].mean())) < 1e-3 and abs(float(seen[0].std()) - 1) < 0.02
    again = regressor(loss=nn.HuberLoss(), batch_size=90).fit(X, y)
    np.testing.assert_allclose(found.predict(X), again.predict(X), rtol=1e-5)
    usual = regressor(loss=nn.MSELoss()).fit(X, y)
    np.testing.assert_allclose(usual.predict(X), regressor().fit(X, y).predict(X), rtol=1e-5)


def test_a_loss_of_label_sets_is_given_an_indicator_matrix(data):
    X, y = data
    indicator = np.c_[y == "ant", y != "bee"].astype(int)
    usual = classifier().fit(X, indicator)
    found = classifier(loss=nn.BCEWithLogitsLoss()).fit(X, indicator)
    np.testing.assert_allclose(found.predict_proba(X), usual.predict_proba(X), rtol=1e-5)


@pytest.mark.slow
def test_a_loss_is_a_parameter_that_stays_as_given(data):
    X, y = data
    given = nn.CrossEntropyLoss(label_smoothing=0.1)
    model = classifier(loss=given).fit(X, y)
    assert model.loss is given and given.reduction == "mean"
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
    copy = clone(model).fit(X, y)
    np.testing.assert_allclose(copy.predict_proba(X), model.predict_proba(X), atol=1e-6)
    search = GridSearchCV(classifier(), {"loss": ["auto", focal]}, cv=2).fit(X, y)
    assert search.best_params_["loss"] in ("auto", focal)


def wrong_shape(outputs, targets):
    return torch.zeros(3)


def no_tensor(outputs, targets):
    return 1.0


def without_gradient(outputs, targets):
    return torch.tensor(1.0)


def failing(outputs, targets):
    return outputs @ targets


@pytest.mark.parametrize(
    ("loss", "settings", "message"),
    [
        (wrong_shape, {}, r"loss=.*returned the shape \(3,\) for 16 rows"),
        (no_tensor, {}, "must return a tensor, got float"),
        (without_gradient, {}, r"loss=.*without_gradient.* returned a tensor without a gradient"),
        (
            nn.CrossEntropyLoss,
            {},
            r"is a class: give an object of it, loss=nn.CrossEntropyLoss\(\)",
        ),
        (failing, {}, r"failed for outputs \(16, 3\), targets \(16,\) torch.int64"),
        (mean_cross_entropy, {"class_weight": {"ant": 2}}, "cannot be weighted"),
        ("focal", {}, "The 'loss' parameter"),
        (focal, {"net_params": {"criterion": focal}}, "use the estimator's parameter loss"),
    ],
)
def test_what_cannot_be_used_is_named(loss, settings, message, data):
    with pytest.raises(ValueError, match=message):
        classifier(loss=loss, **settings).fit(*data)


def test_where_its_memory_is_short_it_is_called_with_parts(data):
    X, y = data
    rows = []

    def large(outputs, targets):
        if len(outputs) > 8:
            raise torch.OutOfMemoryError("no room")
        rows.append(len(outputs))
        return own_cross_entropy(outputs, targets)

    with pytest.warns(UserWarning, match="run in parts"):
        found = classifier(loss=large, batch_size=16).fit(X, y)
    assert max(rows) == 8
    usual = classifier(batch_size=16, micro_batch_size=8).fit(X, y)
    np.testing.assert_allclose(found.predict_proba(X), usual.predict_proba(X), atol=1e-6)


def test_in_micro_batches_it_is_called_with_parts_and_a_mean_trains_the_same_model(data):
    X, y = data
    rows = []

    def noted(outputs, targets):
        rows.append(len(outputs))
        return mean_cross_entropy(outputs, targets)

    usual = classifier(loss=mean_cross_entropy, batch_size=30).fit(X, y)
    found = classifier(loss=noted, batch_size=30, micro_batch_size=10).fit(X, y)
    assert set(rows) == {10}
    np.testing.assert_allclose(found.predict_proba(X), usual.predict_proba(X), atol=1e-4)


@pytest.mark.parametrize("cls", [FineTunedClassifier, FineTunedRegressor])
def test_the_description_of_loss_says_that_parts_of_a_batch_reach_it(cls):
    described = cls.__doc__.split("    loss : ")[1].split(" : ")[0]
    assert "micro_batch_size" in described and "parts of a batch" in described
