import copy
import pickle

import numpy as np
import pytest
import torch
from sklearn.metrics import get_scorer, mean_absolute_error
from skorch.callbacks import (
    BatchScoring,
    Callback,
    EarlyStopping,
    EpochScoring,
    Freezer,
    GradientNormClipping,
    Unfreezer,
)

from sktransfer import FineTunedClassifier, FineTunedRegressor, load_backbone
from tests.finetuning.conftest import SGD, network
from tests.finetuning.test_callbacks import Rates, rates_of

NETS = {"trainable": 1, "max_epochs": 2, "lr": 0.01, "random_state": 0}


def fitted(data, **settings):
    X, y = data
    model = FineTunedClassifier(load_backbone(network()), **NETS | settings).fit(X, y)
    return model, model._activations(X), np.searchsorted(model.classes_, y)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"validation_fraction": 0.2, "callbacks": [EarlyStopping(patience=3)]},
        {"verbose": 1},
        {"callbacks": [Freezer("body.0.*"), Unfreezer("body.0.*", at=2)], "max_epochs": 4},
        {"callbacks": [Rates(), GradientNormClipping(1.0)], "net_params": SGD},
    ],
)
def test_a_copy_of_the_net_goes_on_and_leaves_the_model_alone(settings, copied, data):
    model, activations, codes = fitted(data, **settings)
    before = model.predict_proba(data[0])
    net = copied(model.net_)
    np.testing.assert_allclose(net.predict_proba(activations), before, atol=1e-6)
    net.partial_fit(activations, codes)
    losses = net.history[:, "train_loss"]
    assert len(losses) == 2 * model.max_epochs
    assert losses[-1] < losses[0]
    assert np.array_equal(before, model.predict_proba(data[0]))
    assert len(model.history_) == model.max_epochs


def test_a_pickle_of_the_net_holds_no_rows_that_trained():
    X = np.random.default_rng(0).normal(size=(4000, 6)).astype(np.float32)
    settings = NETS | {"validation_fraction": 0.01, "batch_size": 4000}
    model = FineTunedClassifier(load_backbone(network()), **settings).fit(X, X[:, 0] > 0)
    assert len(pickle.dumps(model.net_)) < 4000 * 16 * 4 / 2  # half of the table at the cut


def test_the_model_follows_its_net(data):
    model, activations, codes = fitted(data)
    before, backbone = model.predict_proba(data[0]), model.to_backbone()
    model.net_.partial_fit(activations, codes)
    after = model.predict_proba(data[0])
    assert np.abs(before - after).max() > 1e-4
    np.testing.assert_allclose(model.net_.predict_proba(activations), after, atol=1e-6)
    assert model.to_backbone() is not backbone
    assert len(model.history_) == 4
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(data[0]), after)


def test_the_net_of_an_opened_model_has_its_history_and_goes_on(data):
    model, activations, codes = fitted(data, validation_fraction=0.2)
    again = pickle.loads(pickle.dumps(model))
    assert again.history_ == model.history_
    for column in ("epoch", "train_loss", "valid_loss", "dur"):
        assert again.net_.history[:, column] == model.net_.history[:, column]
    again.net_.partial_fit(activations, codes)
    losses = again.net_.history[:, "train_loss"]
    assert len(losses) == 4
    assert losses[3] < losses[0]
    assert len(pickle.loads(pickle.dumps(again)).net_.history) == 4


def test_the_rate_of_a_net_that_goes_on_falls_over_the_rows_that_it_is_given(data):
    settings = {"batch_size": 30, "trainable": "head", "callbacks": [Rates()]}
    settings["net_params"] = {"callbacks__schedule__warmup": 0.0}
    model, activations, codes = fitted(data, **settings)
    first = list(rates_of(model))
    model.net_.partial_fit(activations, codes)
    np.testing.assert_allclose(rates_of(model)[6:], first)
    model.net_.partial_fit(np.tile(activations, (2, 1)), np.tile(codes, 2))
    longer = rates_of(model)[12:]
    assert (len(longer), longer[0], longer[6]) == (12, 0.01, pytest.approx(0.005))
    model.net_.set_params(lr=0.5).partial_fit(activations, codes)
    assert rates_of(model)[24] == 0.5


class Stop(Callback):
    def on_epoch_end(self, net, **kwargs):
        raise KeyboardInterrupt


def test_a_net_that_a_callback_stops_goes_on(data):
    model, activations, codes = fitted(data, callbacks=[Stop()])
    model.net_.partial_fit(activations, codes)
    assert len(model.history_) == 2


def units(X, n_targets):
    y = 1000 * X[:, 0].astype(float) + 5000
    return y if n_targets == 1 else np.column_stack([y, X[:, 1]])


@pytest.mark.parametrize("n_targets", [1, 2])
def test_the_net_of_a_regressor_takes_and_predicts_the_units_of_y(n_targets, data):
    X, _ = data
    y = units(X, n_targets)
    model = FineTunedRegressor(load_backbone(network()), max_epochs=2, lr=0.01).fit(X, y)
    activations = model._activations(X)
    np.testing.assert_allclose(
        model.net_.predict(activations), model.predict(X).reshape(len(X), -1), rtol=1e-5
    )
    model.net_.partial_fit(activations, y)
    losses = [epoch["train_loss"] for epoch in model.history_]
    assert len(losses) == 4
    assert losses[3] < losses[0] < 1  # of standardised targets
    assert model.score(X, y) > 0.4


