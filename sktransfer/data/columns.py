"""Take the columns of a table apart, and find missing cells."""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np

from .base import unwrap_column

__all__ = ["split_columns", "without_missing"]


def split_columns(X: Any, image_shape: tuple[int, ...] | None = None) -> dict[str | int, Any]:
    """Take a table of samples apart.

    Parameters
    ----------
    X : object
        A data frame of pandas or polars, a table of pyarrow or an array of objects or strings.
    image_shape : tuple of int, default=None
        If given, a row of X is one flattened image.

    Returns
    -------
    dict of (str or int) to object
        The columns, by name or position. Of length 1, with the key 0, for everything else: a
        list, an array of numbers, or a table of numbers.
    """
    columns = {} if image_shape is not None else _columns(X)
    if len(columns) < 2 or any(map(_is_numeric, columns.values())):
        return {0: X}
    return columns


def _columns(X) -> dict:
    if isinstance(X, np.ndarray):
        is_table = X.ndim == 2 and X.dtype.kind in "OUS"
        return {j: X[:, j] for j in range(X.shape[1])} if is_table else {}
    if hasattr(X, "iloc") and hasattr(X, "columns"):  # pandas, where names may occur twice
        names = list(X.columns)
        named = len(set(names)) == len(names)
        return {name if named else j: X.iloc[:, j] for j, name in enumerate(names)}
    if hasattr(X, "get_columns"):  # polars
        return dict(zip(X.columns, X.get_columns(), strict=True))
    if hasattr(X, "column_names") and hasattr(X, "to_pylist"):  # pyarrow
        return {name: X.column(j) for j, name in enumerate(X.column_names)}
    return {}


def _is_numeric(column) -> bool:
    """Tell whether the first cell that is there is a number."""
    cells = unwrap_column(column[:50])
    first = next((cell for cell in cells if not _is_missing(cell)), None)
    return isinstance(first, Number)


def without_missing(X: Any) -> tuple[Any, ...]:
    """Leave out the missing cells of a column.

    Parameters
    ----------
    X : object
        A column, or another collection of samples.

    Returns
    -------
    X : object
        A list if there are missing cells, else unchanged.
    rows : ndarray of int, or None
        The positions of the others; None if no cell is missing.
    n_samples : int or None
        The length of the column; None if no cell is missing.
    """
    cells = _cells(X)
    rows = [i for i, cell in enumerate(cells) if not _is_missing(cell)]
    if len(rows) == len(cells):
        return X, None, None
    return [cells[i] for i in rows], np.array(rows, int), len(cells)


def _cells(X) -> list:
    """Return the cells of a column that may have missing ones, else an empty list."""
    cells = unwrap_column(X) if hasattr(X, "to_numpy") or hasattr(X, "to_pylist") else X
    if isinstance(cells, np.ndarray) and cells.dtype == object:
        is_column = cells.ndim == 2 and cells.shape[1] == 1
        return list(cells[:, 0] if is_column else cells)
    return list(cells) if isinstance(cells, list | tuple) else []


def _is_missing(cell) -> bool:
    """Tell whether a cell is None, NaN, or NA or NaT of pandas."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, float) and cell != cell
