import threading

import numpy as np
import pytest
from sklearn.base import clone
from skorch.callbacks import Callback, LRScheduler

from sktransfer import FineTunedClassifier, load_backbone
from sktransfer.finetuning.callbacks import warmup_cosine
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
