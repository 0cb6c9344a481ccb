"""Find the rows of a source: a table, a folder, archives, a list or an iterator."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ...data import LEADING_ZERO, unwrap_column
from .archives import tar_pieces, zip_pieces
from .arrow import arrow
from .folder import Folder, as_url, below, open_location
from .parts import PartName
from .pieces import FilesPiece, ParquetPiece, Piece, Reading, SamplesPiece, TablePiece

__all__ = ["Source", "open_source"]

_AT_ONCE = 4096  # rows of a table, or names of files, that are read at a time
_BLOCK = 2**24  # bytes of a CSV file
_USUAL = ["image", "file_name", "filename", "file", "path", "image_path", "filepath", "img", "url"]
_USUAL += ["text", "sentence"]
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_IGNORED = {"thumbs.db", "desktop.ini"}  # written by operating systems


@dataclasses.dataclass
class Source:
    """The rows of a source, in pieces.

    Parameters
    ----------
    pieces : iterator of Piece
    reading : Reading
    n_rows : int or None
        None where it is not known before they are read.
    is_stream : bool, default=False
        Whether the rows come from an iterator, so that those that wait stay in memory.
    """

    pieces: Iterator[Piece]
    reading: Reading
    n_rows: int | None = None
    is_stream: bool = False

    def first(self, n: int) -> list[Any]:
        """Return the first samples, which stay in the source."""
        samples: list = []
        seen: list[Piece] = []
        while len(samples) < n and (piece := next(self.pieces, None)) is not None:
            seen.append(piece)
            for some, _ in piece.part(0, min(n, len(piece))).chunks(n, self.reading):
                samples += some
        self.pieces = itertools.chain(seen, self.pieces)
        return samples[:n]


def open_source(source: Any, reading: Reading, target: Folder) -> Source:
    """Find out what a source is, and return its rows.

    Parameters
    ----------
    source : str, path-like, table, sequence or iterator
        See :func:`sktransfer.extract_to`.
    reading : Reading
    target : Folder
        Where features are written. Its files are no rows, also if it is inside the source.

    Returns
    -------
    Source

    Raises
    ------
    ValueError, TypeError, FileNotFoundError
        If it is not one of these, or a column does not exist.
    """
    if isinstance(source, str | os.PathLike):
        return _open_locations(os.fspath(source), reading, target)
    if _is_table(source):
        return _of_tables(iter([source]), len(source), reading)
    source = unwrap_column(source)
    if isinstance(source, Sequence | np.ndarray):
        if isinstance(source, list) and source and all(map(_is_url_of_table, source)):
            return _open_each([as_url(one) for one in source], reading, target)
        return Source(iter([SamplesPiece(source)]), _without_columns(reading), len(source))
    if isinstance(source, Iterable):
        return _open_iterator(iter(source), reading)
    raise TypeError(
        f"source={source!r}: give a Parquet or CSV file, a folder, a zip or tar archive, a table, "
        "a list of samples, or an iterator of lists."
    )


# -- files -----------------------------------------------------------------------------------------


def _open_locations(location: str, reading: Reading, target: Folder) -> Source:
    """Open one file or folder, or those that a pattern stands for."""
    urls = [as_url(name) for name in _expand(location)]
    if len(urls) == 1 and any(mark in urls[0] for mark in "*?"):
        system, path = open_location(urls[0])
        urls = [system.unstrip_protocol(name) for name in sorted(system.glob(path))]
        urls = [url for url in urls if not _is_written(url, target)]
    if not urls:
        raise FileNotFoundError(f"source={location!r}: no file has such a name.")
    return _open_each(urls, reading, target)


def _is_written(url: str, target: Folder) -> bool:
    """Tell whether a file is one of those that are written to the target."""
    name = below(target.url, url)
    return name is not None and PartName.parse(name) is not None


def _expand(location: str) -> list[str]:
    """Expand "{0000..0127}" into numbers, as shells do."""
    match = _BRACES.search(location)
    if match is None:
        return [location]
    first, last = match.groups()
    numbers = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    before, after = location[: match.start()], location[match.end() :]
    return [name for number in numbers for name in _expand(f"{before}{number}{after}")]


def _open_each(urls: list[str], reading: Reading, target: Folder) -> Source:
    opened: list[Source] = []
    for url in urls:
        opened.append(_open_location(url, reading, target))
    counts = [source.n_rows for source in opened]
    total = None if None in counts else sum(counts)  # type: ignore[arg-type]
    pieces = itertools.chain.from_iterable(source.pieces for source in opened)
    return Source(pieces, opened[0].reading, total)


def _open_location(url: str, reading: Reading, target: Folder) -> Source:
    system, path = open_location(url)
    if system.isdir(path):
        inside = below(url, target.url)
        if inside == "":
            raise ValueError(
                f"target={target.url!r} is the source: its files would be read as samples. Give "
                "another folder."
            )
        tables = sorted(name for name in system.ls(path, detail=False) if _is_parquet(name))
        if tables:
            return _open_each([system.unstrip_protocol(name) for name in tables], reading, target)
        pieces = _file_pieces(url.rstrip("/"), inside)
        return Source(pieces, _without_columns(reading))
    if not system.exists(path):
        raise FileNotFoundError(f"source={url!r} does not exist.")
    suffix = path.rpartition(".")[2].lower()
    if suffix not in _FORMATS:
        raise ValueError(f"source={url!r}: a file must be one of {sorted(_FORMATS)}, or a folder.")
    return _FORMATS[suffix](url, reading)


def _is_parquet(name: str) -> bool:
    return name.lower().endswith((".parquet", ".pq"))


def _is_url_of_table(item) -> bool:
    text = os.fspath(item) if isinstance(item, str | os.PathLike) else ""
    return text.lower().endswith((".parquet", ".pq", ".tar", ".csv"))


def _open_parquet(url: str, reading: Reading) -> Source:
    system, path = open_location(url)
    with system.open(path, "rb") as file:
        found = arrow().parquet.ParquetFile(file)
        schema, n_rows = found.schema_arrow, found.metadata.num_rows
    reading = _with_column(reading, schema.names)
    light = all(_is_light(schema.field(name).type) for name in reading.columns)
    if light:
        return Source(_light_pieces(url, reading), reading, n_rows)
    piece = ParquetPiece(url, 0, n_rows, _parent(url), _identity(url))
    return Source(iter([piece]), reading, n_rows)


def _is_light(kind) -> bool:
    """Tell whether the values of a column are small, so that the client can digest them."""
    types = arrow().types
    heavy = types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    return not (heavy or types.is_fixed_size_binary(kind))


def _light_pieces(url: str, reading: Reading) -> Iterator[TablePiece]:
    system, path = open_location(url)
    position = 0
    with system.open(path, "rb") as file:
        opened = arrow().parquet.ParquetFile(file)
        for batch in opened.iter_batches(_AT_ONCE, columns=reading.columns):
            table = arrow().Table.from_batches([batch])
            yield TablePiece(table, _parent(url), (url, position))
            position += batch.num_rows


def _open_csv(url: str, reading: Reading) -> Source:
    system, path = open_location(url)
    with system.open(path, "rb") as file:
        if not file.read(1):
            raise ValueError(f"source={url!r} is empty.")
    with _csv_batches(url) as batches:
        reading = _with_column(reading, batches.schema.names)
    return Source(_csv_pieces(url, reading), reading)


def _csv_pieces(url: str, reading: Reading) -> Iterator[TablePiece]:
    types = _csv_types(url, reading)
    with _csv_batches(url, include_columns=reading.columns, column_types=types) as batches:
        for batch in batches:
            yield TablePiece(arrow().Table.from_batches([batch]), _parent(url))


def _csv_types(url: str, reading: Reading) -> dict[str, Any]:
    """Return the type of the columns that are text, since a number in them begins with a zero."""
    text = arrow().string()
    types = dict.fromkeys(reading.columns, text)
    found = set()
    with _csv_batches(url, include_columns=[*types], column_types=types) as batches:
        for batch in batches:
            for name in types.keys() - found:
                matches = arrow().compute.match_substring_regex(batch[name], LEADING_ZERO)
                if arrow().compute.any(matches).as_py():
                    found.add(name)
    return dict.fromkeys(found, text)


@contextlib.contextmanager
def _csv_batches(url: str, **settings) -> Iterator[Any]:
    csv = arrow().csv
    system, path = open_location(url)
    with (
        system.open(path, "rb") as file,
        csv.open_csv(
            file,
            csv.ReadOptions(block_size=_BLOCK, use_threads=False),
            csv.ParseOptions(
                delimiter="\t" if path.lower().endswith(".tsv") else ",", newlines_in_values=True
            ),
            csv.ConvertOptions(**settings),
        ) as batches,
    ):
        yield batches


def _file_pieces(root: str, left_out: str | None) -> Iterator[FilesPiece]:
    system, top = open_location(root)
    found = _walk(system, top.rstrip("/"), "", left_out)
    while some := list(itertools.islice(found, _AT_ONCE)):
        names, stamps = zip(*some, strict=True)
        yield FilesPiece(root, names, stamps)


def _walk(system, top: str, folder: str, left_out: str | None) -> Iterator[tuple[str, str]]:
    """Yield names and stamps of files, those of one folder sorted by name; leave a folder out."""
    for entry in sorted(system.ls(f"{top}/{folder}".rstrip("/"), detail=True), key=_name_of):
        last = _name_of(entry)
        if last.startswith(".") or last.lower() in _IGNORED:
            continue
        name = f"{folder}{last}"
        if entry["type"] == "directory":
            if name != left_out:
                yield from _walk(system, top, f"{name}/", left_out)
        else:
            yield name, _stamp_of(entry)


def _name_of(entry: dict) -> str:
    return entry["name"].rstrip("/").rpartition("/")[2]


def _stamp_of(entry: dict) -> str:
    """Return the size and the time of a file, or the tag that a storage gives to its content."""
    known = (entry.get(name) for name in ("ETag", "etag", "md5Hash", "mtime", "LastModified"))
    return f"{entry['size']} {next((value for value in known if value is not None), '')}"


def _identity(url: str) -> str:
    system, path = open_location(url)
    return _stamp_of(system.info(path))


def _open_zip(url: str, reading: Reading) -> Source:
    return Source(zip_pieces(url), _without_columns(reading))


def _open_tar(url: str, reading: Reading) -> Source:
    return Source(tar_pieces(url, _identity(url), reading), reading)


_FORMATS: dict[str, Callable[[str, Reading], Source]] = {
    **dict.fromkeys(["parquet", "pq"], _open_parquet),
    **dict.fromkeys(["csv", "tsv"], _open_csv),
    "zip": _open_zip,
    "tar": _open_tar,
}


def _parent(url: str) -> str:
    return url.rpartition("/")[0]


# -- objects ---------------------------------------------------------------------------------------


def _is_table(source) -> bool:
    return hasattr(source, "columns") and hasattr(source, "__len__")


def _as_arrow(table):
    """Convert a table of pandas, polars or pyarrow."""
    if hasattr(table, "schema") and hasattr(table, "num_rows"):
        return arrow().Table.from_batches([table]) if hasattr(table, "serialize") else table
    if hasattr(table, "to_arrow"):
        return table.to_arrow()
    return arrow().Table.from_pandas(table, preserve_index=False)


def _of_tables(tables: Iterator, n_rows: int | None, reading: Reading) -> Source:
    first = _as_arrow(next(tables))
    reading = _with_column(reading, first.column_names)
    base, schema = os.getcwd(), first.select(reading.columns).schema

    def pieces() -> Iterator[Piece]:
        for table in itertools.chain([first], map(_as_arrow, tables)):
            yield TablePiece(table.select(reading.columns).cast(schema), base)

    return Source(pieces(), reading, n_rows)


def _open_iterator(lists: Iterator, reading: Reading) -> Source:
    first: Sequence = next(lists, [])
    together = itertools.chain([first], lists)
    if _is_table(first):
        return dataclasses.replace(_of_tables(together, None, reading), is_stream=True)
    pieces = (SamplesPiece(unwrap_column(some)) for some in together)
    return Source(pieces, _without_columns(reading), is_stream=True)


def _without_columns(reading: Reading) -> Reading:
    if reading.column is not None:
        raise ValueError(f"column={reading.column!r}: this source has no columns; leave it out.")
    return reading


def _with_column(reading: Reading, names: Sequence[str]) -> Reading:
    """Find the column of samples, and check the names of the others."""
    column = reading.column
    if column is None:
        column = next((name for name in _USUAL if name in names), None)
    if column is None:
        raise ValueError(f"column=None: which of the columns {list(names)[:20]} are the samples?")
    missing = [name for name in (column, *reading.keep) if name not in names]
    if missing:
        raise ValueError(
            f"column and keep: {missing} are not among the columns {list(names)[:20]}."
        )
    return dataclasses.replace(reading, column=column)
