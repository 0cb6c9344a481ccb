"""Plot features in two dimensions, with pictures of the samples."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.utils.validation import check_array

from ..data import check_labels, is_numbers
from ..selection import new_axes
from .previews import previews_of, samples_of

__all__ = ["FeatureMapDisplay"]

_LEAST = 30  # samples from which neighbourhoods are shown, not directions
_COMPONENTS = 50  # of the features, before t-SNE


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
        samples, modality = samples_of(extractor, X)
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
        made = [ax.scatter(*positions[y == label].T, s=18, label=str(label)) for label in labels]
        if len(labels) <= 20:
            ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize="small")
        return made


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
    """Choose points one by one, each the farthest from all before.

    Parameters
    ----------
    positions : ndarray of shape (n_samples, 2)
    n : int

    Returns
    -------
    list of int
        At most n, and no two at the same place.
    """
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
