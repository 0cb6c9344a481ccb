"""Callbacks of the training loop, and trainings that do not help."""

import threading
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.base import clone
from skorch.callbacks import Callback, LRScheduler
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor, load_backbone
from sktransfer.data import NumericTarget, class_target
from sktransfer.finetuning.callbacks import constant_loss, is_worse, warmup_cosine
from sktransfer.finetuning.training import WeightedLoss
from tests.finetuning.conftest import network


class Rates(Callback):
    """Note the learning rate of the last stage at each step."""

    def initialize(self):
        self.rates_ = []
        return self

    def on_batch_end(self, net, training=None, **kwargs):
        if training:
            self.rates_.append(net.optimizer_.param_groups[-1]["lr"])


def rates_of(model):
    (rates,) = (c.rates_ for _, c in model.net_.callbacks_ if isinstance(c, Rates))
    return rates


def test_the_rate_rises_linearly_and_falls_as_a_half_cosine(data):
    settings = {"lr": 0.05, "batch_size": 18, "max_epochs": 4}
    settings["net_params"] = {"callbacks__schedule__warmup": 0.2}
    model = FineTunedClassifier(load_backbone(network()), callbacks=[Rates()], **settings)
    expected = [0.05 * warmup_cosine(step, 20, 0.2) for step in range(20)]
    np.testing.assert_allclose(rates_of(model.fit(*data)), expected)
    np.testing.assert_allclose(expected[:5], [0.01, 0.02, 0.03, 0.04, 0.05])
    assert expected[12] == pytest.approx(0.025)
    recorded = np.ravel(model.net_.history[:, "batches", :, "event_lr"])
    np.testing.assert_allclose(recorded, expected)


@pytest.mark.parametrize("where", ["callbacks", "net_params"])
@pytest.mark.parametrize("named", [False, True])
def test_a_scheduler_of_the_user_replaces_the_schedule(where, named, data):
    halving = LRScheduler("StepLR", step_size=1, gamma=0.5)
    callbacks = [Rates(), ("halving", halving) if named else halving]
    given = {"callbacks": callbacks} if where == "callbacks" else {where: {"callbacks": callbacks}}
    settings = {"lr": 0.08, "max_epochs": 3, "batch_size": 45, "validation_fraction": 0.1}
    model = FineTunedClassifier(load_backbone(network()), **given, **settings).fit(*data)
    np.testing.assert_allclose(rates_of(model), np.repeat([0.08, 0.04, 0.02], 2))


def test_a_plateau_of_the_user_lowers_the_rate(data):
    # No epoch lowers the loss by 1.0, so that each but the first divides the rate by ten.
    settings = {"patience": 0, "factor": 0.1, "threshold": 1.0, "threshold_mode": "abs"}
    plateau = LRScheduler("ReduceLROnPlateau", monitor="train_loss", **settings)
    model = FineTunedClassifier(load_backbone(network()), lr=0.01, max_epochs=4, batch_size=90)
    model.set_params(callbacks=[plateau, Rates()]).fit(*data)
    np.testing.assert_allclose(rates_of(model), [0.01, 0.01, 0.001, 0.0001])


class Lower(Callback):
    """Set another rate at the second epoch."""

    def on_epoch_begin(self, net, **kwargs):
        if len(net.history) == 2:
            for group in net.optimizer_.param_groups:
                group["lr"] = 0.0025


def test_a_rate_that_a_callback_sets_stays(data):
    settings = {"lr": 0.01, "max_epochs": 3, "batch_size": 45}
    settings["net_params"] = {"callbacks__schedule__warmup": 0.0}
    model = FineTunedClassifier(load_backbone(network()), **settings)
    rates = rates_of(model.set_params(callbacks=[Lower(), Rates()]).fit(*data))
    assert rates[0] == 0.01 > rates[1]
    assert rates[2:] == [0.0025] * 4


def test_a_callback_that_cannot_be_copied_is_named_by_clone():
    class Writer(Callback):
        def __init__(self):
            self.lock = threading.Lock()

    with pytest.raises(TypeError, match=r"callbacks= cannot be copied .*on_train_begin"):
        clone(FineTunedClassifier(callbacks=[Writer()]))


# -- a training that ends worse than it began is noticed -------------------------------------------


FEW_OF_MANY = 200  # features of vectors of which few samples are given
SETTINGS = {"trainable": "all", "max_epochs": 5, "random_state": 0}


def fit(data, cls=FineTunedClassifier, **settings):
    return cls(load_backbone(network()), **SETTINGS | settings).fit(*data)


@pytest.mark.parametrize("lr", [10.0, 3.0])
def test_a_loss_that_rose_is_told(lr, data):
    with pytest.warns(
        UserWarning, match=r"did not help: the loss on training .* with lr=\d+\. Try"
    ):
        fit(data, lr=lr)


