import dataclasses

import numpy as np
import pytest
from sklearn.datasets import make_blobs

from sktransfer import load_backbone, rank_backbones
from sktransfer.selection.recommendation import recommend_strategy
from sktransfer.selection.strategies import RULES, STRATEGIES, ShareOfErrors
from sktransfer.selection.study import Study
from sktransfer.selection.transfer import TransferClassifier, strategy_task
from tests.selection.support import deeper_backbone, tried_in
from tests.support import Vectors, images, tiny_backbone


def set_priors(monkeypatch, prior):
    """Let every strategy but "direct" and the reference expect the same."""
    for name, record in list(STRATEGIES.items()):
        if isinstance(record.prior, ShareOfErrors):
            monkeypatch.setitem(STRATEGIES, name, dataclasses.replace(record, prior=prior))


@pytest.mark.sweep
def test_times_decide_nothing(colours, monkeypatch):
    X, y = colours
    backbone = deeper_backbone()
    found = []
    for seconds in (1e-6, 1e6):
        monkeypatch.setattr(
            "sktransfer.selection.study.seconds_of", lambda action, on=None, s=seconds: s
        )
        found.append(recommend_strategy(X, y, backbone, max_epochs=2, random_state=0))
    assert found[0].strategy == found[1].strategy
    assert [o.gain for o in found[0].table] == [o.gain for o in found[1].table]
    assert all(a.seconds < b.seconds for a, b in zip(*(f.table for f in found), strict=True))


def test_accuracies_that_are_not_known_are_not_shown_as_perfect(colours):
    found = recommend_strategy(colours[0][:6], list("abcdef"), tiny_backbone(), max_epochs=1)
    assert all(np.isnan(estimate.accuracy) for estimate in found.table)


@pytest.mark.slow
def test_without_epochs_no_training_is_advised_and_no_more_samples_are_run_than_are_measured(
    colours, counted, one_split, monkeypatch
):
    monkeypatch.setitem(RULES, "rows", 12)
    found = recommend_strategy(*colours, deeper_backbone(), max_epochs=0, random_state=0)
    assert {"last", "all"}.isdisjoint(estimate.name for estimate in found.table)
    assert max(counted) <= 12


def test_few_rows_are_split_several_times_and_many_once():
    X, y = make_blobs(80, centers=2, n_features=4, random_state=0)

    def n_splits(n):
        rows = {"X": X[:n].astype(np.float32), "y": y[:n]}
        splits = Study(strategy_task(TransferClassifier(load_backbone(Vectors())), **rows)).splits
        assert all(len(folds) in (3, 5) for folds in splits)
        tests = [np.concatenate([test for _, test in folds]) for folds in splits]
        assert all(sorted(test) == list(range(n)) for test in tests)
        return len(splits)

    assert [n_splits(n) for n in (20, 80)] == [5, 3]


@pytest.mark.slow
def test_a_recommendation_can_be_read_as_text_and_as_a_page(colours, one_split):
    X, y = colours
    found = recommend_strategy(X, y, deeper_backbone(), max_epochs=1, random_state=0)
    text, page = repr(found), found._repr_html_()
    assert "48 samples, 24 in the smallest class" in text
    assert "similarity to the network's own data" in text and "LEEP" in text
    assert all(name in text and f"<td>{name}</td>" in page for name in STRATEGIES)
    assert all(estimate.seconds > 0 for estimate in found.table)
    assert found.runner_up in STRATEGIES and found.strategy != found.runner_up
    assert found.evidence["size"].smallest == 24


def test_labels_are_escaped_on_the_page(colours):
    y = np.array(["<b>"] * 3 + ["c"] * 6)
    page = recommend_strategy(colours[0][:9], y, tiny_backbone())._repr_html_()
    assert "<b>&lt;" not in page and "&lt;b&gt;" in page


@pytest.mark.slow
def test_long_training_is_tried_only_where_it_may_pay(colours, one_split, monkeypatch):
    settings = {"max_epochs": 1, "random_state": 0}
    set_priors(monkeypatch, ShareOfErrors(0.0, 0.0, 0.0, 0.0, 0.0))
    tried = tried_in(recommend_strategy(*colours, deeper_backbone(), **settings))
    assert not {"head", "last", "all"} & tried and {"features", "early"} <= tried
    set_priors(monkeypatch, ShareOfErrors(1.0, 0.0, 0.0, 0.0, 1.0))
    assert {"all", "last"} <= tried_in(recommend_strategy(*colours, deeper_backbone(), **settings))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settled", "n_judged"),
    [pytest.param(-np.inf, [0], marks=pytest.mark.sweep), (np.inf, [28, 29, 30])],
)
def test_a_trial_stops_where_the_choice_is_settled(
    settled, n_judged, colours, one_split, monkeypatch
):
    monkeypatch.setitem(RULES, "settled", settled)
    monkeypatch.setitem(RULES, "worth_trying", -np.inf)
    monkeypatch.setitem(RULES, "judged_long", 21)  # of five folds of 48 rows, three judge as many
    found = recommend_strategy(*colours, deeper_backbone(), max_epochs=1, random_state=0)
    (estimate,) = (estimate for estimate in found.table if estimate.name == "all")
    assert estimate.n_judged in n_judged


@pytest.mark.slow
def test_one_tiny_class_does_not_decide_for_the_others(colours, one_split):
    X, y = colours
    X, y = [*X, *images(2, seed=9)], np.append(y, ["rare", "rare"])
    backbone = deeper_backbone()
    found = recommend_strategy(X, y, backbone, max_epochs=1, random_state=0)
    assert found.strategy is None and "2 samples in class 'rare'" in found.reasons[0]
    values = {estimate.name: estimate.value for estimate in found.table}
    assert values[found.chosen] == max(values.values())
    few = recommend_strategy(X[:6], y[:6], backbone, max_epochs=1, random_state=0)
    assert few.strategy is None and few.chosen == "features"


@pytest.mark.slow
@pytest.mark.parametrize("n_rare", [2, pytest.param(5, marks=pytest.mark.sweep)])
def test_a_class_that_is_rare_among_very_many_samples_is_seen(n_rare):
    rng = np.random.default_rng(0)
    X = list(rng.integers(0, 255, (1100 + n_rare, 4, 4, 3), dtype=np.uint8))
    y = np.array(["ok"] * 1100 + ["bad"] * n_rare)
    found = recommend_strategy(X, y, deeper_backbone(), max_epochs=0, random_state=0)
    assert f"{n_rare} in the smallest class" in " ".join(found.reasons)
    for score in ("probe", "leep"):
        assert np.isfinite(rank_backbones(X, y, {"a": deeper_backbone()}, score=score).scores).all()
