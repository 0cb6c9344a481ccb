"""Run a batch in micro-batches within limits of rows, length and memory."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["run_in_micro_batches", "within_memory"]

_TOKENS = 128  # of a micro-batch, about; products of smaller matrices take longer for each row


def run_in_micro_batches(
    step: Callable[[Any, float], dict[str, Any]],
    batch: tuple[Any, Any],
    most_rows: int,
    fewest_rows: int = 1,
    by_length: bool = False,
) -> dict[str, Any]:
    """Run a step of training or validation for each micro-batch of a batch.

    With ``by_length``, texts of similar length are run together, the shortest first, since a
    micro-batch is as long as its longest row. The sum of the gradients is that of the batch.

    Parameters
    ----------
    step : callable
        Takes a micro-batch, and its share of the rows of the batch. It adds to the gradients and
        returns a dictionary with "loss", multiplied by the share, and "y_pred".
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
    dict
        What one step of the whole batch returns, its rows in their order.
    """
    n_rows = len(batch[1])
    order = torch.arange(n_rows)
    if by_length:
        lengths = _lengths(_inputs(batch))
        order = lengths.argsort(stable=True)
        n_parts = min(n_rows, max(1, int(lengths.sum()) // _TOKENS))
        most_rows = min(most_rows, math.ceil(n_rows / n_parts))
    n_parts = max(1, min(math.ceil(n_rows / most_rows), n_rows // fewest_rows))
    if n_parts == 1 and not by_length:
        return step(batch, 1.0)
    losses, outputs = [], []
    for rows in order.tensor_split(n_parts):
        micro_batch = _taken(batch, rows)
        if by_length:
            x = _inputs(micro_batch)
            micro_batch = _with_inputs(micro_batch, x[:, : _lengths(x).max()])
        result = step(micro_batch, len(rows) / n_rows)
        # Detached, since the graph would keep the activations.
        losses.append(result["loss"].detach())
        outputs.append(_detached(result["y_pred"]))
    return {"loss": sum(losses), "y_pred": _taken(_joined(outputs), order.argsort())}


def within_memory(
    run: Callable[[int], Any],
    n_rows: int,
    most_rows: int,
    check: Callable[[Exception], None] | None = None,
) -> tuple[Any, int]:
    """Call a function with half as many rows at a time as long as the device's memory is short.

    Parameters
    ----------
    run : callable
        Takes the largest number of rows that are run at a time.
    n_rows : int
        Number of rows of the batch.
    most_rows : int
        The number to begin with.
    check : callable, default=None
        Called with the error before the function is called again; it may raise another.

    Returns
    -------
    result : object
        What the function returned.
    most_rows : int
        The number with which it did.

    Raises
    ------
    torch.OutOfMemoryError
        If not even one row fits.
    """
    while True:
        try:
            return run(most_rows), most_rows
        except torch.OutOfMemoryError as error:
            if min(most_rows, n_rows) == 1:
                raise
            if check is not None:
                check(error)
        # Outside the except block, where the error no longer refers to the tensors of the batch.
        most_rows = math.ceil(min(most_rows, n_rows) / 2)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _inputs(batch: tuple[Any, Any]) -> torch.Tensor:
    return batch[0]["x"] if isinstance(batch[0], dict) else batch[0]


def _with_inputs(batch: tuple[Any, Any], x: torch.Tensor) -> tuple[Any, Any]:
    return (batch[0] | {"x": x} if isinstance(batch[0], dict) else x), batch[1]


def _lengths(x: torch.Tensor) -> torch.Tensor:
    """Return the place of the last token of each row, at least 1."""
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


def _detached(output: Any) -> Any:
    if isinstance(output, torch.Tensor):
        return output.detach()
    return tuple(each.detach() for each in output)


def _joined(outputs: list) -> Any:
    if isinstance(outputs[0], torch.Tensor):
        return torch.cat(outputs)
    return tuple(map(torch.cat, zip(*outputs, strict=True)))
