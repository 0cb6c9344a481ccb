"""Scores with intervals, and how well probabilities are calibrated."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from scipy.stats import norm

__all__ = [
    "Bin",
    "Score",
    "bins_of",
    "calibration_bins",
    "calibration_error",
    "class_scores",
    "label_set_scores",
    "number_scores",
]

_RESAMPLES, _AT_ONCE = 500, 50
_LEAST = 1e-6  # probability in a log loss
_BINS = 10


@dataclasses.dataclass(frozen=True)
class Score:
    """A score with the interval in which it lies with a probability of 95 %.

    Parameters
    ----------
    name : str
    value, low, high : float
    meaning : str
        What it measures, in a few words.
    """

    name: str
    value: float
    low: float
    high: float
    meaning: str


@dataclasses.dataclass(frozen=True)
class Bin:
    """The predictions whose probability is in an interval.

    Parameters
    ----------
    low, high : float
        Of the probability of the predicted label.
    count : int
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


def class_scores(
    y: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None, classes: np.ndarray
) -> list[Score]:
    """Return scores of predicted labels.

    Parameters
    ----------
    y, predicted : ndarray of shape (n_samples,)
    probabilities : ndarray of shape (n_samples, n_classes) or None
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    list of Score
        The interval of the accuracy is that of Wilson, those of others are quantiles of 500
        bootstrap samples.
    """
    right = y == predicted
    low, high = wilson_interval(int(right.sum()), len(y))
    found = [Score("accuracy", float(right.mean()), low, high, "share of correct predictions")]
    found += [
        _resampled(name, score, (y, predicted), meaning)
        for name, score, meaning in (
            ("balanced accuracy", _balanced_accuracy, "mean of the accuracies of the classes"),
            ("macro F1", _macro_f1, "mean over classes of the F1 score"),
        )
    ]
    if probabilities is None:
        return found
    own = probabilities[np.arange(len(y)), np.searchsorted(classes, y)]
    meaning = "mean of minus the logarithm of the probability of the label; lower is better"
    return [*found, _resampled("log loss", _mean, (-np.log(own.clip(_LEAST)),), meaning)]


def label_set_scores(
    y: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray | None
) -> list[Score]:
    """Return scores of indicator matrices of labels.

    Parameters
    ----------
    y, predicted : ndarray of shape (n_samples, n_labels)
    probabilities : ndarray of shape (n_samples, n_labels) or None

    Returns
    -------
    list of Score
        Intervals are those of :func:`class_scores`. F1 scores are over the labels that occur.
    """
    y, predicted = y == 1, predicted == 1
    right = (y == predicted).all(1)
    low, high = wilson_interval(int(right.sum()), len(y))
    meaning = "share of samples whose labels are all right"
    found = [Score("accuracy", float(right.mean()), low, high, meaning)]
    found += [
        _resampled(name, score, arrays, meaning)
        for name, score, arrays, meaning in (
            ("micro F1", _set_micro_f1, (y, predicted), "F1 score of all labels together"),
            ("macro F1", _set_macro_f1, (y, predicted), "mean over labels of the F1 score"),
            (
                "Hamming loss",
                _mean,
                ((y != predicted).mean(1),),
                "share of labels that are wrong; lower is better",
            ),
        )
    ]
    if probabilities is None:
        return found
    own = np.where(y, probabilities, 1 - probabilities).clip(_LEAST)
    meaning = "mean over labels of minus the logarithm of the probability; lower is better"
    return [*found, _resampled("log loss", _mean, (-np.log(own).mean(1),), meaning)]


def number_scores(y: np.ndarray, predicted: np.ndarray) -> list[Score]:
    """Return scores of predicted numbers.

    Parameters
    ----------
    y, predicted : ndarray of shape (n_samples,) or (n_samples, n_targets)

    Returns
    -------
    list of Score
        Intervals are quantiles of 500 bootstrap samples. Of several targets, means.
    """
    y, predicted = y.reshape(len(y), -1), predicted.reshape(len(y), -1)
    size, squared = np.abs(y - predicted).mean(1), ((y - predicted) ** 2).mean(1)
    return [
        _resampled("R²", _r2, (y, predicted), "share of the variance that is explained"),
        _resampled("mean absolute error", _mean, (size,), "in the unit of y"),
        _resampled("root mean squared error", _root_mean, (squared,), "in the unit of y"),
    ]


