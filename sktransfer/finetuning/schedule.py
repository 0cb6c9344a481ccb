"""How long and how fast to train where the user does not say: steps, batch size, learning rate."""

from __future__ import annotations

import math

from torch import nn

from .tail import Tail

__all__ = ["auto_batch_size", "auto_epochs", "auto_lr"]

# benchmarks/finetune_defaults.py measures what these defaults give.
_STEPS = 120  # few rows need many passes, and many rows few
_PASSES = (4, 60)  # at least and at most
_SMALL, _SMALL_BATCH, _BATCH = 1000, 16, 32  # rows; rows in a step

_LR_HEAD = 1e-4  # which begins as the linear probe, the best that is known
_LR_ALL, _LR_LAST = 3e-4, 5e-5  # of convolutions: all stages, some last stages
_LR_LAYER_NORM = 1e-4  # transformers
_LR_WORDS = 3e-3  # each word occurs in few texts
_LR_PART = 3e-3  # of scales, shifts and biases


def auto_batch_size(n_rows: int) -> int:
    """Return the number of rows in a training step: 16 up to 1,000 rows, else 32.

    Parameters
    ----------
    n_rows : int

    Returns
    -------
    int
        At most the number of rows.
    """
    return min(n_rows, _SMALL_BATCH if n_rows <= _SMALL else _BATCH)


def auto_epochs(n_rows: int, batch_size: int) -> int:
    """Return the number of passes that make 120 steps, at least 4 and at most 60.

    Parameters
    ----------
    n_rows, batch_size : int

    Returns
    -------
    int
    """
    fewest, most = _PASSES
    return min(most, max(fewest, round(_STEPS / math.ceil(n_rows / batch_size))))


def auto_lr(tail: Tail, n_frozen: int) -> float:
    """Return a learning rate that suits what is trained.

    Parameters
    ----------
    tail : Tail
    n_frozen : int
        Number of stages before it.

    Returns
    -------
    float
        3e-3 for word vectors, and for norms and biases alone; 1e-4 for a head alone and for
        networks with layer normalization, which are transformers; else 3e-4 for all stages and
        5e-5 for some.
    """
    if not tail.names:
        return _LR_HEAD
    if tail.part != "all" or hasattr(tail.body[0], "restricted"):
        return _LR_PART if tail.part != "all" else _LR_WORDS
    if any(map(_is_layer_norm, tail.modules())):
        return _LR_LAYER_NORM
    return _LR_LAST if n_frozen else _LR_ALL


def _is_layer_norm(module: nn.Module) -> bool:
    return type(module).__name__.lower().startswith(("layernorm", "rmsnorm"))
