"""Blends and probes of more than 1,000 classes: right, and in bounded memory."""

import tracemalloc

import numpy as np
import pytest
from torch import nn

from sktransfer import FineTunedClassifier, TransferClassifier
from sktransfer.transferability import LinearProbe

N_FEATURES = 48


def samples(n_classes, n_each=2, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_classes, N_FEATURES))
    y = np.repeat(np.arange(n_classes), n_each)
    X = centers[y] + 0.3 * rng.normal(size=(len(y), N_FEATURES))
    return X.astype(np.float32), y


def network():
    return nn.Sequential(nn.Identity())


def peak(action):
    """Return the most memory that NumPy had at a time, in bytes."""
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_probe_of_many_classes_has_no_number_for_each_sample_and_class():
    X, y = samples(3000)
    probe = LinearProbe()
    assert peak(lambda: probe.fit(X, y)) < len(X) * 3000 * 8 / 4
    assert probe.score(X[::7], y[::7]) > 0.95
    assert probe.coef_.shape == (3000, N_FEATURES)


def test_weights_of_a_probe_of_many_classes_count_as_repeated_rows():
    X, y = samples(1001)
    weight = np.where(np.arange(len(y)) % 3, 1, 2)
    weighted = LinearProbe((0.1,)).fit(X, y, weight)
    repeated = LinearProbe((0.1,)).fit(np.repeat(X, weight, axis=0), np.repeat(y, weight))
    np.testing.assert_allclose(weighted.predict_proba(X), repeated.predict_proba(X), atol=1e-9)


def test_a_blend_of_many_classes_has_no_number_for_each_sample_and_class():
    X, y = samples(1500)
    model = TransferClassifier(network(), random_state=0)
    assert peak(lambda: model.fit(X, y)) < len(X) * 1500 * 8
    assert model.score(X[::7], y[::7]) > 0.95


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
def test_a_blend_of_many_classes_cross_validates_those_with_several_samples():
    X, y = samples(1001, 1)
    more, labels = samples(1001, 12, seed=0)
    several = labels < 10
    X, y = np.concatenate([X, more[several]]), np.concatenate([y, labels[several]])
    model = TransferClassifier(network(), random_state=0).fit(X, y)
    assert model.predict_proba(X[:5]).sum(axis=1) == pytest.approx(1)
    assert model.score(X[::5], y[::5]) > 0.9


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore:The number of unique classes:UserWarning")
def test_unlabelled_samples_of_many_classes():
    X, y = samples(1200)
    model = TransferClassifier(network(), random_state=0)
    model.fit(X[::2], y[::2], X_unlabelled=X[1::2])
    assert model.score(X[1::14], y[1::14]) > 0.9


def test_a_head_of_many_classes():
    X, y = samples(1200)
    model = FineTunedClassifier(network(), trainable="head", max_epochs=0, random_state=0)
    assert model.fit(X, y).score(X[::7], y[::7]) > 0.95
