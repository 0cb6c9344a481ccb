import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    TransferClassifier,
    TransferRegressor,
    load,
    load_backbone,
    save,
)
from sktransfer.data import ClassTarget, NumericTarget
from sktransfer.features import Output
from sktransfer.finetuning import StopAtTime
from sktransfer.selection import blend_fitting
from sktransfer.selection.blend_fitting import OutOfFold
from sktransfer.selection.candidates import TunedCandidate
from sktransfer.selection.outcomes import Labels, Numbers
from sktransfer.selection.proposals import BLEND
from tests.selection.support import deeper_backbone, noted_stage
from tests.support import images

pytestmark = pytest.mark.usefixtures("one_split_in_module")


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


@pytest.mark.slow
def test_a_network_of_a_blend_is_trained_at_the_smallest_size(monkeypatch):
    monkeypatch.setitem(BLEND, "least_size", 1)
    monkeypatch.setitem(BLEND, "multiple", 2)
    stage, trained, _ = noted_stage()
    y = np.random.default_rng(0).choice(["a", "b"], 80)  # nothing tells these labels
    settings = {"time_budget": 1e9, "random_state": 0}
    TransferClassifier(deeper_backbone(stage), **settings).fit(images(80), y)
    assert {shape[1:] for shape in trained} == {(3, 6, 6)}


@pytest.mark.slow
@pytest.mark.parametrize(("n", "errors"), [(50, 0.05), (300, 0.9)])
def test_nothing_is_trained_with_few_samples_or_few_errors(
    n, errors, backbone, trained, monkeypatch
):
    monkeypatch.setitem(BLEND, "tuned_errors", errors)
    TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(*rings(n))
    assert not trained


@pytest.mark.parametrize(("noise", "pays"), [(0.1, True), (50.0, False)])
@pytest.mark.parametrize("kind", ["labels", "numbers"])
def test_nothing_is_trained_that_begins_far_behind_the_blend(kind, noise, pays, backbone):
    rng = np.random.default_rng(0)
    codes, n = np.arange(120) % 3, 120
    table = 3 * np.eye(3)[codes] + noise * rng.normal(size=(n, 3))
    if kind == "labels":
        outcome = Labels(ClassTarget(np.arange(3)), codes, np.ones(n))
        found = np.eye(3)[np.where(rng.uniform(size=n) < 0.1, (codes + 1) % 3, codes)]
    else:
        scaler = NumericTarget(codes.astype(float))
        outcome = Numbers(scaler, codes.astype(float), np.ones(n))
        found = outcome.target + 0.3 * rng.normal(size=(n, 1))
    out_of_fold = OutOfFold(found, np.arange(n))
    start = Output(backbone, "2")
    task = blend_fitting.BlendTask([(None, backbone)], table, outcome, np.arange(n), 0, {})
    assert blend_fitting.may_pay(task, start, table, out_of_fold) == pays


@pytest.mark.slow
@pytest.mark.parametrize(("settings", "rows"), [({}, 8), ({"batch_size": 10}, 10)])
def test_few_samples_are_trained_in_steps_of_few(settings, rows):
    network, (stage, trained, _) = Narrow(), noted_stage()
    network.insert(0, stage)
    backbone = load_backbone(network.eval())
    TransferClassifier(backbone, time_budget=1e9, random_state=0, **settings).fit(*rings(100))
    assert {shape[0] for shape in trained} == {rows, 70 % rows} - {0}


@pytest.mark.slow
def test_a_network_that_is_wrong_has_no_weight(backbone, trained, monkeypatch):
    fit = FineTunedClassifier.fit

    def misled(self, X, y, sample_weight=None):
        return fit(self, X, np.where(y == "far", "near", "far"), sample_weight)

    monkeypatch.setattr(FineTunedClassifier, "fit", misled)
    model = TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(*rings(200))
    assert trained and "all stages trained" not in model.members_


@pytest.mark.slow
def test_nothing_is_trained_that_takes_longer_than_the_budget(backbone, trained, monkeypatch):
    monkeypatch.setattr(blend_fitting, "training_seconds", lambda *args: 1e6)
    TransferClassifier(backbone, time_budget=60, random_state=0).fit(*rings(300))
    assert not trained
    TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(*rings(300))
    assert trained


