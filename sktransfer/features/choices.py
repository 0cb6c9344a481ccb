"""Choose a layer and an input size by linear probes, whose features come from one pass."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils.validation import check_consistent_length

from ..backbones import (
    Backbone,
    LayerInfo,
    only_adds,
    penultimate,
    resolve_layer,
    size_step,
    stages_of,
    takes_size,
    weighted_layers,
)
from ..data import ClassTarget, encode_target
from ..data.types import RandomState
from .output import side_of

# The most rows that are probed: a difference that so many rows do not show is small.
N_ROWS = 600
# Another layer must be better than the default by this many standard errors of the difference.
_STANDARD_ERRORS = 1.0
# Sides that are tried, as parts of the native one: 128, 224, 288 and 320 pixels for 224. Below,
# details are lost; above, objects are larger than those of the training of the weights.
_PARTS = (4 / 7, 9 / 7, 10 / 7)
_STEP = 32  # pixels: most networks halve an image five times
_SMALL = 128  # pixels: networks for smaller images halve them less often


@dataclasses.dataclass(frozen=True)
class LayerChoice:
    """Scores of a linear probe at several layers, and the layer to use.

    Parameters
    ----------
    layers : tuple of str
        From the input to the output.
    scores : ndarray of shape (n_layers,)
        Cross-validated accuracy, or R² for numbers.
    errors : ndarray of shape (n_layers,)
        Standard error of each score, from its variance over samples.
    layer : str
        The chosen layer.
    default : str
        The layer that is used unless another is clearly better: the penultimate one.
    n_features : tuple of int
        The number of features of each layer.
    is_accuracy : bool
        Whether scores are accuracies.
    """

    layers: tuple[str, ...]
    scores: np.ndarray
    errors: np.ndarray
    layer: str
    default: str
    n_features: tuple[int, ...]
    is_accuracy: bool = True

    def score_of(self, layer: str) -> tuple[float, float]:
        """Return the score of a layer and its standard error."""
        i = self.layers.index(layer)
        return float(self.scores[i]), float(self.errors[i])

    def __repr__(self) -> str:
        return _as_lines(self.layers, self.layer, self.scores, self.errors)


def candidate_layers(backbone: Backbone) -> list[str]:
    """List the layers worth probing: the last one before each further stage with weights.

    They lead from the input to the penultimate layer, which is the last. Stages that only add
    positions or a class token, and those from there to the next weights, do not count.
    """
    stages = stages_of(backbone)
    names, weighted = list(stages), weighted_layers(backbone)
    adding = [i for i, stage in enumerate(stages.values()) if only_adds(stage)]
    ends = [
        min([b, *(i for i in adding if a < i < b)]) - 1 for a, b in itertools.pairwise(weighted)
    ]
    return [*(names[i] for i in ends), penultimate(backbone)]


def choose_layer(
    backbone: Backbone,
    y: ArrayLike,
    compute: Callable[[tuple[str, ...], np.ndarray], dict[str, np.ndarray]],
    *,
    layers: Sequence[str | int] | None = None,
    task: str = "auto",
    random_state: RandomState = None,
    weight: np.ndarray | None = None,
) -> LayerChoice:
    """Probe layers and choose the default one unless another is clearly better.

    ``compute`` is called once: from names of layers and positions of samples to the features
    ``(n_positions, n_features)`` of each layer. ``layers`` are the candidates, in any order; by
    default :func:`candidate_layers`. ``random_state`` is for the folds, and for the choice of rows,
    where there are more than 600. Errors are those of :func:`encode_target`.
    """
    # Imports models of scikit-learn, which fixed features do not need.
    from ..transferability import make_probe_folds, out_of_fold_scores, subsample

    kind, y = encode_target(y, task)
    asked = candidate_layers(backbone) if layers is None else layers
    wanted = {resolve_layer(backbone, layer) for layer in asked}
    if not wanted:
        raise ValueError("layers=[] asks for no layer at all.")
    # In the order of the network, since scores of neighbouring layers are averaged.
    names = tuple(name for name in stages_of(backbone) if name in wanted)
    rows = subsample(y, N_ROWS, random_state)
    tables = compute(names, rows)
    check_consistent_length(tables[names[0]], rows)
    folds = make_probe_folds(y[rows], random_state)
    weight = None if weight is None else weight[rows]
    scores = np.array([out_of_fold_scores(tables[name], y[rows], folds, weight) for name in names])
    usual = penultimate(backbone)
    default = usual if usual in names else names[-1]
    best = names[clearly_best(scores, names.index(default), weight)]
    means, errors = _means_of(scores, weight)
    widths = tuple(tables[name].shape[1] for name in names)
    return LayerChoice(names, means, errors, best, default, widths, kind is ClassTarget)


def layer_for(
    backbone: Backbone, layer: str | int | None, pooling: Any, tokens: list[str] | None
) -> str:
    """Find a layer for a pooling; for poolings over tokens of texts, one of ``tokens``.

    A ``ValueError`` if the layer gives a single vector, and the pooling is one over tokens.
    """
    name = resolve_layer(backbone, layer)
    if tokens is None or pooling == "avg" or name in tokens:
        return name
    if layer is None and tokens:
        return tokens[-1]
    if callable(pooling):  # it may take a vector
        return name
    raise ValueError(
        f"pooling={pooling!r} pools the tokens of a text, and layer {name!r} of backbone "
        f"{backbone.name!r} gives a single vector: use 'avg' there, or a layer with "
        f"tokens: {tokens}."
    )


def layer_of_tokens(backbone: Backbone, infos: Mapping[str, LayerInfo]) -> str:
    """Return the last layer up to the penultimate one that has class token, registers and patches.

    It is the penultimate layer, if no layer is known to have tokens.
    """
    head, names = penultimate(backbone), list(infos)
    for name in reversed(names[: names.index(head) + 1]):
        info = infos[name]
        is_known = info.has_tokens and info.prefix_tokens is not None
        if is_known and info.prefix_tokens == backbone.prefix_tokens:
            return name
    return head


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
        return _as_lines(self.sizes, self.size, self.scores, self.errors)


def candidate_sizes(backbone: Backbone) -> list[Backbone]:
    """Return a backbone at the input sizes worth probing: smaller, native and larger ones.

    Ascending, without those that the network does not take. A ``ValueError`` if the preprocessing
    has no size to change.
    """
    shape = backbone.input_shape
    if shape is None or not hasattr(backbone.preprocess, "with_size"):
        raise ValueError(
            f"image_size='auto' cannot be applied: the preprocessing of backbone {backbone.name!r} "
            f"is {backbone.preprocess!r}, which has no size to change."
        )
    native = max(shape[1:])
    step = size_step(backbone, _STEP if native >= _SMALL else 4)
    sides = {max(1, round(native * part / step)) * step for part in _PARTS} - {native}
    sized = {s: backbone.with_image_size(s) for s in sides if takes_size(backbone, s)}
    return [one for _, one in sorted((sized | {native: backbone}).items())]


def choose_size(
    backbones: Sequence[Backbone],
    y: ArrayLike,
    compute: Callable[[Sequence[Backbone], np.ndarray], Sequence[np.ndarray]],
    *,
    default: Backbone,
    random_state: RandomState = None,
) -> SizeChoice:
    """Probe input sizes and choose the default one unless another is clearly better.

    The backbones are those of :func:`candidate_sizes`. ``compute`` is called once: from backbones
    and positions of samples to the features ``(n_positions, n_features)`` of each backbone.
    ``random_state`` is for the folds, and for the choice of rows, where there are more than 600.
    """
    # Imports models of scikit-learn, which fixed features do not need.
    from ..transferability import make_probe_folds, out_of_fold_scores, subsample

    kind, y = encode_target(y)
    rows = subsample(y, N_ROWS, random_state)
    folds = make_probe_folds(y[rows], random_state)
    tables = compute(backbones, rows)
    scores = np.array([out_of_fold_scores(table, y[rows], folds) for table in tables])
    sizes = tuple(map(side_of, backbones))
    at = [backbone is default for backbone in backbones].index(True)
    best = clearly_best(scores, at)
    means, errors = _means_of(scores)
    return SizeChoice(sizes, means, errors, sizes[best], sizes[at], kind is ClassTarget)


def clearly_best(scores: np.ndarray, default: int, weight: np.ndarray | None = None) -> int:
    """Return the position of the best candidate, or the default unless another is clearly better.

    Scores are ``(n_candidates, n_samples)``, of neighbouring candidates side by side, such as
    layers in the order of the network.
    """
    # Features of neighbours are similar, and one high score among them is chance.
    padded = np.concatenate([scores[:1], scores, scores[-1:]])
    smooth = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    # Candidates are compared on the same samples: differences are more certain than scores.
    gain, error = _means_of(smooth - scores[default], weight)
    lower = gain - _STANDARD_ERRORS * error
    lower[default] = 0.0
    return int(np.argmax(lower))


def _means_of(
    scores: np.ndarray, weight: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over the samples and its standard error for each row of scores."""
    from ..transferability import summarise

    means, errors = zip(*(summarise(row, weight) for row in scores), strict=True)
    return np.array(means), np.array(errors)


def _as_lines(names: Sequence[Any], chosen: object, scores: np.ndarray, errors: np.ndarray) -> str:
    """Write a line for each candidate, with its score and its standard error."""
    lines = [
        f"{'>' if name == chosen else ' '} {name!s:<20} {score:.3f} ± {error:.3f}"
        for name, score, error in zip(names, scores, errors, strict=True)
    ]
    return "\n".join(lines)
