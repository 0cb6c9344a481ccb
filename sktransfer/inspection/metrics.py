"""Scores with intervals, and how well probabilities are calibrated."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, precision_recall_fscore_support, r2_score

_RESAMPLES = 500
_CELLS = 1_000_000  # labels in one call of a metric
_LEAST = 1e-6  # probability in a log loss
_BINS = 10


@dataclasses.dataclass(frozen=True)
class Score:
    """A score with the interval in which it lies with a probability of 95 %.

    Parameters
    ----------
    meaning : str
        What it measures, in a few words.
    """

    name: str
    value: float
    low: float
    high: float
    meaning: str


def class_scores(
    y: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None, classes: np.ndarray
) -> list[Score]:
    """Return scores of predicted labels.

    ``classes``, sorted, have all labels and predictions. The interval of the accuracy is that of
    Wilson, those of others are quantiles of 500 bootstrap samples. Means over classes are over
    those that a bootstrap sample has.
    """
    y, predicted = np.searchsorted(classes, y), np.searchsorted(classes, predicted)
    recall, f1 = _means_over_classes(y, predicted, np.arange(len(y)), len(classes))
    scores = [
        _accuracy(y, predicted, "share of correct predictions"),
        Score("balanced accuracy", *_interval(recall), "mean of the accuracies of the classes"),
        Score("macro F1", *_interval(f1), "mean over classes of the F1 score"),
    ]
    if probabilities is not None:
        loss = -np.log(probabilities[np.arange(len(y)), y].clip(_LEAST))
        meaning = "mean of minus the logarithm of the probability of the label; lower is better"
        scores.append(Score("log loss", *_interval_of_mean(loss), meaning))
    return scores


def label_set_scores(
    y: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None
) -> list[Score]:
    """Return scores of indicator matrices of labels, with the intervals of :func:`class_scores`.

    The macro F1 score is over the labels that occur.
    """
    y, predicted = y.astype(int), predicted.astype(int)
    n, n_labels = y.shape
    rows, labels = np.repeat(np.arange(n), n_labels), np.tile(np.arange(n_labels), n)
    # Each cell is a sample whose class is its label, or -1 where the sample has not the label.
    own, other = (np.where(values.ravel() == 1, labels, -1) for values in (y, predicted))
    _, macro = _means_over_classes(own, other, rows, n_labels)
    _, micro = _means_over_classes(np.minimum(own, 0), np.minimum(other, 0), rows, 1)
    wrong = _interval_of_mean((y != predicted).mean(1))
    scores = [
        _accuracy(y, predicted, "share of samples whose labels are all right"),
        Score("micro F1", *_interval(micro), "F1 score of all labels together"),
        Score("macro F1", *_interval(macro), "mean over labels of the F1 score"),
        Score("Hamming loss", *wrong, "share of labels that are wrong; lower is better"),
    ]
    if probabilities is not None:
        own = np.where(y == 1, probabilities, 1 - probabilities).clip(_LEAST)
        meaning = "mean over labels of minus the logarithm of the probability; lower is better"
        scores.append(Score("log loss", *_interval_of_mean(-np.log(own).mean(1)), meaning))
    return scores


def number_scores(y: np.ndarray, predicted: np.ndarray) -> list[Score]:
    """Return scores of predicted numbers; their intervals are quantiles of 500 bootstrap samples.

    Of several targets, means; the root mean squared error is that of all together.
    """
    y, predicted = y.reshape(len(y), -1), predicted.reshape(len(y), -1)
    with np.errstate(divide="ignore", invalid="ignore"):  # numbers that are all equal
        r2 = np.array(
            [
                r2_score(y, predicted, sample_weight=weight, force_finite=False)
                for weight in _bootstrap(len(y))
            ]
        )
    size = _interval_of_mean(np.abs(y - predicted).mean(1))
    value, low, high = np.sqrt(_interval_of_mean(((y - predicted) ** 2).mean(1))).tolist()
    return [
        Score("R²", *_interval(r2), "share of the variance that is explained"),
        Score("mean absolute error", *size, "in the unit of y"),
        Score("root mean squared error", value, low, high, "in the unit of y"),
    ]


def _accuracy(y: np.ndarray, predicted: np.ndarray, meaning: str) -> Score:
    n_right = int(accuracy_score(y, predicted, normalize=False))
    low, high = binomtest(n_right, len(y)).proportion_ci(method="wilson")
    return Score("accuracy", n_right / len(y), float(low), float(high), meaning)


def _means_over_classes(
    y: np.ndarray, predicted: np.ndarray, rows: np.ndarray, n_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return means of recall and F1 over the classes that occur, for each bootstrap sample.

    ``rows`` tells which sample each label belongs to. Many bootstrap samples are one call of
    scikit-learn, in which each has classes of its own: a call takes milliseconds.
    """
    at_once = max(1, _CELLS // len(y))
    recalls, f1s = [], []
    weights = iter(_bootstrap(int(rows.max()) + 1))
    while some := list(itertools.islice(weights, at_once)):
        first = n_classes * np.arange(len(some))[:, None]
        codes = [np.where(values < 0, -1, first + values).ravel() for values in (y, predicted)]
        weight = np.concatenate([each[rows] for each in some])
        labels = np.arange(n_classes * len(some))
        _, recall, f1, n = precision_recall_fscore_support(
            *codes, labels=labels, sample_weight=weight, zero_division=0
        )
        occurs = n.reshape(-1, n_classes) > 0
        n_occurring = np.maximum(occurs.sum(1), 1)
        recalls.append((recall.reshape(occurs.shape) * occurs).sum(1) / n_occurring)
        f1s.append((f1.reshape(occurs.shape) * occurs).sum(1) / n_occurring)
    return np.concatenate(recalls), np.concatenate(f1s)


def _interval_of_mean(losses: np.ndarray) -> tuple[float, float, float]:
    """Return the mean over samples with its interval."""
    return _interval(np.array([np.average(losses, weights=w) for w in _bootstrap(len(losses))]))


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the score of all samples, which is the first, and quantiles of the others."""
    low, high = np.nanquantile(np.where(np.isfinite(values), values, np.nan)[1:], [0.025, 0.975])
    return float(values[0]), float(low), float(high)


def _bootstrap(n: int) -> Iterator[np.ndarray]:
    """Yield weights of samples: one for each, then how often each is drawn."""
    rng = np.random.default_rng(0)
    yield np.ones(n)
    for _ in range(_RESAMPLES):
        yield rng.multinomial(n, np.full(n, 1 / n)).astype(float)


# -- calibration -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class CalibrationBin:
    """The predictions whose probability is in an interval.

    Parameters
    ----------
    low, high : float
        Of the probability of the predicted label.
    mean : float
        Mean probability.
    accuracy : float
        Share of correct predictions.
    """

    low: float
    high: float
    count: int
    mean: float
    accuracy: float


def calibration_bins(probabilities: np.ndarray, right: np.ndarray) -> list[CalibrationBin]:
    """Group predictions by their probability: ten bins of equal width, without empty ones."""
    places = np.minimum((probabilities * _BINS).astype(int), _BINS - 1)
    bins = []
    for place in np.unique(places):
        rows = places == place
        mean, accuracy = float(probabilities[rows].mean()), float(right[rows].mean())
        low, high = place / _BINS, (place + 1) / _BINS
        bins.append(CalibrationBin(low, high, int(rows.sum()), mean, accuracy))
    return bins


def calibration_error(bins: list[CalibrationBin]) -> float:
    """Return the expected calibration error (Guo et al., ICML 2017).

    It is the mean difference of accuracy and probability over the bins, weighted by their counts.
    """
    counts = [each.count for each in bins]
    return float(np.average([abs(each.mean - each.accuracy) for each in bins], weights=counts))
