"""Run samples at several input sizes, and choose an input size by a linear probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ..backbones import Backbone, takes_size
from ..data import encode_target, is_numbers
from ..data.types import RandomState
from .base import BackboneEstimator, Count
from .layer_choice import N_ROWS, as_lines, clearly_best, means_of
from .output import Output, side_of

__all__ = ["SeveralSizes", "SizeChoice", "candidate_sizes", "choose_size"]

# Sides that are tried, as parts of the native one: 128, 224, 288 and 320 pixels for 224. Below,
# details are lost; above, objects are larger than those of the training of the weights.
_PARTS = (4 / 7, 9 / 7, 10 / 7)
_STEP = 32  # pixels: most networks halve an image five times
_SMALL = 128  # pixels: networks for smaller images halve them less often


class SeveralSizes(BackboneEstimator):
    """Base of the estimators whose ``image_size`` may be a list."""

    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "image_size": [Count(1), list, None],
    }

    def _fit_backbone(self, X):
        samples = super()._fit_backbone(X)
        self.image_size_ = self._asked_sizes() or side_of(self.backbone_)
        for backbone in self._sized:
            self._inspect(samples, backbone)
        return samples

    def _load(self) -> Backbone:
        """Load the backbone at its size, or the first of several; "auto" begins at the native."""
        sizes = self._asked_sizes()
        one = None if isinstance(self.image_size, str) else self.image_size
        return self._load_at(sizes[0] if sizes else one)

    def _load_again(self) -> Backbone:
        sizes = self.image_size_
        return self._load_at(sizes[0] if isinstance(sizes, list) else sizes)

    def _asked_sizes(self) -> list[int] | None:
        """Check a list of sizes; None if a single size is asked for."""
        if not isinstance(self.image_size, list):
            return None
        wrong = [size for size in self.image_size if not Count(1).is_satisfied_by(size)]
        if wrong or not self.image_size:
            what = f": {wrong[0]!r} is no size" if wrong else " names no size"
            raise ValueError(f"image_size={self.image_size!r}{what}. Give sides in pixels.")
        if len(set(self.image_size)) < len(self.image_size):
            raise ValueError(f"image_size={self.image_size!r}: give each size once.")
        return [int(size) for size in self.image_size]

    @property
    def _sized(self) -> list[Backbone]:
        """The backbone for each size."""
        if not isinstance(self.image_size_, list):
            return [self.backbone_]
        return [self.backbone_.with_image_size(size) for size in self.image_size_]

    def _features_by_layer(self, samples, layers: tuple[str, ...], poolings: list, rows) -> dict:
        """Compute the features of each layer, the sizes and poolings of one side by side."""
        kinds = [(backbone, pooling) for backbone in self._sized for pooling in poolings]
        outputs = [Output(backbone, x, pooling) for x in layers for backbone, pooling in kinds]
        tables, n = self._compute(samples, outputs, rows), len(kinds)
        return {x: np.hstack(tables[i * n : (i + 1) * n]) for i, x in enumerate(layers)}

    def _features_by_size(self, samples, backbones, outputs: list[tuple], rows) -> list:
        """Compute the features of each size, the outputs of one side by side."""
        wanted = [Output(backbone, layer, p) for backbone in backbones for layer, p in outputs]
        tables, n = self._compute(samples, wanted, rows), len(outputs)
        return [np.hstack(tables[i : i + n]) for i in range(0, len(tables), n)]


@dataclasses.dataclass(frozen=True)
class SizeChoice:
    """Scores of a linear probe at several input sizes, and the size to use.

    Parameters
    ----------
    sizes : tuple of int
        Sides of the square given to the network, in pixels, ascending. None is the native input
        of a network that is not square.
    scores : ndarray of shape (n_sizes,)
        Cross-validated accuracy, or R² for numbers.
    errors : ndarray of shape (n_sizes,)
        Standard error of each score, from its variance over samples.
    size : int
        The chosen size.
    default : int
        The size that is used unless another is clearly better: that of the training of the weights.
    is_accuracy : bool
        Whether scores are accuracies.
    """

    sizes: tuple[int | None, ...]
    scores: np.ndarray
    errors: np.ndarray
    size: int | None
    default: int | None
    is_accuracy: bool = True

    def __repr__(self) -> str:
        return as_lines(self.sizes, self.size, self.scores, self.errors)


def candidate_sizes(backbone: Backbone) -> list[Backbone]:
    """Return a backbone at the input sizes worth probing: smaller, native and larger ones.

    Parameters
    ----------
    backbone : Backbone
        At its native size.

    Returns
    -------
    list of Backbone
        Ascending; with the native size, and without those that the network does not take.

    Raises
    ------
    ValueError
        If the preprocessing has no size to change.
    """
    shape = backbone.input_shape
    if shape is None or not hasattr(backbone.preprocess, "with_size"):
        raise ValueError(
            f"image_size='auto' cannot be applied: the preprocessing of backbone {backbone.name!r} "
            f"is {backbone.preprocess!r}, which has no size to change."
        )
    native = max(shape[1:])
    step = _STEP if native >= _SMALL else 4
    sides = {max(1, round(native * part / step)) * step for part in _PARTS} - {native}
    sized = {s: backbone.with_image_size(s) for s in sides if takes_size(backbone, s)}
    return [one for _, one in sorted((sized | {native: backbone}).items())]


def choose_size(
    backbones: Sequence[Backbone],
    y: ArrayLike,
    compute: Callable[[Sequence[Backbone], np.ndarray], Sequence[np.ndarray]],
    *,
    default: Backbone,
    task: str = "auto",
    random_state: RandomState = None,
) -> SizeChoice:
    """Probe input sizes and choose the default one unless another is clearly better.

    Parameters
    ----------
    backbones : sequence of Backbone
        From :func:`candidate_sizes`.
    y : array-like of shape (n_samples,)
        Labels, or numbers to regress on.
    compute : callable
        From backbones and positions of samples to the features ``(n_positions, n_features)`` of
        each backbone. It is called once.
    default : Backbone
        One of ``backbones``.
    task : {"auto", "classification", "regression"}, default="auto"
        What y is; see :func:`encode_target`.
    random_state : int, RandomState instance or None, default=None
        For the folds, and for the choice of rows, where there are more than 600.

    Returns
    -------
    SizeChoice
    """
    # Imports models of scikit-learn, which fixed features do not need.
    from ..transferability import make_probe_folds, out_of_fold_scores, subsample

    y = encode_target(y, task)
    rows = subsample(y, N_ROWS, random_state)
    folds = make_probe_folds(y[rows], random_state)
    scores = [out_of_fold_scores(table, y[rows], folds) for table in compute(backbones, rows)]
    sizes = tuple(map(side_of, backbones))
    at = [backbone is default for backbone in backbones].index(True)
    best = clearly_best(np.array(scores), at)
    means, errors = means_of(np.array(scores))
    return SizeChoice(sizes, means, errors, sizes[best], sizes[at], not is_numbers(y))
