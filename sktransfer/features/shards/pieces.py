"""Runs of neighbouring rows of a source: a task reads them where it runs."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...data import Modality
from .arrow import arrow
from .folder import open_location

__all__ = ["FilesPiece", "ParquetPiece", "Reading", "SamplesPiece", "TablePiece", "as_sample"]


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is taken from the rows of a source.

    Parameters
    ----------
    column : str or None
        The column of samples.
    keep : tuple of str
        Columns that are kept beside the features.
    modality : Modality
    """

    column: str | None
    keep: tuple[str, ...]
    modality: Modality

    @property
    def columns(self) -> list[str]:
        """All columns that are read, each once."""
        return list(dict.fromkeys([self.column, *self.keep]))  # type: ignore[list-item]


class Piece:
    """A run of neighbouring rows."""

    def __len__(self) -> int:
        raise NotImplementedError

    def part(self, start: int, stop: int) -> Piece:
        """Return the rows from one position to another."""
        raise NotImplementedError

    def stamp(self, reading: Reading) -> bytes:
        """Return bytes that differ if a row has changed; they are cheap to find.

        Those of a run are those of its parts, one after the other.
        """
        raise NotImplementedError

    def shipped(self) -> Piece:
        """Return what is sent to a worker: the same rows by their place, if they have one."""
        return self

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        """Yield samples and kept columns of at most ``n`` rows at a time."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class SamplesPiece(Piece):
    """Samples themselves."""

    samples: Any

    def __len__(self) -> int:
        return len(self.samples)

    def part(self, start: int, stop: int) -> SamplesPiece:
        return SamplesPiece(self.samples[start:stop])

    def stamp(self, reading: Reading) -> bytes:
        return b"".join(_stamp(sample, reading.modality) for sample in self.samples)

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        for start in range(0, len(self), n):
            yield list(self.samples[start : start + n]), None


@dataclasses.dataclass(frozen=True)
class TablePiece(Piece):
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

    def part(self, start: int, stop: int) -> TablePiece:
        origin = None if self.origin is None else (self.origin[0], self.origin[1] + start)
        return TablePiece(self.table.slice(start, stop - start), self.base, origin)

    def stamp(self, reading: Reading) -> bytes:
        samples, kept = split(self.table, self.base, reading)
        stamps = [_stamp(sample, reading.modality) for sample in samples]
        rows = [repr(row).encode() for row in kept.to_pylist()] if reading.keep else stamps
        return b"".join(itertools.chain.from_iterable(zip(stamps, rows, strict=True)))

    def shipped(self) -> Piece:
        if self.origin is None:
            return self
        url, start = self.origin
        return ParquetPiece(url, start, start + len(self), self.base)

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        for start in range(0, len(self), n):
            yield split(self.table.slice(start, n), self.base, reading)


@dataclasses.dataclass(frozen=True)
class ParquetPiece(Piece):
    """Rows of a Parquet file, from one position to another.

    Parameters
    ----------
    url : str
    start, stop : int
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

    def part(self, start: int, stop: int) -> ParquetPiece:
        return dataclasses.replace(self, start=self.start + start, stop=self.start + stop)

    def stamp(self, reading: Reading) -> bytes:
        return repr((self.identity, self.start, self.stop, reading.columns)).encode()

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        system, path = open_location(self.url)
        with system.open(path, "rb") as opened:
            file = arrow().parquet.ParquetFile(opened)
            groups, position = self._groups(file.metadata)
            found = file.iter_batches(n, row_groups=groups, columns=reading.columns)
            for batch in found if groups else ():
                wanted = self._wanted(batch, position)
                position += batch.num_rows
                if wanted.num_rows:
                    yield split(arrow().Table.from_batches([wanted]), self.base, reading)

    def _groups(self, metadata) -> tuple[list[int], int]:
        """Return the row groups that hold the rows, and the position of their first row."""
        sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        ends = np.cumsum([0, *sizes])
        groups = [
            i
            for i, (a, b) in enumerate(itertools.pairwise(ends))
            if a < self.stop and b > self.start
        ]
        return groups, int(ends[groups[0]]) if groups else 0

    def _wanted(self, batch, position: int):
        first = max(0, self.start - position)
        return batch.slice(first, max(0, min(batch.num_rows, self.stop - position) - first))


@dataclasses.dataclass(frozen=True)
class FilesPiece(Piece):
    """Files of a folder.

    Parameters
    ----------
    root : str
        The folder.
    names : tuple of str
        Paths below it.
    stamps : tuple of str
        Size and time of each.
    """

    root: str
    names: tuple[str, ...]
    stamps: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int) -> FilesPiece:
        return FilesPiece(self.root, self.names[start:stop], self.stamps[start:stop])

    def stamp(self, reading: Reading) -> bytes:
        return "".join(map(repr, zip(self.names, self.stamps, strict=True))).encode()

    def shipped(self) -> FilesPiece:
        return dataclasses.replace(self, stamps=())

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        for start in range(0, len(self), n):
            names = self.names[start : start + n]
            yield [self._sample(name, reading) for name in names], name_table(names, reading.keep)

    def _sample(self, name: str, reading: Reading):
        place = f"{self.root}/{name}"
        if reading.modality.takes_files:
            return place
        system, path = open_location(place)
        return as_sample(system.cat_file(path), name, reading)


def as_sample(content: bytes, name: str, reading: Reading) -> Any:
    """Make a sample of the content of a file: as it is, or a text."""
    if reading.modality.takes_files:
        return {"bytes": content, "path": name}
    return content.decode("utf-8", "surrogateescape")


def name_table(names: Sequence[str], keep: tuple[str, ...]) -> Any:
    """Return the columns that are known of a file: "path", and the name of its folder, "folder"."""
    folders = [name.rpartition("/")[0].rpartition("/")[2] for name in names]
    known = {"path": list(names), "folder": folders}
    missing = [name for name in keep if name not in known]
    if missing:
        raise ValueError(f"keep={missing}: files have the columns 'path' and 'folder'.")
    return arrow().table({name: known[name] for name in keep})


def split(table: Any, base: str, reading: Reading) -> tuple[list[Any], Any]:
    """Divide a table into samples and kept columns."""
    return samples_of(table[reading.column], base, reading), table.select(reading.keep)


def samples_of(column: Any, base: str, reading: Reading) -> list[Any]:
    """Return the samples in a column; relative names of files begin with a folder."""
    if arrow().types.is_list(column.type) or arrow().types.is_fixed_size_list(column.type):
        return list(column.combine_chunks().to_numpy(zero_copy_only=False))
    cells = column.to_pylist()
    return [_placed(cell, base) for cell in cells] if reading.modality.takes_files else cells


def _placed(cell, base: str):
    if isinstance(cell, dict) and cell.get("bytes") is None and cell.get("path"):
        return _placed(cell["path"], base)
    if not isinstance(cell, str) or "://" in cell or cell.startswith(("/", "~", "data:")):
        return cell
    return f"{base}/{cell}"


def _stamp(sample, modality: Modality) -> bytes:
    if modality.takes_files and isinstance(sample, str | os.PathLike):
        return repr((os.fspath(sample), *_file_stamp(sample))).encode()
    try:
        return modality.digest(modality.read(sample))
    except Exception:  # it will be recorded as failed where it is computed
        return repr(type(sample)).encode()


def _file_stamp(path: str | os.PathLike) -> tuple:
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # somewhere else, or nowhere
        return ()
    return found.st_size, found.st_mtime_ns
