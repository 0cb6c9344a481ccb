"""Tables whose columns are samples of networks, numbers and categories."""

from __future__ import annotations

import datetime
import difflib
import os
import re
import reprlib
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from numbers import Number
from pathlib import Path
from typing import Any

import numpy as np

from .modality import Modality, Parts, get_modality
from .samples import (
    MissingSampleError,
    UnreadableSamplesError,
    short_name,
    shorten,
    take,
    unwrap_column,
)

# Kinds of columns that no network reads; that of another column is the name of its modality.
NUMBER, CATEGORY = "number", "category"
_LOOKED_AT = 20  # cells of a column by which its kind is guessed
_SHOWN = 10  # columns named in a message
# A column with more different texts than this, and than half of its rows, is hardly a category.
_MANY = 20
_WITH_NAN = (float, np.floating, np.datetime64, np.timedelta64)
# Types that are registered as numbers, and are none here.
_NO_NUMBERS = (complex, np.complexfloating, np.timedelta64)


class TableSamples:
    """The rows of a table, as the columns that networks read and the cells of the others.

    Parameters
    ----------
    kinds : dict of (str or int) to str
        The kind of each column, of :func:`describe_columns`.
    columns : dict of (str or int) to list
        The samples of each column that a network reads, none opened. A missing cell is None.
    cells : ndarray of shape (n_samples, n_columns), object
        Of the other columns: numbers, NaN where they are missing, and texts, None where they are.
    fills_missing : bool, default=False
        Whether a cell that is missing or cannot be read is no error.
    """

    kinds: dict[Any, str]
    columns: dict[Any, list[Any]]
    cells: np.ndarray
    fills_missing: bool

    def __init__(
        self,
        kinds: Mapping[Any, str],
        columns: dict[Any, list[Any]],
        cells: np.ndarray,
        fills_missing: bool = False,
    ):
        self.kinds, self.columns = dict(kinds), columns
        self.cells, self.fills_missing = cells, fills_missing

    def __len__(self) -> int:
        return len(self.cells)

    def __getitem__(self, place: Any) -> TableSamples:
        """Return the row at a position, as a table of one, or those of a slice."""
        rows = range(len(self))[place]
        return self.of_rows([rows] if isinstance(rows, int) else rows)

    def of_rows(self, rows: Any) -> TableSamples:
        """Return some of the rows."""
        columns = {name: list(take(samples, rows)) for name, samples in self.columns.items()}
        cells = self.cells[np.asarray(rows, int)]
        return TableSamples(self.kinds, columns, cells, self.fills_missing)

    @classmethod
    def joined(cls, tables: Sequence[TableSamples]) -> TableSamples:
        """Return the rows of several tables with the same columns as one."""
        first = tables[0]
        columns = {name: [x for t in tables for x in t.columns[name]] for name in first.columns}
        cells = np.concatenate([table.cells for table in tables])
        return cls(first.kinds, columns, cells, any(table.fills_missing for table in tables))

    def present(self, column: Any) -> list[Any]:
        """Return the samples of a column that are there."""
        return [sample for sample in self.columns[column] if sample is not None]


def describe_columns(columns: Mapping[Any, Any], read: Mapping[Any, Modality]) -> dict[Any, str]:
    """Return the kind of each column of a table: the name of a modality, "number" or "category".

    ``columns`` are those of :func:`table_columns`, and ``read`` those that networks read. A
    ``ValueError`` if the table does not have one that is to be read, or if a column is neither.
    Warns if most cells of a column of categories are different.
    """
    for name in read:
        if name not in columns:
            close = difflib.get_close_matches(str(name), map(str, columns), 1)
            hint = f" Is {close[0]!r} meant?" if close else ""
            raise ValueError(
                f"backbone names the column {name!r}, and X has {_names(columns)}.{hint}"
            )
    kinds = {
        name: read[name].name if name in read else _kind_of(name, column, columns)
        for name, column in columns.items()
    }
    for name in [name for name, kind in kinds.items() if kind == CATEGORY]:
        cells = _categories(name, columns[name])
        n_different = len(set(cells))
        if n_different > max(_MANY, len(cells) / 2):
            warnings.warn(
                f"Column {name!r} has {n_different} different texts in {len(cells)} rows, and is "
                "used as one of categories. Leave it out, or let a network read it: "
                f"{network_line(columns)}.",
                stacklevel=2,
            )
    return kinds


