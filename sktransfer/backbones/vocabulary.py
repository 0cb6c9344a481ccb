"""Words as numbers: a vocabulary that is opened without being read, and texts taken apart by it."""

from __future__ import annotations

import hashlib
import re
import unicodedata
import warnings
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import chain

import numpy as np
import torch
import xxhash

from .base import padded_length
from .identity import describe

__all__ = ["Vocabulary", "WordPreprocessing", "split_chunk"]

_OOV_BOUND = 0.3  # share of unknown tokens above which vectors and texts do not belong together
_MEMO = 200_000  # chunks whose ids are remembered, some 50 MB
_DIGITS = re.compile(r"\d\D*\d")
_LONGEST = 64  # letters of an unknown word that has subwords; what is longer is an address
_STEP = 8  # numbers of subwords are multiples of it, so that texts share shapes


class Vocabulary:
    """Words and their ids, which count from 1, looked up where they lie.

    Sorted 64-bit hashes lead to a word, and the word itself is compared. So nothing is built when
    the arrays are memory-mapped: three million words open in milliseconds. Of equal words the
    first is found.

    Parameters
    ----------
    letters : ndarray of uint8
        All words in UTF-8, one after another.
    offsets : ndarray of int64, shape (n_words + 1,)
        Where each begins.
    hashes : ndarray of uint64, shape (n_words,)
        Their xxh3, sorted.
    order : ndarray of int32, shape (n_words,)
        The position of the word that each hash is of.

    Examples
    --------
    >>> from sktransfer.backbones.vocabulary import Vocabulary
    >>> vocabulary = Vocabulary.from_words(["film", "good"])
    >>> vocabulary.find("good"), vocabulary.find("bad"), vocabulary.word(1)
    (2, 0, 'film')
    """

    def __init__(
        self, letters: np.ndarray, offsets: np.ndarray, hashes: np.ndarray, order: np.ndarray
    ):
        self.arrays = {"letters": letters, "offsets": offsets, "hashes": hashes, "order": order}
        # Views give plain integers, several times faster than NumPy's scalars.
        self._letters, self._offsets = memoryview(letters), memoryview(offsets)
        self._hashes, self._order = memoryview(hashes), memoryview(order)

    @classmethod
    def from_words(cls, words: Iterable[str]) -> Vocabulary:
        """Make a vocabulary of words in the order of their rows."""
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
        """Return the id of a word exactly as it stands, or 0."""
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
        """Return the id of a word as it stands, else in lower case, else with # for digits, or 0.

        Vectors made by word2vec from Google News write numbers of several digits as "####".
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

    def __reduce__(self):
        return Vocabulary, tuple(np.array(array) for array in self.arrays.values())


def _encode(word: str) -> bytes:
    return word.encode("utf-8", "surrogatepass")


# -- taking texts apart --------------------------------------------------------------------------

_EDGE = re.compile(r"[\W_]*")
_RUNS = re.compile(r"(.)\1*", re.DOTALL)
# As in the Penn Treebank and so in GloVe: http://www.cis.upenn.edu/~treebank/tokenizer.sed
_CONTRACTION = re.compile(r"(?:n't|'(?:s|re|ve|ll|d|m))\Z", re.IGNORECASE)
_NUMBER = re.compile(r"\d[\d.,:/-]*\d")
# First at what joins words loosely, so that "u.s.-backed" keeps its "u.s.".
_SEPARATORS = re.compile(r"([^\w'.,:]+|_+)"), re.compile(r"([\W_]+)")
_JOINTS = frozenset("-'_")


def split_chunk(chunk: str, find: Callable[[str], int]) -> list[str]:
    """Take a stretch of text without white space apart into words that a vocabulary knows.

    What is known whole stays whole ("u.s.", "self-conscious"). Otherwise punctuation at the edges
    is split off, then contractions ("do n't", "it 's") where the vocabulary has their parts, then
    the words around hyphens and other signs. A full stop belongs to the sentence where the word
    is the more frequent without it: files list words by frequency.

    Parameters
    ----------
    chunk : str
    find : callable
        From a word to its id, 0 if it is not known.

    Returns
    -------
    list of str
        Known tokens, and words that are not known. Signs that are not known are left out.
    """
    before: list[str] = []
    behind: list[str] = []
    rest: str | None = chunk
    while rest is not None:
        first, rest, last = _opened_up(rest, find)
        before += first
        behind[:0] = last
    return before + behind


def _opened_up(chunk: str, find) -> tuple[list[str], str | None, list[str]]:
    """Return the first tokens of a chunk, what is yet to be taken apart, and the last tokens."""
    if _is_whole(chunk, find):
        return [chunk], None, []
    chunk = unicodedata.normalize("NFC", chunk).replace("’", "'")
    lead, core, tail = _edges(chunk)
    if not core:
        return _signs(lead, find), None, []
    n_lead, n_tail = _extent(lead, core, tail, find)
    start, end = len(lead) - n_lead, len(lead) + len(core) + n_tail
    word, before, behind = chunk[start:end], _signs(chunk[:start], find), _signs(chunk[end:], find)
    if n_lead or n_tail or find(word):
        return [*before, word], None, behind
    # From the third last letter on, and behind at least one: "n't" alone is no contraction.
    contraction = _CONTRACTION.search(word, max(1, len(word) - 3))
    if contraction and find(contraction[0]):
        return before, word[: contraction.start()], [contraction[0], *behind]
    return [*before, *_split_word(word, find)], None, behind


def _edges(chunk: str) -> tuple[str, str, str]:
    """Part a chunk into the signs before its first letter, what lies between, and those behind."""
    start = _EDGE.match(chunk).end()
    end = max(start, len(chunk) - _EDGE.match(chunk[::-1]).end())
    return chunk[:start], chunk[start:end], chunk[end:]


def _is_whole(chunk: str, find) -> bool:
    found = find(chunk)
    if found and len(chunk) > 1 and chunk[-1] == ".":
        return not 0 < find(chunk[:-1]) < found
    return found > 0


def _extent(lead: str, core: str, tail: str, find) -> tuple[int, int]:
    """Say how many signs before and behind belong to a word: "'90s", "u.s." """
    for n_lead in range(min(len(lead), 1), -1, -1):
        for n_tail in range(min(len(tail), 2), -1, -1):
            word = lead[len(lead) - n_lead :] + core + tail[:n_tail]
            if _is_whole(word, find):
                return n_lead, n_tail
    return 0, 0


def _split_word(word: str, find) -> list[str]:
    """Take a word apart that is not known; it begins and ends with a letter or digit."""
    if _NUMBER.fullmatch(word):
        return [word]
    for separator in _SEPARATORS:
        parts = separator.split(word)
        if len(parts) > 1:
            return [token for part in parts if part not in _JOINTS for token in _part(part, find)]
    return [word]


def _part(part: str, find) -> list[str]:
    return split_chunk(part, find) if part else []


def _signs(signs: str, find) -> list[str]:
    """Split punctuation into runs of one sign where these are known ("..."), else into signs."""
    runs = [match[0] for match in _RUNS.finditer(signs)]
    tokens = chain.from_iterable([run] if find(run) else run for run in runs)
    return [token for token in tokens if find(token)]


# -- from texts to ids ---------------------------------------------------------------------------


_MARK = "\ufdd0"  # stands between texts: a code point that Unicode keeps for such purposes
_BETWEEN = -(2**62)
_SEVERAL = 2**40  # codes from here on are places in a list of ids


class _Codes(dict):
    """One number for each chunk: its id, 0 for none, or the place of its several ids."""

    def __init__(self, memo: _Memo):
        super().__init__({_MARK: _BETWEEN})
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
    """Ids of chunks, found when they are first asked for.

    A negative id -i stands for the i-th entry of ``grams``: the ids of an unknown word's n-grams.
    """

    def __init__(self, split: Callable[[str], Sequence[str]], vectors):
        self.split = split
        self.vectors = vectors
        self.rows = vectors.matrix.numpy()
        self.unknown: dict[str, list[str]] = {}  # by chunk, where there are any
        self.grams: list[list[int]] = [[]]
        self.codes = _Codes(self)

    def __missing__(self, chunk: str) -> tuple[int, ...]:
        tokens = self.split(chunk)
        ids = [self._id(token) for token in tokens]
        if 0 in ids:
            self.unknown[chunk] = [token for token, i in zip(tokens, ids, strict=True) if not i]
        self[chunk] = found = tuple(filter(None, ids))
        return found

    def _id(self, token: str) -> int:
        found = self.vectors.vocabulary.find_form(token)
        if found:
            return found if self.rows[found - 1].any() else 0
        if self.vectors.subwords is None or len(token) > _LONGEST:
            return 0
        first = self.vectors.n_words + 1
        grams = [first + bucket for bucket in self.vectors.subwords(token)]
        # What is zero is no token to a network.
        if not grams or not self.rows[[gram - 1 for gram in grams]].sum(0).any():
            return 0
        self.grams.append(grams)
        return 1 - len(self.grams)


class WordPreprocessing:
    """From a text to the ids of its words. Words without a vector, or of zeros, are left out.

    Parameters
    ----------
    vectors : WordVectors
    tokenizer : callable, default=None
        From a text to a list of str, such as ``CountVectorizer().build_analyzer()``. By default
        texts are split at white space and then by :func:`split_chunk`.

    Examples
    --------
    >>> from sktransfer.backbones.tables import WordVectors
    >>> from sktransfer.backbones.vocabulary import WordPreprocessing
    >>> vectors = WordVectors.from_words(["do", "n't", "panic"], [[1.0], [2.0], [3.0]])
    >>> preprocess = WordPreprocessing(vectors)
    >>> preprocess.tokens("Don't panic")
    ['Do', "n't", 'panic']
    >>> preprocess("Don't panic")
    tensor([1, 2, 3, 0, 0, 0, 0, 0])
    """

    def __init__(self, vectors, tokenizer: Callable[[str], Sequence[str]] | None = None):
        self.vectors = vectors
        self.tokenizer = tokenizer
        self._memo: _Memo | None = None

    def __call__(self, text: str) -> torch.Tensor:
        """Return the ids of one text, ``(length,)`` or, with subwords, ``(length, k)``."""
        return self.many([text])[0][1][0]

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text, those that have no vector included."""
        return [token for chunk in self._chunks(text) for token in self._split(chunk)]

    def many(self, texts: Sequence[str]) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Turn texts into ids, those of one shape together.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        list of (ndarray of shape (g,), Tensor of shape (g, length) or (g, length, k))
            Positions of the texts, and their ids, filled up with 0. An unknown word that has
            subwords is k ids, of which the vectors' mean is taken.
        """
        memo = self._remembered()
        chunks = self._marked_chunks(texts)
        codes = np.fromiter(map(memo.codes.__getitem__, chunks), np.int64, len(chunks))
        text = np.cumsum(codes == _BETWEEN)
        some = (codes != _BETWEEN) & (codes != 0)
        codes, text = _expanded(codes[some], text[some], memo.codes.several)
        # One more, so that position -1 is "no token".
        return _grouped(np.append(codes, 0), np.bincount(text, minlength=len(texts)), memo.grams)

    def _marked_chunks(self, texts: Sequence[str]) -> list[str]:
        """Return the chunks of all texts in one list, with a mark between two texts.

        One ``split`` of all texts together takes half the time of one for each.
        """
        joined = f" {_MARK} ".join(texts)
        if joined.count(_MARK) >= len(texts):
            texts = [text.replace(_MARK, " ") for text in texts]
            joined = f" {_MARK} ".join(texts)
        if self.tokenizer is None:
            return joined.split()
        marked = chain.from_iterable(([_MARK], self._chunks(text)) for text in texts)
        return list(chain.from_iterable(marked))[1:]

    def check(self, texts: Sequence[str], fitting: bool) -> dict[str, float]:
        """Count the tokens without a vector and warn where they are many.

        Parameters
        ----------
        texts : sequence of str
        fitting : bool
            Otherwise nothing is counted.

        Returns
        -------
        dict
            ``oov_rate_``, the share of tokens that are left out.
        """
        if not fitting:
            return {}
        memo = self._remembered()
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
            f"left out, most often {words}. Use vectors of the texts' language and subject, ones "
            "with subwords (FastText .bin), or a tokenizer= that splits texts as these vectors "
            "were made.",
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

    def _remembered(self) -> _Memo:
        # Begun anew only between calls: negative ids refer to the memo they were found in.
        if self._memo is None or len(self._memo) > _MEMO:
            self._memo = _Memo(self._split, self.vectors)
        return self._memo

    @property
    def content_digest(self) -> str:
        """Hash of all that decides the ids.

        Raises
        ------
        ValueError
            If nothing says what the tokenizer does.
        """
        parts = ("words v2", self.vectors.content_digest, describe(self.tokenizer))
        return hashlib.sha256("|".join(parts).encode()).hexdigest()

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_memo": None}

    def __repr__(self) -> str:
        tokenizer = "" if self.tokenizer is None else f", tokenizer={self.tokenizer!r}"
        return f"WordPreprocessing({self.vectors!r}{tokenizer})"


def _expanded(codes: np.ndarray, text: np.ndarray, several: list) -> tuple:
    """Put the ids of chunks that have several where their code stands."""
    found = codes >= _SEVERAL
    if not found.any():
        return codes, text
    ids = [several[i] for i in (codes[found] - _SEVERAL).tolist()]
    sizes = np.ones(len(codes), np.int64)
    sizes[found] = [len(some) for some in ids]
    codes, text = np.repeat(codes, sizes), np.repeat(text, sizes)
    codes[codes >= _SEVERAL] = np.fromiter(chain.from_iterable(ids), np.int64)
    return codes, text


def _grouped(ids: np.ndarray, counts: np.ndarray, grams: list[list[int]]) -> list[tuple]:
    """Fill texts of one shape into arrays. The last of ids is 0; text i has counts[i] of them."""
    starts = np.cumsum(counts) - counts
    different, which = np.unique(counts, return_inverse=True)
    lengths = np.array([padded_length(n) for n in different.tolist()], np.int64)[which]
    widths = _widths(ids, counts, grams)
    groups = []
    for length, k in sorted(set(zip(lengths.tolist(), widths.tolist(), strict=True))):
        (positions,) = np.nonzero((lengths == length) & (widths == k))
        place = np.arange(length)  # (length,)
        inside = place < counts[positions, None]  # (g, length)
        filled = ids[np.where(inside, starts[positions, None] + place, -1)]
        filled = _with_grams(filled, k, grams) if k else filled
        groups.append((positions, torch.from_numpy(filled)))
    return groups


def _widths(ids: np.ndarray, counts: np.ndarray, grams: list[list[int]]) -> np.ndarray:
    """Return, for each text, the number of ids that its tokens have; 0 where it is just one."""
    widths = np.zeros(len(counts), np.int64)
    (unknown,) = np.nonzero(ids < 0)
    if len(unknown):
        sizes = np.array([-(-len(g) // _STEP) * _STEP for g in grams])
        texts = np.searchsorted(np.cumsum(counts), unknown, side="right")
        np.maximum.at(widths, texts, sizes[-ids[unknown]])
    return widths


def _with_grams(ids: np.ndarray, k: int, grams: list[list[int]]) -> np.ndarray:
    filled = np.zeros((*ids.shape, k), np.int64)
    filled[..., 0] = np.maximum(ids, 0)
    different, which = np.unique(ids[ids < 0], return_inverse=True)
    rows = np.zeros((len(different), k), np.int64)
    for row, i in zip(rows, different.tolist(), strict=True):
        row[: len(grams[-i])] = grams[-i]
    filled[ids < 0] = rows[which]
    return filled
