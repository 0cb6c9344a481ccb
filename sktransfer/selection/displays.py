"""Plots in the style of scikit-learn: a constructor of arrays, and class methods that compute."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np

from ..features import find_network
from .ranking import BackboneRanking, probe_layers, rank_backbones


def new_axes(ax: Any, height: float, width: float = 6.4) -> Any:
    """Return the axes given, or new ones.

    Parameters
    ----------
    ax : matplotlib Axes or None
    height : float
        Of a new figure, in inches.

    Returns
    -------
    matplotlib Axes
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise ImportError("Plots need matplotlib: pip install matplotlib") from None
    return plt.subplots(figsize=(width, height), layout="constrained")[1]


class LayerProbeDisplay:
    """Plot the score of a linear probe at each layer.

    Parameters
    ----------
    layers : sequence of str
        From the input to the output.
    scores : array-like of shape (n_layers,)
        Accuracies, or R².
    errors : array-like of shape (n_layers,), default=None
        Their standard errors.
    chosen : str, default=None
        The layer to mark.
    score_name : str, default="accuracy"
        The label of the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    line_ : matplotlib ErrorbarContainer

    See Also
    --------
    probe_layers : The numbers alone.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sktransfer import LayerProbeDisplay
    >>> display = LayerProbeDisplay(["early", "late"], [0.9, 0.8], chosen="early").plot()
    >>> display.ax_.get_ylabel()
    'accuracy of a probe'
    """

    ax_: Any
    figure_: Any
    line_: Any

    def __init__(
        self,
        layers: Any,
        scores: Any,
        errors: Any = None,
        *,
        chosen: str | None = None,
        score_name: str = "accuracy",
    ):
        self.layers = layers
        self.scores = scores
        self.errors = errors
        self.chosen = chosen
        self.score_name = score_name

    @classmethod
    def from_choice(cls, choice: Any, *, ax: Any = None) -> Self:
        """Plot what :func:`probe_layers` returned.

        Parameters
        ----------
        choice : LayerChoice
        ax : matplotlib Axes, default=None

        Returns
        -------
        LayerProbeDisplay
        """
        name = "accuracy" if choice.is_accuracy else "R²"
        return cls(
            choice.layers, choice.scores, choice.errors, chosen=choice.layer, score_name=name
        ).plot(ax=ax)

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, ax: Any = None, **settings: Any
    ) -> Self:
        """Probe the layers of an estimator's backbone on samples and plot the result.

        Parameters
        ----------
        estimator : estimator of sktransfer, or a pipeline with one
            Fitted, or with a ``backbone`` to load. Its pooling, its image size and how it runs
            are used, and the fitted steps of a pipeline before it.
        X : list, array, Series or DataFrame column of n_samples samples
            As in :func:`probe_layers`.
        y : array-like of shape (n_samples,)
        ax : matplotlib Axes, default=None
        **settings
            As for :func:`probe_layers`.

        Returns
        -------
        LayerProbeDisplay
        """
        network = find_network(estimator)
        estimator, X = network.step, network.check(X)
        fitted = hasattr(estimator, "backbone_")
        backbone = estimator.backbone_ if fitted else estimator.backbone
        names = ["memory", "pooling", "device", "engine"]
        names += [] if fitted else ["weights", "image_size"]
        own = {name: getattr(estimator, name) for name in names if hasattr(estimator, name)}
        own["random_state"] = getattr(estimator, "random_state", 0)  # 0 is the extractor's
        return cls.from_choice(probe_layers(X, y, backbone, **own | settings), ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the scores.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self
        """
        ax = new_axes(ax, 3.6)
        at = np.arange(len(self.layers))
        self.line_ = ax.errorbar(at, self.scores, self.errors, marker="o", capsize=2)
        if self.chosen is not None:
            i = list(self.layers).index(self.chosen)
            ax.plot(i, self.scores[i], "o", ms=13, mfc="none", color="C3", label="chosen")
            ax.legend(loc="best")
        ax.set_xticks(at, self.layers, rotation=45, ha="right")
        ax.set_ylabel(f"{self.score_name} of a probe")
        ax.set_xlabel("layer, from the input to the output")
        self.ax_, self.figure_ = ax, ax.figure
        return self


class BackboneRankingDisplay:
    """Plot networks ranked by a score.

    Parameters
    ----------
    names : sequence of str
        The best first.
    scores : array-like of shape (n_backbones,)
    errors : array-like of shape (n_backbones,), default=None
        Standard errors, NaN where there are none.
    score_name : str, default="score"
        The label of the axis.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    bars_ : matplotlib BarContainer or ErrorbarContainer

    See Also
    --------
    rank_backbones : The numbers alone.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sktransfer import BackboneRankingDisplay
    >>> display = BackboneRankingDisplay(["good", "bad"], [0.9, 0.5]).plot()
    >>> [label.get_text() for label in display.ax_.get_yticklabels()]
    ['good', 'bad']
    """

    ax_: Any
    bars_: Any
    figure_: Any

    def __init__(self, names: Any, scores: Any, errors: Any = None, *, score_name: str = "score"):
        self.names = names
        self.scores = scores
        self.errors = errors
        self.score_name = score_name

    @classmethod
    def from_ranking(cls, ranking: BackboneRanking, *, ax: Any = None) -> Self:
        """Plot what :func:`rank_backbones` returned.

        Parameters
        ----------
        ranking : BackboneRanking
        ax : matplotlib Axes, default=None

        Returns
        -------
        BackboneRankingDisplay
        """
        name = {"probe": "cross-validated score of a probe"}.get(ranking.score, ranking.score)
        return cls(ranking.names, ranking.scores, ranking.errors, score_name=name).plot(ax)

    @classmethod
    def from_backbones(
        cls, X: Any, y: Any, backbones: Any, *, ax: Any = None, **settings: Any
    ) -> Self:
        """Rank networks on samples and plot the result.

        Parameters
        ----------
        X : list, array, Series or DataFrame column of n_samples samples
        y : array-like of shape (n_samples,)
        backbones : list or dict
        ax : matplotlib Axes, default=None
        **settings
            As for :func:`rank_backbones`.

        Returns
        -------
        BackboneRankingDisplay
        """
        return cls.from_ranking(rank_backbones(X, y, backbones, **settings), ax=ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the scores.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self
        """
        ax = new_axes(ax, 1.0 + 0.35 * len(self.names))
        at = np.arange(len(self.names))
        # Dots: scores such as LogME have no zero that a bar could begin at.
        self.bars_ = ax.errorbar(self.scores, at, xerr=self.errors, fmt="o", capsize=2)
        ax.set_yticks(at, self.names)
        ax.set_ylim(len(at) - 0.5, -0.5)
        ax.grid(axis="x", alpha=0.4)
        ax.set_xlabel(self.score_name)
        self.ax_, self.figure_ = ax, ax.figure
        return self


class StrategyDisplay:
    """Plot the expected gain of each strategy over fixed features.

    Parameters
    ----------
    names : sequence of str
        Of the strategies.
    gains : array-like of shape (n_strategies,)
        In accuracy.
    errors : array-like of shape (n_strategies,)
        Standard deviations.
    measured : array-like of bool of shape (n_strategies,)
        Whether a strategy was tried; otherwise the gain follows from a rule alone.
    accuracy : float, default=None
        Of fixed features, in cross-validation; NaN or None if it is unknown.
    recommended : str, default=None
        The strategy to mark.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure

    See Also
    --------
    recommend_strategy : The numbers alone.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sktransfer import StrategyDisplay
    >>> display = StrategyDisplay(["features", "all"], [0, 0.1], [0, 0.02], [True, False]).plot()
    >>> display.ax_.get_xlabel()
    'gain over features, in accuracy'
    """

    ax_: Any
    figure_: Any

    def __init__(
        self,
        names: Any,
        gains: Any,
        errors: Any,
        measured: Any,
        *,
        accuracy: float | None = None,
        recommended: str | None = None,
    ):
        self.names = names
        self.gains = gains
        self.errors = errors
        self.measured = measured
        self.accuracy = accuracy
        self.recommended = recommended

    @classmethod
    def from_recommendation(cls, recommendation: Any, *, ax: Any = None) -> Self:
        """Plot what :func:`recommend_strategy` returned.

        Parameters
        ----------
        recommendation : Recommendation
        ax : matplotlib Axes, default=None

        Returns
        -------
        StrategyDisplay
        """
        table = recommendation.table
        return cls(
            [estimate.name for estimate in table],
            [estimate.gain for estimate in table],
            [estimate.error for estimate in table],
            [estimate.n_judged > 0 for estimate in table],
            accuracy=recommendation.accuracy,
            recommended=recommendation.strategy,
        ).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the gains.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self
        """
        ax = new_axes(ax, 1.2 + 0.4 * len(self.names))
        for tried, marker, label in ((True, "o", "tried"), (False, "s", "by rule")):
            rows = [i for i, measured in enumerate(self.measured) if bool(measured) == tried]
            if rows:
                values, errors = np.asarray(self.gains)[rows], np.asarray(self.errors)[rows]
                face = None if tried else "none"
                ax.errorbar(values, rows, xerr=errors, fmt=marker, mfc=face, capsize=2, label=label)
        ax.axvline(0, color="0.6", lw=1, zorder=0)
        ax.set_yticks(range(len(self.names)), self.names)
        for name, text in zip(self.names, ax.get_yticklabels(), strict=True):
            text.set_fontweight("bold" if name == self.recommended else "normal")
        ax.set_ylim(len(self.names) - 0.5, -0.5)
        ax.set_xlabel("gain over features, in accuracy")
        title = f"recommended: {self.recommended}" if self.recommended else "no recommendation"
        if self.accuracy is not None and not math.isnan(self.accuracy):
            title += f"; features are right for {self.accuracy:.2f}"
        ax.set_title(title, fontsize="medium")
        ax.legend(loc="best")
        self.ax_, self.figure_ = ax, ax.figure
        return self


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
