"""Notice a training that ends worse than it began, and say what to do."""

from __future__ import annotations

import warnings
from typing import Any

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
    has almost no loss, and a trained network that is less certain of them can be better. Also
    warns if the loss never drops below that of a constant prediction.
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
            self.initial_loss_, self.initial_wrong_ = _evaluate(net, X, self.index_)

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        if self.index_ is None:
            return
        before = self.initial_loss_
        self.loss_, self.wrong_ = loss, wrong = _evaluate(net, X, self.index_)
        chance = _loss_by_chance(net, X, self.index_)
        is_clear = wrong > self.initial_wrong_ or wrong == 1 or loss > chance
        if is_clear and is_worse(before, loss, max(_SMALL, _SHARE * chance)):
            warn_worse("training", before, loss, net, "")
        elif net.criterion_.own is None and 0 < 0.98 * chance <= loss and loss > 0.9 * before:
            warnings.warn(
                f"Training did not help: the loss on training samples, {loss:.3g} after "
                f"training with lr={net.lr:.3g}, is that of constant predictions, {chance:.3g}. "
                "Try another lr, more epochs or head_init='probe'.",
                stacklevel=2,
            )


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


def _loss_by_chance(net, dataset: TrainingDataset, index: torch.Tensor) -> float:
    """Return the loss of constant predictions; with a loss of the user's, of outputs of zero."""
    target, index = net.criterion_.target, index.to(dataset.target.device)
    if net.criterion_.own is not None:
        zeros = torch.zeros(len(index), target.n_outputs, device=net.device)
        return net.get_loss(zeros, dataset.target[index]).item()
    weight = dataset.weight[index.cpu()].numpy()
    weight = weight if weight.any() else np.ones(len(index))
    return constant_loss(target, dataset.target[index].numpy(force=True), weight)


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


def mean_loss(net: NeuralNet, dataset: TrainingDataset, n_rows: int | None = None) -> float:
    """Compute the mean loss over rows without training.

    Parameters
    ----------
    net : skorch.NeuralNet
    dataset : TrainingDataset
    n_rows : int, default=None
        The number of rows, from the first on; None is all.

    Returns
    -------
    float
    """
    return _evaluate(net, dataset, torch.arange(len(dataset))[:n_rows])[0]


@torch.no_grad()
def _evaluate(net: NeuralNet, dataset: TrainingDataset, index: torch.Tensor) -> tuple[float, float]:
    """Return the mean loss and the share of wrong labels of rows; the share is 1 for numbers."""
    target: Target = net.criterion_.target
    loss, n_wrong = 0.0, 0.0
    for part in index.split(net.batch_size):
        step = net.validation_step(dataset.batch(part, 0, None))
        loss += step["loss"].item() * len(part)
        if isinstance(target, NumericTarget):
            n_wrong += len(part)
            continue
        outputs = step["y_pred"][0] if isinstance(step["y_pred"], tuple) else step["y_pred"]
        predicted = target.encode(target.decode(outputs.numpy(force=True)))
        is_wrong = predicted != dataset.target[part].numpy(force=True)
        n_wrong += float(np.mean(is_wrong)) * len(part)
    return loss / len(index), n_wrong / len(index)


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
