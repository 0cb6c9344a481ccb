"""Make a batch of samples, and one table of the rows of several batches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

__all__ = ["as_batch", "empty_rows", "fill_rows"]


def as_batch(
    tensors: Sequence[torch.Tensor] | torch.Tensor, device: torch.device | None = None
) -> torch.Tensor:
    """Return samples as one tensor, for a GPU in memory from which it can copy by itself."""
    batch = tensors if isinstance(tensors, torch.Tensor) else torch.stack(list(tensors))
    is_for_gpu = device is not None and device.type == "cuda" and batch.device.type == "cpu"
    return batch.pin_memory() if is_for_gpu else batch


def empty_rows(n: int, like: np.ndarray, *, ragged: bool) -> np.ndarray:
    """Return a table for n rows; an array of objects where activations differ in length."""
    if ragged and like.ndim > 2:
        return np.empty(n, object)
    return np.empty((n, *like.shape[1:]), like.dtype)


def fill_rows(table: np.ndarray, positions: np.ndarray, rows: np.ndarray) -> None:
    if table.dtype != object:
        table[positions] = rows
        return
    for position, row in zip(positions, rows, strict=True):
        table[position] = row
