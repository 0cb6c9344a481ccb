"""Run activations at the cut through the trained stages and the head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import get_modality
from ..engines import engine_for, resolve_device
from ..features import Stream, check_outputs
from .rows import Table, as_rows, as_table
from .tail import Tail

__all__ = ["check_head", "head_inputs", "run_rows"]

_AT_ONCE = 1024  # rows of activations in one call of an engine
_BYTES_AT_ONCE = 2**26


def run_rows(
    body: nn.Module,
    activations: np.ndarray | Stream | Table,
    device: str,
    engines: dict[Any, Any],
    *,
    has_tokens: bool,
    precision: str = "float32",
    positions: Sequence[int] | None = None,
) -> np.ndarray:
    """Run rows of activations through one stage; ``engines`` keeps the engines for it.

    ``positions`` are those of the samples, for messages.
    """
    modality = get_modality("text" if has_tokens else "array")
    engine = engine_for(
        {"output": body},
        ("output",),
        "none",
        kept=engines,
        device=resolve_device(device),
        modality=modality,
        precision=precision,
    )
    table, parts = as_table(activations), []
    for rows in table.batches(_slices(table)):
        inputs = list(map(_as_input, as_rows(rows)))
        parts.append(engine.run_groups(modality.group(inputs))["output"])
    at = table.positions if positions is None else np.asarray(positions)
    return check_outputs(np.concatenate(parts), at)


def _slices(table: Table) -> list[np.ndarray]:
    """Divide the places in a table into parts that fit into memory easily."""
    size = _AT_ONCE
    if not table.is_ragged:
        size = int(np.clip(_BYTES_AT_ONCE // max(1, table.nbytes // len(table)), 1, _AT_ONCE))
    return np.split(np.arange(len(table)), range(size, len(table), size))


def _as_input(row: torch.Tensor) -> torch.Tensor:
    """Convert a row of numbers to float32; ids of tokens are not changed."""
    return row.float() if row.is_floating_point() else row


def head_inputs(
    tail: Tail, activations: np.ndarray | Stream | Table, device: str = "cpu"
) -> np.ndarray:
    """Compute the input of the head from activations at the cut."""
    body = nn.Sequential(*list(tail.eval().body)[:-1])
    has_tokens = activations.dtype == object  # rows of tokens differ in length
    return run_rows(body, activations, device, {}, has_tokens=has_tokens)


@torch.no_grad()
def check_head(tail: Tail, one: np.ndarray, n_outputs: int) -> None:
    """Check the number of outputs of a head on one row of activations.

    Parameters
    ----------
    tail : Tail
    one : ndarray of shape (1, ...) or array of one array
    n_outputs : int
        Number of outputs that is required.

    Raises
    ------
    ValueError
        If the head returns another number, or fails on the features.
    """
    row = _as_input(as_rows(one)[0])
    try:
        output = tail.eval()(row[None])
        shape = tuple(output.shape)
    except Exception as error:  # of any type, since the user wrote the head
        raise ValueError(f"head= cannot take the features of the network: {error}") from error
    if shape != (1, n_outputs):
        raise ValueError(
            f"head= gives outputs of shape {shape} for one sample: give (1, {n_outputs})."
        )
