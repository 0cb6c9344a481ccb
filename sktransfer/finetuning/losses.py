"""Losses: a value for each row, and their mean with weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import nn

from ..data import Target

__all__ = ["LOSSES", "WeightedLoss", "by_row", "weighted_mean"]


class WeightedLoss(nn.Module):
    """Compute the mean over a batch of loss times weight, if outputs come with weights.

    The sum is not divided by the weights of the batch: in a batch of one row its weight would
    have no effect.

    Parameters
    ----------
    target : Target
        Its ``loss`` is the name of the loss.
    loss : callable or "auto", default="auto"
        A loss of the user's, from outputs and targets; see :func:`weighted_mean`.
    """

    own: Callable[..., Any] | None

    def __init__(self, target: Target, loss: str | Callable[..., Any] = "auto"):
        super().__init__()
        self.target = target
        self.own = None if isinstance(loss, str) else by_row(loss)

    def forward(self, output: torch.Tensor | tuple[Any, ...], target: torch.Tensor) -> torch.Tensor:
        output, weight = output if isinstance(output, tuple) else (output, None)
        output = cast(torch.Tensor, output)
        if self.own is not None:
            return weighted_mean(self.own, output, target, weight)
        loss = LOSSES[self.target.loss](output, target)  # (n,)
        return (loss if weight is None else loss * weight).mean()


def by_row(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Make a loss return a value for each row where it can.

    Parameters
    ----------
    loss : callable
        From outputs and targets. A module of torch with ``reduction`` is copied, and reduces
        nothing.

    Returns
    -------
    callable
    """
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        loss = copy.deepcopy(loss)
        vars(loss)["reduction"] = "none"
    return loss


def weighted_mean(
    loss: Callable[..., Any],
    output: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
) -> torch.Tensor:
    """Call a loss and compute the mean over rows of loss times weight.

    Parameters
    ----------
    loss : callable
    output : Tensor of shape (n, n_outputs)
    target : Tensor of shape (n,) or (n, n_outputs)
    weight : Tensor of shape (n,) or None

    Returns
    -------
    Tensor
        A number.

    Raises
    ------
    ValueError
        If the loss fails, returns something else than a tensor of one value or of one for each
        row, or returns their mean although rows differ in weight.
    """
    values = _call(loss, output, target)
    if values.ndim == 0:
        _check_equal(weight)
        return values if weight is None else values * weight[0]
    if len(values) != len(output):
        raise ValueError(
            f"loss={loss!r:.80} returned the shape {tuple(values.shape)} for {len(output)} rows: "
            "it must return a value for each row, or one."
        )
    rows = values.flatten(1).mean(dim=1) if values.ndim > 1 else values
    return (rows if weight is None else rows * weight).mean()


def _call(loss: Callable, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        values = loss(output, target)
    except Exception as error:  # of the user's function
        shapes = f"outputs {tuple(output.shape)}, targets {tuple(target.shape)} {target.dtype}"
        raise ValueError(f"loss={loss!r:.80} failed for {shapes}: {error}") from error
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"loss={loss!r:.80} must return a tensor, got {type(values).__name__}.")
    return values


def _check_equal(weight: torch.Tensor | None) -> None:
    if weight is not None and not torch.equal(weight, weight[:1].expand_as(weight)):
        raise ValueError(
            "loss= returns the mean over rows, which cannot be weighted: return a value for each "
            "row, or give neither sample_weight nor class_weight."
        )


def _cross_entropy(output, target) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target, reduction="none")


def _binary_cross_entropy(output, target) -> torch.Tensor:
    loss = nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none")
    return loss.mean(dim=1)


def _squared_error(output, target) -> torch.Tensor:
    return nn.functional.mse_loss(output, target, reduction="none").mean(dim=1)


# From outputs and targets to a loss for each row, by the name in a target.
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "squared_error": _squared_error,
}
