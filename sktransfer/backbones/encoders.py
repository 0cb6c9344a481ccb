"""Cut sentence encoders of transformers into stages."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .weights import first_line

__all__ = ["Block", "Embeddings", "Sentence", "Whole"]

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
    with _explained(name, "it is not an encoder of texts that transformers runs on ids alone"):
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
        relative = copy.copy(encoder)
        relative._modules = {k: v for k, v in encoder._modules.items() if k != "layer"}
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


@contextlib.contextmanager
def _explained(name: str, problem: str):
    """Turn what transformers raises into a ValueError that names the backbone and the problem."""
    try:
        yield
    except Exception as error:  # it raises nearly everything
        why = first_line(error)
        why = why if type(error).__name__ in why else f"{type(error).__name__}: {why}"
        raise ValueError(f"backbone {name!r}: {problem} ({why})") from error
