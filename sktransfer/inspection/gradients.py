"""The scores of an estimator as a function with gradients, down to maps of positions or pixels."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer
from torch import nn

from ..backbones import (
    Backbone,
    LayerInfo,
    inspect_layers,
    is_channels_last,
    resolve_layer,
    token_layout,
)
from ..features import (
    Output,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TokenWeights,
    find_network,
    mapped_logits,
)
from ..finetuning import FineTunedClassifier, FineTunedRegressor
from ..selection import Blend, ClassifierCandidate, TransferClassifier, TransferRegressor

_AT_ONCE = 256  # rows of a unit matrix
_TOLERANCE = 1e-3  # of a linear function, relative to its largest value


class NoGradientsError(TypeError):
    """Raised if the scores of an estimator have no gradients."""


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores as a function of the pooled outputs of layers.

    Parameters
    ----------
    head : callable
        From a list of tensors ``(n_samples, n_features)``, one for each output, to ``(n_samples,
        n_outputs)``.
    """

    outputs: Sequence[Output]
    head: Callable[[list[torch.Tensor]], torch.Tensor]


@functools.singledispatch
def scores_of(estimator: Any) -> Scores:
    """Return the scores of a fitted estimator as a function with gradients.

    They have a column for each label: logits, or logarithms of the odds for blends.
    ``NoGradientsError`` if they are no differentiable function of activations.
    """
    raise NoGradientsError(f"{type(estimator).__name__} has no gradients.")


# -- estimators of this package ------------------------------------------------------------------


@scores_of.register(FineTunedClassifier)
@scores_of.register(FineTunedRegressor)
def _of_tuned(estimator) -> Scores:
    backbone = estimator.to_backbone()
    return Scores([Output(backbone, resolve_layer(backbone, -1), "none")], lambda x: x[0])


@scores_of.register
def _of_direct(estimator: PretrainedClassifier) -> Scores:
    outputs = estimator.outputs_
    if estimator.class_map is None:
        return Scores(outputs, lambda x: torch.stack(x).mean(0))
    if estimator.class_map == "learn":
        given = _tensor(estimator.conditional_)
        return Scores(outputs, lambda x: torch.stack([_conditional(a, given) for a in x]).mean(0))
    groups = estimator.class_positions_.values()
    return Scores(outputs, lambda x: mapped_logits(torch.stack(x).mean(0), groups))


@scores_of.register(TransferClassifier)
@scores_of.register(TransferRegressor)
def _of_choice(estimator) -> Scores:
    return scores_of(getattr(estimator, "blend_", None) or estimator.estimator_)


# -- pipelines -----------------------------------------------------------------------------------


@scores_of.register
def _of_pipeline(estimator: Pipeline) -> Scores:
    network = find_network(estimator)
    step = network.step
    if network.after is None:
        return scores_of(step)
    if not isinstance(step, PretrainedFeatureExtractor):
        raise NoGradientsError(f"{type(step).__name__} before other steps has no gradients.")
    if any(isinstance(output.pooling, TokenWeights) for output in step.outputs_):
        raise NoGradientsError("A pooling that is learned has no gradients.")
    if len(step.columns_) > 1:
        raise NoGradientsError("An extractor of several columns of samples has no gradients.")
    components = [("pca", pca) for pca in getattr(step, "pca_", ())]
    tail = _tail([*components, *network.after.steps], sum(o.width or 0 for o in step.outputs_))
    return Scores(step.outputs_, lambda x: tail(torch.cat(x, 1)))


def _tail(steps: list, n_features: int) -> Callable:
    """Return the steps behind the features as a function of tensors."""
    places = [i for i, (_, step) in enumerate(steps) if isinstance(step, Normalizer)]
    if not places:
        return _affine(_function(steps), n_features)
    first, rest = steps[: places[0]], steps[places[0] + 1 :]
    order = {"l1": 1, "l2": 2, "max": torch.inf}[steps[places[0]][1].norm]
    before = _affine(Pipeline(first).transform, n_features) if first else lambda x: x
    n_middle = before(torch.zeros(1, n_features)).shape[1]
    behind = _tail(rest, n_middle)
    return lambda x: behind(torch.nn.functional.normalize(before(x), p=order))


