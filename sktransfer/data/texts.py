"""Texts: check a collection, and the length to which token ids are padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .base import UnreadableSamplesError

__all__ = ["as_texts", "padded_length"]

_STEP = 8  # lengths of texts are multiples of it, so that a batch finds texts of its length


def padded_length(n_tokens: int) -> int:
    """Return the length to which a text is filled up: a function of that text alone.

    Parameters
    ----------
    n_tokens : int

    Returns
    -------
    int
        The next multiple of 8, at least 8.
    """
    return max(1, -(-n_tokens // _STEP)) * _STEP


def as_texts(X) -> list[str]:
    """Bring texts in any container into a list.

    Parameters
    ----------
    X : list, array, Series or DataFrame with one column
        Texts.

    Returns
    -------
    list of str

    Raises
    ------
    TypeError, ValueError
        If X is a single text, is empty or is no list of texts.
    UnreadableSamplesError
        Naming whatever in X is no text: None, NaN, numbers, bytes.
    """
    if isinstance(X, str | bytes):
        raise TypeError(f"Expected a list of texts, got one text: {str(X)[:60]!r}. Put it in [ ].")
    if hasattr(X, "to_pylist") and not hasattr(X, "columns"):  # an array of pyarrow
        X = X.to_pylist()
    if hasattr(X, "columns") or hasattr(X, "to_numpy"):
        X = X.to_numpy()
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    if isinstance(X, np.ndarray) and X.ndim != 1:
        raise ValueError(f"Expected a list or one column of texts, got an array {X.shape}.")
    if not isinstance(X, Sequence | np.ndarray):
        raise TypeError(f"Expected a list, an array or a column of texts, got {type(X)}.")
    wrong = [(i, text, _no_text(text)) for i, text in enumerate(X) if not isinstance(text, str)]
    if wrong:
        raise UnreadableSamplesError(wrong)
    if not len(X):
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    return [str(text) for text in X]


def _no_text(item) -> TypeError:
    return TypeError(f"expected a text, got {item!r}; replace or drop it first")
