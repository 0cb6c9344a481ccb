"""The modality of texts."""

from __future__ import annotations

import functools
import re
import reprlib
import textwrap
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import xxhash
from sklearn.utils import InputTags, check_array

from .contents import IMAGE_SUFFIX
from .modality import Modality, Parts, register_modality
from .samples import UnreadableSamplesError, unwrap_column

_STEP = 8  # padded lengths are multiples of it, so that several texts have the same length
# Tokens of a batch. A matrix product with fewer rows takes more time for each row.
_TOKENS = 512
_TOKENS_ON_ACCELERATOR = 16384
_N_LOOKED_AT = 20
_WORD = re.compile(r"\w+(?:['’\-]\w+)*")


class TextModality(Modality):
    """Texts, which the preprocessing of a backbone converts to ids of tokens."""

    name = "text"
    noun = "texts"
    chunk_size = 2048  # texts are small, and a long chunk fills the batches of each length
    has_tokens = True
    is_hashable = True
    usual_backbone = "e5_small"

    def check(
        self,
        X: Any,
        *,
        image_shape: tuple[int, ...] | None = None,
        validate: Callable[..., Any] = check_array,
    ) -> list[str]:
        return as_texts(X)

    def digest(self, sample: str) -> bytes:
        return xxhash.xxh3_128_digest(b"text" + sample.encode("utf-8", "surrogatepass"))

    def example(self, shape: tuple[int, ...] | None = None) -> str:
        return "The quick brown fox, at 2.50 €, jumps over the lazy dog's naïve café."

    def batch_limit(self, shape: tuple[int, ...], on_cpu: bool) -> int:
        return max(1, (_TOKENS if on_cpu else _TOKENS_ON_ACCELERATOR) // shape[0])

    def preview(self, sample: str, side: int = 160) -> str:
        return textwrap.shorten(self.read(sample), side, placeholder=" …")

    def looks_like(self, cells: Sequence[Any]) -> bool:
        are_texts = all(isinstance(cell, str) for cell in cells)
        return are_texts and not all(map(_is_image_file, cells))

    def parts(self, sample: str) -> TextParts:
        return TextParts(self.read(sample))

    def vectorizer(self) -> Any:
        from sklearn.feature_extraction.text import TfidfVectorizer  # not at every import

        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)

    def set_tags(self, input_tags: InputTags, *, from_table: bool = False) -> None:
        input_tags.two_d_array = input_tags.three_d_array = False
        input_tags.string = True


def as_texts(X: Any) -> list[str]:
    """Convert a list, an array, a Series or a DataFrame with one column of texts to a list.

    ``TypeError`` or ``ValueError`` if X is a single text, is empty, or is not a list or column;
    ``UnreadableSamplesError`` if items of X are not str, such as None, NaN, numbers or bytes. Warns
    if the first texts look like names of image files.
    """
    if isinstance(X, str | bytes):
        raise TypeError(f"X must be a list of texts, got one text: {str(X)[:60]!r}. Pass [text].")
    X = unwrap_column(X)
    if isinstance(X, np.ndarray) and X.ndim == 2 and X.shape[1] == 1:
        X = X[:, 0]
    if isinstance(X, np.ndarray) and X.ndim != 1:
        raise ValueError(f"X must be a list or one column of texts, got the shape {X.shape}.")
    if not isinstance(X, Sequence | np.ndarray):
        loader = "loader.dataset" if hasattr(X, "dataset") and hasattr(X, "batch_size") else "X"
        raise TypeError(
            f"X must be a list, an array or a column of texts, got {type(X)}. Collect its texts: "
            f"X = [row['text'] for row in {loader}]."
        )
    expected = "expected a text, got {}; replace or drop it first"
    if len(X) and isinstance(X[0], dict):
        expected = "expected a text, got {}; take the texts: X = [row['text'] for row in X]"
    elif len(X) and all(isinstance(row, list | tuple) and len(row) == 1 for row in X):
        expected = "expected a text, got {}; take the texts: X = [row[0] for row in X]"
    problems: list[tuple[int, object, Exception]] = [
        (i, text, TypeError(expected.format(_shown(text))))
        for i, text in enumerate(X)
        if not isinstance(text, str)
    ]
    if problems:
        raise UnreadableSamplesError(problems)
    if not len(X):
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    if all(map(_is_image_file, X[:_N_LOOKED_AT])):
        _warn_of_image_files(str(X[0]))
    return [str(text) for text in X]


def _shown(cell: Any) -> str:
    """Return what is no text as Python writes it: 5, not np.int64(5)."""
    return reprlib.repr(cell.item() if isinstance(cell, np.generic) else cell)


def _is_image_file(text: str) -> bool:
    return IMAGE_SUFFIX.search(text) is not None and len(text.split()) == 1


@functools.lru_cache(64)  # a fit and the transform that follows check the same texts
def _warn_of_image_files(first: str) -> None:
    warnings.warn(
        f"The texts look like names of image files, such as {first!r}. The network is one for "
        "texts; for images, give the name of another, such as 'efficientnet_lite0'.",
        stacklevel=3,
    )


def padded_length(n_tokens: int) -> int:
    """Return the length to which a text is padded: the next multiple of 8, at least 8.

    It depends on that text alone, so that the features do not depend on other texts.
    """
    return max(1, -(-n_tokens // _STEP)) * _STEP


def pad_rows(rows: Sequence[np.ndarray], length: int | None = None) -> np.ndarray:
    """Join rows that differ in length into one array, filled up with zeros.

    ``torch.nn.utils.rnn.pad_sequence`` needs rows that differ in their first dimension only; here a
    token may be one id, several, or a vector, and their number may differ, too. ``length`` is the
    number of tokens in each row of the result; by default that in the longest.
    """
    rank = max(row.ndim for row in rows)
    rows = [row if row.ndim == rank else row[:, None] for row in rows]
    longest, *widths = [max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True)]
    padded = np.zeros((len(rows), length or longest, *widths), rows[0].dtype)
    for place, row in zip(padded, rows, strict=True):
        place[tuple(map(slice, row.shape))] = row
    return padded


class TextParts(Parts):
    """The words of a text."""

    shown: Any
    spans: list[tuple[int, int]] | None
    shape: tuple[int, ...]

    def __init__(self, text: str):
        self.text = self.shown = text
        self.spans = [match.span() for match in _WORD.finditer(text)]
        self.shape = (len(self.spans),)

    def keep(self, kept: np.ndarray) -> str:
        left, at = [], 0
        for (start, stop), is_kept in zip(self.spans or (), kept, strict=True):
            left += [self.text[at:start], self.text[start:stop] if is_kept else ""]
            at = stop
        return "".join([*left, self.text[at:]])


register_modality(TextModality())