def _function(steps: list) -> Callable[[np.ndarray], np.ndarray]:
    """Return the scores that steps give to rows of features."""
    *before, (_, last) = steps
    score = _last(last)
    return (lambda rows: score(Pipeline(before).transform(rows))) if before else score


def _last(model) -> Callable[[np.ndarray], np.ndarray]:
    """Return the scores of a model of features, as columns."""
    if hasattr(model, "decision_function"):
        return lambda rows: _two_columns(model.decision_function(rows))
    if hasattr(model, "coef_") and hasattr(model, "classes_"):
        return lambda rows: _two_columns(rows @ model.coef_.T + model.intercept_)
    if is_regressor(model):
        return lambda rows: model.predict(rows).reshape(len(rows), -1)
    raise NoGradientsError(f"{type(model).__name__} has no decision_function.")


def _two_columns(scores: np.ndarray) -> np.ndarray:
    scores = scores[:, 0] if scores.ndim == 2 and scores.shape[1] == 1 else scores
    return scores if scores.ndim == 2 else np.column_stack([-scores, scores]) / 2


def _affine(function: Callable, n_features: int) -> Callable:
    """Return a linear function of rows as one of tensors, found by calling it."""
    origin = function(np.zeros((1, n_features)))
    parts = []
    for start in range(0, n_features, _AT_ONCE):
        rows = np.eye(min(_AT_ONCE, n_features - start), n_features, start)
        parts.append(function(rows) - origin)
    weight = np.concatenate(parts)
    some = np.random.default_rng(0).normal(size=(4, n_features))
    expected, computed = some @ weight + origin, function(some)
    if np.abs(expected - computed).max() > _TOLERANCE * max(1.0, np.abs(computed).max()):
        raise NoGradientsError("The steps behind the features are not linear.")
    slope, intercept = _tensor(weight), _tensor(origin)
    return lambda x: x.double() @ slope + intercept


# -- blends --------------------------------------------------------------------------------------


@scores_of.register
def _of_blend(blend: Blend) -> Scores:
    if blend.reads_table:
        raise NoGradientsError(
            "A row of a table has no gradients: give method='occlusion', which leaves out columns."
        )
    if blend.counting:
        raise NoGradientsError("A candidate that counts words has no gradients.")
    for candidate in blend.candidates:
        if isinstance(candidate, ClassifierCandidate) and not candidate.is_linear:
            raise NoGradientsError(f"{type(candidate.estimator).__name__} is not linear.")
    if blend.classes is None:
        return Scores(blend.outputs, blend)
    return Scores(blend.outputs, lambda inputs: _log_odds(blend(inputs)))