def test_a_loss_that_fell_is_not(data):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="y has one class only")
        fit(data)
        fit(data, max_epochs=0)
        fit((data[0], data[0][:, 0]), FineTunedRegressor, lr=1e-3)
        fit((data[0], np.column_stack([data[1] == "ant", data[0][:, 0] > 0])), lr=1e-3)
        fit((data[0][:5], data[1][:1].repeat(5)))  # one class


def few_samples(n):
    """Two classes of vectors that a linear probe fits exactly."""
    generator, y = np.random.default_rng(n), np.arange(n) % 2
    centres = np.random.default_rng(0).normal(size=(2, FEW_OF_MANY)) / 4
    return (centres[y] + generator.normal(size=(n, FEW_OF_MANY))).astype(np.float32), y


def wide_network():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(FEW_OF_MANY, 500), nn.ReLU(), nn.Linear(500, 4))


@pytest.mark.parametrize("several_labels", [False, True])
def test_a_loss_that_rose_from_almost_nothing_is_not(several_labels):
    (X, y), (X_test, y_test) = few_samples(20), few_samples(1000)
    if several_labels:
        y, y_test = np.column_stack([y, y]), np.column_stack([y_test, y_test])
    model = FineTunedClassifier(load_backbone(wide_network()), **SETTINGS)
    probe = model.set_params(max_epochs=0).fit(X, y).score(X_test, y_test)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.set_params(max_epochs=10, lr=3e-3, net_params={"optimizer__weight_decay": 120.0}).fit(
            X, y
        )
    watched = dict(model.net_.callbacks_)["loss_monitor"]
    assert watched.initial_loss_ < 0.1 and watched.loss_ > 2 * watched.initial_loss_
    assert model.score(X, y) == 1 and model.score(X_test, y_test) > probe


@pytest.mark.parametrize("lr", [3.0, 10.0])
def test_a_loss_that_rose_from_almost_nothing_above_chance_is_told(lr):
    model = FineTunedClassifier(load_backbone(wide_network()), **SETTINGS | {"max_epochs": 1})
    with pytest.warns(UserWarning, match="did not help: the loss on training samples was 0.0"):
        model.set_params(lr=lr, batch_size=5).fit(*few_samples(20))


def test_predictions_at_chance_are_told(data):
    def head(n_features, n_outputs):
        made = nn.Linear(n_features, n_outputs)
        nn.init.zeros_(made.weight)
        return made

    with pytest.warns(UserWarning, match="did not help"):
        fit(data, head=head, lr=1e-9)


def test_what_was_better_is_kept_and_said(data):
    with pytest.warns(UserWarning, match="validation .* The weights before training are kept"):
        model = fit(data, lr=5.0, validation_fraction=0.3)
    probe = fit(data, max_epochs=0, validation_fraction=0.3)
    assert np.array_equal(model.predict_proba(data[0]), probe.predict_proba(data[0]))


def test_numbers_are_watched(data):
    with pytest.warns(UserWarning, match="did not help"):
        fit((data[0], data[0][:, 0]), FineTunedRegressor, lr=10.0)


def test_a_loss_of_the_user_is_watched(data):
    with pytest.warns(UserWarning, match="did not help"):
        fit(data, lr=10.0, loss=nn.CrossEntropyLoss())
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fit(data, loss=nn.CrossEntropyLoss())


@pytest.mark.parametrize("least", [1e-3, 0.1])
def test_a_loss_is_worse_by_more_than_rounding(least):
    assert not is_worse(0.0, least, least)
    assert is_worse(0.0, 1.01 * least, least)
    assert not is_worse(1.0, 1.02, least)
    assert is_worse(1.0, 1.03, least)


@pytest.mark.parametrize("kind", ["labels", "several labels", "numbers"])
def test_the_constant_loss_is_the_least_of_constant_outputs(kind, data):
    X, y = data
    Y = {
        "labels": y,
        "several labels": np.column_stack([y == "ant", y != "bee"]).astype(int),
        "numbers": 5 * X[:, :2].astype(float) + 3,
    }[kind]
    if kind == "numbers":
        target = NumericTarget(Y)
        encoded = target.encode(Y)
    else:
        target, Y = class_target(Y, len(Y))
        encoded = target.encode(Y)
    weight = np.random.default_rng(0).uniform(0.1, 2, len(X))
    loss, rows = WeightedLoss(target), torch.as_tensor(target.scaled(encoded))
    relative = torch.as_tensor(weight / weight.mean())

    def value(outputs):
        outputs = torch.as_tensor(outputs).expand(len(X), -1)
        return float(loss((outputs, relative), rows if kind == "labels" else rows.double()))

    found = minimize(value, np.zeros(target.n_outputs)).fun
    assert constant_loss(target, encoded, weight) == pytest.approx(found, rel=1e-4)
