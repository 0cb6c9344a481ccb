"""Read text files of word vectors: lines of a word and its numbers, with or without a header.

This is not left to gensim, which cannot read words that contain a space, as GloVe 840B does, and
needs about ten times as long.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from .binary import parse_header

__all__ = ["BOM", "ONE_SPACE", "count_numbers", "is_gzipped", "is_number", "opened", "read_text"]

BOM = b"\xef\xbb\xbf"
ONE_SPACE = (
    " Between a word and its numbers stands one space each, and no tab: write spaces for tabs."
)
_GZIP = b"\x1f\x8b"
_BATCH = 4096  # lines that are parsed at a time
_SAMPLE = 100  # lines from which the number of dimensions is taken
_MOST_COLUMNS = 50_000  # of a table that pandas parses; it needs minutes for a million


def is_gzipped(path: Path) -> bool:
    """Tell by its first bytes whether a file is gzipped."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


@contextlib.contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, and decompress it if it is gzipped.

    Parameters
    ----------
    path : Path

    Yields
    ------
    file object

    Raises
    ------
    ValueError
        If the compressed data are damaged.
    """
    with gzip.open(path) if is_gzipped(path) else path.open("rb") as file:
        try:
            yield cast(BinaryIO, file)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: the compressed file is damaged ({error})") from error


def read_text(
    path: Path, vocabulary: Iterable[str] | None = None, max_words: int | None = None
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Read a text file in batches.

    Parameters
    ----------
    path : Path
    vocabulary : iterable of str, default=None
        The words to keep.
    max_words : int, default=None
        How many words to keep.

    Yields
    ------
    (list of str, ndarray of shape (n, dim), float32)
        Words and their vectors.

    Raises
    ------
    ValueError
        If a line is no word with as many numbers as the others, or the file is shorter or longer
        than its header announces, or ends inside a line.
    """
    kept = None if vocabulary is None else {word.encode() for word in vocabulary}
    with opened(path) as file:
        first = [line.removeprefix(BOM) for line in islice(file, 1)]
        header = parse_header(first[0])
        first += islice(file, _SAMPLE)
        n_words, dim = header or (None, _dimension(first))
        if not dim:
            raise ValueError(f"{path}: words of 0 numbers are announced")
        lines = chain(first[1:] if header else first, file)
        entries = _entries(lines, path, n_words, dim)
        chosen = islice((e for e in entries if kept is None or e[0] in kept), max_words)
        while batch := list(islice(chosen, _BATCH)):
            words = [word.decode("utf-8", "replace") for word, _ in batch]
            yield words, _parse(path, words, [numbers for _, numbers in batch], dim)


def _entries(
    lines: Iterable[bytes], path: Path, n_words: int | None, dim: int
) -> Iterator[tuple[bytes, bytes]]:
    """Yield the word and the numbers of each line that is not blank, and check their number."""
    n_lines = 0
    for line in filter(bytes.strip, lines):
        n_lines += 1
        if n_words is not None and n_lines > n_words:
            raise ValueError(f"{path}: {n_words} words are announced, and more lines follow")
        yield _split_line(line, dim, f"{path}: entry {n_lines}")
    if n_words is not None and n_lines < n_words:
        raise ValueError(f"{path}: {n_words} words are announced, the file ends at {n_lines}")


def _split_line(line: bytes, dim: int, where: str) -> tuple[bytes, bytes]:
    """Split a line into its word, which may contain spaces, and its numbers."""
    is_cut = not line.endswith((b"\n", b"\r"))
    line = line.rstrip(b" \r\n")
    word, _, numbers = line.partition(b" ")
    if not numbers or numbers.count(b" ") != dim - 1:
        word, *parts = line.rsplit(b" ", dim)
        numbers = b" ".join(parts) if len(parts) == dim and word.strip() else b""
    if not numbers or not _is_word(word):
        hint = ONE_SPACE if b"\t" in line else " It has two spaces in a row." * (b"  " in line)
        raise ValueError(f"{where}: not a word and {dim} numbers, but {line[:40]!r}….{hint}")
    if is_cut:
        raise ValueError(
            f"{where}: the file ends inside this line, and its last number {line[-12:]!r} may be "
            "cut. Use the complete file; if this is it, add a line end."
        )
    return word, numbers


def _is_word(word: bytes) -> bool:
    """Tell a word, which may contain spaces as in GloVe 840B, from a word with numbers in it."""
    last = re.split(rb"\s", word)[-1]
    return last == word or word.isspace() or not (last == b"" or is_number(last))


def is_number(part: bytes) -> bool:
    """Tell whether Python reads bytes as a number."""
    try:
        float(part)
    except ValueError:
        return False
    return True


def count_numbers(line: bytes) -> int:
    """Count the numbers at the end of a line, after at least one word."""
    parts = line.rstrip().split(b" ")[1:]
    wrong = [i for i, part in enumerate(parts) if not is_number(part)]
    return len(parts) - (wrong[-1] + 1 if wrong else 0)


def _dimension(lines: Iterable[bytes]) -> int:
    """Return how many numbers most lines end with, since words may end with numbers, too."""
    return Counter(filter(None, map(count_numbers, lines))).most_common(1)[0][0]


def _parse(path: Path, words: list[str], lines: list[bytes], dim: int) -> np.ndarray:
    """Parse lines of numbers into rows, or raise with the word of the line that is wrong."""
    try:
        with np.errstate(over="ignore"):  # infinity is refused by the name of its word
            return _by_pandas(lines, dim)
    except (ImportError, ValueError):
        pass
    try:
        with np.errstate(over="ignore"):
            return _by_numpy(lines, dim)
    except ValueError:
        for word, line in zip(words, lines, strict=True):
            for part in line.split(b" "):
                if not is_number(part):
                    raise ValueError(f"{path}: {word!r} has {part!r} for a number") from None
        raise


def _by_pandas(lines: list[bytes], dim: int) -> np.ndarray:
    """Parse numbers five times as fast as NumPy does.

    Both round correctly, so that the digest of a file is the same on every machine.
    """
    if dim > _MOST_COLUMNS:
        raise ValueError(f"{dim} columns are too many for pandas")
    import pandas

    exact = {"float_precision": "round_trip"} if int(pandas.__version__.split(".")[0]) < 3 else {}
    file = io.BytesIO(b"\n".join(lines))
    settings = {"sep": " ", "header": None, "quoting": csv.QUOTE_NONE, "dtype": np.float32}
    return pandas.read_csv(file, **settings, na_filter=False, **exact).to_numpy()


def _by_numpy(lines: list[bytes], dim: int) -> np.ndarray:
    numbers = np.array(b" ".join(lines).split(b" "), np.float64)
    return numbers.astype(np.float32).reshape(-1, dim)
