"""Keep rows by key in a folder of blocks, which processes share without locks."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .block_index import BlockIndex, list_blocks
from .blocks import read_rows, write_block

__all__ = ["BlockFolder"]

_NEW = ".new-"  # begins the name of a file that is being written
_ABANDONED = 24 * 3600  # seconds after which no process still writes to such a file
_MOST_ROWS = 512  # in one block
_MOST_BYTES = 2**22  # of the values in one block with more than one row
_LEAST_BLOCKS = 8  # that fit into a limited folder
_JOINED = 256  # small blocks that are joined


class BlockFolder:
    """Keep rows by key in a folder.

    Each call of :meth:`put` writes new files, which get their names when they are complete. No
    file is ever changed, so that processes need no locks: a reader finds a block or does not.

    Parameters
    ----------
    folder : Path
        Made when something is written.
    max_bytes : int or None
        Bound on the bytes of all blocks.
    """

    folder: Path
    max_bytes: int | None

    def __init__(self, folder: Path, max_bytes: int | None):
        self.folder, self.max_bytes = folder, max_bytes
        self._index = BlockIndex(folder)
        self._lock = threading.RLock()
        self._last = 0  # the time in the name of the last block, in nanoseconds

    def __len__(self) -> int:
        """Count the keys."""
        with self._lock:
            self._index.refresh()
            return len(self._index)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        with self._lock:
            self._index.refresh()
            return self._index.nbytes

    def get(self, keys: np.ndarray) -> list[np.ndarray | None]:
        """Read rows.

        Parameters
        ----------
        keys : ndarray of shape (n, 2), uint64

        Returns
        -------
        list of ndarray or None
        """
        values: list[np.ndarray | None] = [None] * len(keys)
        if not self._read_all(keys, values):  # another process has joined or removed blocks
            with self._lock:
                self._index.refresh()
            self._read_all(keys, values)
        return values

    def _read_all(self, keys: np.ndarray, values: list) -> bool:
        """Fill in the rows that are there, and return whether all blocks are."""
        with self._lock:
            places = self._index.find(keys[:, 0])
            if (places < 0).any() and not self._index.is_current():
                self._index.refresh()
                places = self._index.find(keys[:, 0])
        seeds, all_there = keys[:, 1].tolist(), True
        for number, wanted, rows in _by_block(places):
            all_there &= self._read(number, wanted, rows, seeds, values)
        return all_there

    def _read(self, number: int, wanted: list, rows: list, seeds: list, values: list) -> bool:
        """Fill in the wanted rows of one block, and return whether it is there."""
        path = self._index.path(number)
        try:
            head = self._index.head(number)
            if path is None or head is None:
                return path is not None
            if self.max_bytes is not None:
                _touch(path)
            for i, value in read_rows(path, head, rows, [seeds[k] for k in wanted]):
                values[wanted[i]] = value
        except FileNotFoundError:
            return False
        except OSError:  # a file that may not be read, or a disk that fails
            return True
        return True

    def put(self, keys: np.ndarray, values: np.ndarray) -> None:
        """Write rows.

        Parameters
        ----------
        keys : ndarray of shape (n, 2), uint64
        values : ndarray of shape (n, ...)
            Or an array of objects.

        Raises
        ------
        OSError
            If the disk is full or the folder cannot be written.
        """
        if not len(keys):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._last:
            _remove_abandoned(self.folder)
        self._write_all(keys, values)
        with self._lock:
            self._join()
            if self.max_bytes is not None:
                self._evict(self.max_bytes)

    def _write_all(self, keys: np.ndarray, values: np.ndarray, stamp: int | None = None) -> None:
        """Write blocks of limited size."""
        largest = values.itemsize * values[:1].size
        if values.dtype == object:
            largest = max(np.asarray(row).nbytes for row in values)
        bound = _MOST_BYTES if self.max_bytes is None else self.max_bytes // _LEAST_BLOCKS
        step = min(max(min(bound, _MOST_BYTES) // max(largest, 1), 1), _MOST_ROWS)
        for start in range(0, len(keys), step):
            part = slice(start, start + step)
            self._write(keys[part], values[part], stamp or self._stamp())

    def _stamp(self) -> int:
        """Return the time. It begins the names of blocks, so that of equal keys the last counts."""
        with self._lock:
            self._last = max(self._last + 1, time.time_ns())
            return self._last

    def _write(self, keys: np.ndarray, values: np.ndarray, stamp: int) -> None:
        name = f"{stamp:020d}-{secrets.token_hex(4)}.rows"
        new = os.path.join(self.folder, f"{_NEW}{name}")
        try:
            head = write_block(new, keys, values)
            if self.max_bytes is not None:
                _touch(new)  # the clock of the file system may lag behind
            os.rename(new, os.path.join(self.folder, name))
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new)
            raise
        with self._lock:
            self._index.add(name, head, head.end)

    def _join(self) -> None:
        """Write the rows of many small blocks to few larger ones, and remove the small ones."""
        small = self._index.small()
        if len(small) < _JOINED:
            return
        newest = max(int(name[:20]) for name in map(self._index.name, small) if name)
        contents = [self._content(number) for number in small]
        keys = np.concatenate([part for part, _ in contents])
        rows = [row for _, block in contents for row in block]
        with contextlib.suppress(OSError):  # small blocks can be read, too
            self._write_all(keys, _objects(rows), newest)
            for number in small:
                self._remove(number)

    def _content(self, number: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Read the keys and rows of a block that are sound, none if it was removed."""
        path = self._index.path(number)
        with contextlib.suppress(OSError):
            head = self._index.head(number)
            if path is not None and head is not None:
                keys = head.table[:, :2]
                sound = dict(read_rows(path, head, range(len(keys)), keys[:, 1].tolist()))
                return keys[list(sound)], list(sound.values())
        return np.empty((0, 2), np.uint64), []

    def _evict(self, max_bytes: int) -> None:
        """Remove the least recently used blocks beyond the bound."""
        if not self._index.is_current():
            self._index.refresh()
        excess = self._index.nbytes - max_bytes
        if excess <= 0:
            return
        blocks = sorted(self._index.used())
        # More than needed in a large folder: looking at all blocks takes time.
        least = len(blocks) // 64
        for i, (_, _, number, size) in enumerate(blocks):
            if excess <= 0 and i >= least:
                break
            self._remove(number)
            excess -= size

    def _remove(self, number: int) -> None:
        path = self._index.path(number)
        if path is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            self._index.forget(number)

    def clear(self) -> None:
        """Remove all blocks."""
        with self._lock:
            self._index.refresh()
            for name in list_blocks(self.folder):
                (self.folder / name).unlink(missing_ok=True)
            self._index.refresh()


def _by_block(places: np.ndarray) -> Iterator[tuple[int, list[int], list[int]]]:
    """Yield the number of each block, which places are in it, and their rows, ascending."""
    order = np.argsort(places, kind="stable")
    order = order[np.count_nonzero(places < 0) :]
    located = zip(places[order].tolist(), order.tolist(), strict=True)
    for number, block in itertools.groupby(located, lambda pair: pair[0] >> 32):
        pairs = list(block)
        yield number, [i for _, i in pairs], [place & 0xFFFFFFFF for place, _ in pairs]


def _objects(rows: list[np.ndarray]) -> np.ndarray:
    """Return rows, which may differ in shape, as an array of objects."""
    table = np.empty(len(rows), object)
    for i, row in enumerate(rows):
        table[i] = row
    return table


def _touch(path: str) -> None:
    now = time.time_ns()
    with contextlib.suppress(OSError):  # where nothing can be written
        os.utime(path, ns=(now, now))


def _remove_abandoned(folder: Path) -> None:
    """Remove files that killed processes left more than a day ago."""
    for path in folder.glob(f"{_NEW}*"):
        with contextlib.suppress(OSError):  # another process may remove it, too
            if time.time() - path.stat().st_mtime > _ABANDONED:
                path.unlink()
