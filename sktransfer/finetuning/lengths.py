"""Run the texts of a batch in parts of similar length, so that short ones are hardly padded."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .accumulation import run_parts

__all__ = ["run_by_length"]

_TOKENS = 128  # of a part, about; products of smaller matrices take longer for each row


def run_by_length(step: Callable[..., Any], batch: tuple[Any, ...], n_rows: int) -> dict[str, Any]:
    """Run a step of training for parts of a batch, as :func:`run_parts`, the shortest rows first.

    A part is as long as its longest row, and the batch as the longest of all. The sum of the
    gradients is that of the batch.

    Parameters
    ----------
    step, n_rows
        As in :func:`run_parts`.
    batch : tuple of (Tensor or dict of str to Tensor, Tensor)
        Inputs and targets. The inputs are ids of tokens ``(n, L)`` or vectors ``(n, L, d)``, and
        zero behind the last token of a row.

    Returns
    -------
    dict
        What one step of the whole batch returns, its rows in their order.
    """
    lengths = _lengths(_inputs(batch[0]))
    n_parts = min(len(lengths), max(1, int(lengths.sum()) // _TOKENS))
    order = lengths.argsort(stable=True)
    found = run_parts(
        lambda part, share: step(_trimmed(part), share),
        _taken(batch, order),
        min(n_rows, math.ceil(len(lengths) / n_parts)),
    )
    return found | {"y_pred": _taken(found["y_pred"], order.argsort())}


def _inputs(x: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
    return x["x"] if isinstance(x, dict) else x


def _lengths(x: torch.Tensor) -> torch.Tensor:
    """Return the place of the last token of each row, at least 1."""
    tokens = x != 0 if x.ndim == 2 else x.abs().flatten(2).amax(-1) != 0  # (n, L)
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    return torch.where(tokens, places, 1).amax(1)


def _trimmed(part: tuple[Any, ...]) -> tuple[Any, ...]:
    x = _inputs(part[0])
    x = x[:, : _lengths(x).max()]
    return (part[0] | {"x": x} if isinstance(part[0], dict) else x), part[1]


def _taken(values: Any, index: torch.Tensor) -> Any:
    """Take rows of a tensor, or of each tensor in a tuple or a dictionary."""
    if isinstance(values, dict):
        return {name: _taken(each, index) for name, each in values.items()}
    if isinstance(values, tuple | list):
        return tuple(_taken(each, index) for each in values)
    return values[index]
