"""A validation set that the user gives."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import numpy as np

from ..data import ClassTarget, Target, check_labels, check_target, named_among
from .cut import Cut, Place
from .distributed import ONE_PROCESS, Processes
from .rows import Rows, Table

__all__ = [
    "Validation",
    "check_given",
    "encode_validation",
    "naming_samples",
    "validation_rows",
]

_MANY = 2**62


class Validation(NamedTuple):
    """Samples for validation and their targets, encoded as those of the training samples."""

    samples: Any
    target: np.ndarray


def check_given(X_val: Any, y_val: Any, fraction: float) -> None:
    """Refuse half of a validation set, or two.

    Parameters
    ----------
    X_val, y_val : object or None
    fraction : float
        The parameter ``validation_fraction``.

    Raises
    ------
    ValueError
        If one of the two is missing, or a fraction is to be held out as well.
    """
    if (X_val is None) != (y_val is None):
        missing = "X_val" if X_val is None else "y_val"
        raise ValueError(f"{missing}= is missing: a validation set is X_val= and y_val=.")
    if X_val is not None and fraction:
        raise ValueError(
            f"X_val= is the validation set, and validation_fraction={fraction} would hold out "
            "another: set it to 0."
        )


def encode_validation(samples: Any, y_val: Any, target: Target) -> Validation:
    """Encode the targets of a validation set.

    Parameters
    ----------
    samples : sequence
    y_val : array-like of shape (n_samples,) or (n_samples, n_outputs)
    target : Target
        Of the training samples.

    Returns
    -------
    Validation

    Raises
    ------
    ValueError
        If there are labels that no training sample has, or another number of columns.
    """
    if isinstance(target, ClassTarget):
        y_val = check_labels(y_val, len(samples), name="y_val")
        unknown = sorted(set(y_val.tolist()) - set(target.labels), key=str)
        if unknown:
            raise ValueError(f"y_val has labels that y does not have: {unknown[:5]}.")
        return Validation(samples, target.encode(y_val))
    y_val = check_target(y_val, len(samples), name="y_val")
    n_columns = 1 if y_val.ndim == 1 else y_val.shape[1]
    if n_columns != target.n_outputs:
        raise ValueError(f"y_val has {n_columns} columns, and y has {target.n_outputs}.")
    return Validation(samples, target.encode(y_val))


def naming_samples() -> AbstractContextManager[None]:
    """Name the argument in errors about its samples."""
    return named_among(range(_MANY), "X_val")


def validation_rows(
    validation: Validation, cut: Cut, place: Place, processes: Processes = ONE_PROCESS
) -> Rows:
    """Compute the rows of a validation set.

    Parameters
    ----------
    validation : Validation
    cut : Cut
    place : Place
        Where the activations of the training samples are.
    processes : Processes, default=ONE_PROCESS
        Those that share the rows.

    Returns
    -------
    Rows
        Of equal weight.
    """
    n = len(validation.samples)
    with naming_samples():
        samples, positions, index = processes.share(validation.samples, np.arange(n))
        with named_among(positions):
            table = Table(cut.rows(samples, place), index)
    return Rows([table], validation.target, np.ones(n), processes=processes)
