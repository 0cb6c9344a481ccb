"""Write rows of arrays to a file and read some of them, with checksums."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import xxhash

# A block is written once and never changed:
#     mark, size of the head, checksum of the rest of the head, rows, bytes of the forms
#     forms: type and shape of a row, a line for each, such as "<f4:1280"
#     table: six integers for each row, as named below
#     values of the rows, one after the other
_FIRST = struct.Struct("<8sQQQQ")
_MARK = b"sktrows1"
_COVERED = 24  # bytes before those that the checksum of the head covers
_KEY, _SEED, _CHECKSUM, _START, _SIZE, _FORM = range(6)
_READ_FIRST = 8192  # bytes: the head of 128 rows
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0)
_LARGEST_HEAD = 2**24  # bytes; a damaged size could be anything


class Head(NamedTuple):
    """What a block says about its rows.

    Attributes
    ----------
    table : ndarray of shape (n_rows, 6), uint64
        Both halves of the key, checksum, first byte in the file, bytes, position in ``forms``.
    forms : list of (dtype, tuple of int)
        Type and shape of a row.
    """

    table: np.ndarray
    forms: list[tuple[np.dtype, tuple[int, ...]]]

    @property
    def end(self) -> int:
        """Bytes of the whole block."""
        return int(self.table[-1, _START] + self.table[-1, _SIZE])


def write_block(path: str, keys: np.ndarray, values: np.ndarray) -> Head:
    """Write rows to a new file; those of an array of objects may differ in type and shape."""
    parts = _parts(values)
    names = [f"{part.dtype.str}:{','.join(map(str, part.shape[1:]))}" for part in parts]
    forms = {name: i for i, name in enumerate(dict.fromkeys(names))}
    text = "\n".join(forms).encode()
    size = -(-(_FIRST.size + len(text) + 48 * len(keys)) // 64) * 64  # values are aligned
    table = _table(keys, parts, [forms[name] for name in names], size)
    rest = struct.pack("<QQ", len(keys), len(text)) + table.tobytes() + text
    rest = rest.ljust(size - _COVERED, b"\0")
    with open(path, "xb") as file:
        file.write(_MARK + struct.pack("<QQ", size, xxhash.xxh3_64_intdigest(rest)) + rest)
        file.writelines(_as_bytes(part).data for part in parts)
    return Head(table, [_form(name) for name in forms])


def stacked(values: list[Any], ragged: bool) -> np.ndarray:
    """Make one array of rows; one of objects if they are ragged, that is, differ in length."""
    if not ragged:
        return np.stack(values)
    table = np.empty(len(values), object)
    for i, value in enumerate(values):
        table[i] = value
    return table


def _parts(values: np.ndarray) -> list[np.ndarray]:
    """Return arrays of rows of one type and shape."""
    if values.dtype != object:
        return [np.asarray(values, order="C")]
    return [np.asarray(row, order="C")[None] for row in values]


def _as_bytes(part: np.ndarray) -> np.ndarray:
    """Return the bytes of each row, of shape (n_rows, n_bytes)."""
    return part.reshape(-1).view(np.uint8).reshape(len(part), part[:1].nbytes)


def _table(keys: np.ndarray, parts: list[np.ndarray], forms: list[int], start: int) -> np.ndarray:
    table = np.empty((len(keys), 6), np.uint64)
    table[:, :2] = keys
    lengths = [len(part) for part in parts]
    table[:, _SIZE] = np.repeat([part[:1].nbytes for part in parts], lengths)
    table[:, _FORM] = np.repeat(forms, lengths)
    table[:, _START] = start + np.cumsum(table[:, _SIZE]) - table[:, _SIZE]
    seeds = iter(keys[:, _SEED].tolist())
    table[:, _CHECKSUM] = [
        xxhash.xxh3_64_intdigest(row, next(seeds)) for part in parts for row in _as_bytes(part)
    ]
    return table


def _form(name: str) -> tuple[np.dtype, tuple[int, ...]]:
    dtype, _, shape = name.partition(":")
    return np.dtype(dtype), tuple(int(n) for n in shape.split(",") if n)


def read_head(path: str) -> Head | None:
    """Read what a block says about its rows; None if it is no block, or its head is damaged."""
    with open(path, "rb", buffering=0) as file:
        data = file.read(_READ_FIRST)
        size = _size_of_head(data)
        if size > len(data):
            data += file.read(size - len(data))
    return _head(data, size) if 0 < size <= len(data) else None


def _size_of_head(data: bytes) -> int:
    """Return 0 where the first bytes are no block's."""
    if len(data) < _FIRST.size or data[:8] != _MARK:
        return 0
    size = _FIRST.unpack_from(data)[1]
    return size if _FIRST.size <= size <= _LARGEST_HEAD else 0


def _head(data: bytes, size: int) -> Head | None:
    _, _, checksum, n_rows, n_text = _FIRST.unpack_from(data)
    if xxhash.xxh3_64_intdigest(memoryview(data)[_COVERED:size]) != checksum:
        return None
    table = np.frombuffer(data, np.uint64, 6 * n_rows, _FIRST.size).reshape(-1, 6)
    start = _FIRST.size + table.nbytes
    names = data[start : start + n_text].decode().split("\n")
    return Head(table.copy(), [_form(name) for name in names])


def read_rows(
    path: str, head: Head, rows: Sequence[int], seeds: Sequence[int]
) -> Iterator[tuple[int, np.ndarray]]:
    """Read some rows of a block, neighbours together.

    Rows are positions in the block, ascending, and seeds the second halves of their keys. Yields
    the position among these and the value, read-only, without rows that the block lacks (two files
    may have been exchanged), those of another key and those with a wrong checksum.
    """
    file = os.open(path, _READ_ONLY)  # a third of the time that a file object takes
    try:
        there = [row for row in rows if row < len(head.table)]
        for run in _runs(head.table[there].tolist()):
            yield from _sound(file, run, seeds, head.forms)
    finally:
        os.close(file)


def _runs(rows: list[list[int]]) -> Iterator[list[tuple[int, list[int]]]]:
    """Divide rows into those that follow each other in the file and have the same form."""
    run: list[tuple[int, list[int]]] = []
    end, form = 0, 0
    for i, row in enumerate(rows):
        if run and (row[_START] != end or row[_FORM] != form):
            yield run
            run = []
        run.append((i, row))
        end, form = row[_START] + row[_SIZE], row[_FORM]
    if run:
        yield run


def _sound(file: int, run: list, seeds: Sequence[int], forms: list) -> Iterator:
    """Read a run, and yield the rows with the right checksum; none if the file is too short."""
    _, first = run[0]
    size = first[_SIZE]
    os.lseek(file, first[_START], os.SEEK_SET)
    data = os.read(file, size * len(run))
    if len(data) < size * len(run):
        return
    dtype, shape = forms[first[_FORM]]
    values = np.ndarray((len(run), *shape), dtype, data)
    view = memoryview(data)
    for place, (i, row) in enumerate(run):
        content = view[place * size : (place + 1) * size]
        if xxhash.xxh3_64_intdigest(content, seeds[i]) == row[_CHECKSUM]:
            yield i, values[place]
