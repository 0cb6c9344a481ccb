"""Check binary files of word vectors before gensim reads them.

gensim allocates what a header announces, and searches for the end of a word beyond the end of the
file. Therefore everything that is announced is compared with the size of the file first.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["check_fasttext", "check_word2vec", "parse_header"]

# As fastText 0.9.2 writes them in FastText::signModel, Args::save and Dictionary::save
_FIELDS = (
    *("magic", "version", "dim", "ws", "epoch", "min_count", "neg", "word_ngrams", "loss"),
    *("model", "bucket", "minn", "maxn", "lr_update_rate", "t"),
    *("size", "n_words", "n_labels", "n_tokens", "n_pruned"),
)
_HEADER = "<2i12id3i2q"
_LONGEST_NGRAM = 100  # letters; fastText's default is 6
_LONGEST_WORD = 10_000  # bytes; gensim keeps all n-grams of a word in memory
_MOST_DIGITS = 18


class _Cursor:
    """A position in a file, which raises ``ValueError`` if it moves beyond the end."""

    def __init__(self, data: mmap.mmap):
        self.data = data
        self.position = 0

    @property
    def n_left(self) -> int:
        return len(self.data) - self.position

    def skip(self, n_bytes: int, what: str) -> None:
        if not 0 <= n_bytes <= self.n_left:
            raise ValueError(
                f"{n_bytes} bytes are announced for {what}, and {self.n_left} are left in the file"
            )
        self.position += n_bytes

    def unpack(self, form: str, what: str) -> tuple:
        start = self.position
        self.skip(struct.calcsize(form), what)
        return struct.unpack_from(form, self.data, start)

    def skip_words(self, n_words: int, end: bytes, n_behind: int) -> None:
        """Skip words that end with the byte ``end`` and are followed by ``n_behind`` bytes."""
        find, position, last = self.data.find, self.position, len(self.data) - n_behind
        for i in range(n_words):
            stop = find(end, position, position + _LONGEST_WORD)
            if not 0 <= stop < last:
                raise ValueError(f"{n_words} words are announced, word {i + 1} is not complete")
            position = stop + 1 + n_behind
        self.position = position


@contextmanager
def _opened(path: Path) -> Iterator[_Cursor]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield _Cursor(data)


def parse_header(line: bytes) -> tuple[int, int] | None:
    """Parse a first line that holds the number of words and of dimensions.

    Parameters
    ----------
    line : bytes

    Returns
    -------
    (int, int) or None
        None if the line holds something else.
    """
    parts = line.split()
    if len(parts) != 2 or not all(p.isdigit() and len(p) <= _MOST_DIGITS for p in parts):
        return None
    return int(parts[0]), int(parts[1])


def check_word2vec(path: Path, limit: int | None = None) -> None:
    """Compare the header of a word2vec file with the words and numbers that follow.

    Parameters
    ----------
    path : Path
        Not compressed.
    limit : int, default=None
        How many words will be read. None means all, and then nothing may follow the last one.

    Raises
    ------
    ValueError
        If the file is shorter than announced, or longer.
    """
    with _opened(path) as cursor:
        line = cursor.data.readline()
        n_words, dim = parse_header(line) or (0, 0)
        n_read = min(n_words, limit or n_words)
        cursor.skip(len(line), "the header")
        if not dim or n_read * (4 * dim + 1) > cursor.n_left:
            raise ValueError(
                f"{n_words} words of {dim} numbers are announced, in {len(cursor.data)} bytes"
            )
        cursor.skip_words(n_read, b" ", 4 * dim)
        if n_read == n_words:
            _check_end(cursor, f"{n_words} words of {dim} numbers")


def _check_end(cursor: _Cursor, announced: str) -> None:
    """Raise ``ValueError`` if anything but a line end follows."""
    if cursor.n_left > 2 or cursor.data[cursor.position :].strip(b"\r\n"):
        raise ValueError(f"{announced} are announced, and {cursor.n_left} bytes follow them")


def check_fasttext(path: Path) -> None:
    """Compare what a FastText model announces with the size of its file.

    Parameters
    ----------
    path : Path
        Not compressed.

    Raises
    ------
    ValueError
        If the file is shorter than announced, or longer, or holds a quantised model.
    """
    with _opened(path) as cursor:
        header = dict(zip(_FIELDS, cursor.unpack(_HEADER, "the header"), strict=True))
        _check_arguments(header)
        cursor.skip_words(header["size"], b"\0", 9)  # a count of 8 bytes, a type of 1
        cursor.skip(8 * max(0, header["n_pruned"]), "pruned n-grams")
        shape = _skip_matrix(cursor, "vectors")
        if shape != (header["size"] + header["bucket"], header["dim"]):
            raise ValueError(
                f"the matrix has shape {shape}; {header['size']} words and {header['bucket']} "
                f"buckets of {header['dim']} numbers are announced"
            )
        if cursor.n_left:  # the output layer of the model, which is not read
            _skip_matrix(cursor, "the output layer")
        _check_end(cursor, "all matrices")


def _check_arguments(header: dict) -> None:
    if header["n_labels"] > 0:
        raise ValueError("supervised models are not supported")
    at_least = {"dim": 1, "size": 1, "bucket": 0, "minn": 0, "maxn": 0}
    wrong = {name: header[name] for name, least in at_least.items() if header[name] < least}
    wrong |= {name: header[name] for name in ("maxn",) if header[name] > _LONGEST_NGRAM}
    wrong |= {name: header[name] for name in ("t",) if not math.isfinite(header[name])}
    if wrong:
        raise ValueError(f"the header holds {wrong}")


def _skip_matrix(cursor: _Cursor, what: str) -> tuple[int, int]:
    is_quantised, n_rows, n_columns = cursor.unpack("<?2q", what)
    if is_quantised:
        raise ValueError("quantised models (.ftz) are not supported")
    if min(n_rows, n_columns) < 0:
        raise ValueError(f"{what}: a matrix of shape ({n_rows}, {n_columns}) is announced")
    cursor.skip(4 * n_rows * n_columns, what)
    return n_rows, n_columns
