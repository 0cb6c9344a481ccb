"""Plots of data and models: confusions, a map of features, a training; previews of samples."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.utils.validation import check_array, check_consistent_length

from ..data import Modality, check_labels, is_numbers, take
from ..features import find_network, fitted_network
from ..selection import new_axes

_LEAST = 30  # samples from which neighbourhoods are shown, not directions
_COMPONENTS = 50  # of the features, before t-SNE
_LOSSES = {"train_loss": "training", "valid_loss": "hold-out set"}


class ConfusionDisplay:
    """Plot a confusion matrix and the samples whose wrong prediction is the most certain.

    Parameters
    ----------
    matrix : array-like of shape (n_classes, n_classes)
        Numbers of samples: rows are labels, columns predictions.
    labels : sequence
        Of the rows and columns.
    previews : sequence of PIL.Image.Image or str, default=()
        Of the most confused samples.
    titles : sequence of str, default=()
        What is written above each of them.

    Attributes
    ----------
    ax_ : matplotlib Axes
        With the matrix.
    figure_ : matplotlib Figure
    matrix_ : ConfusionMatrixDisplay
    preview_axes_ : list of matplotlib Axes
        With the samples.

    See Also
    --------
    sklearn.metrics.ConfusionMatrixDisplay : The matrix alone.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sktransfer.inspection import ConfusionDisplay
    >>> display = ConfusionDisplay.from_predictions(["ant", "bee"], ["ant", "ant"])
    >>> display.matrix.tolist()
    [[1, 0], [1, 0]]
    """

    matrix_: ConfusionMatrixDisplay
    ax_: Any
    figure_: Any
    preview_axes_: list[Any]

    def __init__(self, matrix: Any, labels: Any, previews: Any = (), titles: Any = ()):
        self.matrix = matrix
        self.labels = labels
        self.previews = previews
        self.titles = titles

    @classmethod
    def from_estimator(
        cls, estimator: Any, X: Any, y: Any, *, n_samples: int = 6, ax: Any = None
    ) -> Self:
        """Plot the predictions of an estimator.

        Parameters
        ----------
        estimator : classifier of sktransfer, or a pipeline with one
            Fitted.
        X : list, array, Series or DataFrame column of n_samples samples
            Best that it was not fitted on.
        y : array-like of shape (n_samples,)
        n_samples : int, default=6
            The number of confused samples that are shown.
        ax : matplotlib Axes, default=None

        Returns
        -------
        ConfusionDisplay
        """
        network = fitted_network(estimator)
        proba = estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else None
        classes = getattr(estimator, "classes_", None)
        samples, modality = network.check(X), network.modality
        return cls.from_predictions(
            y,
            estimator.predict(X),
            probabilities=proba,
            classes=classes,
            previews=lambda rows: previews_of(samples, modality, rows),
            n_samples=n_samples,
            ax=ax,
        )

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_pred: Any,
        *,
        probabilities: Any = None,
        classes: Any = None,
        previews: Any = None,
        n_samples: int = 6,
        ax: Any = None,
    ) -> Self:
        """Plot predictions.

        Parameters
        ----------
        y_true, y_pred : array-like of shape (n_samples,)
        probabilities : array-like of shape (n_samples, n_classes), default=None
            To find the most certain wrong predictions.
        classes : array-like of shape (n_classes,), default=None
            The labels of their columns.
        previews : callable, default=None
            From positions of samples to pictures or texts.
        n_samples : int, default=6
            The number of confused samples that are shown.
        ax : matplotlib Axes, default=None

        Returns
        -------
        ConfusionDisplay
        """
        y_true, y_pred = check_labels(y_true), check_labels(y_pred, name="y_pred")
        check_consistent_length(y_true, y_pred)
        labels = np.unique(np.concatenate([y_true, y_pred]))
        rows = most_confused(y_true, y_pred, probabilities, classes)[:n_samples]
        titles = [f"{y_true[i]}, not {y_pred[i]}" for i in rows]
        shown = [] if previews is None else list(previews(rows))
        matrix = confusion_matrix(y_true, y_pred, labels=labels)
        return cls(matrix, labels, shown, titles).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the matrix and the samples.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            In a grid of axes; its place is divided.

        Returns
        -------
        self
        """
        n_columns = -(-len(self.previews) // 2)
        width = 6.4 + 1.6 * n_columns if n_columns else 5.0
        ax = new_axes(ax, 4.2, width)
        self.preview_axes_ = []
        if n_columns:
            grid, cells = nested_axes(ax, 2, 1 + n_columns, width_ratios=[2.2, *[1] * n_columns])
            ax = ax.figure.add_subplot(grid[:, 0])
            places = cells[:, 1:].ravel()[: len(self.previews)]
            self.preview_axes_ = [make() for make in places]
            for cell, preview, title in zip(
                self.preview_axes_, self.previews, self.titles, strict=True
            ):
                draw_preview(cell, preview, title)
        self._plot_matrix(ax)
        return self

    def _plot_matrix(self, ax) -> None:
        display = ConfusionMatrixDisplay(np.asarray(self.matrix), display_labels=self.labels)
        self.matrix_ = display.plot(ax=ax, cmap="Blues", colorbar=False, xticks_rotation=45)
        ax.set_xlabel("prediction")
        ax.set_ylabel("label")
        self.ax_, self.figure_ = ax, ax.figure


def most_confused(
    y_true: Any, y_pred: Any, probabilities: Any = None, classes: Any = None
) -> np.ndarray:
    """Return the positions of wrong predictions, the most certain first.

    They are sorted by the probability of the prediction less that of the label, descending; a label
    that is no column, of which ``classes`` are the labels, has the probability 0. Without
    probabilities, by how often the same two labels are confused.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    wrong = np.flatnonzero(y_true != y_pred)
    if probabilities is None or classes is None:
        pairs = [(y_true[i], y_pred[i]) for i in wrong]
        surprise = np.array([pairs.count(pair) for pair in pairs])
    else:
        table, classes = np.asarray(probabilities)[wrong], np.asarray(classes)
        own = (table * (y_true[wrong][:, None] == classes)).sum(1)
        surprise = (table * (y_pred[wrong][:, None] == classes)).sum(1) - own
    return wrong[np.argsort(-surprise, kind="stable")]


class FeatureMapDisplay:
    """Plot samples as points whose distances follow those of their features.

    Parameters
    ----------
    positions : array-like of shape (n_samples, 2)
    y : array-like of shape (n_samples,), default=None
        Labels or numbers, shown as colours.
    previews : mapping of int to PIL.Image.Image or str, default=None
        Pictures or texts of some samples, by position.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    points_ : list of matplotlib PathCollection
        One for each label.
    previews_ : list of matplotlib Artist

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sktransfer.inspection import FeatureMapDisplay
    >>> display = FeatureMapDisplay([[0, 0], [1, 1]], ["ant", "bee"]).plot()
    >>> len(display.points_)
    2
    """

    ax_: Any
    figure_: Any
    points_: list[Any]
    previews_: list[Any]

    def __init__(self, positions: Any, y: Any = None, previews: Any = None):
        self.positions = positions
        self.y = y
        self.previews = previews

    @classmethod
    def from_estimator(
        cls,
        extractor: Any,
        X: Any,
        y: Any = None,
        *,
        projection: Any = None,
        n_previews: int = 30,
        random_state: Any = 0,
        ax: Any = None,
    ) -> Self:
        """Plot the features that an extractor computes.

        Parameters
        ----------
        extractor : PretrainedFeatureExtractor, or a pipeline that ends with a transformer
            Fitted.
        X : list, array, Series or DataFrame column of n_samples samples
        y : array-like of shape (n_samples,), default=None
            Labels or numbers, shown as colours.
        projection : transformer, default=None
            To two dimensions. None is t-SNE of the first 50 principal components, and for fewer
            than 30 samples principal component analysis.
        n_previews : int, default=30
            The number of samples that are shown as pictures or texts, far from each other.
        random_state : int, RandomState instance or None, default=0
            For the default projection.
        ax : matplotlib Axes, default=None

        Returns
        -------
        FeatureMapDisplay
        """
        features = check_array(extractor.transform(X))
        positions = _project(features, projection, random_state)
        network = find_network(extractor)
        samples, modality = network.check(X), network.modality
        rows = far_apart(positions, n_previews)
        previews = dict(zip(rows, previews_of(samples, modality, rows, 40), strict=True))
        return cls(positions, y, previews).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the map.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        self
        """
        ax = new_axes(ax, 5.2)
        positions = np.asarray(self.positions, float)
        self.points_ = self._plot_points(ax, positions)
        colours = self._colours()
        self.previews_ = [
            _annotate(ax, positions[i], preview, colours[i])
            for i, preview in (self.previews or {}).items()
        ]
        ax.set_xticks([])
        ax.set_yticks([])
        ax.margins(0.08)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _colours(self) -> list:
        """Return the colour of the points of each sample, for the frames of pictures."""
        if len(self.points_) == 1:
            return ["0.3"] * len(np.asarray(self.positions))
        codes = np.unique(np.asarray(self.y), return_inverse=True)[1]
        return [self.points_[code].get_facecolor()[0] for code in codes]

    def _plot_points(self, ax, positions: np.ndarray) -> list:
        if self.y is None:
            return [ax.scatter(*positions.T, s=18)]
        y = np.asarray(self.y)
        if is_numbers(y):
            points = ax.scatter(*positions.T, s=18, c=y)
            ax.figure.colorbar(points, ax=ax)
            return [points]
        y = check_labels(y, len(positions))
        labels = np.unique(y)
        points = [ax.scatter(*positions[y == label].T, s=18, label=str(label)) for label in labels]
        if len(labels) <= 20:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
        return points


def _project(features: np.ndarray, projection, random_state) -> np.ndarray:
    """Return positions in two dimensions."""
    if projection is not None:
        return np.asarray(clone(projection).fit_transform(features))[:, :2]
    if len(features) == 1:
        return np.zeros((1, 2))
    n_components = min(_COMPONENTS, *features.shape)
    reduced = PCA(n_components, random_state=random_state).fit_transform(features)
    if len(reduced) >= _LEAST:
        perplexity = min(30.0, (len(reduced) - 1) / 3)
        return TSNE(perplexity=perplexity, random_state=random_state).fit_transform(reduced)
    return np.pad(reduced[:, :2], ((0, 0), (0, 2 - min(2, reduced.shape[1]))))


def far_apart(positions: np.ndarray, n: int) -> list[int]:
    """Choose up to n points one by one, each the farthest from all before, no two at one place."""
    distance = np.linalg.norm(positions - positions.mean(0), axis=1)
    chosen: list[int] = []
    while len(chosen) < n and (not chosen or distance.max() > 0):
        chosen.append(int(distance.argmax()))
        new = np.linalg.norm(positions - positions[chosen[-1]], axis=1)
        distance = new if len(chosen) == 1 else np.minimum(distance, new)
    return chosen


def _annotate(ax, position, preview, colour):
    """Draw a picture or a text at a point."""
    from matplotlib.offsetbox import AnnotationBbox, OffsetImage

    if isinstance(preview, str):
        return ax.annotate(preview, position, fontsize="xx-small", parse_math=False)
    frame = {"edgecolor": colour, "linewidth": 2}
    box = AnnotationBbox(OffsetImage(np.asarray(preview)), position, pad=0.1, bboxprops=frame)
    return ax.add_artist(box)


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
            for key, name in _LOSSES.items()
            if any(key in row for row in history)
        }
        best = step.best_epoch_ if _LOSSES["valid_loss"] in losses else None
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


