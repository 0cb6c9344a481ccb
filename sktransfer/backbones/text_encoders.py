"""Sentence encoders: the ids of tokens of texts, and a transformer cut into stages."""

from __future__ import annotations

import copy
import hashlib
import json
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .._compat.torch import shallow_copy
from ..data import UnreadableSamplesError, pad_rows, padded_length
from .model_folders import explained

__all__ = ["Block", "Embeddings", "Sentence", "TokenizerPreprocessing", "Whole"]

# Added to the attention scores of positions without a token. It is finite in bfloat16, too, so that
# a text without tokens attends to all positions equally and gives no NaN.
_NEVER = torch.finfo(torch.bfloat16).min


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """Return which positions of ``(n, L, d)`` hold a token."""
    return x.detach().abs().amax(-1) != 0  # (n, L), as (x != 0).any(-1) and six times as fast


def _marked(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Set positions without a token to exactly zero."""
    return x * tokens[..., None]


def _in_chunks(run: Callable, x: torch.Tensor, longest: int | None) -> torch.Tensor:
    """Run each ``longest`` positions of ``(n, L, ...)`` alone, as a network takes no more."""
    if longest is None or x.shape[1] <= longest:
        return run(x)
    return torch.cat([run(part) for part in x.split(longest, 1)], 1)


class Embeddings(nn.Module):
    """Map ids ``(n, L)`` to vectors ``(n, L, d)``, including the positions.

    ``padding`` is the network's id of padding, from which RoBERTa counts positions. Positions begin
    again after ``longest``.
    """

    takes_any_length = True  # and gives the same vectors with and without padding behind them

    def __init__(self, table: nn.Module, padding: int, longest: int | None = None):
        super().__init__()
        self.table = table
        self.padding = padding
        self.longest = longest

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return _in_chunks(self._run, ids, self.longest)

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids > 0
        return _marked(self.table(torch.where(tokens, ids - 1, self.padding)), tokens)


class Block(nn.Module):
    """Run one block of attention, ``(n, L, d)`` to ``(n, L, d)``.

    ``relative`` computes the position bias of MPNet, which is added to the scores. In MPNet, all
    blocks share it; here each block has a copy, which may change in training. Tokens attend to
    those of the same ``longest`` positions.
    """

    takes_any_length = True
    relative: Any  # a module with compute_position_bias, or None

    def __init__(
        self, block: nn.Module, relative: nn.Module | None = None, longest: int | None = None
    ):
        super().__init__()
        self.block = block
        self.relative = relative
        self.longest = longest

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _in_chunks(self._run, x, self.longest)

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        tokens = _tokens(x)
        # Without padding, too: the last bits of a row must not depend on the other rows.
        scores = x.new_zeros(()).masked_fill(~tokens[:, None, None], _NEVER)  # (n, 1, 1, L)
        if self.relative is None:
            y = self.block(x, scores)
        else:
            y = self.block(x, scores, position_bias=self.relative.compute_position_bias(x))
        return _marked(y[0] if isinstance(y, tuple) else y, tokens)


class Whole(nn.Module):
    """Run a network that cannot be cut, from ids ``(n, L)`` to vectors ``(n, L, d)``."""

    def __init__(self, model: nn.Module, padding: int, longest: int | None = None):
        super().__init__()
        self.model = model
        self.padding = padding
        self.longest = longest

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return _in_chunks(self._run, ids, self.longest)

    def _run(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids > 0
        original = torch.where(tokens, ids - 1, self.padding)
        y = self.model(input_ids=original, attention_mask=tokens.long()).last_hidden_state
        return _marked(y, tokens)


class Sentence(nn.Module):
    """Pool the vectors of tokens ``(n, L, d)`` to the vector of a text ``(n, d)``.

    ``pooling`` is "mean" or "max" over tokens, or "cls", the first token. The vector of a text
    without tokens is zero.
    """

    def __init__(self, pooling: str = "mean", normalise: bool = False):
        super().__init__()
        self.pooling = pooling
        self.normalise = normalise

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._pooled(x, _tokens(x)[..., None])
        return F.normalize(y, dim=-1) if self.normalise else y

    def _pooled(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        if self.pooling == "cls":
            return x[:, 0]
        if self.pooling == "mean":
            return x.sum(1) / tokens.sum(1).clamp(min=1)
        top = x.masked_fill(~tokens, -torch.inf).amax(1)
        return top.masked_fill(~tokens.any(1), 0)


def _stages(
    name: str, model: Any, sentence: nn.Module, longest: int | None = None
) -> dict[str, nn.Module]:
    """Cut a network into embeddings and blocks, or keep it whole if the result differs."""
    padding = getattr(model.config, "pad_token_id", None) or 0
    whole = Whole(model, padding, longest)
    with explained(name, "it is not an encoder of texts that transformers runs on ids alone"):
        ids = _sample_ids(model.config.vocab_size)
        expected = _run([whole], ids)
    try:
        stages = _split_encoder(model, padding, longest)
        difference = _run(stages.values(), ids) - expected
        agree = difference.norm() <= 1e-5 * expected.norm()
    except Exception:  # the blocks of this family have other names or inputs
        agree = False
    return (stages if agree else {"encoder": whole}) | {"sentence": sentence}


def _sample_ids(n_ids: int) -> torch.Tensor:
    """Make three rows of ids of different lengths."""
    ids = torch.randint(1, n_ids + 1, (3, 16), generator=torch.Generator().manual_seed(0))
    ids[1, 9:] = ids[2, 3:] = 0
    return ids


@torch.no_grad()
def _run(stages: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        x = stage(x)
    return x


def _split_encoder(model: Any, padding: int, longest: int | None) -> dict[str, nn.Module]:
    encoder = model.transformer if hasattr(model, "transformer") else model.encoder  # DistilBERT
    relative = None
    if hasattr(encoder, "compute_position_bias"):  # MPNet
        relative = shallow_copy(encoder, without="layer")
    table = model.embeddings
    if hasattr(model, "embeddings_project"):  # small ELECTRAs
        table = nn.Sequential(table, model.embeddings_project)
    stages: dict[str, nn.Module] = {"embeddings": Embeddings(table, padding, longest)}
    for i, block in enumerate(encoder.layer):
        stages[f"layer.{i}"] = Block(block, copy.deepcopy(relative), longest)
    return stages


def _in_order(stages: dict[str, nn.Module]) -> nn.Sequential:
    """Put stages into one module in which they keep their names, such as "layer.0"."""
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    for name, stage in stages.items():
        parent, _, child = name.rpartition(".")
        if parent:
            parts.setdefault(parent, nn.Sequential()).add_module(child, stage)
        else:
            parts[name] = stage
    return nn.Sequential(parts)


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
        self.chunk_length = padded_length(max_length)
        settings = json.dumps([tokenizer, max_length, prompt, self.characters, long_texts])
        self.content_digest = hashlib.sha256(settings.encode()).hexdigest()
        self._ready: Any = None

    def with_long_texts(self, long_texts: str) -> TokenizerPreprocessing:
        """Return the same with another ``long_texts``, sharing the tokenizer."""
        other = TokenizerPreprocessing(
            self.tokenizer,
            self.max_length,
            self.prompt,
            characters=self.characters,
            long_texts=long_texts,
        )
        other._ready = self._ready_tokenizer()
        return other

    def __call__(self, text: str) -> torch.Tensor:
        """Return the ids of one text, ``(length,)``, int64."""
        if not _is_unicode(text):
            raise _not_unicode(text)
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

        Parameters
        ----------
        texts : sequence of str
        fitting : bool, default=False
            Has no effect.

        Returns
        -------
        dict
            ``truncated_rate_``, the share of tokens that is cut off.

        Raises
        ------
        UnreadableSamplesError
            If texts hold lone surrogates, which are no characters.
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
        prompt = f", prompt={self.prompt!r}" if self.prompt else ""
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
