"""Split a batch into micro-batches within limits of rows and length, and join their outputs."""

from __future__ import annotations

import math
from typing import Any

import torch

__all__ = ["fewer_rows", "join_outputs", "split_batch"]

_TOKENS = 128  # of a micro-batch, about; products of smaller matrices take longer for each row


def split_batch(
    batch: tuple[Any, Any], most_rows: int, fewest_rows: int = 1, by_length: bool = False
) -> tuple[list[tuple[Any, Any]], torch.Tensor]:
    """Split a batch into micro-batches.

    With ``by_length``, texts of similar length are together, the shortest first, since a
    micro-batch is as long as its longest row.

    Parameters
    ----------
    batch : tuple of (Tensor or dict of str to Tensor, Tensor)
        Inputs and targets. With ``by_length`` the inputs are ids of tokens ``(n, L)`` or vectors
        ``(n, L, d)``, and zero behind the last token of a row.
    most_rows : int
        Most rows of a micro-batch, unless ``fewest_rows`` makes it larger. Micro-batches differ by
        one row at most.
    fewest_rows : int, default=1
    by_length : bool, default=False

    Returns
    -------
    micro_batches : list of tuple
        Each like the batch.
    order : Tensor of int of shape (n,)
        The position in the batch of each row of the micro-batches.
    """
    n_rows = len(batch[1])
    order = torch.arange(n_rows)
    if by_length:
        lengths = _lengths(batch[0])
        order = lengths.argsort(stable=True)
        n_parts = min(n_rows, max(1, int(lengths.sum()) // _TOKENS))
        most_rows = min(most_rows, math.ceil(n_rows / n_parts))
    n_parts = max(1, min(math.ceil(n_rows / most_rows), n_rows // fewest_rows))
    if n_parts == 1 and not by_length:
        return [batch], order
    micro_batches = []
    for rows in order.tensor_split(n_parts):
        inputs, target = _taken(batch, rows)
        if by_length:
            longest = _lengths(inputs).max()
            is_named = isinstance(inputs, dict)
            inputs = inputs | {"x": inputs["x"][:, :longest]} if is_named else inputs[:, :longest]
        micro_batches.append((inputs, target))
    return micro_batches, order


def join_outputs(outputs: list[Any], order: torch.Tensor) -> Any:
    """Join the outputs of micro-batches, their rows in the order of the batch.

    Parameters
    ----------
    outputs : list of Tensor, or of sequence of Tensor
        Of each micro-batch.
    order : Tensor of int
        As :func:`split_batch` returns it.

    Returns
    -------
    Tensor or tuple of Tensor
    """
    if isinstance(outputs[0], torch.Tensor):
        return _taken(torch.cat(outputs), order.argsort())
    return tuple(join_outputs(list(each), order) for each in zip(*outputs, strict=True))


def fewer_rows(most_rows: int, n_rows: int) -> int:
    """Return half as many rows for micro-batches, after the device's memory was short.

    Parameters
    ----------
    most_rows : int
        Most rows of a micro-batch so far.
    n_rows : int
        Rows of the batch.

    Returns
    -------
    int
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return math.ceil(min(most_rows, n_rows) / 2)


def _lengths(inputs: Any) -> torch.Tensor:
    """Return the place of the last token of each row, at least 1."""
    x = inputs["x"] if isinstance(inputs, dict) else inputs
    tokens = x != 0 if x.ndim == 2 else x.abs().flatten(2).amax(-1) != 0  # (n, L)
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    return torch.where(tokens, places, 1).amax(1)


def _taken(values: Any, rows: torch.Tensor) -> Any:
    """Take rows of a tensor, or of each tensor in a tuple or a dictionary."""
    if isinstance(values, dict):
        return {name: _taken(each, rows) for name, each in values.items()}
    if isinstance(values, tuple | list):
        return tuple(_taken(each, rows) for each in values)
    return values[rows.to(values.device)]
