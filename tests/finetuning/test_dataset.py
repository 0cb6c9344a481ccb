import mmap
import warnings

import numpy as np
import pytest
import torch
from skorch.callbacks import Callback

from sktransfer import (
    FineTunedClassifier,
    load_backbone,
)
from sktransfer.finetuning.dataset import Activations, TrainingDataset
from tests.finetuning.conftest import network


def test_rows_without_weight_are_not_for_validation(data):
    X, y = data
    weight = np.arange(len(y)) % 3 == 0
    model = FineTunedClassifier(load_backbone(network()), validation_fraction=0.3, max_epochs=1)
    held = model.fit(X, y, sample_weight=weight).validation_indices_
    assert len(held) == 9
    assert weight[held].all()


@pytest.mark.slow
@pytest.mark.parametrize("n_rare", [1, 2])
def test_validation_takes_its_share_of_each_class_and_leaves_each_one(n_rare, data):
    X, y = data
    y = y.astype(object)
    y[:n_rare] = "rare"
    settings = {"validation_fraction": 0.4, "max_epochs": 0}
    for seed in range(4):
        model = FineTunedClassifier(load_backbone(network()), random_state=seed, **settings)
        held = model.fit(X, y).validation_indices_
        assert len(held) == len(set(held)) == 36
        for label in ("ant", "bee", "wasp"):
            assert abs((y[held] == label).sum() - 0.4 * (y == label).sum()) <= 1
        assert (y[held] == "rare").sum() < n_rare


def test_a_share_of_no_row_is_told(data):
    model = FineTunedClassifier(load_backbone(network()), validation_fraction=0.1, max_epochs=0)
    with pytest.warns(UserWarning, match=r"validation_fraction=0\.1 of 4 rows, .* is no row"):
        model.fit(data[0][:4], ["a", "b", "a", "b"])


@pytest.mark.parametrize("batch_size", [1, 8])
def test_weights_count_whatever_the_size_of_batches(data, batch_size):
    X, y = data
    settings = {"head_init": "random", "batch_size": batch_size, "max_epochs": 3, "lr": 1e-3}
    weight = np.where(y == "wasp", 100.0, 1.0)
    shares = []
    for w in (None, weight):
        model = FineTunedClassifier(load_backbone(network()), random_state=0, **settings)
        shares.append((model.fit(X, y, sample_weight=w).predict(X) == "wasp").mean())
    assert shares[1] > shares[0] + 0.2


def test_the_validation_loss_is_the_weighted_mean(data):
    X, y = data
    weight = np.random.RandomState(0).choice([1e-3, 1.0], len(y))
    settings = {"validation_fraction": 0.5, "batch_size": 4, "max_epochs": 1, "lr": 1e-9}
    model = FineTunedClassifier(load_backbone(network()), random_state=0, **settings)
    model.fit(X, y, sample_weight=weight)
    held = model.validation_indices_
    own = model.predict_proba(X[held])[y[held][:, None] == model.classes_]
    expected = -np.average(np.log(own), weights=weight[held])
    assert model.history_[0]["valid_loss"] == pytest.approx(expected, rel=1e-4)


def test_a_share_of_rows_that_classes_need_is_told(data):
    model = FineTunedClassifier(load_backbone(network()), validation_fraction=0.5, max_epochs=0)
    with pytest.warns(UserWarning, match="without one row of each class, is no row"):
        model.fit(data[0][:3], ["a", "b", "c"])


def test_a_large_table_is_not_copied_into_memory(data, monkeypatch):
    tables = []

    class Noted(Callback):
        def on_train_begin(self, net, X=None, y=None, **kwargs):
            tables.extend(view.rows for view in X.views)

        def on_epoch_begin(self, net, dataset_train=None, dataset_valid=None, **kwargs):
            tables.extend(view.rows for view in dataset_valid.views)

    monkeypatch.setattr("sktransfer.features.output._IN_MEMORY", 100)
    settings = {"validation_fraction": 0.2, "rehearsal": 2, "max_epochs": 1}
    model = FineTunedClassifier(
        load_backbone(network()), trainable=1, callbacks=[Noted()], **settings
    ).fit(*data)
    model.partial_fit(*data)
    assert len(tables) == 4
    assert all(isinstance(rows.base, mmap.mmap) for rows in tables)


def test_rows_of_a_table_come_from_both_parts():
    rows, behind = np.arange(10.0)[:, None], np.arange(90.0, 93.0)[:, None]
    table = Activations(rows, np.array([7, 2]), behind)
    assert len(table) == 5
    assert table[np.array([4, 0, 1])].ravel().tolist() == [92.0, 7.0, 2.0]
    assert table[1:].ravel().tolist() == [2.0, 90.0, 91.0, 92.0]


def test_texts_whose_tokens_are_one_id_or_several_are_joined():
    texts = np.empty(2, object)
    texts[:] = [np.array([5, 6, 7]), np.array([[1, 2], [3, 0]])]
    for row in texts:
        row.flags.writeable = False  # as a store gives them
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x, _ = TrainingDataset([texts], np.zeros(2), np.ones(2)).batch(torch.tensor([0, 1]))
    assert x["x"].tolist() == [[[5, 0], [6, 0], [7, 0]], [[1, 2], [3, 0], [0, 0]]]