# -- previews --------------------------------------------------------------------------------------


def previews_of(
    samples: Sequence[Any], modality: Modality, rows: Iterable[int], side: int = 160
) -> list[Any]:
    """Return a picture, of ``side`` pixels, or a line of text, or both, for some samples.

    A sample that cannot be read has the error as its text.
    """
    previews = []
    for sample in take(samples, list(rows)):
        try:
            previews.append(modality.preview(sample, side))
        except Exception as error:  # decoders raise anything
            previews.append(f"unreadable: {error}")
    return previews


def draw_preview(ax: Any, preview: Any, title: str = "") -> None:
    """Draw a picture or a line of text, or a picture above a text, into axes without ticks."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize="small")
    if isinstance(preview, tuple):
        preview, text = preview
        ax.set_xlabel(textwrap.shorten(text, 120, placeholder=" …"), fontsize="x-small", wrap=True)
    if isinstance(preview, str):
        lines = textwrap.fill(textwrap.shorten(preview, 120, placeholder=" …"), 22)
        ax.text(0.5, 0.5, lines, ha="center", va="center", fontsize="x-small", parse_math=False)
        for spine in ax.spines.values():
            spine.set_alpha(0.3)
    else:
        ax.imshow(np.asarray(preview))
        ax.set_frame_on(False)


def nested_axes(ax: Any, n_rows: int, n_columns: int, **ratios: Any) -> tuple[Any, np.ndarray]:
    """Divide the place of axes, which are hidden, into a table of axes.

    The axes are one of a grid, as ``plt.subplots`` makes them; ratios are those of the table, such
    as ``width_ratios``. Returns the grid, and functions that make the axes.
    """
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("ax must be in a grid of axes, as plt.subplots or add_subplot make it.")
    ax.set_axis_off()
    grid = place.subgridspec(n_rows, n_columns, **ratios)
    make = [
        [(lambda at=grid[i, j]: ax.figure.add_subplot(at)) for j in range(n_columns)]
        for i in range(n_rows)
    ]
    return grid, np.array(make, dtype=object).reshape(n_rows, n_columns)
