import pickle

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback, EarlyStopping

from sktransfer import (
    FineTunedClassifier,
    load_backbone,
)
from tests.finetuning.conftest import network


@pytest.mark.parametrize(
    ("key", "parameter"),
    [
        ("lr", "lr"),
        ("max_epochs", "max_epochs"),
        ("batch_size", "batch_size"),
        ("iterator_train__batch_size", "batch_size"),
        ("optimizer", "optimizer"),
        ("optimizer__weight_decay", "weight_decay"),
        ("train_split", "validation_fraction"),
        ("criterion", "loss"),
        ("device", "device"),
        ("module", "head"),
        ("verbose", "verbose"),
        ("callbacks__best", "validation_fraction"),
        ("callbacks__stop__patience", "patience"),
    ],
)
def test_net_params_that_are_parameters_here_are_refused(key, parameter, data):
    model = FineTunedClassifier(load_backbone(network()), net_params={key: None})
    with pytest.raises(ValueError, match=f"net_params.*the estimator's parameter {parameter}"):
        model.fit(*data)


@pytest.mark.parametrize(
    "key", ["iterator_train", "iterator_valid", "callbacks__finite", "callbacks__valid_loss"]
)
def test_net_params_that_would_break_training_are_refused(key, data):
    model = FineTunedClassifier(load_backbone(network()), net_params={key: None})
    with pytest.raises(ValueError, match="cannot be set"):
        model.fit(*data)


def test_other_net_params_pass_and_callbacks_are_added(data):
    net_params = {"optimizer__nesterov": True, "callbacks": [("mine", Callback())]}
    settings = {"max_epochs": 1, "optimizer": "sgd"}
    model = FineTunedClassifier(
        load_backbone(network()), validation_fraction=0.2, net_params=net_params, **settings
    ).fit(*data)
    assert {"finite", "best", "mine"} <= {name for name, _ in model.net_.callbacks_}
    assert all(group["nesterov"] for group in model.net_.optimizer_.param_groups)
    stop = ("es", EarlyStopping(monitor="train_loss"))
    model.set_params(callbacks=[stop], net_params={"callbacks__es__patience": 2}).fit(*data)
    assert dict(model.net_.callbacks_)["es"].patience == 2
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.predict(data[0]), model.predict(data[0]))


def test_an_optimizer_without_weight_decay_says_so(data):
    model = FineTunedClassifier(load_backbone(network()), optimizer=torch.optim.Rprop)
    with pytest.raises(ValueError, match="set weight_decay=0"):
        model.fit(*data)
    model.set_params(weight_decay=0.0, max_epochs=2).fit(*data)


def test_too_few_epochs_to_unfreeze_are_told(data):
    settings = {"trainable": "all", "gradual_unfreezing": True}
    with pytest.warns(UserWarning, match="the first 2 of 4 stages are not trained"):
        FineTunedClassifier(load_backbone(network()), max_epochs=2, **settings).fit(*data)


def test_settings_of_the_loop_reach_skorch(data):
    settings = {"label_smoothing": 0.2, "clip_norm": 0.7, "weight_decay": 0.03, "max_epochs": 1}
    net = FineTunedClassifier(load_backbone(network()), **settings).fit(*data).net_
    assert net.criterion_.label_smoothing == 0.2
    assert dict(net.callbacks_)["clip"].gradient_clip_value == 0.7
    assert {group["weight_decay"] for group in net.optimizer_.param_groups} == {0.03}


@pytest.mark.parametrize("name", ["best", "stop", "mine"])
@pytest.mark.parametrize("where", ["callbacks", "net_params"])
def test_a_name_of_a_callback_that_is_in_use_is_refused(name, where, data):
    callbacks = [("mine", Callback()), (name, Callback())]
    settings = {where: callbacks if where == "callbacks" else {"callbacks": callbacks}}
    model = FineTunedClassifier(load_backbone(network()), **settings)
    with pytest.raises(ValueError, match=rf"{where}.*\[1\]: the name '{name}' is in use"):
        model.fit(*data)


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, torch.optim.Optimizer])
def test_an_optimizer_that_cannot_be_used_is_named(optimizer, data):
    settings = {"trainable": 1, "optimizer": optimizer, "weight_decay": 0}
    model = FineTunedClassifier(load_backbone(network()), **settings)
    with pytest.raises(ValueError, match=r"optimizer=.* cannot be used"):
        model.fit(*data)


def test_numbers_of_numpy_are_numbers(data):
    settings = {"batch_size": 7, "lr": 0.01, "max_epochs": 2, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), **settings).fit(*data)
    settings = {name: np.array(value)[()] for name, value in settings.items()}
    other = FineTunedClassifier(load_backbone(network()), **settings).fit(*data)
    assert np.array_equal(model.predict_proba(data[0]), other.predict_proba(data[0]))
    assert type(other.lr_) is float


@pytest.mark.parametrize("key", ["callbacks__mine", "callbacks__mine__patience"])
def test_parameters_of_a_callback_that_is_not_there_are_refused(key, data):
    model = FineTunedClassifier(load_backbone(network()), net_params={key: 3})
    with pytest.raises(ValueError, match=f"net_params.*{key}.*'mine'"):
        model.fit(*data)