def read_columns(columns: Mapping[Any, Any], modality: Modality, backbone: Any) -> list[Any]:
    """List the columns of a table that one network reads: all but numbers and categories.

    If a column is of another modality, a ``ValueError`` shows the line to write, with the backbone
    as the user gave it.
    """
    others = {n: c for n, c in columns.items() if not (_is_numeric(c) or _is_categorical(c))}
    wrong = {n: c for n, c in others.items() if not modality.looks_like(some_cells(c))}
    for name, column in wrong.items():
        _refuse_times(name, _first_cell(column))
    if wrong or not others:
        what = (
            f"column {next(iter(wrong))!r} has" if wrong else f"the columns {_names(columns)} have"
        )
        raise ValueError(
            f"backbone={backbone!r:.80} reads {modality.noun}, and {what} no {modality.noun}. Give "
            "the network of each column that one is to read; the others are numbers and "
            f"categories: {network_line(columns)}.{_category_hint(wrong)}"
        )
    return list(others)


def _category_hint(wrong: Mapping[Any, Any]) -> str:
    """Return the line of pandas that makes categories of columns, if all have few values."""
    for column in wrong.values():
        cells = [cell for cell in _all_cells(column) if not _is_missing(cell)]
        is_text = all(isinstance(cell, str) for cell in cells)
        is_few = is_text and len(set(cells)) <= min(_MANY, len(cells) / 2)
        if not is_few or not hasattr(column, "iloc"):
            return ""
    lines = [f"X[{name!r}] = X[{name!r}].astype('category')" for name in list(wrong)[:_SHOWN]]
    return f" Or, for categories: {'; '.join(lines)}." if lines else ""


def network_line(columns: Mapping[Any, Any]) -> str:
    """Return the argument that names a network for each column that seems to need one."""
    networks = {}
    for name, column in columns.items():
        cells = [] if _is_numeric(column) or _is_categorical(column) else some_cells(column)
        texts = [cell for cell in cells if isinstance(cell, str) and len(cell.split()) > 1]
        for kind in ("image", "text") if cells else ():
            modality = get_modality(kind)
            is_likely = kind != "text" or 2 * len(texts) > len(cells)
            if is_likely and modality.looks_like(cells):
                networks[name] = modality.usual_backbone
                break
    return f"backbone={networks or {'column': 'network'}!r}"


def check_columns(X: Any, kinds: Mapping[Any, str], fills_missing: bool = False) -> TableSamples:
    """Check a table, and return its samples.

    Columns with names may be in any order, and others are ignored. What is checked already is
    returned unchanged. ``kinds`` are those of :func:`describe_columns`. Cells of columns that
    networks read may be missing if ``fills_missing``. A ``ValueError`` if columns are missing, or
    numbers are none; an ``UnreadableSamplesError`` if cells are no samples.
    """
    if isinstance(X, TableSamples):
        return X
    columns = table_columns(X)
    if not columns and np.shape(getattr(X, "columns", 0)) != (0,):
        rows = isinstance(X, list | tuple) and X and isinstance(X[0], Mapping)
        hint = "X = pandas.DataFrame(X)" if rows else "X = pandas.DataFrame(X, columns=[…])"
        if hasattr(X, "iloc") and set(kinds) <= set(X.index):  # a row of a table
            hint = "X = X.to_frame().T"
        raise ValueError(
            f"X is no table, but {type(X).__name__}: fit had the columns {_names(kinds)}. Give one "
            f"with these: {hint}."
        )
    check_names(columns, kinds)
    read: dict[Any, list[Any]] = {}
    cells: list[Any] = []
    for name, kind in kinds.items():
        if kind == NUMBER:
            cells.append(_numbers(name, columns[name]))
        elif kind == CATEGORY:
            cells.append(_categories(name, columns[name]))
        else:
            read[name] = _samples_of(name, columns[name], get_modality(kind), fills_missing)
    n = len(next(iter(read.values()))) if read else len(cells[0])
    if not n:
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    table = np.empty((n, len(cells)), object)
    for j, values in enumerate(cells):
        table[:, j] = values
    return TableSamples(kinds, read, table, fills_missing)