def test_the_time_of_a_training_is_estimated(backbone):
    few, many = (
        blend_fitting.training_seconds(backbone, rings(20)[0], n, "auto") for n in (100, 10**6)
    )
    assert 0 < few < many


@pytest.mark.slow
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


def distance(n, seed=0):
    X = rings(n, seed)[0]
    return X, 100 + 5 * (X[:, :2] ** 2).sum(1)


@pytest.fixture
def faster(monkeypatch):
    """A learning rate at which a network of random weights learns something; rows by training."""
    counts, fit = [], FineTunedRegressor.fit

    def counting(self, X, y, sample_weight=None):
        counts.append(len(y))
        return fit(self.set_params(lr=0.01), X, y, sample_weight)

    monkeypatch.setattr(FineTunedRegressor, "fit", counting)
    return counts


@pytest.mark.slow
def test_a_tuned_network_is_in_a_blend_of_numbers(backbone, faster, tmp_path):
    X, y = distance(300)
    model = TransferRegressor(backbone, time_budget=1e9, random_state=0).fit(X, y)
    assert faster == [240]
    weights = dict(zip(model.members_, model.weights_, strict=True))
    assert weights["all stages trained"] > 0.1 and model.weights_.sum() == pytest.approx(1)
    test, y_test = distance(500, seed=1)
    without = TransferRegressor(backbone, random_state=0).fit(X, y)
    assert len(faster) == 1 and model.score(test, y_test) > without.score(test, y_test) + 0.05
    found = model.predict(test)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(model)).predict(test), found, rtol=1e-5)
    save(model, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules={backbone.name: Narrow})
    np.testing.assert_allclose(again.predict(test), found, rtol=1e-5)
    several = np.column_stack([y, -y])
    assert model.fit(X, several, sample_weight=np.arange(300) % 2 + 1).predict(test).shape == (
        500,
        2,
    )


def test_the_weight_of_numbers_has_the_least_error(backbone):
    truth = np.random.default_rng(0).normal(size=1000)
    scaler = NumericTarget(truth)
    numbers = Numbers(scaler, truth, np.ones(1000))
    noise = np.random.default_rng(1).normal(size=(2, 1000))
    others = (numbers.target[:, 0] + noise[0])[:, None]

    scores = (numbers.target[:, 0] + 0.5 * noise[1])[:, None]
    one = np.ones(1)
    candidate = TunedCandidate("other", [Output(backbone, "4")], factor=one, shift=one)
    blend_fitting.weigh(candidate, scores, numbers, others)
    assert candidate.weight == pytest.approx(1 / (1 + 0.25), abs=0.03)  # by inverse variances
    blend_fitting.weigh(candidate, scores, numbers, numbers.target)
    assert candidate.weight == 0


def test_a_training_ends_with_its_time():
    X, y = rings(64)
    ticks = iter(range(1000))
    settings = {"max_epochs": 50, "batch_size": 16, "random_state": 0}
    stop = StopAtTime(10, clock=lambda: next(ticks))
    model = FineTunedClassifier(
        load_backbone(Narrow().eval()), trainable="all", callbacks=[stop], **settings
    ).fit(X, y)
    steps = [len(row["batches"]) for row in model.net_.history]
    assert sum(steps) == 11 and model.predict(X).shape == (64,)
    assert len(model.net_.history) == 3  # of 50


@pytest.mark.slow
def test_a_blend_stops_a_training_at_its_budget(backbone, monkeypatch):
    made = []

    class Noting(StopAtTime):
        def __init__(self, until):
            made.append(until)
            super().__init__(until, clock=lambda: until)  # over at once

    monkeypatch.setattr(blend_fitting, "StopAtTime", Noting)
    monkeypatch.setattr(blend_fitting, "training_seconds", lambda *args: 0.0)
    X, y = rings(200)
    trained, fit = [], FineTunedClassifier.fit

    def keeping(self, *args, **kwargs):
        trained.append(fit(self, *args, **kwargs))
        return self

    monkeypatch.setattr(FineTunedClassifier, "fit", keeping)
    TransferClassifier(backbone, time_budget=1e9, random_state=0).fit(X, y)
    assert len(made) == 1 and len(trained[0].history_) == 1
