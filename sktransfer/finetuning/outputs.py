"""Run activations at the cut through the trained stages and the head."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..data import get_modality
from ..engines import engine_for, resolve_device
from ..features import check_outputs
from .rows import Table, as_rows
from .tail import Tail

__all__ = ["check_head", "head_inputs", "run_rows"]

_AT_ONCE = 1024  # rows of activations in one call of an engine


def run_rows(
    body: nn.Module,
    activations: np.ndarray | Table,
    device: str,
    engines: dict,
    *,
    has_tokens: bool,
    precision: str = "float32",
) -> np.ndarray:
    """Run rows of activations through one stage; ``engines`` keeps the engines for it."""
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
    parts = []
    for start in range(0, len(activations), _AT_ONCE):
        rows = map(_as_input, as_rows(activations[start : start + _AT_ONCE]))
        parts.append(engine.run_groups(modality.group(list(rows)))["output"])
    positions = getattr(activations, "positions", None)
    return check_outputs(np.concatenate(parts), positions)


def _as_input(row: torch.Tensor) -> torch.Tensor:
    """Convert a row of numbers to float32; ids of tokens are not changed."""
    return row.float() if row.is_floating_point() else row


def head_inputs(tail: Tail, activations: np.ndarray | Table, device: str = "cpu") -> np.ndarray:
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
