"""Training on several devices equals training on one; here the devices are threads."""

import functools
import pickle
import threading

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, EpochScoring, Freezer
from torch import nn
from torchvision.ops import stochastic_depth

from sktransfer import FineTunedClassifier, FineTunedRegressor
from sktransfer.finetuning import base
from sktransfer.finetuning.parallel import leader
from tests.finetuning.conftest import network
from tests.finetuning.parallel.threads import replicas_in_threads

CLOSE = {"rtol": 1e-4, "atol": 1e-6}


@pytest.fixture
def hubs(monkeypatch):
    """The exchanges of each training, which takes place among threads."""
    found = []
    monkeypatch.setattr(base, "replicas_on", functools.partial(replicas_in_threads, hubs=found))
    return found


@pytest.fixture
def train(hubs):
    """Fit on one device and on several, and return both models."""

    def fit(X, y, devices=2, cls=FineTunedClassifier, fit_params=None, **settings):
        given = {"max_epochs": 2, "batch_size": 16, "lr": 1e-3, "random_state": 0, "device": "cpu"}
        make = functools.partial(cls, network(), **given | settings)
        models = [make(devices=n).fit(X, y, **fit_params or {}) for n in (None, devices)]
        assert "backward" in hubs[-1].actions
        return models

    return fit


def assert_same(one, several, X):
    """The models and all that is told about their training are equal to rounding."""
    predict = "predict_proba" if hasattr(one, "predict_proba") else "predict"
    np.testing.assert_allclose(getattr(several, predict)(X), getattr(one, predict)(X), **CLOSE)
    a, b = (model.net_.module_.state_dict() for model in (one, several))
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=1e-4, atol=1e-6)
    assert (one.best_epoch_, one.lr_) == (several.best_epoch_, several.lr_)
    assert len(one.history_) == len(several.history_)
    for row, other in zip(one.history_, several.history_, strict=True):
        assert row.keys() == other.keys()
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("trainable", "devices"), [("head", 2), (1, 2), ("all", 2), ("all", 3), ("bias", 3)]
)
def test_several_devices_train_as_one(train, data, trainable, devices):
    X, y = data  # batches of 16 of 90 rows, the last of which has 10
    weight = np.random.default_rng(0).uniform(0.1, 3, len(y))
    weight[:5] = 0
    one, several = train(
        X,
        y,
        devices,
        trainable=trainable,
        class_weight="balanced",
        fit_params={"sample_weight": weight},
    )
    assert_same(one, several, X)


@pytest.mark.parametrize(
    "settings",
    [
        {"accumulate": 3, "batch_size": 7},
        {"gradual_unfreezing": True, "max_epochs": 5},
        {"checkpoint_activations": True},
        {"validation_fraction": 0.3, "patience": 1, "max_epochs": 6, "lr": 0.05},
        {"clip_norm": 0.1, "optimizer": "sgd", "label_smoothing": 0.1},
        {"batch_size": 89},  # the last batch has one row, of one device
        {"head": "mlp"},
        {"callbacks": [("acc", EpochScoring("accuracy", name="acc", on_train=True))]},
        {"net_params": {"optimizer__betas": (0.5, 0.9)}},
    ],
    ids=lambda settings: "-".join(settings),
)
def test_what_a_training_consists_of_is_the_same(train, data, settings):
    X, y = data
    one, several = train(X, y, trainable="all", **settings)
    assert_same(one, several, X)
    if "callbacks" in settings:
        assert [r["acc"] for r in one.history_] == [r["acc"] for r in several.history_]


def test_other_targets(train, data):
    X, y = data
    table = np.stack([y == "ant", y != "bee"], axis=1).astype(int)
    assert_same(*train(X, table, trainable="all"), X)
    values = np.stack([X.sum(axis=1), 100 * X[:, 0]], axis=1)
    assert_same(*train(X, values, cls=FineTunedRegressor, trainable="all"), X)


