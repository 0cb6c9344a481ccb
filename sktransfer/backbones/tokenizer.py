"""Map texts to the ids of tokens by a tokenizer of the tokenizers library."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data import UnreadableSamplesError, pad_rows, padded_length

__all__ = ["TokenizerPreprocessing"]

_CHUNK = 4096  # texts that are encoded at a time; encodings are much larger than ids


class TokenizerPreprocessing:
    """Map texts to the ids of tokens, as the tokenizer of a network does.

    Ids are those of the tokenizer plus one. 0 is no token, so that a padding token that is
    written in a text is a token. Lengths are padded to a multiple of 8.

    Parameters
    ----------
    tokenizer : str
        The content of a ``tokenizer.json``, as ``tokenizers.Tokenizer.to_str`` returns it. Its
        padding and truncation are replaced.
    max_length : int
        The largest number of tokens of a text, including special ones. Longer texts are truncated.
    prompt : str, default=""
        Is put before every text.

    Attributes
    ----------
    content_digest : str
        SHA-256 of all parameters.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> preprocess = TokenizerPreprocessing(words.to_str(), 16)
    >>> preprocess("a cat sat")
    tensor([2, 3, 1, 0, 0, 0, 0, 0])
    """

    def __init__(self, tokenizer: str, max_length: int, prompt: str = ""):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.prompt = prompt
        settings = json.dumps([tokenizer, max_length, prompt])
        self.content_digest = hashlib.sha256(settings.encode()).hexdigest()
        self._ready: Any = None

    def __call__(self, text: str) -> torch.Tensor:
        """Return the ids of one text, ``(length,)``, int64."""
        return self.many([text])[0][1][0]

    def many(self, texts: Sequence[str]) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Return the ids of texts, grouped by length.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        list of (ndarray of shape (g,), Tensor of shape (g, length))
            Positions of the texts, and their ids, int64; the shortest first. Every text is in
            one group.
        """
        # Zero is what rows are filled up with, so that an id is one more.
        rows = [np.array(one.ids, np.int64) + 1 for part in self._encoded(texts) for one in part]
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(padded_length(len(row)), []).append(i)
        return [
            (np.array(members), torch.from_numpy(pad_rows([rows[i] for i in members], length)))
            for length, members in sorted(groups.items())
        ]

    def check(self, texts: Sequence[str], fitting: bool = False) -> dict[str, float]:
        """Warn with the number of texts that are truncated, if there are any.

        Parameters
        ----------
        texts : sequence of str
        fitting : bool, default=False
            Has no effect.

        Returns
        -------
        dict
            Empty.

        Raises
        ------
        UnreadableSamplesError
            If texts hold lone surrogates, which are no characters.
        """
        wrong = [(i, text) for i, text in enumerate(texts) if not _is_unicode(text)]
        if wrong:
            raise UnreadableSamplesError([(i, text, _not_unicode(text)) for i, text in wrong])
        # A tokenizer makes at most one token of an ASCII character, so that most texts need not be
        # encoded. Eight for special tokens and a space at the beginning.
        room = self.max_length - len(self.prompt) - 8
        doubtful = [text for text in texts if len(text) > room or not text.isascii()]
        n_cut = sum(bool(one.overflowing) for part in self._encoded(doubtful) for one in part)
        if n_cut:
            warnings.warn(
                f"{n_cut} of {len(texts)} texts are longer than the {self.max_length} tokens that "
                "the network takes, and are truncated. Split them if their ends matter.",
                UserWarning,
                stacklevel=2,
            )
        return {}

    def _encoded(self, texts: Sequence[str]):
        """Yield the encodings of texts, one list for each chunk."""
        if self._ready is None:
            self._ready = _tokenizer_from(self.tokenizer, self.max_length)
        for start in range(0, len(texts), _CHUNK):
            chunk = [self.prompt + text for text in texts[start : start + _CHUNK]]
            yield self._ready.encode_batch(chunk)

    def __getstate__(self) -> dict:
        """Return the parameters, from which the tokenizer is made again."""
        return self.__dict__ | {"_ready": None}

    def __repr__(self) -> str:
        prompt = f", prompt={self.prompt!r}" if self.prompt else ""
        return f"TokenizerPreprocessing(max_length={self.max_length}{prompt})"


def _tokenizer_from(text: str, max_length: int):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    direction = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction=direction)
    return tokenizer


def _is_unicode(text: str) -> bool:
    """Tell whether a text can be encoded; one half of a surrogate pair cannot."""
    try:
        return text.isascii() or bool(text.encode())
    except UnicodeEncodeError:
        return False


def _not_unicode(text: str) -> ValueError:
    return ValueError(
        f"{text[:40]!r} holds a lone surrogate, which is no character: replace it first, as "
        "text.encode('utf-8', 'replace').decode() does"
    )
