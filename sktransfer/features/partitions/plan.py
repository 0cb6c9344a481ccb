"""Divide the rows of a source into partitions, which are read where they are computed."""

from __future__ import annotations

import dataclasses
import itertools
import os
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash

from ...data import Modality
from .folder import arrow, open_location


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is taken from the rows of a source.

    Parameters
    ----------
    column : str or None
        The column of samples.
    keep : tuple of str
        Columns that are kept beside the features.
    """

    column: str | None
    keep: tuple[str, ...]
    modality: Modality

    @property
    def columns(self) -> list[str]:
        """All columns that are read, each once."""
        return list(dict.fromkeys([self.column, *self.keep]))  # type: ignore[list-item]


@dataclasses.dataclass(frozen=True)
class Partition:
    """Neighbouring rows of a source that are computed together and written to one file.

    Parameters
    ----------
    start : int
        The position of the first row in the source.
    rows : tuple of Rows
        Where the rows are.
    digest : str
        16 hexadecimal digits that differ if a row has changed.
    sketch : tuple of str
        Digests of rows 0, 1, 2, 4, 8 and so on, so that the partition is known again if some rows
        have changed, or were added at its end.
    todo : {"compute", "verify", "again", "nothing"}, default="compute"
        "compute" does nothing if its file exists meanwhile. "verify" reads the file if it exists,
        and computes a damaged one. "again" computes in any case.
    """

    start: int
    rows: tuple[Rows, ...]
    reading: Reading
    digest: str
    sketch: tuple[str, ...] = ()
    todo: str = "compute"

    def __len__(self) -> int:
        return sum(map(len, self.rows))

    def chunks(self, n: int) -> Iterator[tuple[list[Any], Any]]:
        """Yield samples and kept columns, ``n`` rows at a time, wherever the rows are."""
        samples: list = []
        tables: list = []  # of kept columns; none if no column is kept
        for rows in self.rows:
            for more, kept in rows.chunks(n, self.reading):
                samples, tables = samples + more, tables if kept is None else [*tables, kept]
                while len(samples) >= n:
                    first, tables = _split(tables, n)
                    yield samples[:n], first
                    samples = samples[n:]
        if samples:
            yield samples, _split(tables, len(samples))[0]


def _split(tables: list, n: int) -> tuple[Any, list]:
    """Take the first rows off tables; None where no columns are kept."""
    if not tables:
        return None, tables
    joined = arrow().concat_tables(tables)
    return joined.slice(0, n), [joined.slice(n)]


def plan(source: Iterable[Rows], reading: Reading, size: int, key: str) -> Iterator[Partition]:
    """Divide the rows of a source into partitions of equal size; the last one may be smaller.

    The key of the manifest is part of their digests.
    """
    waiting: list[Rows] = []
    n_waiting = start = 0
    for rows in source:
        while len(rows):
            taken = rows.slice(0, min(size - n_waiting, len(rows)))
            waiting.append(taken)
            n_waiting += len(taken)
            rows = rows.slice(len(taken), len(rows))
            if n_waiting == size:
                yield _partition(start, waiting, reading, key)
                start, waiting, n_waiting = start + size, [], 0
    if waiting:
        yield _partition(start, waiting, reading, key)


def _partition(start: int, runs: list[Rows], reading: Reading, key: str) -> Partition:
    state = xxhash.xxh3_64(repr((key, reading.column, reading.keep)).encode())
    sketch, wanted, first = [], 0, 0
    for rows in runs:
        state.update(rows.stamp(reading))
        while wanted < first + len(rows):
            row = rows.slice(wanted - first, wanted - first + 1)
            sketch.append(xxhash.xxh32_hexdigest(row.stamp(reading)))
            wanted = max(1, 2 * wanted)
        first += len(rows)
    to_send = tuple(rows.to_send() for rows in runs)
    return Partition(start, to_send, reading, state.hexdigest(), tuple(sketch))


# -- kinds of rows ---------------------------------------------------------------------------------


class Rows:
    """A run of neighbouring rows of a source."""

    def __len__(self) -> int:
        raise NotImplementedError

    def slice(self, start: int, stop: int) -> Rows:
        """Return the rows from one position to another."""
        raise NotImplementedError

    def stamp(self, reading: Reading) -> bytes:
        """Return bytes that differ if a row has changed; they are cheap to find.

        Those of a run are those of its slices, one after the other.
        """
        raise NotImplementedError

    def to_send(self) -> Rows:
        """Return what is sent to a worker: the same rows by their place, if they have one."""
        return self

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        """Yield samples and kept columns of at most ``n`` rows at a time."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class SampleRows(Rows):
    """Samples themselves."""

    samples: Any

    def __len__(self) -> int:
        return len(self.samples)

    def slice(self, start: int, stop: int) -> SampleRows:
        return SampleRows(self.samples[start:stop])

    def stamp(self, reading: Reading) -> bytes:
        return b"".join(_stamp(sample, reading.modality) for sample in self.samples)

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        for start in range(0, len(self), n):
            yield list(self.samples[start : start + n]), None


