"""Targets: find the task, encode labels and refuse missing ones."""

from __future__ import annotations

import warnings

import numpy as np
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target

__all__ = ["check_present", "encode_target", "find_task", "is_numbers"]


def encode_target(y, task: str = "auto") -> np.ndarray:
    """Return labels as codes (integers), numbers to regress on as floats.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" takes whole numbers as labels, as scikit-learn does.

    Returns
    -------
    ndarray of shape (n_samples,), int or float64
    """
    y = column_or_1d(y, warn=True)
    check_present(y)
    if find_task(y, task) == "regression":
        return check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
    if task == "auto" and _look_like_numbers(y):
        warnings.warn(
            f"y has {len(np.unique(y))} distinct whole numbers, which are taken as labels. If they "
            "are numbers to regress on set task='regression', else task='classification'.",
            stacklevel=2,
        )
    else:
        check_classification_targets(y)
    return np.unique(y, return_inverse=True)[1]


def _look_like_numbers(y: np.ndarray) -> bool:
    """Tell whether labels are many whole numbers with gaps, few samples each."""
    if y.dtype.kind not in "iuf" or not np.isfinite(y).all():
        return False
    n_labels = len(np.unique(y))
    return bool(20 < n_labels <= y.max() - y.min() and len(y) < 10 * n_labels)


def is_numbers(y: np.ndarray) -> bool:
    """Tell whether :func:`encode_target` made numbers, and not codes, of a target."""
    return y.dtype.kind == "f"


def check_present(y: np.ndarray) -> None:
    """Refuse labels of which some are missing.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If a label is None, NaN or pandas' NA; those of floats are for scikit-learn to find.
    """
    missing = np.flatnonzero([_is_missing(label) for label in y]) if y.dtype == object else []
    if len(missing):
        raise ValueError(f"Input y contains a missing label: {y[missing[0]]!r} at {missing[0]}.")


def _is_missing(label) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # pandas.NA is neither equal nor unequal to anything
        return True
    except ValueError:  # several labels in one, which is for others to refuse
        return False


def find_task(y, task: str) -> str:
    """Tell labels from numbers to regress on; whole numbers are labels unless ``task`` says so."""
    if task not in ("auto", "classification", "regression"):
        raise ValueError(f"task={task!r}: expected 'auto', 'classification' or 'regression'.")
    if task != "auto":
        return task
    return "regression" if type_of_target(y).startswith("continuous") else "classification"
