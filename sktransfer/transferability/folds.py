"""Stratified splits of rows: folds, a hold-out set and a subsample."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.utils import check_random_state

from ..data import is_numbers
from ..data.types import RandomState

_FEWEST_DRAWN = 5  # of each class, in a subsample


def make_folds(
    y: np.ndarray, n_folds: int, random_state: RandomState = None
) -> list[tuple[Any, ...]]:
    """Split rows into folds, each of which is once the test set: shuffled, labels stratified.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Codes of labels (integers), or numbers to regress on (floats).
    n_folds : int
        Where a class has fewer samples it is in some of the test sets only.

    Returns
    -------
    list of (train, test)
        Ascending positions.
    """
    maker = KFold if is_numbers(y) else StratifiedKFold
    splitter = maker(n_folds, shuffle=True, random_state=random_state)
    with warnings.catch_warnings():  # the docstring says what happens to such a class
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(splitter.split(np.empty((len(y), 0)), y))


def make_probe_folds(
    y: np.ndarray, random_state: RandomState = None
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split rows to compare layers: ten folds for up to 100 samples, else five.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        From ``encode_target``.

    Returns
    -------
    list of (train, test)
        No more than samples in the smallest class that has three; empty where fewer than two
        classes have. Samples of smaller classes are spread over the folds.
    """
    n_folds = 10 if len(y) <= 100 else 5
    seed = check_random_state(random_state).randint(2**31 - 1)
    if is_numbers(y):
        return make_folds(y, min(n_folds, len(y)), seed)
    counts = np.bincount(y)[y]  # of each sample's class
    ample = np.flatnonzero(counts >= 3)
    if len(np.unique(y[ample])) < min(2, len(np.unique(y))):
        return []
    # Not leave-one-out: without a sample its class is rarer than the others, so that a model which
    # always predicts the largest class is never right.
    return make_folds(y, min(n_folds, counts[ample].min()), seed)


def make_trial_folds(
    codes: np.ndarray, seed: int, among: np.ndarray | None = None
) -> list[tuple[Any, ...]]:
    """Split rows to compare strategies: five folds for fewer than 100 samples, else three.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,)
    among : ndarray of int, default=None
        Rows to split; None is all.

    Returns
    -------
    list of (train, test)
        Empty where fewer than two classes have two samples. A class of one sample is never
        tested by a model that has seen it.
    """
    among = np.arange(len(codes)) if among is None else among
    counts = np.bincount(codes[among])
    counts = counts[counts > 0]
    if (counts > 1).sum() < 2:
        return []
    n_folds = max(2, min(5 if len(among) < 100 else 3, counts.min()))
    splits = make_folds(codes[among], n_folds, seed)
    return [(among[a], among[b]) for a, b in splits if len(np.unique(codes[among[a]])) > 1]


def check_folds(cv: Any, y: np.ndarray, random_state: RandomState) -> Any:
    """Return the folds of a ``cv`` parameter, checked against the size of y.

    Parameters
    ----------
    cv : int, cross-validation generator or iterable
        A number of folds, at most that of samples in the largest class.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Codes of labels, or numbers to regress on.

    Returns
    -------
    list of (train, test), or cv itself where it is no number

    Raises
    ------
    ValueError
        If samples are too few.
    """
    if not isinstance(cv, Integral):
        return cv
    if is_numbers(y):
        if len(y) < 4:  # R² needs two samples to test on, and as many folds
            raise ValueError(f"Cross-validation needs at least four samples, got {len(y)}.")
        return make_folds(y, min(int(cv), len(y) // 2), random_state)
    counts = np.bincount(y)
    if (counts > 1).sum() < 2:
        raise ValueError("Cross-validation needs two classes with at least two samples each.")
    return make_folds(y, min(int(cv), int(counts.max())), random_state)


def hold_out(
    strata: np.ndarray, weight: np.ndarray, fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Split rows into those to train on and a hold-out set, stratified.

    Parameters
    ----------
    strata : ndarray of shape (n_samples,)
        The group of each row. One row of each group is not held out.
    weight : ndarray of shape (n_samples,)
        Rows of weight 0 are not held out, since they would not count there.
    fraction : float
        Of the rows with a weight, to be held out.

    Returns
    -------
    train, held_out : ndarray of int
        Ascending. ``StratifiedShuffleSplit`` refuses groups of one row and hold-out sets smaller
        than the number of groups; this does not.
    """
    rows = np.random.RandomState(seed).permutation(np.flatnonzero(weight > 0))
    groups = strata[rows]
    rest = np.setdiff1d(np.arange(len(rows)), np.unique(groups, return_index=True)[1])
    rest = rest[np.argsort(groups[rest], kind="stable")]  # group by group
    # Every k-th of these rows is held out, so that each group has its share, rounded.
    n_held = min(round(len(rows) * fraction), len(rest))
    if fraction and n_held == 0 and len(rows) > 1:
        warnings.warn(
            f"validation_fraction={fraction} of {len(rows)} rows, without one row of each class, "
            "is no row: all rows are used for training.",
            stacklevel=2,
        )
    chosen = (np.arange(n_held) + 0.5) * len(rest) / max(n_held, 1)
    held = np.sort(rows[rest[chosen.astype(int)]])
    return np.setdiff1d(np.arange(len(strata)), held), held


def subsample(y: np.ndarray, n: int, random_state: RandomState = None) -> np.ndarray:
    """Choose up to n rows, stratified, with at least five of each class that has them.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels, or numbers (floats).

    Returns
    -------
    ndarray of int
        Ascending. ``StratifiedShuffleSplit`` draws no row of a rare class and refuses classes of
        one sample.
    """
    if len(y) <= n:
        return np.arange(len(y))
    shuffled = check_random_state(random_state).permutation(len(y))
    if is_numbers(y):
        return np.sort(shuffled[:n])
    # The i-th row of a class of size m has the position (i + 0.5) / m: the first n rows in the
    # order of these are stratified. The first five rows of a class precede all others.
    codes = np.unique(y, return_inverse=True)[1][shuffled]
    place, counts = np.empty(len(y)), np.bincount(codes)
    first = min(_FEWEST_DRAWN, n // len(counts))
    for code, count in enumerate(counts):
        nth = np.arange(count)
        place[codes == code] = (nth + 0.5) / count - (nth < first)
    return np.sort(shuffled[np.argsort(place, kind="stable")[:n]])
