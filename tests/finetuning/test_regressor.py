import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    load_backbone,
)
from tests.finetuning.conftest import network


def test_several_targets_are_learned_together(data):
    X, _ = data
    Y = np.column_stack([X[:, 0] * 1000, X[:, 1] - 50])
    settings = {"trainable": "all", "lr": 1e-3, "random_state": 0}
    model = FineTunedRegressor(load_backbone(network()), **settings).fit(X, Y)
    assert model.predict(X).shape == Y.shape
    assert model.score(X, Y) > 0.5


def test_a_classifier_grows_from_a_regressor(data):
    X, y = data
    regressor = FineTunedRegressor(load_backbone(network()), max_epochs=1).fit(X, X[:, 0])
    assert FineTunedClassifier(regressor, max_epochs=1).fit(X, y).score(X, y) > 0.5


def test_a_file_of_a_regressor_holds_the_changed_tensors(tmp_path):
    X = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    module = nn.Sequential(nn.Linear(6, 900), nn.ReLU(), nn.Linear(900, 300), nn.ReLU())
    model = FineTunedRegressor(module, trainable=1, max_epochs=1, lr=1e-2).fit(X, X[:, 0])
    joblib.dump(model, tmp_path / "model.joblib")
    again = joblib.load(tmp_path / "model.joblib")
    assert np.array_equal(again.predict(X), model.predict(X))
    tensors = [*module.parameters(), *model.net_.module_.parameters()]
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    assert (tmp_path / "model.joblib").stat().st_size < 1.05 * size


def test_later_targets_have_the_names_and_the_order_of_the_first(data):
    X, _ = data
    y = pd.DataFrame({"width": X[:, 0], "mass": X[:, 1] * 100})
    turned, settings = y[["mass", "width"]], {"max_epochs": 1, "random_state": 0}
    model = FineTunedRegressor(load_backbone(network()), **settings, warm_start=True).fit(X, y)
    for fitted in (model, pickle.loads(pickle.dumps(model))):
        with pytest.raises(ValueError, match=r"y has the columns .*'mass', 'width'.*this order"):
            fitted.score(X, turned)
        with pytest.raises(ValueError, match="y has the columns"):
            fitted.fit(X, turned)
        assert fitted.score(X, y) == fitted.score(X, y.to_numpy())
    with pytest.raises(ValueError, match="y_val has the columns"):
        model.fit(X, y, X_val=X, y_val=turned)
    model.fit(X, y.to_numpy()).fit(X, y, X_val=X, y_val=y.to_numpy())
