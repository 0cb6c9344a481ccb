"""The stages of a sentence encoder."""

from __future__ import annotations

import contextlib
import copy
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .weights import first_line

__all__ = ["Block", "Embeddings", "Sentence", "Whole"]

# Added to the scores of positions without a token. Finite in bfloat16 too: a text without any
# token then attends to all its positions alike and stays a number.
_NEVER = torch.finfo(torch.bfloat16).min


# -- stages ----------------------------------------------------------------------------------------


def _tokens(x: torch.Tensor) -> torch.Tensor:
    """Tell which positions of ``(n, L, d)`` hold a token."""
    return x.detach().abs().amax(-1) != 0  # (n, L), as (x != 0).any(-1) and six times as fast


def _marked(x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Make positions without a token exactly zero."""
    return x * tokens[..., None]


class Embeddings(nn.Module):
    """From ids ``(n, L)`` to vectors ``(n, L, d)``, positions included.

    ``padding`` is the id that the network has for it; RoBERTa and its kin count positions by it.
    """

    def __init__(self, table: nn.Module, padding: int):
        super().__init__()
        self.table = table
        self.padding = padding

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids > 0
        return _marked(self.table(torch.where(tokens, ids - 1, self.padding)), tokens)


class Block(nn.Module):
    """One block of attention and what follows it, ``(n, L, d)`` to ``(n, L, d)``.

    ``relative`` computes what MPNet adds to the scores for the distance of two positions. There
    all blocks share it; here each has its own, which training may move apart.
    """

    relative: Any  # a module with compute_position_bias, or None

    def __init__(self, block: nn.Module, relative: nn.Module | None = None):
        super().__init__()
        self.block = block
        self.relative = relative

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = _tokens(x)
        # Always a mask, padded batch or not: a row's last bits must not tell of the others.
        scores = x.new_zeros(()).masked_fill(~tokens[:, None, None], _NEVER)  # (n, 1, 1, L)
        if self.relative is None:
            y = self.block(x, scores)
        else:
            y = self.block(x, scores, position_bias=self.relative.compute_position_bias(x))
        return _marked(y[0] if isinstance(y, tuple) else y, tokens)


class Whole(nn.Module):
    """A network whose blocks need more than one value: from ids to the vectors of its last."""

    def __init__(self, model: nn.Module, padding: int):
        super().__init__()
        self.model = model
        self.padding = padding

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        tokens = ids > 0
        original = torch.where(tokens, ids - 1, self.padding)
        y = self.model(input_ids=original, attention_mask=tokens.long()).last_hidden_state
        return _marked(y, tokens)


class Sentence(nn.Module):
    """From the vectors of tokens ``(n, L, d)`` to that of the text ``(n, d)``.

    ``pooling`` is "mean" or "max" over tokens, or "cls", the first of them. A text without
    tokens is a zero vector in any case.
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


# -- cutting ---------------------------------------------------------------------------------------


def _stages(name: str, model: Any, sentence: nn.Module) -> dict[str, nn.Module]:
    """Cut a network into its embeddings and blocks, or leave it whole where that is not it."""
    padding = getattr(model.config, "pad_token_id", None) or 0
    whole = Whole(model, padding)
    with _explained(name, "it is not an encoder of texts that transformers runs on ids alone"):
        ids = _probe(model.config.vocab_size)
        expected = _run([whole], ids)
    try:
        stages = _cut(model, padding)
        difference = _run(stages.values(), ids) - expected
        agree = difference.norm() <= 1e-5 * expected.norm()
    except Exception:  # another family: its blocks have other names, or take something else
        agree = False
    return (stages if agree else {"encoder": whole}) | {"sentence": sentence}


def _probe(n_ids: int) -> torch.Tensor:
    """Make a few rows of ids of different lengths."""
    ids = torch.randint(1, n_ids + 1, (3, 16), generator=torch.Generator().manual_seed(0))
    ids[1, 9:] = ids[2, 3:] = 0
    return ids


@torch.no_grad()
def _run(stages: Iterable[nn.Module], x: torch.Tensor) -> torch.Tensor:
    for stage in stages:
        x = stage(x)
    return x


def _cut(model: Any, padding: int) -> dict[str, nn.Module]:
    encoder = model.transformer if hasattr(model, "transformer") else model.encoder  # DistilBERT
    relative = None
    if hasattr(encoder, "compute_position_bias"):  # MPNet
        relative = copy.copy(encoder)
        relative._modules = {k: v for k, v in encoder._modules.items() if k != "layer"}
    table = model.embeddings
    if hasattr(model, "embeddings_project"):  # small ELECTRAs
        table = nn.Sequential(table, model.embeddings_project)
    stages: dict[str, nn.Module] = {"embeddings": Embeddings(table, padding)}
    for i, block in enumerate(encoder.layer):
        stages[f"layer.{i}"] = Block(block, copy.deepcopy(relative))
    return stages


def _in_order(stages: dict[str, nn.Module]) -> nn.Sequential:
    """Put stages into one module in which they keep their names, "layer.0" included."""
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
