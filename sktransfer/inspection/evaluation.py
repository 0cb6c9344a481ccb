"""Predict samples by models that have not seen them, and measure what that costs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from sklearn.base import clone, is_regressor
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from ..features import find_network

__all__ = ["Evaluation", "evaluate", "is_fitted", "predictions_of", "with_memory"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Predictions of samples by models that have not seen them.

    Parameters
    ----------
    predicted : ndarray of shape (n_samples,) or (n_samples, n_targets)
    probabilities : ndarray of shape (n_samples, n_classes) or None
    classes : ndarray of shape (n_classes,) or None
        The labels of the columns.
    models : list of estimator
        Fitted without a fold each.
    fold : ndarray of int of shape (n_samples,)
        The model that predicted each sample, by position.
    fit_seconds : list of float
        For each fold.
    n_train : float
        Samples in a fit, the mean over folds.
    """

    predicted: np.ndarray
    probabilities: np.ndarray | None
    classes: np.ndarray | None
    models: list
    fold: np.ndarray
    fit_seconds: list[float]
    n_train: float


def is_fitted(estimator) -> bool:
    """Tell whether an estimator is fitted."""
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def with_memory(estimator, folder: str | None, *, replace: bool = False):
    """Return a clone that keeps features in a folder.

    Parameters
    ----------
    estimator : estimator
    folder : str or None
    replace : bool, default=False
        Whether a store of the estimator is replaced.

    Returns
    -------
    estimator
    """
    new = clone(estimator)
    step = find_network(new).step
    if replace or step.memory is None:
        step.set_params(memory=folder)
    return new


def evaluate(estimator, X, y: np.ndarray, groups: np.ndarray, cv: int, random_state) -> Evaluation:
    """Cross-validate an estimator.

    Parameters
    ----------
    estimator : estimator
        It is cloned.
    X : list, array, Series or DataFrame of n_samples samples
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        Labels or numbers.
    groups : ndarray of shape (n_samples,)
        Samples of a group are in one fold.
    cv : int
        The number of folds; at most that of samples in the largest class.
    random_state : int or None

    Returns
    -------
    Evaluation
    """
    classes = None if is_regressor(estimator) else np.unique(y)
    has_odds = hasattr(estimator, "predict_proba") and classes is not None
    table = np.zeros((len(y), len(classes))) if has_odds and classes is not None else None
    predicted, fold = np.empty_like(y), np.zeros(len(y), int)
    models: list = []
    seconds, sizes = [], []
    for train, test in _folds(y, classes is None, groups, cv, random_state):
        start = time.perf_counter()
        model = clone(estimator).fit(_safe_indexing(X, train), y[train])
        seconds.append(time.perf_counter() - start)
        predicted[test], found = _predict(model, _safe_indexing(X, test), classes)
        if table is not None:
            table[test] = found
        fold[test] = len(models)
        models.append(model)
        sizes.append(len(train))
    return Evaluation(predicted, table, classes, models, fold, seconds, float(np.mean(sizes)))


def predictions_of(model, X, y: np.ndarray) -> Evaluation:
    """Return the predictions of a fitted model for samples that it was not fitted on."""
    classes = getattr(model, "classes_", None)
    if classes is not None:
        classes = np.unique(np.concatenate([classes, np.unique(y)]))
    predicted, table = _predict(model, X, classes)
    return Evaluation(predicted, table, classes, [model], np.zeros(len(y), int), [], 0.0)


def _predict(model, X, classes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Return predictions and, if the model gives them, probabilities of all classes."""
    if classes is None or not hasattr(model, "predict_proba"):
        return model.predict(X), None
    own = model.predict_proba(X)
    table = np.zeros((len(own), len(classes)))
    table[:, np.searchsorted(classes, model.classes_)] = own
    return classes[table.argmax(1)], table


def _folds(y: np.ndarray, numbers: bool, groups: np.ndarray, cv: int, random_state) -> Iterator:
    empty = np.empty((len(y), 0))
    n_groups = len(np.unique(groups))
    if numbers:
        folds = min(cv, n_groups)
        return GroupKFold(folds, shuffle=True, random_state=random_state).split(empty, y, groups)
    codes, counts = np.unique(y, return_inverse=True, return_counts=True)[1:]
    folds = min(cv, n_groups, int(counts.max()))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=random_state)
    return splitter.split(empty, codes, groups)
