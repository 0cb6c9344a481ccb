"""Plot which parts of samples a prediction depends on."""

from __future__ import annotations

import math
from typing import Any, Self

import numpy as np
from scipy.ndimage import gaussian_filter

from ..selection import new_axes
from .explaining import Saliency, saliency
from .previews import nested_axes

__all__ = ["SaliencyDisplay", "overlay", "scaled_values"]

_COLUMNS = 4
_SMOOTHED = 0.02  # of the height, for values of pixels
_LINE = 34  # characters of a text in a line
_POINTS = 17  # from one line to the next


def overlay(saliency: Saliency, i: int) -> np.ndarray:
    """Return the picture of a sample with its values as colours: red for, blue against the label.

    Parameters
    ----------
    saliency : Saliency
    i : int
        The position of the sample.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
    """
    picture = np.asarray(saliency.shown[i], dtype=float)
    picture = picture / 255 if saliency.shown[i].dtype == np.uint8 else picture
    values = scaled_values(_smoothed(saliency.maps[i], saliency.method))
    rows, columns = (
        np.arange(side) * cells // side
        for side, cells in zip(picture.shape[:2], values.shape, strict=True)
    )
    values = values[np.ix_(rows, columns)][..., None]
    grey = picture.mean(-1, keepdims=True) * 0.8 + 0.1
    colour = np.where(values > 0, [0.85, 0.1, 0.1], [0.1, 0.3, 0.85])
    mixed = grey + np.abs(values) * 0.75 * (colour - grey)
    return (255 * mixed.clip(0, 1)).round().astype(np.uint8)


def _smoothed(values: np.ndarray, method: str) -> np.ndarray:
    """Return values of single pixels, which change sign between neighbours, as local means."""
    is_noisy = method == "integrated_gradients"
    return gaussian_filter(values, _SMOOTHED * values.shape[0]) if is_noisy else values


def scaled_values(values: np.ndarray) -> np.ndarray:
    """Return values divided by the largest of their sizes, without outliers: between -1 and 1."""
    size = (
        np.quantile(np.abs(values), 0.995) if values.size > 500 else np.abs(values).max(initial=0)
    )
    return np.clip(values / size, -1, 1) if size > 0 else np.zeros(values.shape)


class SaliencyDisplay:
    """Plot which parts of samples a prediction depends on: red speaks for it, blue against it.

    Parameters
    ----------
    saliency : Saliency

    Attributes
    ----------
    ax_ : ndarray of matplotlib Axes
        One for each sample.
    figure_ : matplotlib Figure

    See Also
    --------
    saliency : The values alone.

    Examples
    --------
    >>> import matplotlib
    >>> matplotlib.use("Agg")
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedClassifier
    >>> from sktransfer.inspection import SaliencyDisplay
    >>> photos = load_sample_images().images
    >>> display = SaliencyDisplay.from_estimator(PretrainedClassifier().fit(photos), photos)
    >>> [ax.get_title() for ax in display.ax_]
    ['palace', 'daisy']
    """

    ax_: np.ndarray
    figure_: Any

    def __init__(self, saliency: Any):
        self.saliency = saliency

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        X: Any,
        *,
        target: Any = None,
        method: str = "auto",
        n_steps: int = 32,
        ax: Any = None,
    ) -> Self:
        """Compute the values of samples and plot them.

        Parameters
        ----------
        estimator : estimator of sktransfer, or a pipeline with one
            Fitted.
        X : list, array, Series or DataFrame column of n_samples samples
        target : label, list of n_samples labels or None, default=None
            As in :func:`saliency`, like the parameters below.
        method : {"auto", "gradcam", "integrated_gradients", "occlusion"}, default="auto"
        n_steps : int, default=32
        ax : matplotlib Axes, default=None
            In a grid of axes; its place is divided.

        Returns
        -------
        SaliencyDisplay
        """
        found = saliency(estimator, X, target=target, method=method, n_steps=n_steps)
        return cls(found).plot(ax)

    def plot(self, ax: Any = None) -> Self:
        """Plot the samples and their saliency.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            In a grid of axes; its place is divided.

        Returns
        -------
        self
        """
        n = len(self.saliency)
        n_columns = min(n, _COLUMNS)
        n_rows = math.ceil(n / n_columns)
        ax = new_axes(ax, self._height() * n_rows, 2.6 * max(n_columns, 2))
        _, cells = nested_axes(ax, n_rows, n_columns)
        self.ax_ = np.array([make() for make in cells.ravel()[:n]], dtype=object)
        for i, cell in enumerate(self.ax_):
            self._plot_sample(cell, i)
        self.figure_ = ax.figure
        return self

    def _height(self) -> float:
        """Return the height of a row in inches; for texts, that of the longest."""
        found = self.saliency
        if any(spans is None for spans in found.spans):
            return 2.6
        n_lines = max(len(_lines([word for word, _ in found.words(i)])) for i in range(len(found)))
        return 0.6 + n_lines * _POINTS / 72

    def _plot_sample(self, ax, i: int) -> None:
        ax.set_axis_off()
        where = "center" if self.saliency.spans[i] is None else "left"
        title = str(self.saliency.targets[i])
        ax.set_title(title, loc=where, fontsize="medium", parse_math=False)
        if self.saliency.spans[i] is not None:
            _plot_words(ax, self.saliency, i)
        elif np.ndim(self.saliency.shown[i]) == 3:
            ax.imshow(overlay(self.saliency, i))
        else:
            values = self.saliency.maps[i]
            ax.set_axis_on()
            ax.bar(range(values.size), values.ravel())


def _lines(words: list[str]) -> list[list[int]]:
    """Divide words into lines; return their positions."""
    lines: list[list[int]] = [[]]
    used = 0
    for i, word in enumerate(words):
        used += len(word) + 1
        if used > _LINE and lines[-1]:
            lines.append([])
            used = len(word) + 1
        lines[-1].append(i)
    return lines


def _plot_words(ax, saliency: Saliency, i: int) -> None:
    """Draw the words of a text line by line, each beside the one before."""
    words, values = [word for word, _ in saliency.words(i)], scaled_values(saliency.maps[i])
    for number, line in enumerate(_lines(words)):
        left: Any = None
        for k in line:
            box = {"boxstyle": "square,pad=0.1", "lw": 0, "alpha": 0.7 * abs(values[k])}
            box["facecolor"] = "tab:red" if values[k] > 0 else "tab:blue"
            where: dict = {"xy": (1, 0), "xycoords": left, "xytext": (4, 0)}
            if left is None:  # the first of its line
                where = {"xy": (0, 1), "xycoords": "axes fraction"}
                where["xytext"] = (0, -_POINTS * (number + 1))
            left = ax.annotate(
                words[k],
                **where,
                textcoords="offset points",
                va="bottom",
                bbox=box,
                fontsize="small",
                parse_math=False,
            )
