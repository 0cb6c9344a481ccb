import numpy as np
import pytest
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, f1_score, hamming_loss, log_loss, r2_score

from sktransfer.inspection.metrics import (
    calibration_bins,
    calibration_error,
    class_scores,
    label_set_scores,
    number_scores,
)


def test_scores_of_labels_have_values_within_their_intervals():
    rng = np.random.default_rng(0)
    y = np.repeat(["ant", "bee", "cat"], [60, 30, 10])
    table = rng.dirichlet(np.ones(3), 100)
    table[np.arange(100), np.repeat([0, 1, 2], [60, 30, 10])] += 1
    table /= table.sum(1, keepdims=True)
    classes = np.array(["ant", "bee", "cat"])
    predicted = classes[table.argmax(1)]
    predicted[:20] = "bee"
    scores = {one.name: one for one in class_scores(y, predicted, table, classes)}
    assert list(scores) == ["accuracy", "balanced accuracy", "macro F1", "log loss"]
    assert all(one.low < one.value < one.high for one in scores.values())
    assert scores["accuracy"].value == (y == predicted).mean()
    wilson = binomtest(int((y == predicted).sum()), 100).proportion_ci(method="wilson")
    assert (scores["accuracy"].low, scores["accuracy"].high) == tuple(wilson)
    each = [(predicted[y == label] == label).mean() for label in classes]
    assert scores["balanced accuracy"].value == pytest.approx(np.mean(each))
    expected = f1_score(y, predicted, average="macro")
    assert scores["macro F1"].value == pytest.approx(expected)
    assert scores["log loss"].value == pytest.approx(log_loss(y, table))
    assert len(class_scores(y, predicted, None, classes)) == 3


def test_scores_of_numbers():
    y = np.linspace(0, 1, 50)
    scores = {one.name: one for one in number_scores(y, y + 0.1)}
    assert scores["R²"].value == pytest.approx(r2_score(y, y + 0.1))
    assert scores["mean absolute error"].value == pytest.approx(0.1)
    assert scores["root mean squared error"].value == pytest.approx(0.1)
    assert scores["R²"].low < scores["R²"].value < scores["R²"].high


def test_scores_of_several_labels_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    y, predicted = rng.integers(0, 2, (2, 60, 4))
    table = rng.uniform(0.01, 0.99, (60, 4))
    scores = {one.name: one for one in label_set_scores(y, predicted, table)}
    assert scores["accuracy"].value == accuracy_score(y, predicted)
    assert scores["micro F1"].value == pytest.approx(f1_score(y, predicted, average="micro"))
    assert scores["macro F1"].value == pytest.approx(f1_score(y, predicted, average="macro"))
    assert scores["Hamming loss"].value == pytest.approx(hamming_loss(y, predicted))
    each = [log_loss(own, p) for own, p in zip(y.T, table.T, strict=True)]
    assert scores["log loss"].value == pytest.approx(np.mean(each))
    assert all(one.low < one.value < one.high for one in scores.values())
    assert len(label_set_scores(y, predicted, None)) == 4


def test_calibration_compares_probability_and_accuracy():
    table = np.array([[0.95, 0.05]] * 10 + [[0.35, 0.65]] * 10)
    y = np.array(["a"] * 9 + ["b"] + ["b"] * 5 + ["a"] * 5)
    bins = calibration_bins(table.max(1), np.array(["a", "b"])[table.argmax(1)] == y)
    assert [(one.low, one.high, one.count, one.accuracy) for one in bins] == [
        (0.6, 0.7, 10, 0.5),
        (0.9, 1.0, 10, 0.9),
    ]
    assert calibration_error(bins) == pytest.approx((0.15 + 0.05) / 2)
