"""Find labels that are probably wrong."""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils.validation import check_consistent_length

from .._compat.sklearn import safe_indexing
from ..data import check_labels
from ..transferability import check_folds


@dataclasses.dataclass(frozen=True, repr=False)
class LabelIssues:
    """Labels that are probably wrong.

    Parameters
    ----------
    indices : ndarray of int
        Positions of the samples, the most suspicious first.
    given : ndarray of shape (n_issues,)
        Their labels.
    suggested : ndarray of shape (n_issues,)
        The most probable label of each.
    quality : ndarray of shape (n_samples,)
        Of the label of every sample: the probability that a model which has not seen it gives it.
    probabilities : ndarray of shape (n_samples, n_classes)
        Out of fold.
    classes : ndarray of shape (n_classes,)
        The labels of the columns.
    """

    indices: np.ndarray
    given: np.ndarray
    suggested: np.ndarray
    quality: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        lines = [
            f"sample {i}: labelled {given}, rather {suggested} ({self.quality[i]:.2f})"
            for i, given, suggested in zip(self.indices, self.given, self.suggested, strict=True)
        ]
        more = [f"and {len(lines) - 10} more"] if len(lines) > 10 else []
        title = f"{len(lines)} label issue{'s' * (len(lines) != 1)}"
        return "\n".join([title, *lines[:10], *more])


def find_label_issues(
    estimator: Any,
    X: Any,
    y: Any,
    *,
    cv: Any = 5,
    probabilities: Any = None,
    method: str = "prune_by_noise_rate",
    random_state: Any = 0,
) -> LabelIssues:
    """Find labels that are probably wrong, by probabilities of models that have not seen them.

    Parameters
    ----------
    estimator : classifier with ``predict_proba``
        It is cloned for each fold, not changed. With ``memory``, features are computed once.
    X : list, array, Series or DataFrame of n_samples samples
    y : array-like of shape (n_samples,)
        Labels of any type.
    cv : int, cross-validation generator or iterable, default=5
        The folds. A number of them is shuffled and stratified.
    probabilities : array-like of shape (n_samples, n_classes), default=None
        Out of fold, if they are known; the columns are the sorted labels. Then nothing is fitted.
    method : str, default="prune_by_noise_rate"
        ``filter_by`` of :func:`cleanlab.filter.find_label_issues`.
    random_state : int, RandomState instance or None, default=0
        For the folds.

    Returns
    -------
    LabelIssues

    Raises
    ------
    ImportError
        Without cleanlab.
    ValueError
        If samples are too few for the folds, or probabilities do not fit.

    Notes
    -----
    This is confident learning [1]_: a label is an issue if another one has a probability as high as
    that of samples which have it usually is.

    References
    ----------
    .. [1] Northcutt, Jiang, Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels",
       JAIR 70 (2021). https://arxiv.org/abs/1911.00068

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sktransfer.inspection import find_label_issues
    >>> X, y = load_iris(return_X_y=True)
    >>> y[0] = 2  # a wrong label
    >>> find_label_issues(LogisticRegression(max_iter=500), X, y).indices[0]
    np.int64(0)
    """
    y = check_labels(y)
    classes, codes = np.unique(y, return_inverse=True)
    if probabilities is None:
        table = _out_of_fold(estimator, X, y, cv, random_state)
    else:
        table = np.asarray(probabilities, dtype=float)
    check_consistent_length(table, y)
    if table.ndim != 2 or table.shape[1] != len(classes):
        raise ValueError(f"probabilities must have {len(classes)} columns, one for each label.")
    judged = np.flatnonzero(np.isfinite(table).all(1))  # samples in no test fold are none
    quality = np.full(len(codes), np.nan)
    quality[judged] = table[judged, codes[judged]]
    indices = judged[_are_issues(codes[judged], table[judged], method)]
    indices = indices[np.argsort(quality[indices], kind="stable")]
    suggested = classes[table[indices].argmax(1)]
    return LabelIssues(indices, classes[codes[indices]], suggested, quality, table, classes)


def _out_of_fold(estimator, X, y: np.ndarray, cv, random_state) -> np.ndarray:
    """Return the probabilities that models give to samples of a fold that they have not seen.

    The columns are the sorted labels; samples in no test fold have NaN. ``cross_val_predict``
    refuses folds that are not a partition, and warns where a class is in one fold only.
    """
    classes, codes = np.unique(y, return_inverse=True)
    folds = check_folds(cv, codes, random_state)
    if hasattr(folds, "split"):
        folds = folds.split(np.empty((len(y), 0)), codes)
    table = np.full((len(y), len(classes)), np.nan)
    for train, test in folds:
        model = clone(estimator).fit(safe_indexing(X, train), y[train])
        table[test] = 0
        columns = np.searchsorted(classes, model.classes_)
        table[np.ix_(test, columns)] = model.predict_proba(safe_indexing(X, test))
    return table


def _are_issues(codes: np.ndarray, probabilities: np.ndarray, method: str) -> np.ndarray:
    """Return which labels are issues. cleanlab needs two classes, all of them among the samples."""
    present, own = np.unique(codes, return_inverse=True)
    if len(present) < 2:
        return np.zeros(len(codes), bool)
    table = np.maximum(probabilities[:, present], 1e-12)
    try:
        from cleanlab import filter as filters
    except ImportError:
        raise ImportError(
            "Label issues are found with cleanlab: pip install 'sktransfer[inspect]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return filters.find_label_issues(
            own, table / table.sum(1, keepdims=True), filter_by=method, n_jobs=1
        )


def label_probabilities(model: Any, X: Any) -> np.ndarray:
    """Return the probabilities of labels as one matrix, ``(n_samples, n_labels)``.

    Some estimators of several labels return a list, with a matrix for each label.
    """
    tables = model.predict_proba(X)
    if not isinstance(tables, list):
        return np.asarray(tables)
    return np.column_stack([p @ values for p, values in zip(tables, model.classes_, strict=True)])
