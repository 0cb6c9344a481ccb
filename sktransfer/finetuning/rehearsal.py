"""Keep activations of earlier calls of partial_fit and train on them again."""

from __future__ import annotations

from typing import Any

import numpy as np

from .rows import Table

__all__ = ["keep_rows", "kept_rows"]

Kept = dict[Any, tuple[np.ndarray, np.ndarray]]  # label: activations and weights


def kept_rows(kept: Kept | None, classes: np.ndarray) -> tuple[Any, ...] | None:
    """Return the rows kept from earlier calls.

    Parameters
    ----------
    kept : dict or None
        From each label to activations and weights.
    classes : ndarray of shape (n_classes,)
        Sorted.

    Returns
    -------
    tuple of three ndarray, or None
        Activations, codes and weights.
    """
    if not kept:
        return None
    rows, weights = zip(*kept.values(), strict=True)
    codes = np.searchsorted(classes, np.asarray(list(kept)))
    codes = np.repeat(codes, [len(weight) for weight in weights])
    return np.concatenate(rows), codes, np.concatenate(weights)


def keep_rows(
    kept: Kept | None,
    activations: np.ndarray,
    weight: np.ndarray,
    groups: dict[Any, np.ndarray],
    n_rows: int,
    seed: int,
) -> Kept:
    """Draw the rows of each label to keep, from new rows and rows kept before.

    Parameters
    ----------
    kept : dict or None
        As in :func:`kept_rows`.
    activations : ndarray of shape (n, ...)
    weight : ndarray of shape (n,)
    groups : dict of label to ndarray of int
        Positions of the new rows of each label, in the order of codes.
    n_rows : int
        Largest number of rows kept of each label.
    seed : int

    Returns
    -------
    dict
    """
    generator = np.random.RandomState(seed)
    kept = dict(kept or {})
    for label, rows in groups.items():
        old = kept.get(label)
        table = Table(activations, rows, None if old is None else old[0])
        weights = weight[rows] if old is None else np.concatenate([weight[rows], old[1]])
        chosen = np.sort(generator.permutation(len(table))[:n_rows])
        kept[label] = table[chosen], weights[chosen]
    return dict(sorted(kept.items()))
