"""Hold word vectors in one table that all users share, in memory or memory-mapped."""

from __future__ import annotations

import dataclasses
import hashlib
import warnings
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike

from .formats import (
    GLOVE,
    Subwords,
    check_finite_rows,
    glove_file,
    read_source,
    word_file,
)
from .mapped import CacheError, cache_folder, map_entry, write_entry
from .vocabulary import Vocabulary

__all__ = ["WordVectors", "open_source", "reopened", "table_digest"]

_BATCH = 65536  # rows that are hashed at a time
_VERSION = 3  # of the entries on disk; one of another version is written again in its place


class WordVectors:
    """Words and their vectors. Copies share the table, and nothing changes it.

    Parameters
    ----------
    vocabulary : Vocabulary
        The words; id i has row i - 1.
    matrix : ndarray of shape (n_rows, dim), float32
        In memory or memory-mapped. The rows after those of the words are vectors of subwords.
    subwords : callable, default=None
        Maps a word to the numbers of its n-grams, counted from the first row after the words.
    source : tuple, default=None
        The arguments of :func:`open_source` that open these vectors again. A pickle then holds
        them and the digest instead of the numbers.
    digest : str, default=None
        The content digest, if it is known.

    Attributes
    ----------
    content_digest : str
        SHA-256 of the words and all numbers, computed once.
    """

    matrix: torch.Tensor

    def __init__(
        self,
        vocabulary: Vocabulary,
        matrix: np.ndarray,
        *,
        subwords: Callable[[str], list[int]] | None = None,
        source: tuple[Any, ...] | None = None,
        digest: str | None = None,
    ):
        self.vocabulary = vocabulary
        self.subwords = subwords
        self.source = source
        self._digest = digest
        with warnings.catch_warnings():  # torch warns of read-only arrays; nothing here writes
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.matrix = torch.from_numpy(matrix)

    @classmethod
    def from_words(cls, words: Iterable[str], matrix: ArrayLike, **settings: Any) -> WordVectors:
        """Make vectors from words and their rows in the same order."""
        return cls(Vocabulary.from_words(words), np.asarray(matrix, np.float32), **settings)

    @property
    def n_words(self) -> int:
        return len(self.vocabulary)

    @property
    def n_ids(self) -> int:
        """One more than the largest id; id 0 is no token."""
        return len(self.matrix) + 1

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]

    @property
    def content_digest(self) -> str:
        if self._digest is None:
            numbers, rows = hashlib.sha256(), self.matrix.numpy()
            for start in range(0, len(rows), _BATCH):
                numbers.update(np.ascontiguousarray(rows[start : start + _BATCH]).data)
            self._digest = table_digest(numbers, self.vocabulary, self.subwords)
        return self._digest

    def __copy__(self) -> WordVectors:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> WordVectors:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        if self.source is not None:
            return reopened, (self.source, self.content_digest)
        parts = (self.vocabulary, self.matrix.numpy().copy(), self.subwords, self.content_digest)
        return _from_parts, parts

    def __repr__(self) -> str:
        return f"<WordVectors: {self.n_words} words, {self.dim} numbers each>"


def table_digest(numbers: Any, vocabulary: Vocabulary, subwords: object) -> str:
    """Add words and subwords to the SHA-256 of a table's numbers."""
    for name in ("letters", "offsets"):
        numbers.update(np.ascontiguousarray(vocabulary.arrays[name]))
    numbers.update(repr(subwords).encode())
    return numbers.hexdigest()


def _from_parts(vocabulary, matrix, subwords, digest) -> WordVectors:
    return WordVectors(vocabulary, matrix, subwords=subwords, digest=digest)


def reopened(source: tuple[Any, ...], digest: str) -> WordVectors:
    """Open vectors by their source again.

    Parameters
    ----------
    source : tuple
        The arguments of :func:`open_source`.
    digest : str
        The content digest that they must have.

    Returns
    -------
    WordVectors

    Raises
    ------
    ValueError
        If the file has other vectors now.
    """
    found = open_source(*source)
    if found.content_digest != digest:
        raise ValueError(
            f"The word vectors of {source[0]!r} on this machine are not those that the model was "
            f"saved with: digest {found.content_digest[:12]}, expected {digest[:12]}. Use the same "
            "file, or fit again."
        )
    return found


