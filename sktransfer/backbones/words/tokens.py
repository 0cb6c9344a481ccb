"""Split texts into words."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from itertools import chain

__all__ = ["split_chunk"]

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
    start = _edge(chunk)
    end = max(start, len(chunk) - _edge(chunk[::-1]))
    return chunk[:start], chunk[start:end], chunk[end:]


def _edge(chunk: str) -> int:
    match = _EDGE.match(chunk)
    return match.end() if match else 0


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