@dataclasses.dataclass(frozen=True)
class TableRows(Rows):
    """Rows of a table in memory.

    Parameters
    ----------
    table : pyarrow.Table
    base : str
        The folder where relative names of files begin.
    origin : (str, int), default=None
        The Parquet file that holds these rows, and the position of the first.
    """

    table: Any
    base: str
    origin: tuple[str, int] | None = None

    def __len__(self) -> int:
        return self.table.num_rows

    def slice(self, start: int, stop: int) -> TableRows:
        origin = None if self.origin is None else (self.origin[0], self.origin[1] + start)
        return TableRows(self.table.slice(start, stop - start), self.base, origin)

    def stamp(self, reading: Reading) -> bytes:
        samples, kept = _samples_and_kept(self.table, self.base, reading)
        stamps = [_stamp(sample, reading.modality) for sample in samples]
        rows = [repr(row).encode() for row in kept.to_pylist()] if reading.keep else stamps
        return b"".join(itertools.chain.from_iterable(zip(stamps, rows, strict=True)))

    def to_send(self) -> Rows:
        if self.origin is None:
            return self
        url, start = self.origin
        return ParquetRows(url, start, start + len(self), self.base)

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        for start in range(0, len(self), n):
            yield _samples_and_kept(self.table.slice(start, n), self.base, reading)


@dataclasses.dataclass(frozen=True)
class ParquetRows(Rows):
    """Rows of a Parquet file, from one position to another.

    Parameters
    ----------
    base : str
        The folder where relative names of files begin.
    identity : str, default=""
        Size and time of the file.
    """

    url: str
    start: int
    stop: int
    base: str
    identity: str = ""

    def __len__(self) -> int:
        return self.stop - self.start

    def slice(self, start: int, stop: int) -> ParquetRows:
        return dataclasses.replace(self, start=self.start + start, stop=self.start + stop)

    def stamp(self, reading: Reading) -> bytes:
        return repr((self.identity, self.start, self.stop, reading.columns)).encode()

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        system, path = open_location(self.url)
        with system.open(path, "rb") as file:
            parquet = arrow().parquet.ParquetFile(file)
            n_groups = parquet.metadata.num_row_groups
            sizes = [parquet.metadata.row_group(i).num_rows for i in range(n_groups)]
            ends = np.cumsum([0, *sizes]).tolist()
            bounds = enumerate(itertools.pairwise(ends))
            groups = [i for i, (a, b) in bounds if a < self.stop and b > self.start]
            if not groups:
                return
            position = ends[groups[0]]
            for batch in parquet.iter_batches(n, row_groups=groups, columns=reading.columns):
                first = max(0, self.start - position)
                last = min(batch.num_rows, self.stop - position)
                position += batch.num_rows
                if first < last:
                    table = arrow().Table.from_batches([batch.slice(first, last - first)])
                    yield _samples_and_kept(table, self.base, reading)


