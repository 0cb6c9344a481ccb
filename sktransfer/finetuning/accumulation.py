"""Run the batch of a step in parts, and add up their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["run_parts"]


def run_parts(
    step: Callable[..., Any], batch: tuple[Any, ...], n_rows: int, least: int = 1
) -> dict[str, Any]:
    """Run a step of training for each part of a batch.

    Parameters
    ----------
    step : callable
        Takes a part, and its share of the rows of the batch. It adds to the gradients and returns
        a dictionary with "loss", multiplied by the share, and "y_pred".
    batch : tuple of (Tensor or dict of str to Tensor, Tensor)
        Inputs and targets.
    n_rows : int
        Most rows of a part, unless ``least`` makes it larger. Parts differ by one row at most.
    least : int, default=1
        Fewest rows of a part.

    Returns
    -------
    dict
        What one step of the whole batch returns.
    """
    n = len(batch[1])
    n_parts = max(1, min(math.ceil(n / n_rows), n // least))
    if n_parts == 1:
        return step(batch, 1.0)
    parts = zip(*(_split(values, n_parts) for values in batch), strict=True)
    steps = [_finished(step(part, len(part[1]) / n)) for part in parts]
    outputs = [one["y_pred"] for one in steps]
    return {"loss": sum(one["loss"] for one in steps), "y_pred": _joined(outputs)}


def _split(values, n_parts: int) -> list:
    if isinstance(values, dict):
        split = {name: _split(tensor, n_parts) for name, tensor in values.items()}
        return [{name: parts[i] for name, parts in split.items()} for i in range(n_parts)]
    return list(torch.tensor_split(values, n_parts))


def _finished(step: dict) -> dict:
    """Return the result of a step without its graph, whose activations would be kept."""
    output = step["y_pred"]
    whole = isinstance(output, torch.Tensor)
    output = output.detach() if whole else tuple(x.detach() for x in output)
    return {"loss": step["loss"].detach(), "y_pred": output}


def _joined(outputs: list):
    if isinstance(outputs[0], torch.Tensor):
        return torch.cat(outputs)
    return tuple(map(torch.cat, zip(*outputs, strict=True)))
