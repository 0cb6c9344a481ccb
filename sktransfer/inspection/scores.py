"""The scores of an estimator as a function of activations that has gradients."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import is_regressor
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import Normalizer

from ..backbones import Backbone, resolve_layer
from ..features import (
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TokenWeights,
    find_network,
)
from ..finetuning import FineTunedClassifier, FineTunedRegressor
from ..selection import TransferClassifier, TransferRegressor
from ..selection.blend import ClassBlend, NumberBlend
from ..selection.linear_models import Linear
from ..selection.members import RAW
from ..selection.models import Conditional, FittedOnFeatures, Mapped

__all__ = ["NoGradientsError", "Read", "Scores", "columns_of", "label_probabilities", "scores_of"]

_AT_ONCE = 256  # rows of a unit matrix
_TOLERANCE = 1e-3  # of a linear function, relative to its largest value


class NoGradientsError(TypeError):
    """Raised if the scores of an estimator have no gradients."""


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """A layer whose pooled output a score depends on.

    Parameters
    ----------
    backbone : Backbone
        At its input size.
    layer : str
    pooling : str, callable or tuple
    """

    backbone: Backbone
    layer: str
    pooling: Any


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """Scores as a function of the pooled outputs of layers.

    Parameters
    ----------
    reads : sequence of Read
    head : callable
        From a list of tensors ``(n_samples, n_features)``, one for each read, to ``(n_samples,
        n_outputs)``.
    """

    reads: Sequence[Read]
    head: Callable[[list[torch.Tensor]], torch.Tensor]


def columns_of(estimator: Any) -> list[Any] | None:
    """Return the labels of the columns of scores; None for numbers."""
    classes = getattr(estimator, "classes_", None)
    if isinstance(classes, list):  # of an estimator for each of several labels
        return list(range(len(classes)))
    return None if classes is None else np.asarray(classes).tolist()


def label_probabilities(model: Any, X: Any) -> np.ndarray:
    """Return the probabilities of labels as one matrix.

    Parameters
    ----------
    model : classifier with ``predict_proba``
        Some estimators of several labels return a list, with a matrix for each label.
    X : list, array, Series or DataFrame of n_samples samples

    Returns
    -------
    ndarray of shape (n_samples, n_labels)
    """
    found = model.predict_proba(X)
    if not isinstance(found, list):
        return np.asarray(found)
    return np.column_stack([p @ values for p, values in zip(found, model.classes_, strict=True)])


@functools.singledispatch
def scores_of(estimator: Any) -> Scores:
    """Return the scores of a fitted estimator as a function with gradients.

    Parameters
    ----------
    estimator : estimator of sktransfer, or a pipeline with one

    Returns
    -------
    Scores
        With a column for each label: logits, or logarithms of the odds for blends.

    Raises
    ------
    NoGradientsError
        If the scores are no differentiable function of activations.
    """
    raise NoGradientsError(f"{type(estimator).__name__} has no gradients.")


# -- estimators of this package ------------------------------------------------------------------


@scores_of.register(FineTunedClassifier)
@scores_of.register(FineTunedRegressor)
def _of_tuned(estimator) -> Scores:
    backbone = estimator.to_backbone()
    return Scores([Read(backbone, resolve_layer(backbone, -1), "none")], lambda x: x[0])


@scores_of.register
def _of_direct(estimator: PretrainedClassifier) -> Scores:
    reads = [Read(output.backbone, output.layer, "none") for output in estimator.outputs_]
    if estimator.class_map is None:
        return Scores(reads, lambda x: torch.stack(x).mean(0))
    if estimator.class_map == "learn":
        given = _tensor(estimator.conditional_)
        return Scores(reads, lambda x: torch.stack([_conditional(one, given) for one in x]).mean(0))
    groups = estimator.class_positions_.values()
    return Scores(reads, lambda x: _mapped(torch.stack(x).mean(0), groups))


def _mapped(logits: torch.Tensor, groups: Iterable) -> torch.Tensor:
    """Return the logit of each label, of whose classes the positions are given."""
    return torch.stack([logits[:, list(group)].logsumexp(1) for group in groups], dim=1)


@scores_of.register(TransferClassifier)
@scores_of.register(TransferRegressor)
def _of_choice(estimator) -> Scores:
    return scores_of(getattr(estimator, "blend_", None) or estimator.estimator_)


# -- pipelines -----------------------------------------------------------------------------------


@scores_of.register
def _of_pipeline(estimator: Pipeline) -> Scores:
    found = find_network(estimator)
    if found.after is None:
        return scores_of(found.step)
    if not isinstance(found.step, PretrainedFeatureExtractor):
        raise NoGradientsError(f"{type(found.step).__name__} before other steps has no gradients.")
    outputs = found.step.outputs_
    reads = [Read(output.backbone, output.layer, output.pooling) for output in outputs]
    if any(isinstance(output.pooling, TokenWeights) for output in outputs):
        raise NoGradientsError("A pooling that is learned has no gradients.")
    components = [("pca", pca) for pca in getattr(found.step, "pca_", ())]
    if len(found.step.columns_) > 1:
        raise NoGradientsError("An extractor of several columns of samples has no gradients.")
    n_features = sum(output.width for output in outputs)
    tail = _tail([*components, *found.after.steps], n_features)
    return Scores(reads, lambda x: tail(torch.cat(x, 1)))


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
    expected, found = some @ weight + origin, function(some)
    if np.abs(expected - found).max() > _TOLERANCE * max(1.0, np.abs(found).max()):
        raise NoGradientsError("The steps behind the features are not linear.")
    slope, intercept = _tensor(weight), _tensor(origin)
    return lambda x: x.double() @ slope + intercept


# -- blends --------------------------------------------------------------------------------------


@scores_of.register
def _of_class_blend(blend: ClassBlend) -> Scores:
    reads, mean = _mean_of_parts(blend)
    if blend.tuned is None:
        return Scores(reads, lambda x: _log_odds(mean(x)))
    tuned, inner = blend.tuned, scores_of(blend.tuned.model)

    def mixed(x):
        own = torch.zeros(len(x[0]), tuned.n_classes, dtype=torch.float64)
        logits = inner.head(x[len(reads) :]).double().log_softmax(1) / tuned.temperature
        own[:, torch.as_tensor(tuned.columns)] = logits.softmax(1)
        return _log_odds((1 - tuned.weight) * mean(x[: len(reads)]) + tuned.weight * own)

    return Scores([*reads, *inner.reads], mixed)


@scores_of.register
def _of_number_blend(blend: NumberBlend) -> Scores:
    reads, mean = _mean_of_parts(blend)
    if blend.tuned is None:
        return Scores(reads, mean)
    tuned, inner = blend.tuned, scores_of(blend.tuned.model)
    of_model, of_blend = tuned.model._target, blend.scaler
    factor = _tensor(of_model.scale / of_blend.scale)
    shift = _tensor((of_model.mean - of_blend.mean) / of_blend.scale)

    def mixed(x):
        own = inner.head(x[len(reads) :]).double() * factor + shift
        return (1 - tuned.weight) * mean(x[: len(reads)]) + tuned.weight * own

    return Scores([*reads, *inner.reads], mixed)


def _mean_of_parts(blend) -> tuple[list[Read], Callable]:
    """Return what a blend reads, and the weighted mean of its members as a function of it."""
    blocks = list(dict.fromkeys(block for part in blend.parts for block in part.member.blocks))
    if RAW in blocks:
        raise NoGradientsError("A member that counts words has no gradients.")
    reads = [Read(blend.backbone.with_image_size(b.size), b.layer, b.pooling) for b in blocks]
    members = [_member(part, [blocks.index(b) for b in part.member.blocks]) for part in blend.parts]

    def mean(x):
        total = sum(member(x) for member in members)
        if blend.temperature is None:
            return total
        return (total.clamp_min(1e-30).log() / blend.temperature).softmax(1)

    return reads, mean


def _member(part, places: list[int]) -> Callable:
    """Return the weighted predictions of a member as a function of what the blend reads."""
    score = _fitted(part.fitted)

    def weighted(x):
        scores = score([x[i].double() for i in places])
        if part.temperature is not None:
            scores = (scores / part.temperature).softmax(1)
        return part.weight * scores

    return weighted


@functools.singledispatch
def _fitted(model) -> Callable:
    raise NoGradientsError(f"{type(model).__name__} has no gradients.")


@_fitted.register
def _of_linear(model: Linear) -> Callable:
    coefs, intercept = [_tensor(coef) for coef in model.coef], _tensor(model.intercept)
    unit = torch.nn.functional.normalize
    return lambda x: sum(unit(b) @ c for b, c in zip(x, coefs, strict=True)) + intercept


@_fitted.register
def _of_conditional(model: Conditional) -> Callable:
    given = _tensor(model.conditional)
    return lambda x: _conditional(x[0], given)


@_fitted.register
def _of_mapped(model: Mapped) -> Callable:
    return lambda x: _mapped(x[0], model.groups)


@_fitted.register
def _of_classifier(model: FittedOnFeatures) -> Callable:
    tail = _affine(_last(model.estimator), model.estimator.n_features_in_)

    def spread(x):
        found = torch.full((len(x[0]), model.n_classes), -torch.inf, dtype=torch.float64)
        found[:, torch.as_tensor(model.columns)] = tail(torch.cat(x, 1))
        return found

    return spread


def _conditional(logits: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    """Return logarithms of the probabilities of labels, from logits of the network's classes."""
    return (logits.double().softmax(1) @ given).clamp_min(1e-30).log()


def _log_odds(probabilities: torch.Tensor) -> torch.Tensor:
    p = probabilities.clamp(1e-12, 1 - 1e-12)
    return p.log() - (1 - p).log()


def _tensor(array) -> torch.Tensor:
    return torch.as_tensor(np.asarray(array, dtype=np.float64))
