import pickle

import numpy as np
import pytest
import torch
from sklearn.model_selection import GridSearchCV
from skorch.callbacks import (
    Callback,
    EarlyStopping,
    Freezer,
    GradientNormClipping,
    Unfreezer,
)
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    load_backbone,
)
from tests.finetuning.conftest import SGD, network


@pytest.mark.parametrize(
    ("key", "parameter"),
    [
        ("lr", "lr"),
        ("max_epochs", "max_epochs"),
        ("batch_size", "batch_size"),
        ("iterator_train__batch_size", "batch_size"),
        ("optimizer__lr", "lr"),
        ("train_split", "validation_fraction"),
        ("criterion", "loss"),
        ("device", "device"),
        ("module", "head"),
        ("verbose", "verbose"),
        ("callbacks__best", "validation_fraction"),
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
    net_params = SGD | {"optimizer__nesterov": True, "callbacks": [("mine", Callback())]}
    settings = {"max_epochs": 1}
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


def test_what_skorch_takes_reaches_it(data):
    """Each line replaces a parameter; all of them can be searched over."""
    settings = {
        "loss": nn.CrossEntropyLoss(label_smoothing=0.2),
        "callbacks": [
            ("clip", GradientNormClipping(0.7)),
            ("stop", EarlyStopping(patience=3)),
            ("freeze", Freezer("body.0.*")),
            ("unfreeze", Unfreezer("body.0.*", at=2)),
        ],
        "net_params": {
            "optimizer": torch.optim.NAdam,
            "optimizer__weight_decay": 0.03,
            "callbacks__schedule__warmup": 0.5,
        },
    }
    model = FineTunedClassifier(
        load_backbone(network()), trainable="all", validation_fraction=0.2, max_epochs=4, **settings
    ).fit(*data)
    callbacks = dict(model.net_.callbacks_)
    assert callbacks["clip"].gradient_clip_value == 0.7
    assert callbacks["stop"].patience == 3
    assert callbacks["schedule"].warmup == 0.5
    assert type(model.net_.optimizer_) is torch.optim.NAdam
    assert {group["weight_decay"] for group in model.net_.optimizer_.param_groups} == {0.03}


@pytest.mark.slow
def test_settings_of_skorch_are_searched_over(data):
    grid = {"net_params": [{}, {"optimizer__weight_decay": 0.1}], "callbacks": [None, [Callback()]]}
    model = FineTunedClassifier(load_backbone(network()), max_epochs=1, random_state=0)
    search = GridSearchCV(model, grid, cv=2).fit(*data)
    assert len(search.cv_results_["params"]) == 4


def test_adamw_has_a_small_weight_decay(data):
    net = FineTunedClassifier(load_backbone(network()), max_epochs=1).fit(*data).net_
    assert type(net.optimizer_) is torch.optim.AdamW
    assert {group["weight_decay"] for group in net.optimizer_.param_groups} == {1e-4}


@pytest.mark.parametrize("name", ["best", "finite", "mine"])
@pytest.mark.parametrize("where", ["callbacks", "net_params"])
def test_a_name_of_a_callback_that_is_in_use_is_refused(name, where, data):
    callbacks = [("mine", Callback()), (name, Callback())]
    settings = {where: callbacks if where == "callbacks" else {"callbacks": callbacks}}
    model = FineTunedClassifier(load_backbone(network()), **settings)
    with pytest.raises(ValueError, match=rf"{where}.*\[1\]: the name '{name}' is in use"):
        model.fit(*data)


@pytest.mark.parametrize("optimizer", [torch.optim.LBFGS, torch.optim.Optimizer])
def test_an_optimizer_that_cannot_be_used_is_named(optimizer, data):
    settings = {"trainable": 1, "net_params": {"optimizer": optimizer}}
    model = FineTunedClassifier(load_backbone(network()), **settings)
    with pytest.raises(ValueError, match=r"net_params=.*optimizer.* cannot be used"):
        model.fit(*data)


@pytest.mark.parametrize("optimizer", ["sgd", nn.Linear, None])
def test_what_is_no_optimizer_is_named(optimizer, data):
    model = FineTunedClassifier(load_backbone(network()), net_params={"optimizer": optimizer})
    with pytest.raises(TypeError, match=r"'optimizer'.*no class of torch\.optim"):
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
