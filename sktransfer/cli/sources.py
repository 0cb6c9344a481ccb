"""Read labelled samples from a folder or a table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from ..data import as_texts, list_splits, load_image_folder, load_image_table, open_table

__all__ = ["Columns", "Source", "read_source"]

_TRAIN = ("train", "training")
_TEST = ("test", "testing", "val", "valid", "validation", "dev")


@dataclasses.dataclass
class Columns:
    """The columns of a table that are used; None finds them by their usual names."""

    image: str | None = None
    text: str | None = None
    label: str | None = None


@dataclasses.dataclass
class Source:
    """Samples with labels, and those that the source itself keeps for testing."""

    X: list[Any]
    y: np.ndarray
    X_test: list[Any] | None = None
    y_test: np.ndarray | None = None


def read_source(path: Path, columns: Columns, *, training: bool = True) -> Source:
    """Read a folder with a sub-folder for each class, or a table.

    Parameters
    ----------
    path : Path
        A folder; or a CSV, TSV, Parquet or JSON lines file.
    columns : Columns
    training : bool, default=True
        Of a folder with splits, whether to return those for training and for testing, or the one
        for testing alone.

    Returns
    -------
    Source

    Raises
    ------
    FileNotFoundError, ValueError
        If the path does not exist or has no labels.
    """
    if not path.exists():
        raise FileNotFoundError(f"{str(path)!r} does not exist.")
    if not path.is_dir():
        return Source(*_read_table(path, columns))
    train, test = (_first(list_splits(path), names) for names in (_TRAIN, _TEST))
    if not training:
        return Source(*_read_folder(path, test or train))
    first = _read_folder(path, train or test)
    return Source(*first, *(_read_folder(path, test) if train and test else ()))


def _first(splits: list[str], names: tuple[str, ...]) -> str | None:
    """Return the split that has the first of these names."""
    by_name = {split.lower(): split for split in splits}
    return next((by_name[name] for name in names if name in by_name), None)


def _read_folder(path: Path, split: str | None) -> tuple[list, np.ndarray]:
    return load_image_folder(path, split=split, on_error="skip")


def _read_table(path: Path, columns: Columns) -> tuple[list, np.ndarray]:
    if columns.text is None:
        X, y = load_image_table(path, image=columns.image, label=columns.label)
    else:
        X, y = _read_texts(path, columns)
    if y is None:
        raise ValueError(f"{str(path)!r} has no column of labels: give --label.")
    return X, y


def _read_texts(path: Path, columns: Columns) -> tuple[list, np.ndarray | None]:
    frame, _ = open_table(path)
    for option, name in (("--text", columns.text), ("--label", columns.label)):
        if name is not None and name not in frame.columns:
            raise ValueError(f"{option} {name}: the columns are {list(frame.columns)[:20]}.")
    label = columns.label or next((c for c in ("label", "class", "target") if c in frame), None)
    return as_texts(frame[columns.text]), None if label is None else frame[label].to_numpy()
