"""How similar training rows are to the data that a network was trained on."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from ..engines import keeps_statistics, moments_of, norm_divergence
from .rows import Rows
from .tail import Tail
from .training_step import within_memory

__all__ = ["similarity_of"]

_AT_MOST, _BATCH = 64, 16  # rows
_NOISE = 0.17  # the divergence of noise in networks for images is 0.14 to 0.2


@torch.no_grad()
def similarity_of(tail: Tail, rows: Rows, device: torch.device) -> float | None:
    """Measure the similarity of rows to the training data of a network with batch normalization.

    Parameters
    ----------
    tail : Tail
        Before it is trained.
    rows : Rows
        At most 64 are run.
    device : torch.device

    Returns
    -------
    float or None
        exp(-(2 d / 0.17)²), where d is the mean divergence of batch normalization layers: from 0,
        like noise, to 1. None if there are none, or if one row has no statistics.
    """
    norms: list[Any] = [m for m in tail.body.modules() if keeps_statistics(m)]
    if len(rows) < 2 or not any(norm.running_mean.any() for norm in norms):
        return None
    seen: dict[nn.Module, list] = {norm: [] for norm in norms}
    hooks = [
        norm.register_forward_pre_hook(lambda m, args: seen[m].append(moments_of(args[0])))
        for norm in norms
    ]
    tail.to(device).eval()
    index = torch.linspace(0, len(rows) - 1, min(len(rows), _AT_MOST)).long()

    def run(most_rows: int) -> None:
        for moments in seen.values():
            moments.clear()
        for part in index.split(most_rows):
            tail(rows.batch(part, 0, None)[0]["x"].to(device))

    within_memory(run, len(index), _BATCH)
    for hook in hooks:
        hook.remove()
    shares = rows.processes.everyones([np.concatenate(parts) for parts in seen.values() if parts])
    seen_norms = [norm for norm, parts in seen.items() if parts]
    moments = map(np.concatenate, zip(*shares, strict=True))
    found = [norm_divergence(m, norm) for m, norm in zip(moments, seen_norms, strict=True)]
    return float(np.exp(-((2 * np.mean(found) / _NOISE) ** 2)))
