"""Find the rows of a source: a table, a folder, archives, a list or an iterator."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ...data import BY_SYSTEMS, IMAGE_COLUMNS, LEADING_ZERO, unwrap_column
from .folder import Folder, PartitionName, arrow, as_url, below, open_location
from .plan import (
    FileRows,
    ParquetRows,
    Reading,
    Rows,
    SampleRows,
    TableRows,
    TarMember,
    TarRows,
    ZipRows,
)

_AT_ONCE = 4096  # rows of a table, names of files, or members of an archive in one run
_BLOCK = 2**24  # bytes of a CSV file
_USUAL = (*IMAGE_COLUMNS, "text", "sentence")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")


@dataclasses.dataclass
class RowSource:
    """The rows of a source, in runs.

    Parameters
    ----------
    n_rows : int or None
        None where it is not known before they are read.
    is_stream : bool, default=False
        Whether the rows come from an iterator, so that those that wait stay in memory.
    """

    rows: Iterator[Rows]
    reading: Reading
    n_rows: int | None = None
    is_stream: bool = False

    def first(self, n: int) -> list[Any]:
        """Return the first samples, which stay in the source."""
        samples: list = []
        seen: list[Rows] = []
        while len(samples) < n and (rows := next(self.rows, None)) is not None:
            seen.append(rows)
            for some, _ in rows.slice(0, min(n, len(rows))).chunks(n, self.reading):
                samples += some
        self.rows = itertools.chain(seen, self.rows)
        return samples[:n]


def open_source(source: Any, reading: Reading, target: Folder) -> RowSource:
    """Find out what a source is (see :func:`sktransfer.extract_to`), and return its rows.

    Features are written to the target, whose files are no rows, also if it is inside the source.
    """
    if isinstance(source, str | os.PathLike):
        return _open_locations(os.fspath(source), reading, target)
    if _is_table(source):
        return _of_tables(iter([source]), len(source), reading)
    source = unwrap_column(source)
    if isinstance(source, Sequence | np.ndarray):
        if isinstance(source, list) and source and all(map(_is_url_of_table, source)):
            return _open_each([as_url(location) for location in source], reading, target)
        return RowSource(iter([SampleRows(source)]), _without_columns(reading), len(source))
    if isinstance(source, Iterable):
        return _open_iterator(iter(source), reading)
    raise TypeError(
        f"source={source!r}: give a Parquet or CSV file, a folder, a zip or tar archive, a table, "
        "a list of samples, or an iterator of lists."
    )


# -- files -----------------------------------------------------------------------------------------


def _open_locations(location: str, reading: Reading, target: Folder) -> RowSource:
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
    return name is not None and PartitionName.parse(name) is not None


def _expand(location: str) -> list[str]:
    """Expand "{0000..0127}" into numbers, as shells do."""
    match = _BRACES.search(location)
    if match is None:
        return [location]
    first, last = match.groups()
    numbers = [str(i).zfill(len(first)) for i in range(int(first), int(last) + 1)]
    before, after = location[: match.start()], location[match.end() :]
    return [name for number in numbers for name in _expand(f"{before}{number}{after}")]


def _open_each(urls: list[str], reading: Reading, target: Folder) -> RowSource:
    opened = [_open_location(url, reading, target) for url in urls]
    counts = [source.n_rows for source in opened]
    total = None if None in counts else sum(counts)  # type: ignore[arg-type]
    rows = itertools.chain.from_iterable(source.rows for source in opened)
    return RowSource(rows, opened[0].reading, total)


def _open_location(url: str, reading: Reading, target: Folder) -> RowSource:
    system, path = open_location(url)
    if system.isdir(path):
        inside = below(url, target.url)
        if inside == "":
            raise ValueError(
                f"target={target.url!r} is the source: its files would be read as samples. Give "
                "another folder."
            )
        names = system.ls(path, detail=False)
        tables = sorted(name for name in names if name.lower().endswith((".parquet", ".pq")))
        if tables:
            return _open_each([system.unstrip_protocol(name) for name in tables], reading, target)
        return RowSource(_file_rows(url.rstrip("/"), inside), _without_columns(reading))
    if not system.exists(path):
        raise FileNotFoundError(f"source={url!r} does not exist.")
    suffix = path.rpartition(".")[2].lower()
    if suffix not in _FORMATS:
        raise ValueError(f"source={url!r}: a file must be one of {sorted(_FORMATS)}, or a folder.")
    return _FORMATS[suffix](url, reading)


def _is_url_of_table(item) -> bool:
    text = os.fspath(item) if isinstance(item, str | os.PathLike) else ""
    return text.lower().endswith((".parquet", ".pq", ".tar", ".csv"))


def _open_parquet(url: str, reading: Reading) -> RowSource:
    system, path = open_location(url)
    with system.open(path, "rb") as file:
        parquet = arrow().parquet.ParquetFile(file)
        schema, n_rows = parquet.schema_arrow, parquet.metadata.num_rows
    reading = _with_column(reading, schema.names)
    if all(_is_light(schema.field(name).type) for name in reading.columns):
        return RowSource(_light_rows(url, reading), reading, n_rows)
    rows = ParquetRows(url, 0, n_rows, _parent(url), _identity(url))
    return RowSource(iter([rows]), reading, n_rows)


def _is_light(kind) -> bool:
    """Tell whether the values of a column are small, so that the client can digest them."""
    types = arrow().types
    heavy = types.is_nested(kind) or types.is_binary(kind) or types.is_large_binary(kind)
    return not (heavy or types.is_fixed_size_binary(kind))


def _light_rows(url: str, reading: Reading) -> Iterator[TableRows]:
    system, path = open_location(url)
    position = 0
    with system.open(path, "rb") as file:
        opened = arrow().parquet.ParquetFile(file)
        for batch in opened.iter_batches(_AT_ONCE, columns=reading.columns):
            table = arrow().Table.from_batches([batch])
            yield TableRows(table, _parent(url), (url, position))
            position += batch.num_rows


def _open_csv(url: str, reading: Reading) -> RowSource:
    system, path = open_location(url)
    with system.open(path, "rb") as file:
        if not file.read(1):
            raise ValueError(f"source={url!r} is empty.")
    with _csv_batches(url) as batches:
        reading = _with_column(reading, batches.schema.names)
    return RowSource(_csv_rows(url, reading), reading)


def _csv_rows(url: str, reading: Reading) -> Iterator[TableRows]:
    types = _csv_types(url, reading)
    with _csv_batches(url, include_columns=reading.columns, column_types=types) as batches:
        for batch in batches:
            yield TableRows(arrow().Table.from_batches([batch]), _parent(url))


def _csv_types(url: str, reading: Reading) -> dict[str, Any]:
    """Return the type of the columns that are text, since a number in them begins with a zero."""
    text = arrow().string()
    types = dict.fromkeys(reading.columns, text)
    texts: set[str] = set()
    with _csv_batches(url, include_columns=[*types], column_types=types) as batches:
        for batch in batches:
            for name in types.keys() - texts:
                matches = arrow().compute.match_substring_regex(batch[name], LEADING_ZERO)
                if arrow().compute.any(matches).as_py():
                    texts.add(name)
    return dict.fromkeys(texts, text)


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


def _file_rows(root: str, left_out: str | None) -> Iterator[FileRows]:
    system, top = open_location(root)
    for files in _in_runs(_walk(system, top.rstrip("/"), "", left_out)):
        names, stamps = zip(*files, strict=True)
        yield FileRows(root, names, stamps)


def _in_runs(items: Iterable) -> Iterator[tuple]:
    items = iter(items)
    while some := tuple(itertools.islice(items, _AT_ONCE)):
        yield some


def _walk(system, top: str, folder: str, left_out: str | None) -> Iterator[tuple[str, str]]:
    """Yield names and stamps of files, those of one folder sorted by name; leave a folder out."""
    for entry in sorted(system.ls(f"{top}/{folder}".rstrip("/"), detail=True), key=_name_of):
        last = _name_of(entry)
        if last.startswith(".") or last.lower() in BY_SYSTEMS:
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


def _open_zip(url: str, reading: Reading) -> RowSource:
    return RowSource(_zip_rows(url), _without_columns(reading))


def _zip_rows(url: str) -> Iterator[ZipRows]:
    """List the files of a zip archive in their order."""
    system, path = open_location(url)
    with system.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        members = [m for m in archive.infolist() if _is_sample(m.filename, m.is_dir())]
    for some in _in_runs(members):
        yield ZipRows(url, tuple(m.filename for m in some), tuple(m.CRC for m in some))


def _open_tar(url: str, reading: Reading) -> RowSource:
    return RowSource(_tar_rows(url, reading), reading)


def _tar_rows(url: str, reading: Reading) -> Iterator[TarRows]:
    """List the samples of a tar archive in their order; its headers are read, not its files."""
    identity = _identity(url)
    system, path = open_location(url)
    with system.open(path, "rb") as file:
        for members in _in_runs(_tar_members(file, url, reading)):
            yield TarRows(url, members, identity)


def _tar_members(file, url: str, reading: Reading) -> Iterator[TarMember]:
    """Make a sample of each file, or of neighbouring files that differ in their suffix only."""
    try:
        archive = tarfile.open(fileobj=file, mode="r:")
    except tarfile.ReadError as error:
        raise ValueError(f"{url!r} is no tar archive without compression: {error}") from None
    current: TarMember | None = None
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # they would be kept
        if not _is_sample(member.name, not member.isreg()):
            continue
        folder, _, last = member.name.rpartition("/")
        stem, _, suffix = last.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        place = member.offset_data, member.size
        if reading.column is None:
            yield TarMember(member.name, {"": place})
        elif current is not None and current.name == name:
            current.places[suffix.lower()] = place
        else:
            if current is not None:
                yield current
            current = TarMember(name, {suffix.lower(): place})
    if current is not None:
        yield current


def _is_sample(name: str, is_folder: bool) -> bool:
    """Tell whether a member is a file that a user put into an archive."""
    parts = name.removeprefix("./").split("/")
    is_ours = all(part[:1] != "." and part.lower() not in BY_SYSTEMS for part in parts)
    return is_ours and not is_folder


_FORMATS: dict[str, Callable[[str, Reading], RowSource]] = {
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


def _of_tables(tables: Iterator, n_rows: int | None, reading: Reading) -> RowSource:
    first = _as_arrow(next(tables))
    reading = _with_column(reading, first.column_names)
    base, schema = os.getcwd(), first.select(reading.columns).schema

    def rows() -> Iterator[Rows]:
        for table in itertools.chain([first], map(_as_arrow, tables)):
            yield TableRows(table.select(reading.columns).cast(schema), base)

    return RowSource(rows(), reading, n_rows)


def _open_iterator(lists: Iterator, reading: Reading) -> RowSource:
    first: Sequence = next(lists, [])
    together = itertools.chain([first], lists)
    if _is_table(first):
        return dataclasses.replace(_of_tables(together, None, reading), is_stream=True)
    rows = (SampleRows(unwrap_column(some)) for some in together)
    return RowSource(rows, _without_columns(reading), is_stream=True)


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