class Drops(nn.Module):
    """A head with all kinds of random numbers that a network may draw for its rows."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.drop, self.maps = nn.Dropout(0.3), nn.Dropout2d(0.5)
        self.linear = nn.Linear(n_features, n_outputs)

    def forward(self, x):
        maps = self.maps(x[:, :, None, None] * torch.ones(1, 1, 2, 2)).mean((2, 3))
        pairs = nn.functional.dropout(x.reshape(2 * len(x), -1), 0.2, self.training)
        x = self.drop(maps) + pairs.reshape(x.shape)
        if self.training:
            x = x * torch.rand(len(x), 1, device=x.device) + torch.randn((len(x), 1)) / 9
        x = stochastic_depth(x, 0.3, "row", self.training)
        if self.training:  # with a probability for each row: another draw, and no error
            each = torch.full((len(x), 1), 0.9)
            x = x + 0 * torch.empty_like(each).bernoulli_(each)
        return self.linear(x)


@pytest.mark.parametrize("settings", [{}, {"accumulate": 2}, {"checkpoint_activations": True}])
def test_dropout_draws_the_same_numbers(train, data, settings):
    X, y = data
    settings |= {"head": Drops, "head_init": "random", "trainable": "all"}
    one, several = train(X, y, devices=3, **settings)
    assert_same(one, several, X)
    # Nothing of the division is left for later trainings.
    for model in (one, several):
        model.net_.partial_fit(X, np.zeros(len(X), int), epochs=1)
    assert one.net_.history[-1, "train_loss"] == pytest.approx(
        several.net_.history[-1, "train_loss"], rel=1e-4
    )


def spread(outputs, targets):
    """A loss that is no mean over rows: of each batch as a whole."""
    return (outputs - outputs.mean(dim=0)).pow(2).mean() + outputs.logsumexp(dim=(0, 1)) / 9


def test_a_loss_of_the_whole_batch(train, data):
    X, y = data
    assert_same(*train(X, y, trainable="all", loss=spread), X)


def test_more_devices_than_rows(train, data):
    X, _ = data
    assert_same(*train(X[:4], ["a", "b", "a", "b"], devices=6, trainable="all"), X)


def test_a_last_batch_with_less_rows_than_devices(train, data):
    X, y = data  # after batches in which all devices had rows
    assert_same(*train(X[:14], y[:14], 3, trainable="all", batch_size=4, optimizer="sgd"), X)


class Unused(nn.Module):
    """A head with a parameter that has no gradient, which no optimizer may change."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.linear = nn.Linear(n_features, n_outputs)
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return self.linear(x)


def test_a_parameter_without_a_gradient_stays_as_it_is(train, data):
    X, y = data
    one, several = train(X, y, head=Unused, weight_decay=0.5)
    assert torch.equal(several.net_.module_.head.unused, torch.ones(3))
    assert_same(one, several, X)


class Replace(Callback):
    """Changes the weights in the middle of a training."""

    def on_epoch_end(self, net, **kwargs):
        with torch.no_grad():
            for parameter in net.module_.parameters():
                parameter.mul_(0.9)


def test_a_callback_may_change_the_weights(train, data):
    X, y = data
    assert_same(*train(X, y, trainable="all", callbacks=[Replace()]), X)


@pytest.mark.parametrize("callbacks", [[], [Replace()]], ids=["frozen", "frozen and changed"])
def test_a_callback_may_freeze_weights(train, data, callbacks):
    X, y = data
    freezer = Freezer("body.0.*", at=2)
    settings = {"trainable": "all", "max_epochs": 4, "lr": 0.01, "optimizer": "sgd"}
    assert_same(*train(X, y, callbacks=[freezer, *callbacks], **settings), X)