def check_names(columns: Iterable[Any], kinds: Mapping[Any, str]) -> None:
    """Check that a table has the columns that it had in fit."""
    columns = list(columns)
    missing = [name for name in kinds if name not in columns]
    if missing:
        present = _names(columns) if columns else "none"
        raise ValueError(
            f"X lacks columns that it had in fit: {_names(missing)}. It has {present}."
        )


def _samples_of(name: Any, column: Any, modality: Modality, fills_missing: bool) -> list[Any]:
    """Check the samples of a column; missing cells are None."""
    given, rows, n = without_missing(column)
    what = f"column {name!r}"
    if rows is not None and not fills_missing:
        missing = np.setdiff1d(np.arange(n), rows)
        cause = MissingSampleError(modality.noun)
        raise UnreadableSamplesError([(int(i), None, cause) for i in missing], what)
    if rows is not None and not len(rows):
        return [None] * int(n)
    try:
        samples = list(modality.check(given))
    except UnreadableSamplesError as error:
        raise error.among(np.arange(len(given)) if rows is None else rows, what) from None
    except (ValueError, TypeError) as error:
        raise ValueError(f"{what}: {error}") from error
    if rows is None:
        return samples
    every: list[Any] = [None] * int(n)
    for i, sample in zip(rows, samples, strict=True):
        every[i] = sample
    return every


# -- rows, to be shown and explained ---------------------------------------------------------------

_SHORT = 60  # characters of a cell


class RowsModality(Modality):
    """Rows of a table, each a :class:`TableSamples` of one row, to be shown and explained.

    No network reads a row as a whole: the modality is not registered, and an estimator checks the
    samples by :func:`check_columns`.
    """

    name = "table"
    noun = "rows"

    def preview(self, sample: TableSamples, side: int = 160) -> Any:
        """Return the first image of a row, if there is one, and the other cells as a text."""
        described = _lines(sample)
        for name, (cell,) in sample.columns.items():
            if get_modality(sample.kinds[name]).takes_files and cell is not None:
                text = "\n".join(line for column, line in described.items() if column != name)
                return get_modality(sample.kinds[name]).preview(cell, side), text
        return "\n".join(described.values())

    def parts(self, sample: TableSamples) -> RowParts:
        return RowParts(sample)


class RowParts(Parts):
    """The columns of a row. One that is left out is missing.

    Parameters
    ----------
    row : TableSamples
        Of one row.
    """

    shown: Any
    spans: list[tuple[int, int]] | None
    shape: tuple[int, ...]

    def __init__(self, row: TableSamples):
        self.row = row
        lines = list(_lines(row).values())
        ends = np.cumsum([len(line) + 1 for line in lines]).tolist()  # each with its line break
        self.shown = "\n".join(lines)
        self.spans = [(end - 1 - len(line), end - 1) for end, line in zip(ends, lines, strict=True)]
        self.shape = (len(lines),)

    def keep(self, kept: np.ndarray) -> TableSamples:
        is_kept = dict(zip(self.row.kinds, kept, strict=True))
        columns = {
            name: samples if is_kept[name] else [None] for name, samples in self.row.columns.items()
        }
        cells = self.row.cells.copy()
        for j, name in enumerate(_unread(self.row.kinds)):
            if not is_kept[name]:
                cells[0, j] = np.nan if self.row.kinds[name] == NUMBER else None
        return TableSamples(self.row.kinds, columns, cells, fills_missing=True)


def _unread(kinds: Mapping[Any, str]) -> list[Any]:
    """List the columns that no network reads, in the order of the cells."""
    return [name for name, kind in kinds.items() if kind in (NUMBER, CATEGORY)]


