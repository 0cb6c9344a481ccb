"""Find in which block of a folder a key is."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .blocks import Head, read_head
from .key_index import KeyIndex

__all__ = ["BlockIndex", "list_blocks"]

_NAME = re.compile(r"\d{20}-[0-9a-f]{8}\.rows")
_HEADS = 256  # of which the tables stay in memory
_RECENT = 2**13  # keys in a dictionary, before they are sorted
_SMALL = 2**16, 64  # bytes and rows, below which a block is joined to others
_CLOCK = 10**8  # nanoseconds in which a file system may not tell two changes apart
_Keys = tuple[np.ndarray, np.ndarray]  # first halves of keys, and where they are


class BlockIndex:
    """Know the keys of all blocks in a folder, 16 bytes of memory for each.

    Blocks are found by listing the folder: other processes add and remove them at any time.

    Parameters
    ----------
    folder : Path
        Need not exist.
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
        """Return where keys are.

        Parameters
        ----------
        keys : ndarray of shape (n,), uint64
            First halves.

        Returns
        -------
        ndarray of shape (n,), int64
            Number of the block << 32 | row; -1 for a key that is not there.
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