class Centres(nn.Module):
    """A head with a statistic of its batches."""

    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.linear = nn.Linear(n_features, n_outputs)
        self.register_buffer("mean", torch.zeros(n_features))

    def forward(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + 0.5 * x.detach().mean(0)
        return self.linear(x - self.mean)


def test_statistics_of_a_module_need_whole_batches(hubs, data):
    model = FineTunedClassifier(network(), head=Centres, head_init="random", devices=2)
    with pytest.raises(ValueError, match=r"devices=2 divides .* buffer '.*mean' needs it whole"):
        model.set_params(device="cpu").fit(*data)


@pytest.mark.filterwarnings("ignore:A batch of 16 does not fit")
def test_memory_that_is_short_while_weights_are_packed(train, data, monkeypatch):
    X, y = data
    pack, n_calls = leader.packed, []

    def fail_once(tensors):
        n_calls.append(1)
        if len(n_calls) == 4:  # the gradients of the second batch
            raise torch.OutOfMemoryError("short")
        return pack(tensors)

    monkeypatch.setattr(leader, "packed", fail_once)
    assert_same(*train(X, y, trainable="all"), X)
    assert len(n_calls) > 4


def test_checkpoint_goes_on_with_another_number_of_devices(hubs, data, tmp_path):
    X, y = data

    class Stop(Callback):
        def on_epoch_begin(self, net, **kwargs):
            if len(net.history) == 3:
                raise RuntimeError("killed")

    settings = {"max_epochs": 4, "trainable": "all", "random_state": 0, "lr": 1e-3}
    settings |= {"device": "cpu", "checkpoint": tmp_path}
    whole = FineTunedClassifier(network(), **settings | {"checkpoint": None}).fit(X, y)
    model = FineTunedClassifier(network(), devices=2, **settings)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        from sktransfer.finetuning import loop

        callbacks = loop._callbacks
        patch.setattr(loop, "_callbacks", lambda *args: [*callbacks(*args), ("kill", Stop())])
        model.fit(X, y)
    assert_same(whole, model.set_params(devices=3).fit(X, y), X)


def test_a_fitted_model_is_that_of_one_device(train, data):
    X, y = data
    one, several = train(X, y, trainable="all")
    assert vars(one).keys() == vars(several).keys()
    assert type(one.net_) is type(several.net_)
    assert several.net_.replicas is None
    again = pickle.loads(pickle.dumps(several))
    np.testing.assert_array_equal(again.predict_proba(X), several.predict_proba(X))
    pickle.loads(pickle.dumps(several.net_)).partial_fit(X, np.zeros(len(X), int), epochs=1)


def test_training_further(train, hubs, data):
    X, y = data
    one, several = train(X, y, trainable="all", warm_start=True)
    assert_same(one.fit(X, y), several.fit(X, y), X)
    more = np.where(y == "ant", "fly", y)
    assert_same(one.partial_fit(X, more), several.partial_fit(X, more), X)


def test_an_error_on_another_device_is_told(hubs, data):
    X, y = data

    class Fails(nn.Linear):
        def forward(self, x):
            if threading.current_thread() is not threading.main_thread() and self.training:
                raise ValueError("no luck")
            return super().forward(x)

    model = FineTunedClassifier(network(), head=Fails, head_init="random", device="cpu", devices=2)
    with pytest.raises(RuntimeError, match=r"devices=: process 1 .* ValueError: no luck"):
        model.fit(X, y)
    assert not hasattr(model, "classes_")


def test_short_memory_of_any_device_divides_batches(hubs, data, monkeypatch):
    X, y = data

    class Small(nn.Linear):
        """Takes four rows in training at most."""

        def forward(self, x):
            if self.training and len(x) > 4:
                raise torch.OutOfMemoryError("full")
            return super().forward(x)

    settings = {"head": Small, "head_init": "random", "max_epochs": 2, "random_state": 0}
    plain = FineTunedClassifier(network(), **settings | {"head": nn.Linear}).fit(X, y)
    model = FineTunedClassifier(network(), device="cpu", devices=2, **settings)
    with pytest.warns(UserWarning, match="does not fit into the device's memory"):
        model.fit(X, y)
    assert_same(plain, model, X)


def test_interruption_ends_the_others(hubs, data):
    X, y = data

    class Interrupt(Callback):
        def on_grad_computed(self, net, **kwargs):
            raise KeyboardInterrupt

    # A callback may stop a training; the weights until then are kept.
    model = FineTunedClassifier(network(), device="cpu", devices=2, callbacks=[Interrupt()])
    assert len(model.fit(X, y).history_) == 1
