import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, TransferClassifier, load_backbone
from sktransfer.selection import tuned
from sktransfer.selection.members import BLEND
from tests.selection.support import deeper_backbone


class Narrow(nn.Sequential):
    """A small network of random weights, which training improves."""

    def __init__(self):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            super().__init__(
                nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)
            )


def rings(n, seed=0):
    """Classes by the distance from the origin."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6)).astype(np.float32)
    return X, np.where((X[:, :2] ** 2).sum(1) > 1.4, "far", "near")


@pytest.fixture
def backbone():
    return load_backbone(Narrow().eval())


@pytest.fixture
def trained(monkeypatch):
    """Numbers of samples of the trainings."""
    counts, fit = [], FineTunedClassifier.fit

    def counting(self, X, y, sample_weight=None):
        counts.append(len(y))
        # So that a network of random weights learns something.
        return fit(self.set_params(lr=0.01), X, y, sample_weight)

    monkeypatch.setattr(FineTunedClassifier, "fit", counting)
    return counts


def test_a_tuned_network_is_in_the_blend_where_others_are_wrong(backbone, trained):
    X, y = rings(300)
    model = TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(X, y)
    assert trained == [240]  # without the samples that weight it
    weights = dict(zip(model.members_, model.weights_, strict=True))
    assert weights["all stages trained"] > 0.1
    assert model.weights_.sum() == pytest.approx(1) and (np.diff(model.weights_) <= 0).all()
    test, y_test = rings(500, seed=1)
    found = model.predict_proba(test)
    np.testing.assert_allclose(found.sum(1), 1)
    without = TransferClassifier(backbone, random_state=0).fit(X, y)
    assert "all stages trained" not in without.members_ and len(trained) == 1
    assert model.score(test, y_test) > without.score(test, y_test)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_allclose(again.predict_proba(test), found, atol=1e-6)
    assert (model.predict(test) == model.classes_[found.argmax(1)]).all()


def test_it_is_trained_at_the_second_smallest_size(colours, monkeypatch):
    trained_at = []
    monkeypatch.setitem(BLEND, "least_size", 1)
    monkeypatch.setitem(BLEND, "multiple", 2)
    monkeypatch.setattr("sktransfer.selection.blend.may_pay", lambda *args: True)
    monkeypatch.setattr(
        "sktransfer.selection.blend.fit_tuned",
        lambda backbone, *args, **kwargs: trained_at.append(backbone.input_shape),
    )
    TransferClassifier(deeper_backbone(), time_budget=1e9, random_state=0).fit(*colours)
    assert trained_at == [(3, 10, 10)]


@pytest.mark.parametrize(("n", "errors"), [(50, 0.05), (300, 0.9)])
def test_nothing_is_trained_with_few_samples_or_few_errors(
    n, errors, backbone, trained, monkeypatch
):
    monkeypatch.setitem(BLEND, "tuned_errors", errors)
    TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(*rings(n))
    assert not trained


def test_a_network_that_is_wrong_has_no_weight(backbone, trained, monkeypatch):
    def wrong(self, X):
        is_far = (np.asarray(X)[:, :2] ** 2).sum(1) > 1.4
        return np.where(is_far[:, None], [0.01, 0.99], [0.99, 0.01])

    monkeypatch.setattr(FineTunedClassifier, "predict_proba", wrong)
    model = TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(*rings(200))
    assert trained and "all stages trained" not in model.members_


def test_nothing_is_trained_that_takes_longer_than_the_budget(backbone, trained, monkeypatch):
    monkeypatch.setattr(tuned, "_seconds", lambda *args: 1e6)
    TransferClassifier(backbone, time_budget=60, random_state=0).fit(*rings(300))
    assert not trained
    TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(*rings(300))
    assert trained


def test_the_time_of_a_training_is_estimated(backbone):
    few, many = (tuned._seconds(backbone, rings(20)[0], n) for n in (100, 10**6))
    assert 0 < few < many


def test_equal_samples_are_not_both_trained_on_and_held_out(backbone, trained):
    X, y = rings(150)
    TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(
        np.tile(X, (3, 1)), np.tile(y, 3)
    )
    assert trained[0] % 3 == 0  # all copies of a sample, or none


@pytest.mark.parametrize("budget", [0, -1, "x", np.nan])
def test_a_budget_that_is_none_is_refused(budget, backbone):
    with pytest.raises(ValueError, match="time_budget"):
        TransferClassifier(backbone, time_budget=budget).fit(*rings(20))
