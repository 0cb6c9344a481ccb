"""Hold word vectors in one table that all users share, in memory or memory-mapped.

Tables are written to disk once, and mapped by later processes. Words are looked up in arrays that
are mapped, too.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import re
import sys
import time
import warnings
import weakref
from bisect import bisect_left
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
import xxhash
from numpy.typing import ArrayLike

from ...data import CacheError, checksum, new_folder, writing
from .files import (
    GLOVE,
    Subwords,
    check_finite_rows,
    glove_file,
    read_source,
    word_file,
)

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
    """Open vectors by the arguments of :func:`open_source`; ValueError if they have changed."""
    vectors = open_source(*source)
    own_digest = vectors.content_digest
    if own_digest != digest:
        raise ValueError(
            f"The word vectors of {source[0]!r} on this machine are not those that the model was "
            f"saved with: digest {own_digest[:12]}, expected {digest[:12]}. Use the same "
            "file, or fit again."
        )
    return vectors


# Vectors in use by their source, so that a process opens a file once.
_OPEN: weakref.WeakValueDictionary = weakref.WeakValueDictionary()


def open_source(
    source: str, vocabulary: tuple[str, ...] | None = None, max_words: int | None = None
) -> WordVectors:
    """Open a file of word vectors or the GloVe package, and parse it only if it is new.

    ``source`` is a path or "glove_6b_50d". The same object is returned as long as it is in use.
    """
    path = glove_file("glove_6B_50d_emb.npy") if source == GLOVE else word_file(source)
    wanted = None if vocabulary is None else hashlib.sha256(repr(vocabulary).encode()).hexdigest()
    stamp: dict = {"path": str(path), "bounds": [wanted, max_words]}
    key = hashlib.sha256(repr(stamp).encode()).hexdigest()[:16]
    status = path.stat()
    # Size and time may be set to those of another file; the time of its last change cannot.
    file = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    stamp |= {"file": file, "version": _VERSION}
    vectors = _OPEN.get(repr(stamp))
    if vectors is None:
        origin = (source if source == GLOVE else str(path), vocabulary, max_words)
        vectors = _open_cached(cache_folder() / f"{path.name[:40]}-{key}", stamp, origin)
        _OPEN[repr(stamp)] = vectors
    return vectors


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


# The files of an entry, each an array without a header
_FILES = {
    "matrix": np.float32,
    "letters": np.uint8,
    "offsets": np.int64,
    "hashes": np.uint64,
    "order": np.int32,
}
# Files whose checksum was compared in this process: path, inode, time, size and checksum
_VERIFIED: set[tuple[Any, ...]] = set()
_SETTLED = 2.0  # seconds; two writes in a shorter time may leave the same modification time


def cache_folder() -> Path:
    """Return where tables are kept: below ``$SKTRANSFER_HOME`` or the user's cache folder."""
    home = os.environ.get("SKTRANSFER_HOME")
    if home:
        return Path(home) / "word-vectors"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sktransfer" / "word-vectors"


def map_entry(
    folder: Path, stamp: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Memory-map the files of an entry after comparing their checksums.

    Each file is compared once in a process, which takes about 0.1 s for a gigabyte in the cache of
    the operating system. Returns the settings and arrays; None if the entry is missing, was not
    made from the source that ``stamp`` describes, or is damaged.
    """
    try:
        digest, _, text = (folder / "meta.json").read_text().partition("\n")
        if checksum(text.encode()).hex() != digest:
            return None
        meta = json.loads(text)
        if meta["stamp"] != stamp:
            return None
        arrays = {name: _map(folder / name, *wanted) for name, wanted in meta["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta, arrays


def _map(path: Path, size: int, digest: str) -> np.ndarray:
    """Map one file, or raise ``ValueError`` if it has another size or checksum."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        # Mode "c", copy-on-write, since torch warns of read-only arrays; nothing is written.
        array = np.memmap(file, _FILES[path.name], mode="c")
    version = (str(path), status.st_ino, status.st_mtime_ns, status.st_size, digest)
    is_known = version in _VERIFIED
    if array.size != size or not (is_known or checksum(array).hex() == digest):
        raise ValueError(f"{path} is damaged")
    if time.time() - status.st_mtime > _SETTLED:
        _VERIFIED.add(version)
    return array


def write_entry(folder: Path, stamp: dict[str, Any], fill: Callable[..., Any]) -> None:
    """Write an entry to a temporary folder and move it to its place.

    ``fill`` is called with a function ``write(name, array)``, which appends an array to a file, and
    returns the settings. ``CacheError`` if the file system does not allow it.
    """
    with new_folder(folder) as new, _Arrays(new) as arrays:
        meta = {"stamp": stamp, **fill(arrays.write)}
        text = json.dumps(meta | {"files": arrays.finish()})
        with writing():
            (new / "meta.json").write_text(f"{checksum(text.encode()).hex()}\n{text}")


class _Arrays(contextlib.ExitStack):
    """The files of an entry while they are written, with their checksums."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.files: dict[str, IO[bytes]] = {}
        self.hashers: dict[str, xxhash.xxh3_64] = {}
        self.sizes: dict[str, int] = {}

    def write(self, name: str, array: np.ndarray) -> None:
        """Append an array to the file of this name."""
        array = np.ascontiguousarray(array, _FILES[name])
        with writing():
            if name not in self.files:
                self.files[name] = self.enter_context((self.folder / name).open("wb"))
                self.hashers[name] = xxhash.xxh3_64()
            self.files[name].write(array.data)
        self.hashers[name].update(array.data)
        self.sizes[name] = self.sizes.get(name, 0) + array.size

    def finish(self) -> dict[str, tuple[int, str]]:
        """Close the files and return the number of elements and the checksum of each."""
        with writing():
            self.close()
        return {name: (self.sizes[name], h.hexdigest()) for name, h in self.hashers.items()}


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
    >>> from sktransfer.backbones.words.vectors import Vocabulary
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
        id = self.find(word) or self.find(word.lower())
        if not id and _DIGITS.search(word):
            id = self.find(re.sub(r"\d", "#", word))
        return id

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
