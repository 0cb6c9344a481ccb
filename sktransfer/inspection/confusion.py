"""Plot a confusion matrix beside the samples that are confused most."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.metrics import ConfusionMatrixDisplay, confusion_matrix
from sklearn.utils.validation import check_consistent_length

from ..data import check_labels
from ..selection import new_axes
from .previews import draw_preview, nested_axes, previews_of, samples_of

__all__ = ["ConfusionDisplay", "most_confused"]


def most_confused(
    y_true: Any, y_pred: Any, probabilities: Any = None, classes: Any = None
) -> np.ndarray:
    """Return the positions of wrong predictions, the most certain first.

    Parameters
    ----------
    y_true, y_pred : array-like of shape (n_samples,)
    probabilities : array-like of shape (n_samples, n_classes), default=None
        Without them, wrong predictions are ordered by how often the same two labels are confused.
    classes : array-like of shape (n_classes,), default=None
        The labels of the columns.

    Returns
    -------
    ndarray of int
        By the probability of the prediction less that of the label, descending; a label that is no
        column has the probability 0.
    """
    y_true, y_pred = np.asarray(y_true), np.asarray(y_pred)
    wrong = np.flatnonzero(y_true != y_pred)
    if probabilities is None or classes is None:
        pairs = [(y_true[i], y_pred[i]) for i in wrong]
        surprise = np.array([pairs.count(pair) for pair in pairs])
    else:
        table, classes = np.asarray(probabilities)[wrong], np.asarray(classes)
        own = (table * (y_true[wrong][:, None] == classes)).sum(1)
        surprise = table.max(1) - own if len(wrong) else own
    return wrong[np.argsort(-surprise, kind="stable")]


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
        proba = estimator.predict_proba(X) if hasattr(estimator, "predict_proba") else None
        classes = getattr(estimator, "classes_", None)
        samples, modality = samples_of(estimator, X)
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
