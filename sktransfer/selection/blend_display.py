"""Plot what a blend consists of."""

from __future__ import annotations

from typing import Any, Self

from .display import new_axes

__all__ = ["BlendDisplay"]


class BlendDisplay:
    """Plot the weights of the members of a blend.

    Parameters
    ----------
    members : sequence of str
        Names of the members.
    weights : array-like of shape (n_members,)
        Their weights, with a sum of 1.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer

    See Also
    --------
    TransferClassifier : Has both as ``members_`` and ``weights_``.
    TransferRegressor : Likewise.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sktransfer import BlendDisplay
    >>> display = BlendDisplay(["late layers", "own classes"], [0.7, 0.3]).plot()
    >>> display.ax_.get_xlabel()
    'weight'
    """

    ax_: Any
    bars_: Any
    figure_: Any

    def __init__(self, members: Any, weights: Any):
        self.members = members
        self.weights = weights

    @classmethod
    def from_estimator(cls, estimator: Any, *, ax: Any = None) -> Self:
        """Plot the blend of a fitted estimator.

        Parameters
        ----------
        estimator : TransferClassifier, TransferRegressor or Pipeline
            Fitted; of a pipeline, the last step is used.
        ax : matplotlib Axes, default=None

        Returns
        -------
        BlendDisplay

        Raises
        ------
        TypeError
            If the estimator has no blend: it is not fitted, or fitted with one strategy.
        """
        model = estimator[-1] if hasattr(estimator, "steps") else estimator
        if getattr(model, "members_", None) is None:
            raise TypeError(
                f"{type(model).__name__} has no blend: give a TransferClassifier fitted with "
                "strategy='auto', or a fitted TransferRegressor."
            )
        return cls(model.members_, model.weights_).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the weights.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self
        """
        ax = new_axes(ax, 1.2 + 0.35 * len(self.members))
        self.bars_ = ax.barh(range(len(self.members)), self.weights, height=0.6)
        ax.bar_label(self.bars_, fmt="%.2f", padding=3)
        ax.set_yticks(range(len(self.members)), self.members)
        ax.set_ylim(len(self.members) - 0.5, -0.5)
        ax.margins(x=0.2)
        ax.set_xlabel("weight")
        self.ax_, self.figure_ = ax, ax.figure
        return self