_from_source = reopened  # the name in pickles of earlier versions

# Vectors in use by their source, so that a process opens a file once.
_OPEN: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def open_source(
    source: str, vocabulary: tuple[str, ...] | None = None, max_words: int | None = None
) -> WordVectors:
    """Open a file of word vectors or the GloVe package, and parse it only if it is new.

    Parameters
    ----------
    source : str
        A path or "glove_6b_50d".
    vocabulary : tuple of str, default=None
    max_words : int, default=None

    Returns
    -------
    WordVectors
        The same object for the same source, as long as it is in use.
    """
    path = glove_file("glove_6B_50d_emb.npy") if source == GLOVE else word_file(source)
    wanted = None if vocabulary is None else hashlib.sha256(repr(vocabulary).encode()).hexdigest()
    stamp: dict = {"path": str(path), "bounds": [wanted, max_words]}
    key = hashlib.sha256(repr(stamp).encode()).hexdigest()[:16]
    status = path.stat()
    # Size and time may be set to those of another file; the time of its last change cannot.
    file = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    stamp |= {"file": file, "version": _VERSION}
    found = _OPEN.get(repr(stamp))
    if found is None:
        origin = (source if source == GLOVE else str(path), vocabulary, max_words)
        found = _open_cached(cache_folder() / f"{path.name[:40]}-{key}", stamp, origin)
        _OPEN[repr(stamp)] = found
    return found


def _open_cached(folder: Path, stamp: dict, origin: tuple) -> WordVectors:
    entry = map_entry(folder, stamp)
    if entry is None:
        try:
            write_entry(folder, stamp, lambda write: _write_arrays(origin, write))
            entry = map_entry(folder, stamp)
        except CacheError as error:
            _warn_not_kept(folder, error)
    if entry is None:  # the folder is not writable, or another process replaced the entry
        arrays: dict[str, list] = {}
        meta = _write_arrays(origin, lambda name, array: arrays.setdefault(name, []).append(array))
        entry = meta, {name: np.concatenate(parts) for name, parts in arrays.items()}
    return _from_entry(*entry, origin)


def _warn_not_kept(folder: Path, error: Exception) -> None:
    warnings.warn(
        f"The table cannot be kept in {folder.parent} ({error}): it stays in memory, and each "
        "process parses the file again. Set SKTRANSFER_HOME to a folder that is writable.",
        stacklevel=5,
    )


def _from_entry(meta: dict, arrays: dict[str, np.ndarray], origin: tuple) -> WordVectors:
    arrays = dict(arrays)
    matrix = arrays.pop("matrix").reshape(-1, meta["dim"])
    subwords = None if meta["subwords"] is None else Subwords(*meta["subwords"])
    return WordVectors(
        Vocabulary(**arrays), matrix, subwords=subwords, source=origin, digest=meta["digest"]
    )


def _write_arrays(origin: tuple, write: Callable[[str, np.ndarray], None]) -> dict:
    """Read a source, pass its arrays to ``write`` and return its settings."""
    subwords, batches = read_source(*origin)
    numbers, words, dim = hashlib.sha256(), [], 0
    for some, rows in batches:
        rows = np.ascontiguousarray(rows, np.float32)
        check_finite_rows(some, rows, origin[0])
        numbers.update(rows.data)
        words += some
        dim = rows.shape[1]
        # Row by row, even if the file is stored by columns: lookups read rows.
        write("matrix", rows.reshape(-1))
    if not words:
        raise ValueError(f"{origin[0]}: no words" + (" of vocabulary=" if origin[1] else ""))
    vocabulary = Vocabulary.from_words(words)
    for name, array in vocabulary.arrays.items():
        write(name, array)
    fields = None if subwords is None else dataclasses.astuple(subwords)
    return {"dim": dim, "subwords": fields, "digest": table_digest(numbers, vocabulary, subwords)}
