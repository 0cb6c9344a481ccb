"""The learning rate where the user does not say."""

from __future__ import annotations

import torch
from torch import nn

from .rows import Rows
from .similarity import similarity_of
from .tail import Tail

__all__ = ["auto_lr"]

# benchmarks/finetune_defaults.py measures what these defaults give.
_HEAD = 1e-4  # which begins as the linear probe, the best that is known
_UNLIKE, _LIKE = 3e-4, 5e-5  # of all stages, by the similarity of the rows
_LAST = 5e-5  # of some last stages
_LAYER_NORM = 1e-4  # of transformers
_WORDS = 3e-3  # each word occurs in few texts
_PART = 3e-3  # of scales, shifts and biases alone


def auto_lr(tail: Tail, rows: Rows, n_frozen: int, device: torch.device) -> float:
    """Return a learning rate that suits what is trained, and on what.

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
    float
        1e-4 for a head alone and for networks with layer normalization, which are transformers;
        3e-3 for word vectors, and for norms and biases alone; 5e-5 for some last stages of other
        networks. For all their stages, between 3e-4 and 5e-5, by the similarity of the rows to
        the data that the network was trained on.
    """
    if not tail.names:
        return _HEAD
    if tail.part != "all":
        return _PART
    if hasattr(tail.body[0], "restricted"):
        return _WORDS
    if any(map(_is_layer_norm, tail.modules())):
        return _LAYER_NORM
    if n_frozen:
        return _LAST
    similarity = similarity_of(tail, rows, device) or 0.0
    return float(f"{_UNLIKE ** (1 - similarity) * _LIKE**similarity:.2g}")


def _is_layer_norm(module: nn.Module) -> bool:
    return type(module).__name__.lower().startswith(("layernorm", "rmsnorm"))
