"""Compare features, and measure activations, on the first sample."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

__all__ = ["distance", "largest_output"]


def distance(found: dict[Any, Any], expected: dict[Any, Any]) -> float:
    """Return the largest relative L2 distance between the features of a layer.

    Parameters
    ----------
    found, expected : dict of str to Tensor
        Those of ``expected`` are compared.

    Returns
    -------
    float
        0 if there is nothing to compare.
    """
    pairs = [(found[layer].double(), expected[layer].double()) for layer in expected]
    distances = [_relative(a, b) for a, b in pairs]
    return max(map(float, distances), default=0.0)


def _relative(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the relative distance; NaN and infinity in the same place do not differ."""
    same = (a == b) | (a.isnan() & b.isnan())
    distance = torch.where(same, 0.0, a - b).norm() / (b.nan_to_num().norm() + 1e-8)
    return distance.nan_to_num(torch.inf)


@contextlib.contextmanager
def largest_output(modules: Iterable[nn.Module]) -> Iterator[list[int]]:
    """Collect, while modules are called, the size in bytes of their largest output."""
    largest, thread = [1], threading.get_ident()

    def note(module, args, output):
        # Other threads may run the same modules on other batches.
        if isinstance(output, torch.Tensor) and threading.get_ident() == thread:
            largest[0] = max(largest[0], output.numel() * output.element_size())

    # Compiled modules take no hooks.
    modules = [m for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()
