"""Folds and subsamples for probes and trials."""

from __future__ import annotations

import warnings
from numbers import Integral

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.utils import check_random_state

from ..data import is_numbers

__all__ = ["make_folds", "make_probe_folds", "subsample"]


def make_folds(codes: np.ndarray, seed: int, among: np.ndarray | None = None) -> list:
    """Split rows into training and judging: five folds for few samples, three for more.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,)
    seed : int
    among : ndarray of int, default=None
        Rows to split; None is all.

    Returns
    -------
    list of (train, test)
        Empty where fewer than two classes have two samples.
    """
    among = np.arange(len(codes)) if among is None else among
    counts = np.bincount(codes[among])
    counts = counts[counts > 0]
    if (counts > 1).sum() < 2:
        return []
    n_folds = max(2, min(5 if len(among) < 100 else 3, counts.min()))
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a class of one is never judged by a model that knows it
        warnings.simplefilter("ignore", UserWarning)
        splits = list(splitter.split(among, codes[among]))
    return [(among[a], among[b]) for a, b in splits if len(np.unique(codes[among[a]])) > 1]


_FEWEST_DRAWN = 5  # of each class among them


def subsample(y: np.ndarray, n: int, random_state=None) -> np.ndarray:
    """Choose up to n rows, as many of each class as its share but five at least, sorted.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels, or numbers (floats).
    n : int
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    ndarray of int
    """
    if len(y) <= n:
        return np.arange(len(y))
    shuffled = check_random_state(random_state).permutation(len(y))
    if is_numbers(y):
        return np.sort(shuffled[:n])
    # In the order of the share of its class that each row completes, every class is drawn evenly.
    # A class that is rare among very many would have no row; what is rare matters most.
    codes = np.unique(y, return_inverse=True)[1][shuffled]
    place, counts = np.empty(len(y)), np.bincount(codes)
    first = min(_FEWEST_DRAWN, n // len(counts))
    for code, count in enumerate(counts):
        nth = np.arange(count)
        place[codes == code] = (nth + 0.5) / count - (nth < first)
    return np.sort(shuffled[np.argsort(place, kind="stable")[:n]])


def make_probe_folds(y: np.ndarray, random_state=None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split rows into training and judging, by class: ten folds for up to 100 samples, else five.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        From :func:`encode_target`.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    list of (train, test)
        No more than samples in the smallest class that has three; empty where none has. Samples
        of smaller classes are spread over the folds.
    """
    n_folds = 10 if len(y) <= 100 else 5
    seed = check_random_state(random_state).randint(2**31 - 1)
    if is_numbers(y):
        splitter = KFold(min(n_folds, len(y)), shuffle=True, random_state=seed)
        return list(splitter.split(y[:, None]))
    counts = np.bincount(y)[y]  # of each sample's class
    ample = np.flatnonzero(counts >= 3)
    if len(np.unique(y[ample])) < min(2, len(np.unique(y))):
        return []
    # Each class keeps its share in every fold. Leaving out one sample makes its class the rarest,
    # so that a model which knows nothing is never right.
    n_folds = min(n_folds, counts[ample].min())
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # smaller classes are in some folds only
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(splitter.split(y[:, None], y))


def _stratified_folds(cv, counts: np.ndarray, random_state):
    if not isinstance(cv, Integral):
        return cv
    if (counts > 1).sum() < 2:
        raise ValueError("Cross-validation needs two classes with at least two samples each.")
    return StratifiedKFold(min(cv, counts.max()), shuffle=True, random_state=random_state)


def _plain_folds(cv, n_samples: int, random_state):
    if not isinstance(cv, Integral):
        return cv
    if n_samples < 4:  # R² needs two samples to test on, and as many folds
        raise ValueError(f"Cross-validation needs at least four samples, got {n_samples}.")
    return KFold(min(cv, n_samples // 2), shuffle=True, random_state=random_state)