def _conditional(logits: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return logarithms of the probabilities of labels, from logits of the network's classes."""
    return (logits.double().softmax(1) @ given).clamp_min(1e-30).log()


def _log_odds(probabilities: torch.Tensor) -> torch.Tensor:
    p = probabilities.clamp(1e-12, 1 - 1e-12)
    return p.log() - (1 - p).log()


def _tensor(array) -> torch.Tensor:
    return torch.as_tensor(np.asarray(array, dtype=np.float64))


# -- running networks with gradients ---------------------------------------------------------------


class FromInputs(nn.Module):
    """The scores as a function of the preprocessed samples, one tensor for each backbone.

    Attributes
    ----------
    backbones : list of Backbone
        Of the inputs: the same network at several sizes, or several networks.
    """

    backbones: list[Backbone]

    def __init__(self, scores: Scores):
        super().__init__()
        self.scores = scores
        self.backbones = list(
            {id(output.backbone): output.backbone for output in scores.outputs}.values()
        )

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.scores.outputs
        pooled: dict[int, torch.Tensor] = {}
        for backbone, x in zip(self.backbones, inputs, strict=True):
            places = [i for i, output in enumerate(outputs) if output.backbone is backbone]
            tables = backbone.run(x, [(outputs[i].layer, outputs[i].pooling) for i in places])
            pooled |= zip(places, tables, strict=True)
        return self.scores.head([pooled[i] for i in range(len(outputs))])


class FromMaps(FromInputs):
    """The same scores, with gradients that end at a map before each layer that is output.

    Gradients from one layer that is read do not pass to another, so that the products of gradients
    and activations of all maps can be added.

    Parameters
    ----------
    samples : sequence of Tensor
        One preprocessed sample, ``(1, ...)``, for each backbone.

    Attributes
    ----------
    markers : list of torch.nn.Module
        Each returns the map before a layer that is output.
    """

    infos: dict[int, dict[str, LayerInfo]]
    maps: list[str]
    markers: nn.ModuleList

    def __init__(self, scores: Scores, samples: Sequence[torch.Tensor]):
        super().__init__(scores)
        self.infos = {
            id(backbone): inspect_layers(backbone, x)
            for backbone, x in zip(self.backbones, samples, strict=True)
        }
        by_backbone = {id(b): x for b, x in zip(self.backbones, samples, strict=True)}
        self.maps = [self._map_before(r, by_backbone[id(r.backbone)]) for r in scores.outputs]
        self.markers = nn.ModuleList(nn.Identity() for _ in scores.outputs)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        outputs = self.scores.outputs
        maps: dict[int, torch.Tensor] = {}
        for backbone, x in zip(self.backbones, inputs, strict=True):
            places = [i for i, output in enumerate(outputs) if output.backbone is backbone]
            with torch.no_grad():
                activations = backbone.run(x, [(self.maps[i], "none") for i in places])
            maps |= zip(places, activations, strict=True)
        pooled = []
        for i, (output, name) in enumerate(zip(outputs, self.maps, strict=True)):
            x = self.markers[i](maps[i].detach().requires_grad_())
            pooled += output.backbone.run(x, [(output.layer, output.pooling)], after=name)
        return self.scores.head(pooled)

    def _map_before(self, output: Output, x: torch.Tensor) -> str:
        """Find the last layer with a map at which the gradients are not those of one token."""
        infos = self.infos[id(output.backbone)]
        names = list(infos)
        for name in reversed(names[: names.index(output.layer) + 1]):
            if not _has_map(infos[name], output.backbone):
                continue
            with torch.no_grad():
                (start,) = output.backbone.run(x, [(name, "none")])
            start = start.detach().requires_grad_()
            read = [(output.layer, output.pooling)]
            with torch.enable_grad():
                (pooled,) = output.backbone.run(start, read, after=name)
                # Not their sum: the two logits of a linear probe cancel each other.
                weight = torch.arange(1.0, 1 + pooled.shape[1]).sqrt()
                (gradient,) = torch.autograd.grad((pooled * weight).sum(), start)
            if as_map(gradient, output.backbone).any():
                return name
        raise NoGradientsError(
            f"Backbone {output.backbone.name!r} has no layer with a map before {output.layer!r}."
        )


def _is_square(backbone: Backbone) -> bool:
    shape = backbone.input_shape
    return shape is not None and shape[-1] == shape[-2]


def _has_map(info: LayerInfo, backbone: Backbone) -> bool:
    """Tell whether an activation has positions in an image."""
    if backbone.modality.has_tokens:
        return False
    grid = _grid(info.shape[0], backbone) if info.has_tokens else info.grid
    return grid is not None and min(grid) > 1


def _grid(n_tokens: int, backbone: Backbone) -> tuple[int, int] | None:
    """Return rows and columns of the patches among tokens.

    Where it is not known how many other tokens come before them, up to eight may.
    """
    shape, known = backbone.input_shape, backbone.prefix_tokens
    if shape is None or len(shape) != 3:
        return None
    guesses = range(9) if known is None else [known]
    grids = (token_layout(n_tokens, (shape[1], shape[2]), n)[1] for n in guesses)
    return next((grid for grid in grids if grid is not None and min(grid) > 1), None)


def as_map(values: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """Add the channels of values in the form of an activation: ``(n, h, w)``."""
    if values.ndim == 3:
        grid = _grid(values.shape[1], backbone)
        if grid is None:
            raise NoGradientsError("The tokens of an activation are no grid of patches.")
        return values.sum(2)[:, -math.prod(grid) :].unflatten(1, grid)
    last = is_channels_last(tuple(values.shape[1:]), _is_square(backbone))
    return values.sum(-1 if last else 1)