def _lines(row: TableSamples) -> dict[Any, str]:
    """Return a line for each column of a row: its name and its cell, shortened."""
    cells = {name: cell for name, (cell,) in row.columns.items()}
    cells |= zip(_unread(row.kinds), row.cells[0], strict=True)
    return {name: f"{name}: {_shown(cells[name], kind)}" for name, kind in row.kinds.items()}


def _shown(cell: Any, kind: str) -> str:
    """Return a cell as a short text: of an image, the name of its file or its type and size."""
    if _is_missing(cell):
        return "missing"
    if kind == NUMBER:
        return f"{cell:.6g}"
    if kind != CATEGORY and get_modality(kind).takes_files:
        is_name = isinstance(cell, str | os.PathLike)
        return shorten(Path(cell).name, _SHORT) if is_name else short_name(cell)
    return shorten(" ".join(str(cell).split()), _SHORT)


ROWS = RowsModality()


# -- numbers and categories ------------------------------------------------------------------------


def _kind_of(name: Any, column: Any, columns: Mapping[Any, Any]) -> str:
    """Tell whether the cells of a column are numbers or categories, and refuse others."""
    first = _first_cell(column)
    _refuse_times(name, first)
    if _is_categorical(column):
        return CATEGORY
    if isinstance(first, complex | np.complexfloating):
        raise ValueError(
            f"Column {name!r} has complex numbers: give real ones, such as X[{name!r}].abs()."
        )
    if _is_numeric(column):
        return NUMBER
    if not isinstance(first, str | Number | np.bool_ | type(None)):
        raise ValueError(
            f"Column {name!r} has {type(first).__name__} objects, which are neither numbers nor "
            f"categories. Give the networks of the columns: {network_line(columns)}."
        )
    return CATEGORY


def _refuse_times(name: Any, first: Any) -> None:
    """Refuse dates and durations, by the first cell of a column."""
    if isinstance(first, np.timedelta64 | datetime.timedelta):
        raise ValueError(
            f"Column {name!r} has durations: give numbers, such as X[{name!r}].dt.total_seconds()."
        )
    if hasattr(first, "year") or isinstance(first, np.datetime64):
        raise ValueError(
            f"Column {name!r} has dates: give numbers, such as X[{name!r}].dt.dayofyear."
        )


def _numbers(name: Any, column: Any) -> np.ndarray:
    cells = [np.nan if _is_missing(cell) else cell for cell in _all_cells(column)]
    for i, cell in enumerate(cells):
        if number_error(cell):
            raise ValueError(
                f"Column {name!r} has numbers in fit, and {_cell_of(cells, i)}: give a finite "
                "number, or a missing value."
            )
    return np.array([float(cell) for cell in cells], np.float64)


def number_error(cell: Any) -> str | None:
    """Say what is wrong with a cell of a column of numbers; None if it is finite or missing."""
    if _is_missing(cell):
        return None
    if not isinstance(cell, Number | np.bool_) or isinstance(cell, _NO_NUMBERS):
        return f"{reprlib.repr(cell)} is no number"
    try:
        is_finite = not np.isinf(float(cell))  # type: ignore[arg-type]  # not all have it
    except (OverflowError, TypeError, ValueError):  # 10**400, Decimal("sNaN")
        is_finite = False
    return None if is_finite else f"{shorten(str(cell), _SHORT)} is no finite number"


def _categories(name: Any, column: Any) -> list[str | None]:
    """Return categories as texts: the same ones, whether they were read as 1, 1.0 or "1"."""
    cells = _all_cells(column)
    for i, cell in enumerate(cells):
        if not isinstance(cell, Hashable):  # a list or a dictionary
            raise ValueError(
                f"Column {name!r} has categories in fit, and {_cell_of(cells, i)}: give a text, a "
                "number, or a missing value."
            )

    spelled = {str(cell).lower(): str(cell) for cell in cells if isinstance(cell, str)}

    def text(cell: Any) -> str | None:
        if _is_missing(cell):
            return None
        if isinstance(cell, bool | np.bool_):  # beside texts, it is the one that means it
            return spelled.get(str(cell).lower(), str(cell))
        is_whole = isinstance(cell, float) and cell.is_integer()
        return str(int(cell) if is_whole else cell)

    return [text(cell) for cell in cells]