def wilson_interval(n_right: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Return the interval of Wilson (1927) for a share.

    Parameters
    ----------
    n_right, n : int
    level : float, default=0.95

    Returns
    -------
    tuple of two floats
    """
    z = norm.ppf(0.5 + level / 2)
    share = n_right / n
    middle = share + z**2 / (2 * n)
    half = z * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return float((middle - half) / (1 + z**2 / n)), float((middle + half) / (1 + z**2 / n))


def _resampled(name: str, score: Callable, arrays: tuple, meaning: str) -> Score:
    """Return a score with the quantiles of bootstrap samples.

    The score is given arrays, and how often each sample counts: ``(n_resamples, n_samples)``.
    """
    rng, n = np.random.default_rng(0), len(arrays[0])
    parts = []
    for _ in range(_RESAMPLES // _AT_ONCE):
        times = rng.multinomial(n, np.full(n, 1 / n), _AT_ONCE).astype(float)
        parts.append(score(*arrays, times))
    low, high = np.nanquantile(np.concatenate(parts), [0.025, 0.975])
    value = score(*arrays, np.ones((1, n)))[0]
    return Score(name, float(value), float(low), float(high), meaning)


def _mean(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    return times @ values / times.sum(1)


def _root_mean(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    return np.sqrt(_mean(values, times))


def _set_counts(y, predicted, times) -> tuple[np.ndarray, np.ndarray]:
    """Count correct labels, and labels and predictions: ``(n_resamples, n_labels)``."""
    return times @ (y & predicted), times @ y + times @ predicted


def _set_micro_f1(y, predicted, times) -> np.ndarray:
    right, both = _set_counts(y, predicted, times)
    return 2 * right.sum(1) / np.maximum(both.sum(1), 1)


def _set_macro_f1(y, predicted, times) -> np.ndarray:
    right, both = _set_counts(y, predicted, times)
    occurs = times @ y > 0
    return (2 * right / np.maximum(both, 1) * occurs).sum(1) / np.maximum(occurs.sum(1), 1)


def _counts(y, predicted, times) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count correct predictions, labels and predictions: ``(n_resamples, n_classes)``."""
    labels = np.unique(y)
    is_label, is_predicted = (np.equal.outer(some, labels) for some in (y, predicted))
    return times @ (is_label & is_predicted), times @ is_label, times @ is_predicted


def _balanced_accuracy(y, predicted, times) -> np.ndarray:
    right, n_labels, _ = _counts(y, predicted, times)
    return _mean_of_present(right / np.maximum(n_labels, 1), n_labels)


def _macro_f1(y, predicted, times) -> np.ndarray:
    right, n_labels, n_predicted = _counts(y, predicted, times)
    return _mean_of_present(2 * right / np.maximum(n_labels + n_predicted, 1), n_labels)


def _mean_of_present(values: np.ndarray, n_labels: np.ndarray) -> np.ndarray:
    """Return the mean over the classes that a resample has."""
    return (values * (n_labels > 0)).sum(1) / (n_labels > 0).sum(1)


def _r2(y, predicted, times) -> np.ndarray:
    n = times.sum(1, keepdims=True)
    spread = times @ y**2 / n - (times @ y / n) ** 2
    error = times @ (y - predicted) ** 2 / n
    return (1 - np.divide(error, spread, out=np.full_like(error, np.nan), where=spread > 0)).mean(1)


def calibration_bins(y: np.ndarray, probabilities: np.ndarray, classes: np.ndarray) -> list[Bin]:
    """Group predictions by the probability of the predicted label.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    probabilities : ndarray of shape (n_samples, n_classes)
    classes : ndarray of shape (n_classes,)

    Returns
    -------
    list of Bin
        Ten of equal width, without empty ones.
    """
    return bins_of(probabilities.max(1), classes[probabilities.argmax(1)] == y)


def bins_of(sure: np.ndarray, right: np.ndarray) -> list[Bin]:
    """Group predictions by their probability.

    Parameters
    ----------
    sure : ndarray of shape (n_predictions,)
    right : ndarray of bool of shape (n_predictions,)

    Returns
    -------
    list of Bin
        Ten of equal width, without empty ones.
    """
    places = np.minimum((sure * _BINS).astype(int), _BINS - 1)
    return [
        Bin(
            place / _BINS,
            (place + 1) / _BINS,
            int((places == place).sum()),
            float(sure[places == place].mean()),
            float(right[places == place].mean()),
        )
        for place in np.unique(places)
    ]


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error (Guo et al., ICML 2017).

    Parameters
    ----------
    bins : list of Bin

    Returns
    -------
    float
        Mean difference of accuracy and probability over the bins, weighted by their counts.
    """
    total = sum(one.count for one in bins)
    return sum(one.count * abs(one.mean - one.accuracy) for one in bins) / total
