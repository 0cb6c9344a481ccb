"""Notice a training that ends worse than it began, and say what to do."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from scipy.special import xlogy
from skorch.callbacks import Callback

from ..data import Target
from .rows import Rows

__all__ = ["WatchLoss", "constant_loss", "is_worse", "mean_loss", "warn_worse"]

_AT_MOST = 256  # training rows whose loss is computed before and after training
_NOISE, _SMALL = 1.02, 1e-3  # a loss up to this many times another, or this small, is no worse


class WatchLoss(Callback):
    """Compare the loss on training rows before and after training, and warn if it has increased.

    Up to 256 rows are compared, without dropout. A loss that was and is not below that of constant
    predictions is also told.
    """

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.index_ = None
        if isinstance(X, Rows) and net.max_epochs:
            self.index_ = torch.linspace(0, len(X) - 1, min(len(X), _AT_MOST)).long()
            self.initial_loss_ = mean_loss(net, X, self.index_)

    def on_train_end(self, net, X=None, y=None, **kwargs):
        if self.index_ is None:
            return
        index = self.index_.to(X.target.device)
        weight = X.weight[self.index_].numpy() if X.weight.any() else np.ones(len(index))
        target = net.criterion_.target
        constant = constant_loss(target, X.target[index].numpy(force=True), weight)
        self.loss_ = mean_loss(net, X, self.index_)
        # With label smoothing, losses of good predictions are above that of the plain labels.
        is_plain = not net.criterion_.label_smoothing and net.criterion_.own is None
        by_chance = 0 < 0.98 * constant <= self.loss_ and is_plain
        if is_worse(self.initial_loss_, self.loss_):
            warn_worse("training", self.initial_loss_, self.loss_, net, "")
        elif by_chance and self.loss_ > 0.9 * self.initial_loss_:
            warnings.warn(
                f"Training did not help: the loss on training samples, {self.loss_:.3g} after "
                f"training with lr={net.lr:.3g}, is that of constant predictions, {constant:.3g}. "
                "Try another lr, more epochs or head_init='probe'.",
                stacklevel=2,
            )


def is_worse(before: float, after: float) -> bool:
    """Tell whether a loss after training is higher than that before, by more than two percent."""
    return after > max(_NOISE * before, _SMALL)


def warn_worse(rows: str, before: float, after: float, net, kept: str) -> None:
    """Warn that a training increased the loss.

    Parameters
    ----------
    rows : {"training", "validation"}
    before, after : float
        The losses.
    net : skorch.NeuralNet
    kept : str
        A sentence on the weights that are kept.
    """
    warnings.warn(
        f"Training did not help: the loss on {rows} samples was {before:.3g} before and "
        f"{after:.3g} after training with lr={net.lr:.3g}. {kept}Try lr={net.lr / 10:.1g}, fewer "
        "trained stages, or trainable='head'.",
        stacklevel=2,
    )


@torch.no_grad()
def mean_loss(net, rows: Rows, index: torch.Tensor | None = None) -> float:
    """Compute the mean loss over rows without training.

    Parameters
    ----------
    net : skorch.NeuralNet
    rows : Rows
    index : Tensor of int, default=None
        Positions of the rows; None for all.

    Returns
    -------
    float
    """
    index = torch.arange(len(rows)) if index is None else index
    total = 0.0
    for part in index.split(net.batch_size):
        total += net.validation_step(rows.batch(part, 0, None))["loss"].item() * len(part)
    return total / len(index)


def constant_loss(target: Target, encoded: np.ndarray, weight: np.ndarray) -> float:
    """Return the least loss of a prediction that is the same for all rows.

    Parameters
    ----------
    target : Target
    encoded : ndarray of shape (n,) or (n, n_outputs)
    weight : ndarray of shape (n,)

    Returns
    -------
    float
        The entropy of the classes, the mean entropy of the labels, or the mean variance of the
        standardised targets.
    """
    weight = weight / weight.sum()
    if target.loss == "cross_entropy":
        share = np.bincount(encoded, weight)
        return float(-xlogy(share, share).sum())
    columns = target.scaled(encoded).reshape(len(encoded), -1)
    mean = weight @ columns
    if target.loss == "squared_error":
        return float((weight @ (columns - mean) ** 2).mean())
    return float(-(xlogy(mean, mean) + xlogy(1 - mean, 1 - mean)).mean())
