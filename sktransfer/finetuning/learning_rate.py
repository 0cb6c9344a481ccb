"""Default learning rates, batch size and number of epochs."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbones.norm_statistics import (
    keeps_statistics,
    moments_of,
    norm_divergence,
    similarity_of_divergence,
)
from ..engines import fewer_rows
from .dataset import TrainingDataset
from .trainable_stages import TrainableStages

# benchmarks/finetune_defaults.py measures what these defaults give.
_HEAD = 1e-4  # which begins as the linear probe, the best that is known
_UNLIKE, _LIKE = 3e-4, 5e-5  # of all stages, by the similarity of the rows
_LAST = 5e-5  # of some last stages
_LAYER_NORM = 1e-4  # of transformers
_WORDS = 3e-3  # each word occurs in few texts
_LORA = 1e-3  # ten times that of all weights (Schulman 2025, "LoRA without regret")
_PART = 3e-3  # of scales, shifts and biases alone
_DECAY = 0.8  # for each stage towards the input, on rows like those of the weights
_POWER = 4  # of the similarity: on drawings (0.3), any decay makes training worse
# For each block of a transformer for images (He et al., 2022, Masked autoencoders are scalable
# vision learners, table 9; Bao et al., 2022, BEiT, have 0.65 to 0.75).
_BLOCK_DECAY = 0.75
_TEXT_DECAY = 0.9  # for each block of a transformer for texts: benchmarks/text_decay.py


def auto_rates(
    module: TrainableStages, dataset: TrainingDataset, n_frozen: int, device: torch.device
) -> tuple[float, float]:
    """Return a learning rate and its decay by stage that suit what is trained, and on what.

    Parameters
    ----------
    module : TrainableStages
        Before it is trained.
    dataset : TrainingDataset
    n_frozen : int
        Number of stages before the module.
    device : torch.device

    Returns
    -------
    lr : float
        1e-4 for a head alone and for networks with layer normalization, which are transformers;
        3e-3 for word vectors, and for norms and biases alone; 1e-3 for low-rank adapters; 5e-5
        for some last stages of other networks. For all their stages, between 3e-4 and 5e-5, by
        the similarity of the rows to the data that the network was trained on.
    layer_decay : float
        For all stages between 1 and 0.8, by the fourth power of the same similarity; 0.75 for
        transformers for images (He et al., 2022, "Masked autoencoders are scalable vision
        learners") and 0.9 for those for texts; else 1.
    """
    fixed = _fixed_lr(module, n_frozen)
    if fixed is not None:
        has_blocks = fixed == _LAYER_NORM and _has_attention(module)
        return fixed, (_TEXT_DECAY if module.masked else _BLOCK_DECAY) if has_blocks else 1.0
    similarity = similarity_of(module, dataset, device) or 0.0
    lr, decay = _UNLIKE ** (1 - similarity) * _LIKE**similarity, _DECAY ** (similarity**_POWER)
    return float(f"{lr:.2g}"), float(f"{decay:.2g}")


def _fixed_lr(module: TrainableStages, n_frozen: int) -> float | None:
    """Return the learning rate that does not depend on the rows, if there is one."""
    if not module.names:
        return _HEAD
    if module.part != "all":
        return _LORA if module.part == "lora" else _PART
    if hasattr(module.body[0], "restricted"):
        return _WORDS
    if any(map(_is_layer_norm, module.modules())):
        return _LAYER_NORM
    return _LAST if n_frozen else None


def _is_layer_norm(module: nn.Module) -> bool:
    name = type(module).__name__.lower()  # such as LayerNorm2d, ConvNextLayerNorm, Qwen3RMSNorm
    return "layernorm" in name or "rmsnorm" in name


def _has_attention(module: TrainableStages) -> bool:
    """Tell whether stages are blocks of a transformer."""
    # A traced block has the names of its modules, not their classes.
    names = [name.lower() for name, _ in module.body.named_modules()]
    return any("attn" in name or "attention" in name for name in names)


_AT_MOST, _AT_ONCE = 64, 16  # rows


@torch.no_grad()
def similarity_of(
    module: TrainableStages, dataset: TrainingDataset, device: torch.device
) -> float | None:
    """Measure the similarity of rows to the training data of a network with batch normalization.

    Parameters
    ----------
    module : TrainableStages
        Before it is trained.
    dataset : TrainingDataset
        At most 64 are run.
    device : torch.device

    Returns
    -------
    float or None
        exp(-(2 d / 0.17)²), where d is the mean divergence of batch normalization layers: from 0,
        like noise, to 1. None if there are none, or if one row has no statistics.
    """
    norms: list[Any] = [m for m in module.body.modules() if keeps_statistics(m)]
    if len(dataset) < 2 or not any(norm.running_mean.any() for norm in norms):
        return None
    seen: dict[nn.Module, list] = {norm: [] for norm in norms}
    hooks = [
        norm.register_forward_pre_hook(lambda m, args: seen[m].append(moments_of(args[0])))
        for norm in norms
    ]
    module.to(device).eval()
    index = torch.linspace(0, len(dataset) - 1, min(len(dataset), _AT_MOST)).long()

    most_rows = _AT_ONCE
    while True:
        try:
            for part in index.split(most_rows):
                module(dataset.batch(part)[0]["x"].to(device))
            break
        except torch.OutOfMemoryError:
            if min(most_rows, len(index)) == 1:
                raise
        for moments in seen.values():
            moments.clear()
        most_rows = fewer_rows(most_rows, len(index))
    for hook in hooks:
        hook.remove()
    own = [np.concatenate(parts) for parts in seen.values() if parts]
    shares = dataset.processes.everyones(own)
    seen_norms = [norm for norm, parts in seen.items() if parts]
    together = map(np.concatenate, zip(*shares, strict=True))
    divergences = [norm_divergence(m, norm) for m, norm in zip(together, seen_norms, strict=True)]
    return similarity_of_divergence(float(np.mean(divergences)))


# benchmarks/finetune_defaults.py measures what these defaults give.
_STEPS = 120  # few rows need many passes, and many rows few
_PASSES = (4, 60)  # at least and at most
_SMALL, _SMALL_BATCH, _BATCH = 1000, 16, 32  # rows; rows in a step
# With many outputs the optimizer, which changes each weight of a head in each step, takes longer
# than the products of a batch of 32 rows.
_LARGE_BATCH, _FEWEST_PASSES = 256, 1


def training_length(
    n_rows: int, batch_size: int | str, max_epochs: int | str, *, large_head: bool = False
) -> tuple[int, int]:
    """Return how long a training is: the rows in a batch, and the number of epochs.

    Parameters
    ----------
    n_rows : int
    batch_size : int or "auto"
        "auto" is 16 for up to 1,000 rows, else 32.
    max_epochs : int or "auto"
        "auto" makes 120 steps, in at least 4 and at most 60 epochs.
    large_head : bool, default=False
        Whether only a head of more than 1,000 outputs is trained: a batch then has 256 rows, and
        one epoch can be enough.

    Returns
    -------
    batch_size, n_epochs : int
        A batch has no more rows than there are.
    """
    size, epochs = batch_size, max_epochs
    if isinstance(size, str):
        small = _SMALL_BATCH if n_rows <= _SMALL else _BATCH
        size = _LARGE_BATCH if large_head else small
    size = min(n_rows, size)
    if isinstance(epochs, str):
        fewest, most = _PASSES
        fewest = _FEWEST_PASSES if large_head else fewest
        epochs = min(most, max(fewest, round(_STEPS / math.ceil(n_rows / size))))
    return int(size), int(epochs)
