"""The learning rates where the user does not say."""

from __future__ import annotations

import torch
from torch import nn

from .rows import Rows
from .similarity import similarity_of
from .tail import Tail

__all__ = ["auto_rates"]

# benchmarks/finetune_defaults.py measures what these defaults give.
_HEAD = 1e-4  # which begins as the linear probe, the best that is known
_UNLIKE, _LIKE = 3e-4, 5e-5  # of all stages, by the similarity of the rows
_LAST = 5e-5  # of some last stages
_LAYER_NORM = 1e-4  # of transformers
_WORDS = 3e-3  # each word occurs in few texts
_PART = 3e-3  # of scales, shifts and biases alone
_DECAY = 0.8  # for each stage towards the input, on rows like those of the weights
_POWER = 4  # of the similarity: on drawings (0.3), any decay makes training worse


def auto_rates(tail: Tail, rows: Rows, n_frozen: int, device: torch.device) -> tuple[float, float]:
    """Return a learning rate and its decay by stage that suit what is trained, and on what.

    Parameters
    ----------
    tail : Tail
        Before it is trained.
    rows : Rows
    n_frozen : int
        Number of stages before the tail.
    device : torch.device

    Returns
    -------
    lr : float
        1e-4 for a head alone and for networks with layer normalization, which are transformers;
        3e-3 for word vectors, and for norms and biases alone; 5e-5 for some last stages of other
        networks. For all their stages, between 3e-4 and 5e-5, by the similarity of the rows to
        the data that the network was trained on.
    layer_decay : float
        For all stages between 1 and 0.8, by the fourth power of the same similarity; else 1.
    """
    fixed = _fixed_lr(tail, n_frozen)
    if fixed is not None:
        return fixed, 1.0
    similarity = similarity_of(tail, rows, device) or 0.0
    lr, decay = _UNLIKE ** (1 - similarity) * _LIKE**similarity, _DECAY ** (similarity**_POWER)
    return float(f"{lr:.2g}"), float(f"{decay:.2g}")


def _fixed_lr(tail: Tail, n_frozen: int) -> float | None:
    """Return the learning rate that does not depend on the rows, if there is one."""
    if not tail.names:
        return _HEAD
    if tail.part != "all":
        return _PART
    if hasattr(tail.body[0], "restricted"):
        return _WORDS
    if any(map(_is_layer_norm, tail.modules())):
        return _LAYER_NORM
    return _LAST if n_frozen else None


def _is_layer_norm(module: nn.Module) -> bool:
    return type(module).__name__.lower().startswith(("layernorm", "rmsnorm"))
