"""Look up keys of 128 bits in sorted arrays: the one index of samples that the package has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def as_keys(digests: Sequence[bytes]) -> np.ndarray:
    """Return digests of 16 bytes as pairs of integers, ``(n, 2)``, uint64."""
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


class KeyIndex:
    """Map keys of 128 bits to integers, such as positions or places in files.

    Keys are sorted by their first half. Two keys have one first half once in 2⁶⁴ pairs; then only
    the one that was added last is found. Adding takes time in proportion to the number of all keys:
    collect a few in a dictionary, and add them together.

    Parameters
    ----------
    halves : {1, 2}, default=2
        How many halves of a key are kept and compared. 1 is enough where the value itself is
        compared with the key, and takes 16 bytes of memory for a key; 2 takes 24.

    Attributes
    ----------
    places : ndarray of shape (n,), int64
        The integers, in the order of the sorted keys.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.features.key_index import KeyIndex
    >>> index = KeyIndex()
    >>> index.add(np.array([[7, 0], [3, 0]], np.uint64), np.array([10, 11]))
    >>> index.find(np.array([[3, 0], [3, 1], [7, 0]], np.uint64))
    array([11, -1, 10])
    """

    places: np.ndarray

    def __init__(self, halves: int = 2):
        self.halves = halves
        # The first halves, sorted, and the second ones.
        self._keys = [np.empty(0, np.uint64) for _ in range(halves)]
        self.places = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.places)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Return the integer of each key, -1 for a key that is not there.

        Parameters
        ----------
        keys : ndarray of shape (n, 2), uint64

        Returns
        -------
        ndarray of shape (n,), int64
        """
        if not len(self):
            return np.full(len(keys), -1)
        at = np.minimum(np.searchsorted(self._keys[0], keys[:, 0]), len(self) - 1)
        is_there = self._keys[0][at] == keys[:, 0]
        if self.halves == 2:
            is_there &= self._keys[1][at] == keys[:, 1]
        return np.where(is_there, self.places[at], -1)

    def add(self, keys: np.ndarray, places: np.ndarray) -> None:
        """Add keys; of equal keys the last counts.

        Parameters
        ----------
        keys : ndarray of shape (n, 2), uint64
        places : ndarray of shape (n,), int64
            Integers from 0 on.
        """
        joined = [np.concatenate([keys[::-1, i], own]) for i, own in enumerate(self._keys)]
        first_halves, first = np.unique(joined[0], return_index=True)
        self._keys = [first_halves, *(column[first] for column in joined[1:])]
        self.places = np.concatenate([places[::-1], self.places])[first]

    def retain(self, is_kept: np.ndarray) -> None:
        """Remove all but some keys.

        Parameters
        ----------
        is_kept : ndarray of shape (n,), bool
            For each of ``places``.
        """
        self._keys = [column[is_kept] for column in self._keys]
        self.places = self.places[is_kept]
