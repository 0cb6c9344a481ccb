"""Map texts to the ids of their words."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch

from ...data import padded_length
from ..fingerprint import describe
from .tokens import split_chunk
from .vectors import WordVectors

_OOV_BOUND = 0.3  # share of unknown tokens above which a warning says that the vectors do not fit
_MEMO = 200_000  # chunks whose ids are kept in memory, about 50 MB
_LONGEST = 64  # letters of an unknown word that gets subwords; longer ones are addresses
_STEP = 8  # the number of subwords is a multiple of it, so that fewer shapes occur

_SEPARATOR = "\ufdd0"  # between two texts; a code point that Unicode reserves for internal use
_BETWEEN = -(2**62)  # the code of the separator
_SEVERAL = 2**40  # codes from here on are positions in a list of tuples of ids


class _Codes(dict):
    """One code for each chunk: its id, 0 for no id, or the position of its several ids."""

    def __init__(self, memo: _Memo):
        super().__init__({_SEPARATOR: _BETWEEN})
        self.memo = memo
        self.several: list[tuple[int, ...]] = []

    def __missing__(self, chunk: str) -> int:
        ids = self.memo[chunk]
        code = ids[0] if len(ids) == 1 else 0
        if len(ids) > 1:
            code = _SEVERAL + len(self.several)
            self.several.append(ids)
        self[chunk] = code
        return code


class _Memo(dict):
    """The ids of chunks, computed at the first access.

    A negative id -i is an unknown word whose n-grams have the ids ``grams[i]``.
    """

    def __init__(self, split: Callable[[str], Sequence[str]], vectors):
        self.split = split
        self.vectors = vectors
        self.rows = vectors.matrix.numpy()
        self.unknown: dict[str, list[str]] = {}  # unknown tokens of a chunk, if it has any
        self.grams: list[list[int]] = [[]]
        self.codes = _Codes(self)

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        tokens = self.split(chunk)
        ids = [self._id(token) for token in tokens]
        if 0 in ids:
            self.unknown[chunk] = [token for token, i in zip(tokens, ids, strict=True) if not i]
        self[chunk] = known = tuple(filter(None, ids))
        return known

    def _id(self, token: str) -> int:
        id = self.vectors.vocabulary.find_form(token)
        if id:
            return id if self.rows[id - 1].any() else 0
        if self.vectors.subwords is None or len(token) > _LONGEST:
            return 0
        first = self.vectors.n_words + 1
        grams = [first + bucket for bucket in self.vectors.subwords(token)]
        # A zero vector is no token for a network.
        if not grams or not self.rows[[gram - 1 for gram in grams]].sum(0).any():
            return 0
        self.grams.append(grams)
        return 1 - len(self.grams)


class WordPreprocessing:
    """Map a text to the ids of its words. Words without a vector, or with zeros, are left out.

    Parameters
    ----------
    tokenizer : callable, default=None
        Maps a text to a list of str, such as ``CountVectorizer().build_analyzer()``. By default,
        texts are split at white space and then by :func:`split_chunk`.

    Examples
    --------
    >>> from sktransfer.backbones.words.vectors import WordVectors
    >>> from sktransfer.backbones.words.word_ids import WordPreprocessing
    >>> vectors = WordVectors.from_words(["do", "n't", "panic"], [[1.0], [2.0], [3.0]])
    >>> preprocess = WordPreprocessing(vectors)
    >>> preprocess.tokens("Don't panic")
    ['Do', "n't", 'panic']
    >>> preprocess("Don't panic")
    tensor([1, 2, 3, 0, 0, 0, 0, 0])
    """

    def __init__(
        self, vectors: WordVectors, tokenizer: Callable[[str], Sequence[str]] | None = None
    ):
        self.vectors = vectors
        self.tokenizer = tokenizer
        self._memo: _Memo | None = None

    def __call__(self, text: str) -> torch.Tensor:
        """Return the ids of one text, ``(length,)`` or, with subwords, ``(length, k)``."""
        return self.many([text])[0][1][0]

    def with_long_texts(self, long_texts: str) -> WordPreprocessing:
        """Return the same preprocessing, since no text is too long for word vectors."""
        return self

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text, including those without a vector."""
        return [token for chunk in self._chunks(text) for token in self._split(chunk)]

    def many(self, texts: Sequence[str]) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Map texts to ids, grouped by shape.

        For each shape, positions of texts and their ids ``(g, length)`` or ``(g, length, k)``,
        padded with 0. An unknown word with subwords has k ids; its vector is the mean of theirs.
        """
        memo = self._current_memo()
        chunks = self._separated_chunks(texts)
        codes = np.fromiter(map(memo.codes.__getitem__, chunks), np.int64, len(chunks))
        text = np.cumsum(codes == _BETWEEN)
        some = (codes != _BETWEEN) & (codes != 0)
        codes, text = _expanded(codes[some], text[some], memo.codes.several)
        # Position -1 is the id 0, no token.
        return _group_by_shape(
            np.append(codes, 0), np.bincount(text, minlength=len(texts)), memo.grams
        )

    def _separated_chunks(self, texts: Sequence[str]) -> list[str]:
        """Return the chunks of all texts in one list, with a separator between two texts.

        One ``split`` of all texts takes half the time of one for each text.
        """
        joined = f" {_SEPARATOR} ".join(texts)
        if joined.count(_SEPARATOR) >= len(texts):
            texts = [text.replace(_SEPARATOR, " ") for text in texts]
            joined = f" {_SEPARATOR} ".join(texts)
        if self.tokenizer is None:
            return joined.split()
        parts = chain.from_iterable(([_SEPARATOR], self._chunks(text)) for text in texts)
        return list(chain.from_iterable(parts))[1:]

    def check(self, texts: Sequence[str], fitting: bool) -> dict[str, float]:
        """Count the tokens without a vector in fit, and warn if there are many."""
        if not fitting:
            return {}
        memo = self._current_memo()
        chunks = list(chain.from_iterable(map(self._chunks, texts)))
        n_known = sum(map(len, map(memo.__getitem__, chunks)))
        without = (memo.unknown[chunk] for chunk in chunks if chunk in memo.unknown)
        unknown = Counter(chain.from_iterable(without))
        rate = unknown.total() / max(1, n_known + unknown.total())
        if rate > _OOV_BOUND:
            self._warn(rate, [word for word, _ in unknown.most_common(5)])
        return {"oov_rate_": rate}

    def _warn(self, rate: float, words: list[str]) -> None:
        warnings.warn(
            f"{rate:.0%} of the tokens have no vector among {self.vectors.n_words} words and are "
            f"left out, most often {words}. Use vectors for the language and subject of the texts, "
            "vectors with subwords (FastText .bin), or a tokenizer= that splits texts as for the "
            "training of these vectors.",
            stacklevel=4,
        )

    def _chunks(self, text: str) -> Iterable[str]:
        if self.tokenizer is None:
            return text.split()
        tokens = self.tokenizer(text)
        if isinstance(tokens, str | bytes) or not isinstance(tokens, Iterable):
            raise TypeError(f"tokenizer= must give a list of str for a text, and gave {tokens!r}")
        return tokens

    def _split(self, chunk: str) -> Sequence[str]:
        if self.tokenizer is None:
            return split_chunk(chunk, self.vectors.vocabulary.find_form)
        if not isinstance(chunk, str):
            raise TypeError(f"tokenizer= must give a list of str, and gave {chunk!r} in it")
        return [chunk]

    def _current_memo(self) -> _Memo:
        # Replaced only between calls, since negative ids refer to one memo.
        if self._memo is None or len(self._memo) > _MEMO:
            self._memo = _Memo(self._split, self.vectors)
        return self._memo

    @property
    def content_digest(self) -> str:
        """Hash of everything that determines the ids.

        A tokenizer that cannot be described by its content is a ``ValueError``.
        """
        parts = ("words v2", self.vectors.content_digest, describe(self.tokenizer))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_memo": None}

    def __repr__(self) -> str:
        tokenizer = "" if self.tokenizer is None else f", tokenizer={self.tokenizer!r}"
        return f"WordPreprocessing({self.vectors!r}{tokenizer})"


def _expanded(codes: np.ndarray, text: np.ndarray, several: list) -> tuple:
    """Replace the codes of chunks with several ids by these ids."""
    has_several = codes >= _SEVERAL
    if not has_several.any():
        return codes, text
    ids = [several[i] for i in (codes[has_several] - _SEVERAL).tolist()]
    sizes = np.ones(len(codes), np.int64)
    sizes[has_several] = [len(some) for some in ids]
    codes, text = np.repeat(codes, sizes), np.repeat(text, sizes)
    codes[codes >= _SEVERAL] = np.fromiter(chain.from_iterable(ids), np.int64)
    return codes, text


def _group_by_shape(ids: np.ndarray, counts: np.ndarray, grams: list[list[int]]) -> list[tuple]:
    """Pad the ids of texts and group them by shape; text i has counts[i] ids, and the last id is 0.

    One indexing for each shape takes a tenth of the time of ``pad_sequence``, which needs a tensor
    for each text.
    """
    starts = np.cumsum(counts) - counts
    different, which = np.unique(counts, return_inverse=True)
    lengths = np.array([padded_length(n) for n in different.tolist()], np.int64)[which]
    widths = _count_parts(ids, counts, grams)
    groups = []
    for length, k in sorted(set(zip(lengths.tolist(), widths.tolist(), strict=True))):
        (positions,) = np.nonzero((lengths == length) & (widths == k))
        place = np.arange(length)  # (length,)
        inside = place < counts[positions, None]  # (g, length)
        filled = ids[np.where(inside, starts[positions, None] + place, -1)]
        filled = _with_grams(filled, k, grams) if k else filled
        groups.append((positions, torch.from_numpy(filled)))
    return groups


def _count_parts(ids: np.ndarray, counts: np.ndarray, grams: list[list[int]]) -> np.ndarray:
    """Return the number of ids of each token of a text; 0 if every token has one."""
    widths = np.zeros(len(counts), np.int64)
    (unknown,) = np.nonzero(ids < 0)
    if len(unknown):
        sizes = np.array([-(-len(g) // _STEP) * _STEP for g in grams])
        texts = np.searchsorted(np.cumsum(counts), unknown, side="right")
        np.maximum.at(widths, texts, sizes[-ids[unknown]])
    return widths


def _with_grams(ids: np.ndarray, k: int, grams: list[list[int]]) -> np.ndarray:
    """Give each token k ids: its own and zeros, or those of its n-grams and zeros."""
    filled = np.zeros((*ids.shape, k), np.int64)
    filled[..., 0] = np.maximum(ids, 0)
    different, which = np.unique(ids[ids < 0], return_inverse=True)
    rows = np.zeros((len(different), k), np.int64)
    for row, i in zip(rows, different.tolist(), strict=True):
        row[: len(grams[-i])] = grams[-i]
    filled[ids < 0] = rows[which]
    return filled
