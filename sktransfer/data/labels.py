"""Check targets and sample weights, for every public function that takes them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse import issparse
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight

from .base import UnreadableSamplesError

__all__ = [
    "check_labels",
    "check_numbers",
    "check_target",
    "check_weights",
    "naming",
    "warn_of_one_class",
]

_LEAST_TOTAL = float(np.finfo(np.float64).tiny)  # its reciprocal is finite
_Found = TypeVar("_Found")


def check_labels(
    y: Any, n_samples: int | None = None, *, name: str = "y", for_training: bool = False
) -> np.ndarray:
    """Check class labels, one for each sample.

    Every public function that takes labels calls this, or :func:`check_target`.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, 1)
        Labels of one type.
    n_samples : int, default=None
        How many labels there must be; None accepts any number.
    name : str, default="y"
        The parameter that errors name.
    for_training : bool, default=False
        Whether to warn if there is one class only.

    Returns
    -------
    ndarray of shape (n_samples,)

    Raises
    ------
    ValueError
        If labels are missing, have several types, are no labels, or are too many or too few.
    """
    labels = _check_one_column(check_target(y, n_samples, name=name), name)
    if for_training:
        warn_of_one_class(np.unique(labels))
    return labels


def warn_of_one_class(labels: np.ndarray) -> None:
    """Warn if there is only one label to learn.

    Parameters
    ----------
    labels : ndarray of shape (n_classes,)
        Each once.
    """
    if len(labels) == 1:
        (label,) = labels.tolist()
        warnings.warn(
            f"y has one class only, {label!r:.60}: every prediction will be this class.",
            stacklevel=3,
        )


def _check_one_column(y: np.ndarray, name: str) -> np.ndarray:
    if y.ndim == 2 and y.shape[1] != 1:
        raise ValueError(
            f"{name} should be a 1d array, got an array of shape {y.shape}.{_one_hot_hint(y)}"
        )
    if y.dtype.kind == "c":
        raise ValueError(f"{name} holds complex numbers, which are no labels.")
    naming(name, check_classification_targets, y)
    return column_or_1d(y, warn=True, input_name=name)


def _one_hot_hint(y: np.ndarray) -> str:
    if y.ndim != 2 or y.dtype.kind not in "biuf":
        return ""
    is_one_hot = np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
    return " Its rows have a single 1 each: give y.argmax(axis=1)." if is_one_hot else ""


def check_target(y: Any, n_samples: int | None = None, *, name: str = "y") -> np.ndarray:
    """Check that a target has a value for every sample, whatever the task is.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_columns), dense or sparse
    n_samples : int, default=None
        How many rows there must be; None accepts any number.
    name : str, default="y"
        The parameter that errors name.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_columns)

    Raises
    ------
    ValueError
        If values are missing (None, NaN, NaT, pandas' NA, or masked) or infinite, if texts and
        numbers are mixed, or if there are too many or too few rows.
    """
    if y is None:
        raise ValueError(f"This requires {name} to be passed, but the target {name} is None.")
    # In the array that numpy makes of ["a", NaN], NaN is the string "nan".
    raw = _as_raw(y)
    _check_present(raw, np.ma.getmaskarray(y) if np.ma.isMaskedArray(y) else None, name)
    array = naming(name, _as_array, raw, y)
    if array.ndim not in (1, 2):
        raise ValueError(f"{name} should be a 1d array, got an array of shape {array.shape}.")
    if not len(array):
        raise ValueError(f"{name} holds 0 values: at least one sample is needed.")
    if array.dtype.kind in "fc" and np.isinf(array).any():
        raise ValueError(
            f"Input {name} contains infinity, at {np.argwhere(np.isinf(array))[0][0]}."
        )
    if n_samples is not None and len(array) != n_samples:
        raise ValueError(
            f"{name} has {len(array)} values for {n_samples} samples: inconsistent numbers of "
            "samples."
        )
    return array


def _as_raw(y) -> np.ndarray:
    """Convert to an array of objects, unless the type of the elements is known."""
    if issparse(y):
        return y.toarray()
    if isinstance(y, np.ndarray) and y.dtype.kind != "T":  # strings of variable width
        return np.asarray(y)
    return np.asarray(y, dtype=object)


def _as_array(raw: np.ndarray, y) -> np.ndarray:
    """Convert a complete target to the type that numpy infers."""
    if raw.dtype != object:
        return raw
    kinds = {isinstance(label, str) for label in raw.flat}
    if len(kinds) > 1:
        raise ValueError("strings and values of other types are mixed. Give labels of one type.")
    if isinstance(y, np.ndarray):
        return raw
    array = np.asarray(y)
    # The columns of a pandas table with nullable types become objects.
    return np.array(array.tolist()) if array.dtype == object and kinds == {False} else array


def _check_present(raw: np.ndarray, mask: np.ndarray | None, name: str) -> None:
    """Raise an error that names the first missing value and its position."""
    missing = _is_missing(raw) if mask is None else _is_missing(raw) | mask
    if missing.any():
        at = tuple(np.argwhere(missing)[0])
        value = "a masked value" if mask is not None and mask[at] else repr(raw[at])
        raise ValueError(
            f"Input {name} contains NaN or a missing label: {value} at {at[0] if at else 0}. "
            "Leave out samples without a label, or give them one."
        )


def _is_missing(raw: np.ndarray) -> np.ndarray:
    """Return which values are None, NaN, NaT or pandas' NA, as a boolean mask."""
    if raw.dtype.kind in "fcmM":
        return np.isnat(raw) if raw.dtype.kind in "mM" else np.isnan(raw)
    if raw.dtype != object:
        return np.zeros(raw.shape, bool)
    found = np.fromiter((_is_missing_label(label) for label in raw.flat), bool, raw.size)
    return found.reshape(raw.shape)


def _is_missing_label(label) -> bool:
    try:
        return label is None or bool(label != label)
    except TypeError:  # comparisons with pandas' NA have no truth value
        return True
    except ValueError:  # an array as a label, which is refused by its shape
        return False


def check_numbers(y: Any, n_samples: int | None = None, *, name: str = "y") -> np.ndarray:
    """Check numbers to regress on.

    Parameters
    ----------
    y : array-like of shape (n_samples,) or (n_samples, n_targets), dense or sparse
    n_samples : int, default=None
        How many rows there must be; None accepts any number.
    name : str, default="y"
        The parameter that errors name.

    Returns
    -------
    ndarray of shape (n_samples,) or (n_samples, n_targets), float64 or float32

    Raises
    ------
    ValueError
        As :func:`check_target`, or if y does not hold numbers.
    """
    y = check_target(y, n_samples, name=name)
    if y.dtype.kind not in "biufO":
        raise ValueError(f"{name} must hold numbers to regress on, got {y.dtype} values.")
    return naming(name, _as_floats, y)


def _as_floats(y: np.ndarray) -> np.ndarray:
    return check_array(y, dtype=[np.float64, np.float32], ensure_2d=False, input_name="y")


def check_weights(sample_weight: ArrayLike | None, n_samples: int) -> np.ndarray:
    """Check the weights of samples.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,), float or None
        None is a weight of 1 for each sample.
    n_samples : int

    Returns
    -------
    ndarray of shape (n_samples,), float64

    Raises
    ------
    ValueError
        If weights are no finite numbers, negative, all zero or nearly zero (a sum below 2.2e-308),
        masked, or too many or too few.
    """
    if np.ma.is_masked(sample_weight):
        raise ValueError("sample_weight holds masked values. Give each sample a weight, or 0.")
    weight = naming("sample_weight", _as_weights, sample_weight, n_samples)
    with np.errstate(over="ignore"):
        total = weight.sum()
    if not _LEAST_TOTAL <= total < np.inf:
        raise ValueError(
            f"sample_weight has a sum of {total}: it must be positive and finite"
            f"{f', and at least {_LEAST_TOTAL:.3g}' if total > 0 else ''}."
        )
    return weight


def _as_weights(sample_weight, n_samples: int) -> np.ndarray:
    if sample_weight is not None:
        given = np.asarray(sample_weight)
        texts = given.dtype == object and any(isinstance(x, str | bytes) for x in given.flat)
        if texts or given.dtype.kind not in "biufO":
            raise ValueError(f"expected numbers, got {sample_weight!r:.60}")
    rows = np.empty((n_samples, 1))
    return _check_sample_weight(sample_weight, rows, dtype=np.float64, ensure_non_negative=True)


def naming(name: str, check: Callable[..., _Found], *args: Any) -> _Found:
    """Call a check of scikit-learn whose errors do not say which parameter they are about.

    Parameters
    ----------
    name : str
        The parameter.
    check : callable
    *args
        What it is called with.

    Returns
    -------
    object
        What the check returns.

    Raises
    ------
    ValueError
        The check's own message, behind the name.
    UnreadableSamplesError
        The check's own, with the name.
    """
    try:
        return check(*args)
    except UnreadableSamplesError as error:
        raise UnreadableSamplesError(error.problems, name) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error
