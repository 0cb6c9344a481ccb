"""Self-training: samples without labels enter a blend with what it predicts for them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from typing import Any

import numpy as np
from scipy.sparse import issparse, vstack
from sklearn.utils import check_random_state

from ..transferability import mixture_weights
from .blend import Blend
from .candidates import Candidate, Tables
from .outcomes import Labels, make_splits
from .proposals import BLEND

# The numbers of self-training. They were chosen on the first half of the tasks of
# benchmarks/few_labels.py.
SELF_TRAINING: dict[str, Any] = {
    # How often labels are predicted: where candidates were judged, and where none could be.
    "rounds": (2, 5),
    # The largest number of unlabelled samples that are used.
    "most": 600,
    # The power of probabilities before they are targets, the same; infinity takes the largest.
    "sharpening": (2.0, np.inf),
    # Steps in which shares of classes approach those of the labels.
    "steps": 20,
    # How often labels are split into folds to judge self-training.
    "splits": 2,
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
    """Return the positions, ascending, of the unlabelled samples that are used."""
    order = check_random_state(seed).permutation(n_samples)
    return np.sort(order[: SELF_TRAINING["most"]])


def self_train(
    chosen: list[Candidate],
    temperature: float | None,
    known: dict[Any, Any],
    labels: Labels,
    unlabelled: dict[Any, Any],
    seed: int,
) -> list[Candidate]:
    """Fit candidates on labelled samples, and again with unlabelled ones and predicted labels.

    Parameters
    ----------
    temperature : float
        Of the weighted mean.
    known, unlabelled : dict of Output or "counts" to array of shape (n_samples, n_features)
        Features of labelled and of unlabelled samples.
    labels : Labels
        Of the labelled samples.
    seed : int
        Of the folds.

    Returns
    -------
    list of Candidate
        The highest weight first.

    Notes
    -----
    Each round predicts probabilities of the unlabelled samples by the blend, scales them such that
    the shares of the classes in them are those in the labels [1]_ (class mass normalisation
    [2]_ is one such step), and fits all candidates again. Targets are the squares of the
    probabilities, normalised, or the most probable class where candidates could not be judged [3]_;
    weights are the largest probability, rescaled from 0, where all are equal, to 1. The weights
    and temperatures of candidates stay those of the labels.

    Both sets of candidates are in the blend. Their shares are those of a mixture of two that
    explains labels of other folds best, beginning from half a pseudo-sample each: where unlabelled
    samples mislead, they have little weight.

    References
    ----------
    .. [1] Sinkhorn, "A Relationship Between Arbitrary Positive Matrices and Doubly Stochastic
       Matrices", Annals of Mathematical Statistics, 1964.
    .. [2] Zhu, Ghahramani, Lafferty, "Semi-Supervised Learning Using Gaussian Fields and Harmonic
       Functions", ICML 2003.
    .. [3] Lee, "Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep
       Neural Networks", ICML workshop 2013.
    """
    if labels.n_outputs < 2:
        return _fit_all(chosen, known, labels)
    both = _fit_both(chosen, temperature, known, labels, unlabelled)
    shares = _judge(chosen, temperature, known, labels, unlabelled, seed)
    fitted = [
        _weighted(candidate, share)
        for candidates, share in zip(both, shares, strict=True)
        for candidate in candidates
    ]
    least = min(BLEND["least_weight"], max(candidate.weight for candidate in fitted))
    fitted = [candidate for candidate in fitted if candidate.weight >= least]
    total = sum(candidate.weight for candidate in fitted)
    fitted = [_weighted(candidate, 1 / total) for candidate in fitted]
    return sorted(fitted, key=lambda candidate: -candidate.weight)


def _fit_all(chosen: list[Candidate], by_read: dict, labels: Labels) -> list[Candidate]:
    # Each with tables of its own, whose rows of length 1 are freed afterwards.
    return [candidate.fitted(Tables(by_read), labels) for candidate in chosen]


def _weighted(candidate: Candidate, factor: float) -> Candidate:
    candidate = copy.copy(candidate)
    candidate.weight = float(candidate.weight * factor)
    return candidate


def _fit_both(
    chosen: list[Candidate],
    temperature: float | None,
    known: dict,
    labels: Labels,
    unlabelled: dict,
) -> tuple[list[Candidate], list[Candidate]]:
    """Fit candidates without unlabelled samples, and with them."""
    plain = fitted = _fit_all(chosen, known, labels)
    every = {read: _stacked(known[read], unlabelled[read]) for read in known}
    for _ in range(SELF_TRAINING["rounds"][labels.most_folds < 2]):
        predictions = Blend(fitted, temperature).of_tables(unlabelled)
        outcome = _with_pseudo_labels(labels, balanced(predictions, labels.codes))
        fitted = _fit_all(chosen, every, outcome)
    for candidate in fitted:
        candidate.name = f"{candidate.name}, with unlabelled samples"
    return plain, fitted


def _judge(
    chosen: list[Candidate],
    temperature: float | None,
    known: dict,
    labels: Labels,
    unlabelled: dict,
    seed: int,
) -> np.ndarray:
    """Return the shares of candidates fitted without unlabelled samples and with them."""
    rows, predictions = [], []
    splits = make_splits(labels, seed)[: SELF_TRAINING["splits"]]
    for train, test in itertools.chain.from_iterable(splits):
        some, asked = ({b: table[part] for b, table in known.items()} for part in (train, test))
        # The samples that are asked for are unlabelled ones too.
        new = {read: _stacked(unlabelled[read], asked[read]) for read in known}
        both = _fit_both(chosen, temperature, some, labels.take(train), new)
        p = np.stack([Blend(fitted, temperature).of_tables(asked) for fitted in both])
        kept = labels.is_known(train, test)
        rows.append(test[kept])
        predictions.append(p[:, kept])
    prior = np.full(2, 0.5)
    if not sum(map(len, rows)):
        return prior
    at = np.concatenate(rows)
    weight = labels.weight[at] * len(np.unique(at)) / len(at)  # of one split
    probabilities = np.concatenate(predictions, axis=1)
    return mixture_weights(probabilities, labels.codes[at], prior=prior, sample_weight=weight)


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
    shares = np.maximum(shares, 1e-6)  # in a fold, a class may be missing
    for _ in range(SELF_TRAINING["steps"]):
        mean = np.maximum(probabilities.mean(axis=0), 1e-9)
        probabilities = probabilities * np.sqrt(shares / mean)
        probabilities /= probabilities.sum(axis=1, keepdims=True)
    return probabilities


def _with_pseudo_labels(labels: Labels, probabilities: np.ndarray) -> PseudoLabels:
    """Add samples with probabilities to labels."""
    power = SELF_TRAINING["sharpening"][labels.most_folds < 2]
    targets = (probabilities / probabilities.max(axis=1, keepdims=True)) ** power
    targets /= targets.sum(axis=1, keepdims=True)
    codes, k = targets.argmax(axis=1), labels.n_outputs
    sums = np.bincount(labels.codes, labels.weight, k)
    usual = sums / np.maximum(np.bincount(labels.codes, minlength=k), 1)  # of each class
    confidence = (probabilities.max(axis=1) - 1 / k) / (1 - 1 / k)
    weight = np.maximum(confidence * (targets @ usual), SELF_TRAINING["least_weight"])
    return PseudoLabels(
        labels.kind,
        np.concatenate([labels.y, labels.kind.classes[codes]]),
        np.concatenate([labels.weight, weight]),
        _stacked(labels.target, targets),
    )
