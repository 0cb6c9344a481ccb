"""Self-training: samples without labels enter a blend with what it predicts for them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.sparse import issparse, vstack
from sklearn.utils import check_random_state

from .judging import BlendPart, Chosen, Labels, mean_prediction
from .models import Tables

__all__ = ["SELF_TRAINING", "PseudoLabels", "self_train", "some_unlabelled"]

# The numbers of self-training. They were chosen on the first half of the tasks of
# benchmarks/few_labels.py.
SELF_TRAINING: dict[str, Any] = {
    # How often labels are predicted.
    "rounds": 2,
    # The largest number of unlabelled samples that are used.
    "most": 1000,
    # The power of probabilities before they are targets; more than 1 where no labels were judged.
    "sharpening": 2.0,
    "sharpening_unjudged": 2.0,
    # Steps in which shares of classes approach those of the labels.
    "steps": 20,
    # The smallest weight of a row.
    "least_weight": 1e-6,
}


@dataclasses.dataclass(frozen=True)
class PseudoLabels(Labels):
    """Labels, some of them with probabilities in place of indicators.

    Parameters
    ----------
    probabilities : ndarray of shape (n_samples, n_classes)
    """

    probabilities: np.ndarray

    @property
    def target(self) -> np.ndarray:
        """The probabilities."""
        return self.probabilities


def some_unlabelled(n_samples: int, seed: int) -> np.ndarray:
    """Return the positions, ascending, of the unlabelled samples that are used.

    Parameters
    ----------
    n_samples : int
    seed : int

    Returns
    -------
    ndarray of int
    """
    order = check_random_state(seed).permutation(n_samples)
    return np.sort(order[: SELF_TRAINING["most"]])


def self_train(
    chosen: list[Chosen], temperature: float | None, known: dict, labels: Labels, unlabelled: dict
) -> list[BlendPart]:
    """Fit members on labelled samples and on unlabelled ones, with the labels they predict.

    Parameters
    ----------
    chosen : list of Chosen
    temperature : float
        Of the weighted mean.
    known, unlabelled : dict of Block to array of shape (n_samples, n_features)
        Features of labelled and of unlabelled samples.
    labels : Labels
        Of the labelled samples.

    Returns
    -------
    list of BlendPart

    Notes
    -----
    Each round predicts probabilities of the unlabelled samples by the blend, scales them such that
    the shares of the classes in them are those in the labels (by the proportional fitting of [1]_,
    as class mass normalisation of [2]_), and fits all members again with these as targets and the
    confidence as weights: the largest probability, rescaled from 0, where all are equal, to 1.
    It is the method of [3]_ with probabilities as labels.

    References
    ----------
    .. [1] Sinkhorn, "A Relationship Between Arbitrary Positive Matrices and Doubly Stochastic
       Matrices", Annals of Mathematical Statistics, 1964.
    .. [2] Zhu, Ghahramani, Lafferty, "Semi-Supervised Learning Using Gaussian Fields and Harmonic
       Functions", ICML 2003.
    .. [3] Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep
       Neural Networks", ICML workshop 2013.
    """
    parts = [one.fit(Tables(known), labels) for one in chosen]
    if len(labels.classes) < 2:
        return parts
    new = Tables(unlabelled)
    every = Tables({block: _stacked(known[block], unlabelled[block]) for block in known})
    for _ in range(SELF_TRAINING["rounds"]):
        found = balanced(mean_prediction(parts, new, temperature), labels.codes)
        outcome = _with_pseudo_labels(labels, found)
        parts = [one.fit(every, outcome) for one in chosen]
    return parts


def _stacked(known, new):
    return vstack([known, new]).tocsr() if issparse(known) else np.vstack([known, new])


def balanced(probabilities: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Scale probabilities of samples such that the shares of classes are those of labels.

    Parameters
    ----------
    probabilities : ndarray of shape (n_samples, n_classes)
    codes : ndarray of shape (n_labels,)
        Of labelled samples.

    Returns
    -------
    ndarray of shape (n_samples, n_classes)
        Rows sum to 1.
    """
    shares = np.bincount(codes, minlength=probabilities.shape[1]) / len(codes)
    for _ in range(SELF_TRAINING["steps"]):
        mean = np.maximum(probabilities.mean(axis=0), 1e-9)
        probabilities = probabilities * np.sqrt(shares / mean)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities


def _with_pseudo_labels(labels: Labels, found: np.ndarray) -> PseudoLabels:
    """Add samples with probabilities to labels."""
    is_judged = labels.most_folds > 1
    power = SELF_TRAINING["sharpening" if is_judged else "sharpening_unjudged"]
    targets = found**power / (found**power).sum(axis=1, keepdims=True)
    codes, k = targets.argmax(axis=1), len(labels.classes)
    sums = np.bincount(labels.codes, labels.weight, k)
    usual = sums / np.maximum(np.bincount(labels.codes, minlength=k), 1)  # of each class
    confidence = (found.max(axis=1) - 1 / k) / (1 - 1 / k)
    weight = np.maximum(confidence * (targets @ usual), SELF_TRAINING["least_weight"])
    return PseudoLabels(
        np.concatenate([labels.y, labels.classes[codes]]),
        np.concatenate([labels.codes, codes]),
        labels.classes,
        np.concatenate([labels.weight, weight]),
        np.vstack([labels.target, targets]),
    )
