import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer.selection.trials import fit, halving


def test_search_without_scores_leaves_nobody_out():
    rounds = halving(list("abc"), lambda name, rows: np.nan, np.arange(6), 0)
    assert [sorted(found) for found in rounds] == [list("abc")] * 2


def test_halving_keeps_the_better_half_and_gives_them_more():
    seen = []

    def score(name, rows):
        seen.append((name, len(rows)))
        return {"a": 0.3, "b": 0.9, "c": 0.5, "d": 0.9}[name]

    y = np.repeat([0, 1], 100)
    rounds = halving(list("abcd"), score, y, 0)
    assert [sorted(found) for found in rounds] == [list("abcd"), ["b", "d"]]
    assert next(iter(rounds[-1])) == "b"  # the simpler of equals
    assert {n for _, n in seen[:4]} == {100} and {n for _, n in seen[4:]} == {200}


def test_a_pipeline_of_one_step_takes_weights():
    X, y = np.arange(8.0)[:, None], np.repeat([0, 1], 4)
    weight = np.arange(1.0, 9)
    found = fit(make_pipeline(LogisticRegression()), X, y, weight).predict_proba(X)
    expected = LogisticRegression().fit(X, y, sample_weight=weight).predict_proba(X)
    np.testing.assert_allclose(found, expected)
