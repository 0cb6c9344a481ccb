"""Run a batch in parts if it does not fit into the memory of a device."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch

from .tail import Tail

__all__ = ["run_in_parts"]


def run_in_parts(tail: Tail, run: Callable[..., Any], n_rows: int) -> Any:
    """Call a function that runs a batch through a tail, in parts if memory is short.

    If the device runs out of memory, the tail divides this and later batches into parts, and the
    function is called again. The gradients of the parts add up to those of the batch.

    Parameters
    ----------
    tail : Tail
    run : callable
        Without arguments.
    n_rows : int
        Number of rows in the batch.

    Returns
    -------
    object
        What the function returns.

    Raises
    ------
    torch.OutOfMemoryError
        If not even one row fits, or if batch norm that is trained needs the whole batch.
    """
    while True:
        seed = tail.seed
        try:
            return run()
        except torch.OutOfMemoryError as error:
            _check_divisible(tail, n_rows, error)
        # Outside the except block, where the error no longer refers to the tensors of the batch.
        _divide(tail, n_rows)
        tail.seed = seed
        tail.zero_grad(set_to_none=True)


def _check_divisible(tail: Tail, n_rows: int, error: Exception) -> None:
    if tail.training and tail.learns_statistics:
        raise torch.OutOfMemoryError(
            f"A batch of {n_rows} does not fit into the device's memory, and batch norm that "
            "is trained (train_batch_norm=True, or in the head) needs it whole. Set a smaller "
            "batch_size."
        ) from error
    if tail.n_chunks >= n_rows:
        raise error


def _divide(tail: Tail, n_rows: int) -> None:
    if tail.n_chunks == 1:
        warnings.warn(
            f"A batch of {n_rows} does not fit into the device's memory: it is run in "
            "parts whose gradients are added up, more slowly, with the same result except for "
            "random numbers (dropout).",
            stacklevel=2,
        )
    tail.n_chunks *= 2
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