@dataclasses.dataclass(frozen=True)
class NamedRows(Rows):
    """Files that have names in one place.

    Parameters
    ----------
    place : str
        A folder or an archive.
    stamps : tuple of str or int
        What differs if the file of a name has changed.
    """

    place: str
    names: tuple[str, ...]
    stamps: tuple[str | int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def slice(self, start: int, stop: int) -> NamedRows:
        return type(self)(self.place, self.names[start:stop], self.stamps[start:stop])

    def stamp(self, reading: Reading) -> bytes:
        return "".join(map(repr, zip(self.names, self.stamps, strict=True))).encode()

    def to_send(self) -> NamedRows:
        return dataclasses.replace(self, stamps=())


class FileRows(NamedRows):
    """Files of a folder; their stamps are size and time."""

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        for start in range(0, len(self), n):
            names = self.names[start : start + n]
            samples: list = [f"{self.place}/{name}" for name in names]
            if not reading.modality.takes_files:
                system, _ = open_location(self.place)
                samples = [_as_sample(system.cat_file(path), path, reading) for path in samples]
            yield samples, _names_and_folders(names, reading.keep)


class ZipRows(NamedRows):
    """Members of a zip archive; their stamps are the CRCs that it contains."""

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        system, path = open_location(self.place)
        with system.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            for start in range(0, len(self), n):
                names = self.names[start : start + n]
                samples = [_as_sample(archive.read(name), name, reading) for name in names]
                yield samples, _names_and_folders(names, reading.keep)


class TarMember(NamedTuple):
    """A sample of a tar archive: the name that its files share, and the place of each."""

    name: str
    places: dict[str, tuple[int, int]]  # suffix: offset and size

    def read(self, file: Any, suffix: str) -> bytes | None:
        """Return the content of one of the files; None if there is no such file."""
        if suffix not in self.places:
            return None
        offset, size = self.places[suffix]
        file.seek(offset)
        return file.read(size)

    def read_text(self, file: Any, suffix: str) -> str | None:
        """Return a file as a text; "__key__" is the name that the files share."""
        content = self.name.encode() if suffix == "__key__" else self.read(file, suffix)
        return None if content is None else content.decode("utf-8", "replace")


@dataclasses.dataclass(frozen=True)
class TarRows(Rows):
    """Samples of a tar archive, each a file or several files with one name.

    Parameters
    ----------
    identity : str, default=""
        Size and time of the archive.
    """

    url: str
    members: tuple[TarMember, ...]
    identity: str = ""

    def __len__(self) -> int:
        return len(self.members)

    def slice(self, start: int, stop: int) -> TarRows:
        return dataclasses.replace(self, members=self.members[start:stop])

    def stamp(self, reading: Reading) -> bytes:
        return "".join(repr((self.identity, member)) for member in self.members).encode()

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        system, path = open_location(self.url)
        column = reading.column
        with system.open(path, "rb") as file:
            for start in range(0, len(self), n):
                members = self.members[start : start + n]
                samples = []
                for member in members:
                    name = member.name if column is None else f"{member.name}.{column}"
                    content = member.read(file, column or "")
                    samples.append(None if content is None else _as_sample(content, name, reading))
                if column is None:
                    kept = _names_and_folders([member.name for member in members], reading.keep)
                else:
                    texts = {k: [one.read_text(file, k) for one in members] for k in reading.keep}
                    kept = arrow().table(texts)
                yield samples, kept


def _as_sample(content: bytes, name: str, reading: Reading) -> Any:
    """Make a sample of the content of a file: as it is, or a text."""
    if reading.modality.takes_files:
        return {"bytes": content, "path": name}
    return content.decode("utf-8", "surrogateescape")


def _names_and_folders(names: Sequence[str], keep: tuple[str, ...]) -> Any:
    """Return the columns that are known of a file: "path", and the name of its folder, "folder"."""
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    known = {"path": list(names), "folder": folders}
    missing = [name for name in keep if name not in known]
    if missing:
        raise ValueError(f"keep={missing}: files have the columns 'path' and 'folder'.")
    return arrow().table({name: known[name] for name in keep})


def _samples_and_kept(table: Any, base: str, reading: Reading) -> tuple[list[Any], Any]:
    """Divide a table into samples and kept columns; relative names of files begin with a folder."""
    column, kept = table[reading.column], table.select(reading.keep)
    if arrow().types.is_list(column.type) or arrow().types.is_fixed_size_list(column.type):
        return list(column.combine_chunks().to_numpy(zero_copy_only=False)), kept
    cells = column.to_pylist()
    return [_placed(cell, base) for cell in cells] if reading.modality.takes_files else cells, kept


def _placed(cell, base: str):
    if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
        return _placed(cell["path"], base)
    if not isinstance(cell, str) or "://" in cell or cell.startswith(("/", "~", "data:")):
        return cell
    return f"{base}/{cell}"


def _stamp(sample, modality: Modality) -> bytes:
    if modality.takes_files and isinstance(sample, str | os.PathLike):
        try:
            status = os.stat(sample)
            known: tuple = (status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):  # somewhere else, or nowhere
            known = ()
        return repr((os.fspath(sample), *known)).encode()
    try:
        return modality.digest(modality.read(sample))
    except Exception:  # it will be recorded as failed where it is computed
        return repr(type(sample)).encode()
