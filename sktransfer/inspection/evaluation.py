"""Predict samples by models that have not seen them, and measure what that costs."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import check_is_fitted

from ..features import find_network
from .tasks import Evaluation, Task

__all__ = ["evaluate", "is_fitted", "predictions_of", "with_memory"]


def is_fitted(estimator: Any) -> bool:
    """Tell whether an estimator is fitted."""
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def with_memory(estimator: Any, folder: str | None, *, replace: bool = False) -> Any:
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


def evaluate(
    estimator: Any, X: Any, task: Task, groups: np.ndarray, cv: int, random_state: Any
) -> Evaluation:
    """Cross-validate an estimator.

    Parameters
    ----------
    estimator : estimator
        It is cloned.
    X : list, array, Series or DataFrame of n_samples samples
    task : Task
        The target.
    groups : ndarray of shape (n_samples,)
        Samples of a group are in one fold.
    cv : int
        The number of folds; at most that of samples in the largest class.
    random_state : int or None

    Returns
    -------
    Evaluation
    """
    predicted, fold = np.empty_like(task.y), np.zeros(len(task.y), int)
    tables: list[tuple[np.ndarray, np.ndarray | None]] = []
    models: list[Any] = []
    seconds, sizes = [], []
    for train, test in task.folds(groups, cv, random_state):
        start = time.perf_counter()
        model = clone(estimator).fit(_safe_indexing(X, train), task.y[train])
        seconds.append(time.perf_counter() - start)
        predicted[test], table = task.predict(model, _safe_indexing(X, test))
        tables.append((test, table))
        fold[test] = len(models)
        models.append(model)
        sizes.append(len(train))
    whole = _joined(tables, len(task.y))
    return Evaluation(predicted, whole, models, fold, seconds, float(np.mean(sizes)))


def _joined(tables: list[tuple[np.ndarray, np.ndarray | None]], n: int) -> np.ndarray | None:
    """Return the probabilities of all folds in the order of the samples."""
    found: np.ndarray | None = None
    for test, table in tables:
        if table is None:
            return None
        found = np.zeros((n, table.shape[1])) if found is None else found
        found[test] = table
    return found


def predictions_of(model: Any, X: Any, task: Task) -> Evaluation:
    """Return the predictions of a fitted model for samples that it was not fitted on.

    Parameters
    ----------
    model : estimator
    X : list, array, Series or DataFrame of n_samples samples
    task : Task

    Returns
    -------
    Evaluation
    """
    predicted, table = task.predict(model, X)
    return Evaluation(predicted, table, [model], np.zeros(len(task.y), int), [], 0.0)