def _cell_of(cells: Sequence[Any], i: int) -> str:
    """Return a cell, with its row if there are several."""
    shown = reprlib.repr(cells[i])
    return f"{shown} in row {i}" if len(cells) > 1 else shown


# -- columns ---------------------------------------------------------------------------------------


def table_columns(X: Any) -> dict[Any, Any]:
    """Return the columns of a table by name, or by position where it has no names.

    A table is a data frame of pandas or polars, a table of pyarrow or an array of objects or
    strings; everything else has no columns.
    """
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


def split_columns(X: Any, image_shape: tuple[int, ...] | None = None) -> dict[str | int, Any]:
    """Take a table of samples apart into its columns, by name or position.

    There is one, with the key 0, for everything else: a list, an array of numbers, a table of
    numbers, or one whose rows are flattened images (``image_shape``).
    """
    columns = {} if image_shape is not None else table_columns(X)
    if len(columns) < 2 or any(map(_is_numeric, columns.values())):
        return {0: X}
    return columns


def without_missing(X: Any) -> tuple[Any, ...]:
    """Leave out the missing cells of a column, or of another collection of samples.

    Returns the others in a list, their positions, and the length of the column. Without missing
    cells, the column unchanged, None and None.
    """
    cells = _cells(X)
    rows = [i for i, cell in enumerate(cells) if not _is_missing(cell)]
    if len(rows) == len(cells):
        return X, None, None
    return [cells[i] for i in rows], np.array(rows, int), len(cells)


def _is_missing(cell) -> bool:
    """Tell whether a cell is None, NaN, NaT, or NA or NaT of pandas."""
    if cell is None or type(cell).__name__ in ("NAType", "NaTType"):
        return True
    return isinstance(cell, _WITH_NAN) and bool(cell != cell)


def _is_numeric(column: Any) -> bool:
    """Tell whether the first cell that is there is a number, and no boolean beside texts."""
    first = _first_cell(column)
    if isinstance(first, bool | np.bool_):
        return not any(isinstance(cell, str) for cell in _all_cells(column))
    return isinstance(first, Number)


def _is_categorical(column: Any) -> bool:
    """Tell whether a column has the type of pandas, polars or pyarrow for categories."""
    kind = str(getattr(column, "dtype", getattr(column, "type", "")))
    return re.split("[(<]", kind)[0] in ("category", "Categorical", "Enum", "dictionary")


def _first_cell(column: Any) -> Any:
    """Return the first cell that is there, or None."""
    return next(iter(some_cells(column)), None)


def some_cells(column: Any) -> list[Any]:
    """Return the first cells of a column that are there, 20 at most."""
    for part in (column[:50], column):  # mostly the first rows suffice
        present = [cell for cell in _all_cells(part) if not _is_missing(cell)]
        if present:
            return present[:_LOOKED_AT]
    return []


def _all_cells(column: Any) -> list[Any]:
    cells = unwrap_column(column)
    is_plain = isinstance(cells, np.ndarray) and cells.ndim == 1 and cells.dtype.kind not in "mM"
    return cells.tolist() if is_plain else list(cells)


def _cells(X) -> list:
    """Return the cells of a column that may have missing ones, else an empty list."""
    cells = unwrap_column(X) if hasattr(X, "to_numpy") or hasattr(X, "to_pylist") else X
    if isinstance(cells, np.ndarray) and cells.dtype == object:
        is_column = cells.ndim == 2 and cells.shape[1] == 1
        return list(cells[:, 0] if is_column else cells)
    return list(cells) if isinstance(cells, list | tuple) else []


def _names(columns: Any) -> str:
    names = list(columns)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{names[:_SHOWN]}{more}"
