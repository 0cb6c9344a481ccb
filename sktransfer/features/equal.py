"""Find samples that are equal to earlier ones, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["FirstPositions"]

_RECENT = 2**13  # keys in a dictionary, with 0.2 kB each, before they are sorted
_MOST = 2**20  # sorted keys, with 24 bytes each


class FirstPositions:
    """The position of the first of equal samples.

    The last half a million distinct samples, at least, are known.

    Parameters
    ----------
    n_samples : int
        Number of samples that will be asked for.
    """

    by_digest: bool

    def __init__(self, n_samples: int):
        #: Whether all keys are digests of 16 bytes, or any that can be in a dictionary.
        self.by_digest = n_samples > _RECENT
        self._recent: dict[Any, int] = {}
        # Digests in two halves, sorted by the first, and positions.
        self._heads = np.empty(0, np.uint64)
        self._tails = np.empty(0, np.uint64)
        self._positions = np.empty(0, np.int64)

    def find(self, keys: Sequence[Any], positions: Sequence[int]) -> list[int]:
        """Return the position of the first sample with each key, and learn the new ones.

        Parameters
        ----------
        keys : sequence of bytes or other hashables
        positions : sequence of int
            Those of the samples themselves, ascending.

        Returns
        -------
        list of int
        """
        sorted_ones = self._find_sorted(keys) if len(self._heads) else [-1] * len(keys)
        found = [
            self._recent.setdefault(key, position) if first < 0 else first
            for key, position, first in zip(keys, positions, sorted_ones, strict=True)
        ]
        if self.by_digest and len(self._recent) >= _RECENT:
            self._sort()
        return found

    def _find_sorted(self, keys: Sequence[bytes]) -> list[int]:
        heads, tails = _halves(keys)
        at = np.minimum(np.searchsorted(self._heads, heads), len(self._heads) - 1)
        same = (self._heads[at] == heads) & (self._tails[at] == tails)
        return np.where(same, self._positions[at], -1).tolist()

    def _sort(self) -> None:
        """Move the recent keys into the arrays; of too many, the last half stays."""
        heads, tails = _halves(list(self._recent))
        positions = np.fromiter(self._recent.values(), np.int64, len(heads))
        order = np.argsort(heads)
        at = np.searchsorted(self._heads, heads[order])
        self._heads = np.insert(self._heads, at, heads[order])
        self._tails = np.insert(self._tails, at, tails[order])
        self._positions = np.insert(self._positions, at, positions[order])
        self._recent = {}
        if len(self._heads) > _MOST:
            kept = self._positions >= np.median(self._positions)
            self._heads, self._tails = self._heads[kept], self._tails[kept]
            self._positions = self._positions[kept]


def _halves(digests: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    pairs = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]
