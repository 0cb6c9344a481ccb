"""Read images and labels from the columns of a table: CSV, Parquet, JSON lines or a data frame."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from .base import shorten
from .contents import has_scheme

__all__ = ["LEADING_ZERO", "load_image_table", "open_table"]

LEADING_ZERO = r"^\s*[+-]?0[0-9]"  # a column of CSV with such a cell is text: "001" is no number

# Names of columns, the likely ones first. "file_name" is that of Hugging Face's metadata files.
_IMAGE = ("image", "file_name", "filename", "file", "path", "image_path", "filepath", "img", "url")
_LABEL = ("label", "class", "labels", "target", "y", "category", "class_name")


def load_image_table(
    table: Any,
    *,
    image: str | list[str] | None = None,
    label: str | list[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> tuple[Any, ...]:
    """Read images and labels from the columns of a table.

    Parameters
    ----------
    table : str, path-like or pandas.DataFrame
        A data frame, or the name of a file: CSV, TSV, Parquet or JSON lines, by its ending.
    image : str or list of str, default=None
        The column of images: names of files, URLs, encoded images, or dictionaries with "bytes"
        and "path", as Hugging Face writes them to Parquet. None is the first of "image",
        "file_name", "filename", "file", "path", "image_path", "filepath", "img" and "url" that
        exists. A list gives several images for each sample.
    label : str or list of str, default=None
        The column of labels. None is the first of "label", "class", "labels", "target", "y",
        "category" and "class_name" that exists. A list gives a target with several columns.
    folder : str or path-like, default=None
        Where relative names of files begin: by default the folder of the table, and for a data
        frame the current one.

    Returns
    -------
    X : list, or ndarray of shape (n_samples, n_images)
        The images as they stand in the table. Relative names of files begin with ``folder``.
        Missing cells are None. No image is opened.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets), or None
        None if ``label`` is None and no column has one of the usual names.

    Raises
    ------
    ValueError
        If a column does not exist, or the ending of the file is not known.
    ImportError
        If pandas is not installed, or pyarrow for Parquet.

    Examples
    --------
    >>> import pandas as pd
    >>> from sktransfer import load_image_table
    >>> table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "label": ["cat", "dog"]})
    >>> X, y = load_image_table(table, folder="photos")
    >>> X, y.tolist()
    (['photos/a.jpg', 'photos/b.jpg'], ['cat', 'dog'])
    """
    frame, beside = open_table(table)
    base = Path(beside if folder is None else folder).expanduser()
    images = _column(frame, "image", image, _IMAGE)
    labels = _column(frame, "label", label, _LABEL)
    if images is None:
        raise ValueError(f"No column of images among {_names(frame)}: give image=.")
    y = None if labels is None else frame[labels].to_numpy()
    if isinstance(images, list):
        columns = [_samples(frame[name], base) for name in images]
        return _side_by_side(columns), y
    return _samples(frame[images], base), y


def open_table(table: Any) -> tuple[Any, ...]:
    """Read a table from a file, by the ending of its name.

    Parameters
    ----------
    table : str, path-like or pandas.DataFrame
        The name of a CSV, TSV, Parquet or JSON lines file, or a data frame. A column of a CSV or
        TSV file is text if one of its numbers begins with a zero, as in "001".

    Returns
    -------
    frame : pandas.DataFrame
    folder : Path
        The folder of the file.
    """
    if hasattr(table, "columns"):
        return table, Path()
    path = Path(table).expanduser()
    readers = {
        ".csv": lambda pd: _read_csv(pd, path, ","),
        ".tsv": lambda pd: _read_csv(pd, path, "\t"),
        ".parquet": lambda pd: pd.read_parquet(path),
        ".pq": lambda pd: pd.read_parquet(path),
        ".jsonl": lambda pd: pd.read_json(path, lines=True, dtype=False),  # "001" stays text
    }
    if path.suffix.lower() not in readers:
        raise ValueError(f"{str(path)!r}: the name of a table ends in one of {sorted(readers)}.")
    return readers[path.suffix.lower()](_pandas()), path.parent


def _read_csv(pd, path: Path, separator: str):
    texts = pd.read_csv(path, sep=separator, dtype=str)
    kept = [name for name in texts if texts[name].str.contains(LEADING_ZERO, na=False).any()]
    return pd.read_csv(path, sep=separator, dtype=dict.fromkeys(kept, str))


def _pandas():
    try:
        import pandas
    except ImportError:
        raise ImportError("Tables need pandas: pip install 'sktransfer[tables]'") from None
    return pandas


def _column(frame, parameter: str, asked, usual: tuple[str, ...]):
    """Return the asked names if they exist, else the first usual one that does, else None."""
    names = list(frame.columns)
    if asked is None:
        return next((name for name in usual if name in names), None)
    missing = [name for name in ([asked] if isinstance(asked, str) else asked) if name not in names]
    if missing or not asked:
        raise ValueError(
            f"{parameter}={shorten(str(asked), 80)!r}: the table has the columns {_names(frame)}."
        )
    return asked


def _names(frame) -> str:
    return shorten(str(list(frame.columns)), 300)


def _samples(column, base: Path) -> list:
    missing = column.isna() if hasattr(column, "isna") else column.is_null()
    return [
        None if is_missing else _placed(cell, base)
        for cell, is_missing in zip(column.to_list(), missing, strict=True)
    ]


def _placed(cell, base: Path):
    """Put a folder before a relative name of a file."""
    if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
        return cell | {"path": _placed(cell["path"], base)}
    if not isinstance(cell, str) or has_scheme(cell) or cell.startswith("~"):
        return cell
    return os.fspath(base / cell)


def _side_by_side(columns: list[list]) -> np.ndarray:
    """Make an array of objects with one column for each list."""
    array = np.empty((len(columns[0]), len(columns)), object)
    for j, column in enumerate(columns):
        for i, sample in enumerate(column):  # an assignment of the column would unpack arrays
            array[i, j] = sample
    return array
