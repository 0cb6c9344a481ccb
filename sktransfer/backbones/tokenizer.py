"""Texts to ids of tokens by a tokenizer of transformers."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..data import pad_rows, padded_length

__all__ = ["TokenizerPreprocessing"]

_CHUNK = 4096  # texts whose encodings, much larger than their ids, are in memory at a time


class TokenizerPreprocessing:
    """Turn texts into ids of tokens, as the tokenizer of a network does.

    Ids are those of the tokenizer plus one: 0 is no token, whatever id a vocabulary has for
    padding, and a text that spells out a padding token means it. Lengths are filled up to a
    multiple of 8.

    Parameters
    ----------
    tokenizer : str
        What ``tokenizers.Tokenizer.to_str`` gives: the content of a ``tokenizer.json``. Its
        padding and truncation are replaced.
    max_length : int
        The most tokens of a text, special ones included; what is longer is cut off.
    prompt : str, default=""
        Stands before every text.

    Attributes
    ----------
    content_digest : str
        SHA-256 of all of these.

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
        """Return the ids of many texts, those of one length together.

        Parameters
        ----------
        texts : sequence of str

        Returns
        -------
        list of (ndarray of shape (g,), Tensor of shape (g, length))
            Positions among the texts, and their ids, int64; the shortest first. Every text is
            in one group.
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
        """Warn if texts are longer than the network takes, with their number.

        Parameters
        ----------
        texts : sequence of str
        fitting : bool, default=False
            Makes no difference here.

        Returns
        -------
        dict
            Empty: there is nothing to remember.
        """
        # A tokenizer makes at most one token of an ASCII character, so that most texts need not
        # be taken apart to know that they fit. Eight: a few special tokens and a space in front.
        room = self.max_length - len(self.prompt) - 8
        doubtful = [text for text in texts if len(text) > room or not text.isascii()]
        n_cut = sum(bool(one.overflowing) for part in self._encoded(doubtful) for one in part)
        if n_cut:
            warnings.warn(
                f"{n_cut} of {len(texts)} texts are longer than the {self.max_length} tokens that "
                "the network takes; what comes after does not count. Split them if it matters.",
                UserWarning,
                stacklevel=2,
            )
        return {}

    def _encoded(self, texts: Sequence[str]):
        """Yield the encodings of the texts, a list for each chunk."""
        if self._ready is None:
            self._ready = _tokenizer_from(self.tokenizer, self.max_length)
        for start in range(0, len(texts), _CHUNK):
            chunk = [self.prompt + text for text in texts[start : start + _CHUNK]]
            yield self._ready.encode_batch(chunk)

    def __getstate__(self) -> dict:
        """Return the settings; the tokenizer is made again from them."""
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
