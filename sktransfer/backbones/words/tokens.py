"""Split chunks of text into words that a vocabulary has."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from itertools import chain

_EDGE = re.compile(r"[\W_]*")
_RUNS = re.compile(r"(.)\1*", re.DOTALL)

# As in the Penn Treebank, and therefore in GloVe: http://www.cis.upenn.edu/~treebank/tokenizer.sed
_CONTRACTION = re.compile(r"(?:n't|'(?:s|re|ve|ll|d|m))\Z", re.IGNORECASE)
_NUMBER = re.compile(r"\d[\d.,:/-]*\d")

# Hyphens and slashes first, so that "u.s.-backed" keeps "u.s.".
_SEPARATORS = re.compile(r"([^\w'.,:]+|_+)"), re.compile(r"([\W_]+)")
_DROPPED = frozenset("-'_")


def split_chunk(chunk: str, find: Callable[[str], int]) -> list[str]:
    """Split a chunk of text without white space into words that a vocabulary has.

    A chunk that the vocabulary has is not split ("u.s.", "self-conscious"). Otherwise punctuation
    at both ends is split off, then contractions ("do n't", "it 's") if the vocabulary has their
    parts, then the words around hyphens and other signs. A full stop is split off if the word is
    more frequent without it; vocabularies are sorted by frequency. ``find`` maps a word to its id,
    0 if it is unknown. Unknown words are returned, too, and unknown signs are left out.
    """
    before: list[str] = []
    behind: list[str] = []
    rest: str | None = chunk
    while rest is not None:
        first, rest, last = _split_once(rest, find)
        before += first
        behind[:0] = last
    return before + behind


def _split_once(chunk: str, find) -> tuple[list[str], str | None, list[str]]:
    """Return the first tokens of a chunk, the part that is still to be split, and the last."""
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
    # Among the last three letters, after at least one: "n't" alone is no contraction.
    contraction = _CONTRACTION.search(word, max(1, len(word) - 3))
    if contraction and find(contraction[0]):
        return before, word[: contraction.start()], [contraction[0], *behind]
    return [*before, *_split_word(word, find)], None, behind


def _edges(chunk: str) -> tuple[str, str, str]:
    """Split a chunk into the signs at its beginning, its middle, and the signs at its end."""
    start = _edge(chunk)
    end = max(start, len(chunk) - _edge(chunk[::-1]))
    return chunk[:start], chunk[start:end], chunk[end:]


def _edge(chunk: str) -> int:
    """Count the signs at the beginning of a chunk."""
    match = _EDGE.match(chunk)
    return match.end() if match else 0


def _is_whole(chunk: str, find) -> bool:
    """Tell whether a chunk is one word of the vocabulary, its full stop included."""
    id = find(chunk)
    if id and len(chunk) > 1 and chunk[-1] == ".":
        return not 0 < find(chunk[:-1]) < id
    return id > 0


def _extent(lead: str, core: str, tail: str, find) -> tuple[int, int]:
    """Count the signs before and after a word that belong to it: "'90s", "u.s." """
    for n_lead in range(min(len(lead), 1), -1, -1):
        for n_tail in range(min(len(tail), 2), -1, -1):
            word = lead[len(lead) - n_lead :] + core + tail[:n_tail]
            if _is_whole(word, find):
                return n_lead, n_tail
    return 0, 0


def _split_word(word: str, find) -> list[str]:
    """Split an unknown word, which begins and ends with a letter or a digit."""
    if _NUMBER.fullmatch(word):
        return [word]
    for separator in _SEPARATORS:
        parts = separator.split(word)
        if len(parts) > 1:
            return [token for part in parts if part not in _DROPPED for token in _part(part, find)]
    return [word]


def _part(part: str, find) -> list[str]:
    return split_chunk(part, find) if part else []


def _signs(signs: str, find) -> list[str]:
    """Split punctuation into runs of one sign if they are known ("..."), else into signs."""
    runs = [match[0] for match in _RUNS.finditer(signs)]
    tokens = chain.from_iterable([run] if find(run) else run for run in runs)
    return [token for token in tokens if find(token)]
