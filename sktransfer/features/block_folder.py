"""Keep rows by key in a folder of blocks, which processes share without locks.

:class:`BlockFolder` looks up, writes, joins and removes blocks; :class:`BlockIndex` knows which key
is in which of them.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ..data.disk import remove_abandoned
from .blocks import Head, read_head, read_rows, stacked, write_block
from .key_index import KeyIndex

_NAME = re.compile(r"\d{20}-[0-9a-f]{8}\.rows")
_NEW = ".new-"  # begins the name of a file that is being written
_MOST_ROWS = 512  # in one block
_MOST_BYTES = 2**22  # of the values in one block with more than one row
_LEAST_BLOCKS = 8  # that fit into a limited folder
_SMALL = 2**16, 64  # bytes and rows, below which a block is joined to others
_JOINED = 256  # small blocks that are joined
_HEADS = 256  # of which the tables stay in memory
_RECENT = 2**13  # keys in a dictionary, before they are sorted
_CLOCK = 10**8  # nanoseconds in which a file system may not tell two changes apart
_Keys = tuple[np.ndarray, np.ndarray]  # first halves of keys, and where they are


class BlockFolder:
    """Keep rows by key in a folder, which is made when something is written.

    Each call of :meth:`put` writes new files, which get their names when they are complete. No file
    is ever changed, so that processes need no locks: a reader finds a block or does not. All blocks
    together have ``max_bytes`` at most.
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
        """Read the rows of keys, ``(n, 2)``."""
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
        """Write the rows of keys, ``(n, 2)``; an array of objects has rows of several shapes."""
        if not len(keys):
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._last:
            remove_abandoned(self.folder)
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
            self._write_all(keys, stacked(rows, ragged=True), newest)
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


def _touch(path: str) -> None:
    now = time.time_ns()
    with contextlib.suppress(OSError):  # where nothing can be written
        os.utime(path, ns=(now, now))


# -- which key is where ----------------------------------------------------------------------------


class BlockIndex:
    """Know the keys of all blocks in a folder, 16 bytes of memory for each.

    Blocks are found by listing the folder, which need not exist: other processes add and remove
    them at any time.
    """

    head: Callable[..., Head | None]

    def __init__(self, folder: Path):
        self.folder = folder
        self.head = functools.lru_cache(_HEADS)(self._read)
        self._names: list[str | None] = []  # by number; None for blocks that were removed
        self._numbers: dict[str, int] = {}
        self._sizes: list[int] = []
        self._small: set[int] = set()  # numbers
        # First halves of keys, and where they are: number << 32 | row. The second half of a key is
        # compared when its row is read.
        self._sorted = KeyIndex(halves=1)
        self._recent: dict[int, int] = {}
        self._listed = (0, 0)  # when the folder was changed, and when it was listed

    def __len__(self) -> int:
        """Count the keys."""
        self._sort([])
        return len(self._sorted)

    @property
    def nbytes(self) -> int:
        """Bytes of all blocks."""
        return sum(self._sizes)

    def name(self, number: int) -> str | None:
        """Return the name of a block, None if it was removed."""
        return self._names[number]

    def path(self, number: int) -> str | None:
        """Return the file of a block, None if it was removed."""
        name = self._names[number]
        return None if name is None else os.path.join(self.folder, name)

    def _read(self, number: int) -> Head | None:
        path = self.path(number)
        return None if path is None else read_head(path)

    def is_current(self) -> bool:
        """Tell whether the folder has surely not changed since it was listed."""
        changed, listed = self._listed
        return listed - changed > _CLOCK and changed == _changed(self.folder)

    def refresh(self) -> None:
        """Learn which blocks other processes have added and removed."""
        listed = _changed(self.folder), time.time_ns()
        names = set(list_blocks(self.folder))
        for name in self._numbers.keys() - names:
            self.forget(self._numbers[name])
        self._insert([self._load(name) for name in sorted(names - self._numbers.keys())])
        self._listed = listed

    def _load(self, name: str) -> _Keys | None:
        path = os.path.join(self.folder, name)
        try:
            head, size = read_head(path), os.stat(path).st_size
        except OSError:  # removed meanwhile, or of another user
            return None
        return self._register(name, head, size)

    def add(self, name: str, head: Head, size: int) -> None:
        """Add the keys of a new block."""
        self._insert([self._register(name, head, size)])

    def _register(self, name: str, head: Head | None, size: int) -> _Keys | None:
        """Give a block a number, and return its keys and their places."""
        number = self._numbers[name] = len(self._names)
        self._names.append(name)
        self._sizes.append(size)
        if head is None:
            return None
        # Joined blocks have more rows, so that no row is copied again and again.
        if size < _SMALL[0] and len(head.table) < _SMALL[1]:
            self._small.add(number)
        first = number << 32
        return head.table[:, 0].copy(), np.arange(first, first + len(head.table))

    def _insert(self, loaded: list[_Keys | None]) -> None:
        """Add keys and places; of equal keys the last counts."""
        blocks = [block for block in loaded if block is not None]
        if not blocks:
            return
        n_new = len(self._recent) + sum(len(keys) for keys, _ in blocks)
        if n_new > _RECENT + len(self._sorted) // 8:
            self._sort(blocks)
            return
        for keys, places in blocks:
            self._recent |= zip(keys.tolist(), places.tolist(), strict=True)

    def forget(self, number: int) -> None:
        """Remove a block, whose file is not there any more."""
        name = self._names[number]
        if name is not None:
            del self._numbers[name]
            self._names[number] = None
            self._sizes[number] = 0
            self._small.discard(number)

    def _sort(self, blocks: list[_Keys]) -> None:
        """Join recent keys and those of new blocks to the sorted ones, without removed blocks."""
        n = len(self._recent)
        recent = np.fromiter(self._recent, np.uint64, n)
        blocks = [(recent, np.fromiter(self._recent.values(), np.int64, n)), *blocks]
        keys, places = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
        exists = np.array([name is not None for name in self._names], bool)
        self._sorted.retain(exists[self._sorted.places >> 32])
        kept = exists[places >> 32]
        self._sorted.add(keys[kept, None], places[kept])
        self._recent = {}

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return where keys are, by their first halves.

        That is the number of the block << 32 | row, and -1 for a key that is not there.
        """
        places = self._sorted.find(keys[:, None])
        if self._recent:
            recent = np.array([self._recent.get(key, -1) for key in keys.tolist()], np.int64)
            places = np.where(recent >= 0, recent, places)
        removed = [n for n in set((places >> 32).tolist()) if n >= 0 and self._names[n] is None]
        return np.where(np.isin(places >> 32, removed), -1, places) if removed else places

    def small(self) -> list[int]:
        """Return the numbers of blocks of few bytes, in the order of their names."""
        return sorted(self._small, key=lambda number: self._names[number] or "")

    def used(self) -> Iterator[tuple[int, str, int, int]]:
        """Yield when each block was used, its name, number and size."""
        for name, number in self._numbers.items():
            with contextlib.suppress(OSError):  # removed meanwhile
                used = os.stat(self.folder / name).st_mtime_ns
                yield used, name, number, self._sizes[number]


def _changed(folder: Path) -> int:
    try:
        return os.stat(folder).st_mtime_ns
    except OSError:
        return 0


def list_blocks(folder: Path) -> list[str]:
    """List the names of blocks in a folder, none if it does not exist or cannot be read."""
    try:
        return [name for name in os.listdir(folder) if _NAME.fullmatch(name)]
    except (FileNotFoundError, PermissionError):
        return []
