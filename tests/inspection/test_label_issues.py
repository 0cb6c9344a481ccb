import sys

import numpy as np
import pytest
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold

from sktransfer.inspection import find_label_issues

pytest.importorskip("cleanlab")


@pytest.fixture
def blobs():
    X, codes = make_blobs(60, centers=3, random_state=0, cluster_std=0.5)
    y = np.array(["ant", "bee", "cat"])[codes]
    wrong = [5, 17]
    y[wrong] = [{"ant": "bee", "bee": "cat", "cat": "ant"}[label] for label in y[wrong]]
    return X, y, wrong


def test_wrong_labels_are_found_and_the_right_ones_suggested(blobs):
    X, y, wrong = blobs
    found = find_label_issues(LogisticRegression(), X, y)
    assert sorted(found.indices) == wrong
    assert len(found) == 2
    assert list(found.given) == list(y[found.indices])
    right = [{"bee": "ant", "cat": "bee", "ant": "cat"}[label] for label in found.given]
    assert list(found.suggested) == right
    assert found.quality[wrong].max() < 0.2
    assert f"sample {found.indices[0]}: labelled {found.given[0]}" in repr(found)


def test_images_are_judged_by_models_that_have_not_seen_them(pipeline, colours):
    X, y = colours
    before = pipeline[-1].coef_.copy()
    assert {3, 10} <= set(find_label_issues(pipeline, X, y).indices)
    np.testing.assert_array_equal(pipeline[-1].coef_, before)


def test_known_probabilities_are_used(blobs):
    X, y, wrong = blobs
    table = find_label_issues(LogisticRegression(), X, y).probabilities
    found = find_label_issues(None, X, y, probabilities=table)
    assert sorted(found.indices) == wrong
    with pytest.raises(ValueError, match="3 columns"):
        find_label_issues(None, X, y, probabilities=table[:, :2])


def test_rare_classes_and_samples_in_no_fold_are_no_issue(blobs):
    X, y, _ = blobs
    y = y.copy().astype(object)
    y[0] = "dog"
    found = find_label_issues(LogisticRegression(), X, y)
    assert found.probabilities[0, 3] == 0
    assert found.classes.tolist() == ["ant", "bee", "cat", "dog"]
    folds = list(KFold(3).split(X))[:2]
    found = find_label_issues(LogisticRegression(), X, y, cv=folds)
    assert np.isnan(found.quality[40:]).all()
    assert found.indices.max() < 40
    same = find_label_issues(None, X[:4], ["a"] * 4, probabilities=np.ones((4, 1)))
    assert len(same) == 0


def test_missing_labels_and_too_few_samples_are_named(blobs):
    X, y, _ = blobs
    with pytest.raises(ValueError, match="missing"):
        find_label_issues(LogisticRegression(), X, [None, *y[1:]])
    with pytest.raises(ValueError, match="two classes"):
        find_label_issues(LogisticRegression(), X[:2], ["a", "b"])


def test_without_cleanlab_the_message_says_what_to_install(blobs, monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    with pytest.raises(ImportError, match=r"pip install 'sktransfer\[inspect\]'"):
        find_label_issues(LogisticRegression(), blobs[0], blobs[1])
