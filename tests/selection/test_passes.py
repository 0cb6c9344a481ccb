"""Each sample passes each frozen stage once in a fit, whatever the strategy."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs
from torch import nn

from sktransfer import TransferClassifier, load_backbone
from sktransfer.selection.recommendation import recommend
from sktransfer.selection.strategies import STRATEGIES, ShareOfErrors
from sktransfer.selection.study import Study
from sktransfer.selection.transfer import strategy_task

N_STAGES, WIDTH = 5, 10
PASSED: dict[int, list[np.ndarray]] = {}


def _weight(i: int) -> torch.Tensor:
    shape = (3 if i == N_STAGES - 1 else WIDTH, 6 if i == 0 else WIDTH)
    return torch.randn(shape, generator=torch.Generator().manual_seed(i)) / 2


def _without_filling(rows: np.ndarray) -> np.ndarray:
    """Drop copies of the last sample, with which an engine fills up a batch of short vectors."""
    others = np.flatnonzero(np.abs(rows - rows[-1]).max(1) > 1e-6)
    return rows[: others[-1] + 2] if len(others) else rows[:1]


class CountingStage(nn.Module):
    """A stage that records the rows it is given, as long as its weights are the pretrained ones.

    Copies of it, hooked, prepared or moved, record in the same place.
    """

    def __init__(self, i: int):
        super().__init__()
        self.i = i
        self.weight = nn.Parameter(_weight(i))

    def forward(self, x):
        if torch.equal(self.weight.detach(), _weight(self.i)):
            PASSED.setdefault(self.i, []).extend(_without_filling(x.detach().numpy().copy()))
        x = x @ self.weight.T
        return x if self.i == N_STAGES - 1 else torch.tanh(x)


@pytest.fixture
def backbone():
    """Five stages with matrices, one batch norm, and classes: every strategy is possible."""
    norm = nn.BatchNorm1d(WIDTH)
    norm.running_mean.fill_(0.1)
    norm.running_var.fill_(0.5)
    stages = [CountingStage(i) for i in range(N_STAGES)]
    return load_backbone(nn.Sequential(*stages[:3], norm, *stages[3:]).eval(), classes=list("abc"))


def samples(n):
    X, y = make_blobs(n, 6, centers=3, cluster_std=6, random_state=0)
    return (X / 20).astype(np.float32), y


def n_passes(stage: int, X: np.ndarray) -> np.ndarray:
    """Count how often each sample has passed one of the first three stages."""
    x = torch.from_numpy(X)
    for i in range(stage):
        x = torch.tanh(x @ _weight(i).T)
    seen = np.array(PASSED[stage])  # (n_passes, width)
    distance = np.abs(seen[:, None] - x.numpy()[None]).max(2)  # (n_passes, n_samples)
    return np.bincount(distance.argmin(1)[distance.min(1) < 1e-4], minlength=len(X))


def assert_once(stage: int, X: np.ndarray):
    """No sample has passed twice, but the few that check an engine."""
    passes = n_passes(stage, X)
    assert (passes > 1).sum() <= 6
    if stage == 0:
        assert passes.min() == 1


def fit(backbone, strategy, n, **settings):
    X, y = samples(n)
    PASSED.clear()
    if strategy == "recommended":
        # Without times, for which a few samples are run again.
        model = TransferClassifier(backbone, random_state=0, **settings)
        return recommend(Study(strategy_task(model, X, y))), X
    model = TransferClassifier(backbone, strategy=strategy, random_state=0, **settings).fit(X, y)
    return model, X


# Of 650 samples 600 are measured and 128 of those watched; of 40 all are both.
@pytest.mark.parametrize("n", [40, 650])
@pytest.mark.parametrize("strategy", ["direct", "features", "early", "head", "auto"])
def test_each_sample_passes_each_stage_once(strategy, n, backbone):
    _, X = fit(backbone, strategy, n, max_epochs=0)
    for stage in range(3):
        assert_once(stage, X)


@pytest.mark.sweep  # with a strategy that is trained, it does so every day
def test_a_recommendation_takes_one_pass(backbone):
    _, X = fit(backbone, "recommended", 40, max_epochs=0)
    for stage in range(3):
        assert_once(stage, X)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "n"),
    [("last", 40), ("last", 650), ("recommended", 40)],
)
def test_each_sample_passes_each_stage_below_what_is_trained_once(
    strategy, n, backbone, one_split, monkeypatch
):
    monkeypatch.delitem(STRATEGIES, "all")  # nothing is frozen in it
    sure = dataclasses.replace(STRATEGIES["last"], prior=ShareOfErrors(0.9, 0, 0, 0, 0.9, "early"))
    monkeypatch.setitem(STRATEGIES, "last", sure)
    found, X = fit(backbone, strategy, n, max_epochs=1)
    if strategy == "recommended":
        tried = {estimate.name: estimate.n_judged for estimate in found.table}
        assert tried["last"] > 0
    for stage in range(2):
        assert_once(stage, X)


@pytest.mark.slow
def test_features_in_the_users_store_are_not_computed_again(backbone, one_split, tmp_path):
    settings = {"max_epochs": 0, "memory": tmp_path}
    fit(backbone, "auto", 650, **settings)
    fit(backbone, "auto", 650, **settings)
    assert 0 not in PASSED
    fit(backbone, "recommended", 650, **settings)
    _, X = fit(backbone, "recommended", 650, **settings)
    assert (n_passes(0, X) > 0).sum() <= 130  # batch norm is compared anew


def test_large_activations_are_in_the_users_store_once_they_are_used(backbone, tmp_path):
    model, X = fit(backbone, "last", 40, max_epochs=1, memory=tmp_path)
    PASSED.clear()
    model.predict(X)
    assert 0 not in PASSED
