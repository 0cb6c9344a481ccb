"""Look up the ids of words in memory-mapped arrays."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import numpy as np
import xxhash

__all__ = ["Vocabulary"]

_DIGITS = re.compile(r"\d\D*\d")


class Vocabulary:
    """Words and their ids, which start at 1.

    A word is found by a binary search among sorted 64-bit hashes, and then compared itself. No
    dictionary is built, so that memory-mapped arrays are ready at once. Of equal words, the first
    is found.

    Parameters
    ----------
    letters : ndarray of uint8
        All words in UTF-8, without separators.
    offsets : ndarray of int64, shape (n_words + 1,)
        The position in ``letters`` at which each word begins.
    hashes : ndarray of uint64, shape (n_words,)
        The xxh3 of each word, sorted.
    order : ndarray of int32, shape (n_words,)
        The position of the word with each hash.

    Examples
    --------
    >>> from sktransfer.backbones.words.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.from_words(["film", "good"])
    >>> vocabulary.find("good"), vocabulary.find("bad"), vocabulary.word(1)
    (2, 0, 'film')
    """

    arrays: dict[str, np.ndarray]

    def __init__(
        self, letters: np.ndarray, offsets: np.ndarray, hashes: np.ndarray, order: np.ndarray
    ):
        self.arrays = {"letters": letters, "offsets": offsets, "hashes": hashes, "order": order}
        # Items of memoryviews are plain integers, several times faster than NumPy's scalars.
        self._letters, self._offsets = letters.data, offsets.data
        self._hashes, self._order = hashes.data, order.data

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Vocabulary:
        """Make a vocabulary from words in the order of their rows."""
        encoded = [_encode(word) for word in words]
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)), out=offsets[1:])
        digests = map(xxhash.xxh3_64_intdigest, encoded)
        hashes = np.fromiter(digests, np.uint64, len(encoded))
        order = np.argsort(hashes, kind="stable").astype(np.int32)
        letters = np.frombuffer(b"".join(encoded), np.uint8)
        return cls(letters, offsets, hashes[order], order)

    def __len__(self) -> int:
        return len(self._order)

    def find(self, word: str) -> int:
        """Return the id of a word exactly as it is written, or 0."""
        key = _encode(word)
        digest = xxhash.xxh3_64_intdigest(key)
        i = bisect_left(self._hashes, digest)
        while i < len(self._hashes) and self._hashes[i] == digest:
            position = self._order[i]
            if self._bytes(position) == key:
                return position + 1
            i += 1
        return 0

    def find_form(self, word: str) -> int:
        """Return the id of a word as it is, in lower case, or with # for digits; 0 if not found.

        The vectors of Google News by word2vec write numbers of several digits as "####".
        """
        found = self.find(word) or self.find(word.lower())
        if not found and _DIGITS.search(word):
            found = self.find(re.sub(r"\d", "#", word))
        return found

    def word(self, id: int) -> str:
        """Return the word with an id."""
        if not 1 <= id <= len(self):
            raise IndexError(f"id {id}: the words of this vocabulary are 1 to {len(self)}")
        return str(self._bytes(id - 1), "utf-8", "surrogatepass")

    def _bytes(self, position: int) -> memoryview:
        return self._letters[self._offsets[position] : self._offsets[position + 1]]

    def __reduce__(self) -> tuple[Any, ...]:
        return Vocabulary, tuple(np.array(array) for array in self.arrays.values())


def _encode(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")
