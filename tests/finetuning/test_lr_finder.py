import numpy as np

from sktransfer import (
    FineTunedClassifier,
    load_backbone,
)
from tests.finetuning.conftest import network


def test_the_range_test_finds_a_rate_between_no_training_and_harm(data):
    settings = {"lr": "range_test", "max_epochs": 1, "batch_size": 8}
    rates = [
        FineTunedClassifier(load_backbone(network()), random_state=s, **settings).fit(*data).lr_
        for s in range(4)
    ]
    assert max(rates) <= 0.1
    assert min(rates) >= 1e-4


def test_the_range_test_is_not_misled_by_dropout(data):
    def rate(dropout, seed):
        model = FineTunedClassifier(
            load_backbone(network()),
            lr="range_test",
            dropout=dropout,
            trainable="all",
            max_epochs=1,
            batch_size=16,
            random_state=seed,
        )
        return model.fit(*data).lr_

    # The loss with dropout is above that without, whatever the rate: that is no harm done.
    plain, dropped = ([rate(dropout, seed) for seed in range(3)] for dropout in (0.0, 0.7))
    assert np.median(dropped) >= np.median(plain) / 3


def test_a_rate_is_looked_for_as_far_where_a_last_row_joins_another_batch(data):
    found = []
    for n in (32, 33):
        model = FineTunedClassifier(load_backbone(network()), trainable="all", lr="range_test")
        model.set_params(train_batch_norm=True, max_epochs=1, random_state=0)
        found.append(model.fit(data[0][:n], data[1][:n]).lr_)
    assert found[1] > 0.3 * found[0] > 1e-5


def test_the_range_test_leaves_the_weights_as_they_were(data):
    models = (
        FineTunedClassifier(
            load_backbone(network()), lr=lr, trainable="all", max_epochs=0, random_state=0
        )
        for lr in (1e-4, "auto")
    )
    fixed, found = (model.fit(*data).predict_proba(data[0]) for model in models)
    assert np.array_equal(found, fixed)
