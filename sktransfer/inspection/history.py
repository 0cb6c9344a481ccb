"""Plot how a network was trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np

from ..features import find_network
from ..selection import new_axes

__all__ = ["TrainingHistoryDisplay"]

_NAMES = {"train_loss": "training", "valid_loss": "hold-out set"}


class TrainingHistoryDisplay:
    """Plot the losses of the epochs of a training.

    Parameters
    ----------
    losses : dict of str to array-like of shape (n_epochs,)
        By the name in the legend.
    best_epoch : int, default=None
        The epoch whose weights were kept, from 1; it is marked.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    lines_ : list of matplotlib Line2D

    See Also
    --------
    sktransfer.FineTunedClassifier : Has the numbers as ``history_``.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sktransfer.inspection import TrainingHistoryDisplay
    >>> display = TrainingHistoryDisplay({"training": [0.9, 0.5]}, best_epoch=2).plot()
    >>> display.ax_.get_xlabel()
    'epoch'
    """

    ax_: Any
    figure_: Any
    lines_: list[Any]

    def __init__(self, losses: Mapping[str, Any], best_epoch: int | None = None):
        self.losses = losses
        self.best_epoch = best_epoch

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Plot the training of an estimator.

        Parameters
        ----------
        estimator : FineTunedClassifier, FineTunedRegressor, or a pipeline with one
            Fitted.
        ax : matplotlib Axes, default=None

        Returns
        -------
        TrainingHistoryDisplay

        Raises
        ------
        TypeError
            If nothing was trained.
        """
        step = find_network(estimator).step
        step = getattr(step, "estimator_", step)  # of a TransferClassifier with one strategy
        history = getattr(step, "history_", None)
        if not history:
            raise TypeError(
                f"{type(step).__name__} has no history: give a fitted FineTunedClassifier or "
                "FineTunedRegressor."
            )
        losses = {
            name: [row.get(key, np.nan) for row in history]
            for key, name in _NAMES.items()
            if any(key in row for row in history)
        }
        best = step.best_epoch_ if _NAMES["valid_loss"] in losses else None
        return cls(losses, best).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the losses.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self
        """
        ax = new_axes(ax, 3.6)
        epochs = np.arange(1, 1 + max(map(len, self.losses.values())))
        self.lines_ = [
            ax.plot(epochs[: len(values)], values, marker="o", ms=4, label=name)[0]
            for name, values in self.losses.items()
        ]
        if self.best_epoch is not None:
            ax.axvline(self.best_epoch, color="0.6", lw=1, zorder=0, label="kept")
        ax.xaxis.get_major_locator().set_params(integer=True)
        ax.set_xlabel("epoch")
        ax.set_ylabel("loss")
        ax.legend(loc="best")
        self.ax_, self.figure_ = ax, ax.figure
        return self