@pytest.mark.parametrize("on_train", [False, True])
@pytest.mark.parametrize("n_targets", [1, 2])
def test_scores_of_a_regressor_are_in_the_units_of_y(on_train, n_targets, data):
    X, _ = data
    y = units(X, n_targets)
    scores = [
        EpochScoring("neg_mean_absolute_error", name="epoch", on_train=on_train),
        BatchScoring("neg_mean_absolute_error", name="batch", on_train=on_train),
    ]
    settings = {"max_epochs": 1, "lr": 1e-12, "validation_fraction": 0.3, "random_state": 0}
    model = FineTunedRegressor(load_backbone(network()), callbacks=scores, **settings).fit(X, y)
    held = model.validation_indices_
    rows = np.setdiff1d(np.arange(len(X)), held) if on_train else held
    expected = -mean_absolute_error(y[rows], model.predict(X[rows]))
    assert model.history_[0]["epoch"] == pytest.approx(expected, rel=1e-4)
    assert model.history_[0]["batch"] == pytest.approx(expected, rel=1e-4)


def test_targets_far_from_zero_keep_their_digits(data):
    X, _ = data
    y = X[:, 0].astype(float)
    settings = {"trainable": "all", "max_epochs": 3, "lr": 1e-3, "random_state": 0}
    model = FineTunedRegressor(load_backbone(network()), **settings)
    expected = model.fit(X, y).predict(X)
    np.testing.assert_allclose(model.fit(X, y + 1.7e9).predict(X) - 1.7e9, expected, atol=1e-3)


@pytest.mark.parametrize("scoring", ["accuracy", "f1_micro", "roc_auc", "average_precision"])
@pytest.mark.parametrize("n_labels", [2, 3])
def test_scores_of_an_indicator_matrix(scoring, n_labels, data):
    X, y = data
    Y = np.column_stack([y == "ant", y != "bee", X[:, 0] > 0])[:, :n_labels].astype(int)
    score = EpochScoring(scoring, name="score", lower_is_better=False)
    settings = {"max_epochs": 1, "lr": 1e-12, "validation_fraction": 0.3, "random_state": 0}
    model = FineTunedClassifier(load_backbone(network()), callbacks=[score], **settings).fit(X, Y)
    held, scorer = model.validation_indices_, get_scorer(scoring)
    labels = scoring in ("accuracy", "f1_micro")
    found = model.predict(X[held]) if labels else model.predict_proba(X[held])
    expected = scorer._score_func(Y[held], found, **scorer._kwargs)
    assert model.history_[0]["score"] == pytest.approx(expected)
    assert np.array_equal(model.net_.predict(model._activations(X)), model.predict(X))


@pytest.mark.parametrize("on_train", [False, True])
def test_scores_that_skorch_does_not_cache_are_those_of_the_model(on_train, data):
    X, y = data
    score = EpochScoring("accuracy", name="score", on_train=on_train, use_caching=False)
    # One epoch, whose weights are the final ones.
    settings = {"validation_fraction": 0.3, "max_epochs": 1, "lr": 1e-5, "callbacks": [score]}
    model = FineTunedClassifier(load_backbone(network()), random_state=0, **settings).fit(X, y)
    held = np.isin(np.arange(len(y)), model.validation_indices_)
    rows = ~held if on_train else held
    assert model.best_epoch_ == 1
    assert model.history_[0]["score"] == pytest.approx(model.score(X[rows], y[rows]))


@pytest.mark.filterwarnings("ignore:y has one class only")  # that of one sample
@pytest.mark.parametrize(("fraction", "n"), [(0.0, 90), (0.3, 1)])
def test_callbacks_that_need_a_hold_out_set_say_so(fraction, n, data):
    X, y = data
    model = FineTunedClassifier(
        load_backbone(network()), validation_fraction=fraction, callbacks=[EarlyStopping()]
    )
    with pytest.raises(ValueError, match=r"callbacks.* set validation_fraction"):
        model.fit(X[:n], y[:n])


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_training_does_not_depend_on_the_gradient_mode_of_the_caller(mode, data):
    def model():
        return FineTunedClassifier(network(), trainable="all", max_epochs=1, random_state=0)

    expected = model().fit(*data).predict_proba(data[0])
    with mode():
        fitted = model().fit(*data)
    assert np.array_equal(fitted.predict_proba(data[0]), expected)


def test_training_does_not_depend_on_the_default_type_of_torch(data):
    model = FineTunedClassifier(network(), trainable=1, max_epochs=1, random_state=0)
    expected = model.fit(*data).predict_proba(data[0])
    torch.set_default_dtype(torch.float64)
    try:
        found = model.fit(*data).predict_proba(data[0])
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_allclose(found, expected, atol=1e-5)
