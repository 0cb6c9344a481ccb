"""The preprocessing of sentence encoders: from texts to ids of tokens."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ..data import UnreadableSamplesError, pad_rows, padded_length, shorten

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
    characters : mapping of int to str, default=None
        What replaces a character, by its code point, before the tokenizer is given a text.
    long_texts : {"truncate", "chunk"}, default="truncate"
        What happens to a text of more than ``max_length`` tokens. "chunk" gives all its tokens: its
        chunks of ``max_length``, each with the special tokens, begin at multiples of
        ``chunk_length``.

    Attributes
    ----------
    content_digest : str
        SHA-256 of all parameters.
    prompts : dict of str to str
        Prompts by name, which :meth:`with_prompt` takes. They decide nothing else.
    chunk_length : int
        ``max_length``, padded.

    Examples
    --------
    >>> from tokenizers import Tokenizer, models, pre_tokenizers
    >>> words = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2}, unk_token="[UNK]"))
    >>> words.pre_tokenizer = pre_tokenizers.Whitespace()
    >>> preprocess = TokenizerPreprocessing(words.to_str(), 16)
    >>> preprocess("a cat sat")
    tensor([2, 3, 1, 0, 0, 0, 0, 0])
    """

    characters: Mapping[int, str]
    chunk_length: int
    content_digest: str
    prompts: Mapping[str, str]

    def __init__(
        self,
        tokenizer: str,
        max_length: int,
        prompt: str = "",
        *,
        characters: Mapping[int, str] | None = None,
        long_texts: str = "truncate",
    ):
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.prompt = prompt
        self.characters = characters or {}
        self.long_texts = long_texts
        self.prompts = {}
        self.chunk_length = padded_length(max_length)
        settings = json.dumps([tokenizer, max_length, prompt, self.characters, long_texts])
        self.content_digest = hashlib.sha256(settings.encode()).hexdigest()
        self._ready: Any = None

    def with_long_texts(self, long_texts: str) -> TokenizerPreprocessing:
        """Return the same with another ``long_texts``, sharing the tokenizer."""
        return self._with(long_texts=long_texts)

    def with_prompt(self, prompt: str, *, is_text: bool = False) -> TokenizerPreprocessing:
        """Return the same with another prompt, sharing the tokenizer.

        It is a name in ``prompts``, or a text; if ``is_text``, a text also if it is the same as a
        name. A single word that is no name, where there are some, is a ``ValueError``.
        """
        if is_text:
            return self._with(prompt=prompt)
        if self.prompts and prompt not in self.prompts and prompt.isidentifier():
            short = shorten(prompt, 80)
            raise ValueError(
                f"prompt={short!r}: the network knows the prompts {sorted(self.prompts)!r:.400}. A "
                f"text of your own that is put before each sample ends with a space: "
                f"{short + ': '!r}."
            )
        return self._with(prompt=self.prompts.get(prompt, prompt))

    def _with(self, **changed: Any) -> TokenizerPreprocessing:
        given = {"prompt": self.prompt, "long_texts": self.long_texts} | changed
        other = TokenizerPreprocessing(
            self.tokenizer, self.max_length, characters=self.characters, **given
        )
        other.prompts = self.prompts
        other._ready = self._ready_tokenizer()
        return other

    @property
    def n_prompt_tokens(self) -> int:
        """How many tokens begin a text because of the prompt, special ones before it included."""
        if not self.prompt:
            return 0
        encoding = self._ready_tokenizer().encode(self.prompt.translate(self.characters))
        # One special token behind the prompt is not counted, as in sentence-transformers.
        return len(encoding.ids) - int(encoding.special_tokens_mask[-1:] == [1])

    def n_tokens(self, text: str) -> int:
        """Return how many tokens a text has, with the prompt and those that are cut off."""
        if not _is_unicode(text):
            raise _not_unicode(text)
        ((one,),) = self._encoded([text])
        return len(one.ids) + sum(map(_n_content, one.overflowing))

    def __call__(self, text: str) -> torch.Tensor:
        """Return the ids of one text, ``(length,)``, int64."""
        if not _is_unicode(text):
            raise _not_unicode(text)
        return self.many([text])[0][1][0]

    def many(self, texts: Sequence[str]) -> list[tuple[np.ndarray, torch.Tensor]]:
        """Return the ids of texts, grouped by length.

        For each length, the shortest first, positions of texts and their ids ``(g, length)``,
        int64.
        """
        # Zero is what rows are filled up with, so that an id is one more.
        rows = [self._row(one) + 1 for part in self._encoded(texts) for one in part]
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(padded_length(len(row)), []).append(i)
        return [
            (np.array(members), torch.from_numpy(pad_rows([rows[i] for i in members], length)))
            for length, members in sorted(groups.items())
        ]

    def check(self, texts: Sequence[str], fitting: bool = False) -> dict[str, float]:
        """Measure the share of tokens that is cut off, and warn if it is not zero.

        Texts with lone surrogates, which are no characters, are an error. ``fitting`` has no
        effect.
        """
        wrong = [(i, text) for i, text in enumerate(texts) if not _is_unicode(text)]
        if wrong:
            raise UnreadableSamplesError([(i, text, _not_unicode(text)) for i, text in wrong])
        cut = [] if self.long_texts == "chunk" else self._cut_tokens(texts)
        if not any(cut):
            return {"truncated_rate_": 0.0}
        n_tokens = sum(len(one.ids) for part in self._encoded(texts) for one in part)
        rate = sum(cut) / (sum(cut) + n_tokens)
        warnings.warn(
            f"{np.count_nonzero(cut)} of {len(texts)} texts are longer than the {self.max_length} "
            f"tokens that the network takes, and are truncated: {rate:.2%} of all tokens are cut "
            "off. long_texts='chunk' uses them.",
            UserWarning,
            stacklevel=4,
        )
        return {"truncated_rate_": rate}

    def _cut_tokens(self, texts: Sequence[str]) -> list[int]:
        """Return how many tokens are cut off, for each text of which some may be."""
        # A tokenizer makes at most one token of an ASCII character, so that most texts need not be
        # encoded. Eight for special tokens and a space at the beginning.
        room = self.max_length - len(self.prompt) - 8
        doubtful = [text for text in texts if len(text) > room or not text.isascii()]
        encoded = (one.overflowing for part in self._encoded(doubtful) for one in part)
        return [sum(map(_n_content, overflowing)) for overflowing in encoded]

    def _row(self, one) -> np.ndarray:
        """Return the ids of a text; -1 where a chunk is padded."""
        chunks = [one.ids, *(more.ids for more in one.overflowing)]
        if self.long_texts == "truncate" or len(chunks) == 1:
            return np.array(one.ids, np.int64)
        full = [ids + [-1] * (self.chunk_length - len(ids)) for ids in chunks[:-1]]
        return np.concatenate([*full, chunks[-1]])

    def _encoded(self, texts: Sequence[str]):
        """Yield the encodings of texts, one list for each chunk."""
        tokenizer = self._ready_tokenizer()
        for start in range(0, len(texts), _CHUNK):
            chunk = [self.prompt + text for text in texts[start : start + _CHUNK]]
            if self.characters:
                chunk = [text.translate(self.characters) for text in chunk]
            yield tokenizer.encode_batch(chunk)

    def _ready_tokenizer(self):
        if self._ready is None:
            self._ready = _tokenizer_from(self.tokenizer, self.max_length)
        return self._ready

    def __getstate__(self) -> dict[str, Any]:
        """Return the parameters, from which the tokenizer is made again."""
        return self.__dict__ | {"_ready": None}

    def __repr__(self) -> str:
        prompt = f", prompt={shorten(self.prompt, 80)!r}" if self.prompt else ""
        return f"TokenizerPreprocessing(max_length={self.max_length}{prompt})"


def _tokenizer_from(text: str, max_length: int):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(text)
    direction = (tokenizer.truncation or {}).get("direction", "right")
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length, direction=direction)
    return tokenizer


def _n_content(encoding) -> int:
    """Return the number of tokens that are not special."""
    return len(encoding.ids) - sum(encoding.special_tokens_mask)


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
