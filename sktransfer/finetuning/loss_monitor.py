"""Notice a training that ends worse than it began, and say what to do."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import xlogy
from skorch import NeuralNet
from skorch.callbacks import Callback

from ..data import NumericTarget, Target
from .dataset import TrainingDataset

__all__ = ["LossMonitor", "constant_loss", "is_worse", "mean_loss", "warn_worse"]

_AT_MOST = 256  # training rows whose loss is computed before and after training
_NOISE, _SMALL = 1.02, 1e-3  # a loss up to this many times another, or this small, is no worse
_SHARE = 0.1  # nor is a training loss of up to this share of that of constant predictions


class LossMonitor(Callback):
    """Compare the loss on training rows before and after training, and warn if it has increased.

    Up to 256 rows are compared, without dropout. The loss must have increased by more than two
    percent, to more than a tenth of that of constant predictions. If it is below that of constant
    predictions, more labels must be predicted wrongly, too: a probe that fits its samples exactly
    has almost no loss, and a trained network that is less certain of them can be better. A loss
    that was and is not below that of constant predictions is also told.
    """

    index_: torch.Tensor | None
    initial_loss_: float
    initial_wrong_: float
    loss_: float
    wrong_: float

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.index_ = None
        if isinstance(X, TrainingDataset) and net.max_epochs:
            self.index_ = torch.linspace(0, len(X) - 1, min(len(X), _AT_MOST)).long()
            self.initial_loss_, self.initial_wrong_ = _fit(net, X, self.index_)

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        if self.index_ is None:
            return
        before = Fit(self.initial_loss_, self.initial_wrong_)
        after = _fit(net, X, self.index_)
        self.loss_, self.wrong_ = after
        chance = _loss_by_chance(net, X, self.index_)
        if _fits_worse(before, after, chance):
            warn_worse("training", before.loss, after.loss, net, "")
        elif (
            net.criterion_.own is None
            and 0 < 0.98 * chance <= after.loss
            and after.loss > 0.9 * before.loss
        ):
            warnings.warn(
                f"Training did not help: the loss on training samples, {after.loss:.3g} after "
                f"training with lr={net.lr:.3g}, is that of constant predictions, {chance:.3g}. "
                "Try another lr, more epochs or head_init='probe'.",
                stacklevel=2,
            )


class Fit(NamedTuple):
    """How well rows are fitted: the mean loss, and the share of wrong labels; 1 for numbers."""

    loss: float
    wrong: float


def _fits_worse(before: Fit, after: Fit, chance: float) -> bool:
    clearly = after.wrong > before.wrong or after.wrong == 1 or after.loss > chance
    return clearly and is_worse(before.loss, after.loss, max(_SMALL, _SHARE * chance))


def is_worse(before: float, after: float, least: float = _SMALL) -> bool:
    """Tell whether a loss after training is higher than that before, by more than two percent.

    Parameters
    ----------
    before, after : float
        The losses.
    least : float, default=0.001
        The largest loss that is no worse than any other.

    Returns
    -------
    bool
    """
    return after > max(_NOISE * before, least)


def _loss_by_chance(net, rows: TrainingDataset, index: torch.Tensor) -> float:
    """Return the loss of constant predictions; with a loss of the user's, of outputs of zero."""
    target, index = net.criterion_.target, index.to(rows.target.device)
    if net.criterion_.own is not None:
        zeros = torch.zeros(len(index), target.n_outputs, device=net.device)
        return net.get_loss(zeros, rows.target[index]).item()
    weight = rows.weight[index.cpu()].numpy()
    weight = weight if weight.any() else np.ones(len(index))
    return constant_loss(target, rows.target[index].numpy(force=True), weight)


def warn_worse(rows: str, before: float, after: float, net: NeuralNet, kept: str) -> None:
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


def mean_loss(net: NeuralNet, rows: TrainingDataset, n_rows: int | None = None) -> float:
    """Compute the mean loss over rows without training.

    Parameters
    ----------
    net : skorch.NeuralNet
    rows : TrainingDataset
    n_rows : int, default=None
        The number of rows, from the first on; None is all.

    Returns
    -------
    float
    """
    return _fit(net, rows, torch.arange(len(rows))[:n_rows]).loss


@torch.no_grad()
def _fit(net, rows: TrainingDataset, index: torch.Tensor) -> Fit:
    """Compare the predictions of rows with their targets, without training."""
    loss, wrong = 0.0, 0.0
    for part in index.split(net.batch_size):
        batch = rows.batch(part, 0, None)
        step = net.validation_step(batch)
        loss += step["loss"].item() * len(part)
        wrong += _wrong(net.criterion_.target, step["y_pred"], rows.target[part]) * len(part)
    return Fit(loss / len(index), wrong / len(index))


def _wrong(target: Target, outputs: tuple | torch.Tensor, encoded: torch.Tensor) -> float:
    """Return the share of labels that are predicted wrongly; 1 for numbers."""
    if isinstance(target, NumericTarget):
        return 1.0
    output = outputs[0] if isinstance(outputs, tuple) else outputs
    found = target.encode(target.decode(output.numpy(force=True)))
    return float(np.mean(found != encoded.numpy(force=True)))


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
