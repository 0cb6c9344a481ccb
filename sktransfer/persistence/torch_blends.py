"""Blends and linear models as modules of torch, for export."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import nn

from ..backbones import Backbone, stages_of
from ..features import TokenWeights, has_ranks
from ..selection.blend import Blend, ClassBlend, NumberBlend
from ..selection.judging import BlendPart
from ..selection.linear_models import Linear
from ..selection.members import BY_RANK, RAW, Block
from ..selection.models import Conditional, FittedOnFeatures, Mapped
from ..selection.tuned import TunedMember, TunedNumbers
from ..transferability import LinearProbe, RidgeProbe
from .torch_networks import Exportable, Then, TunedOutputs, grouped, make_networks

__all__ = ["AffineScores", "as_linear", "export_blend"]


class AffineScores(nn.Module):
    """Logits, or numbers, that are a linear function of features."""

    coef: torch.Tensor
    intercept: torch.Tensor

    def __init__(self, coef: np.ndarray, intercept: np.ndarray):
        super().__init__()
        self.register_buffer("coef", torch.from_numpy(np.array(coef, np.float64)))
        self.register_buffer("intercept", torch.from_numpy(np.array(intercept, np.float64)))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.double() @ self.coef + self.intercept


def as_linear(estimator: Any) -> AffineScores | None:
    """Return the scores of a linear model as a module, or None for other models.

    Parameters
    ----------
    estimator : estimator
        Fitted.

    Returns
    -------
    AffineScores or None
        For two classes with a column each, whose softmax are the probabilities.
    """
    if isinstance(estimator, LinearProbe) and not hasattr(estimator.model_, "coef_"):
        return None
    kinds = LinearProbe | RidgeProbe | LogisticRegression | LinearDiscriminantAnalysis
    if not isinstance(estimator, kinds):
        return None
    coef = np.atleast_2d(estimator.coef_)
    intercept = np.broadcast_to(estimator.intercept_, len(coef))
    if hasattr(estimator, "classes_") and len(coef) == 1:
        zero = np.zeros_like(coef)
        coef, intercept = np.concatenate([zero, coef]), np.array([0.0, *intercept])
    return AffineScores(coef.T, intercept)


class _Part(nn.Module):
    """Predict with one member of a blend from its blocks."""

    def __init__(self, part: BlendPart):
        super().__init__()
        self.weight, self.temperature = part.weight, part.temperature
        self.fitted = _fitted(part.fitted)

    def forward(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        scores = self.fitted([block.double() for block in blocks])
        if self.temperature is not None:
            scores = (scores / self.temperature).softmax(1)
        return self.weight * scores


class _LinearBlocks(nn.Module):
    """A linear model of blocks whose rows have length 1."""

    intercept: torch.Tensor

    def __init__(self, fitted: Linear):
        super().__init__()
        self.parts = nn.ModuleList(AffineScores(coef, np.zeros(1)) for coef in fitted.coef)
        self.register_buffer("intercept", torch.from_numpy(np.array(fitted.intercept)))

    def forward(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        scores: torch.Tensor = self.intercept
        for part, block in zip(self.parts, blocks, strict=True):
            length = (block * block).sum(1, keepdim=True).sqrt()
            scores = scores + part(block / torch.where(length > 0, length, 1.0))
        return scores


class _Grouped(nn.Module):
    """Logits of labels, each of which means some classes of the network."""

    def __init__(self, fitted: Mapped):
        super().__init__()
        self.groups = fitted.groups

    def forward(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        return grouped(blocks[0], self.groups)


class _Mapped(nn.Module):
    """The logarithms of probabilities of labels, given those of the network's classes."""

    conditional: torch.Tensor

    def __init__(self, fitted: Conditional):
        super().__init__()
        self.register_buffer("conditional", torch.from_numpy(fitted.conditional))

    def forward(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        return (blocks[0].softmax(1) @ self.conditional).log()


class _Classifier(nn.Module):
    """A classifier on features, as logarithms of its probabilities, for all classes."""

    columns: torch.Tensor

    def __init__(self, fitted: FittedOnFeatures):
        super().__init__()
        scores = as_linear(fitted.estimator)
        if scores is None:
            raise ValueError(
                f"The blend holds a {type(fitted.estimator).__name__}. to_onnx exports blends with "
                "estimator=None, or with LogisticRegression()."
            )
        self.scores = scores
        self.register_buffer("columns", torch.from_numpy(np.array(fitted.columns)))
        self.n_classes = fitted.n_classes

    def forward(self, blocks: list[torch.Tensor]) -> torch.Tensor:
        own = self.scores(torch.cat(blocks, 1)).softmax(1).clamp_min(1e-6).log()
        return _spread(own, self.columns, self.n_classes)


def _spread(own: torch.Tensor, columns: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Put columns at their places among all classes; the others are minus infinity."""
    if len(columns) == n_classes:
        return own
    place = torch.nn.functional.one_hot(columns, n_classes)  # (n_own, n_classes)
    absent = place.sum(0) == 0
    return (own @ place.to(own.dtype)).masked_fill(absent, -torch.inf)


_MODULES = {
    Conditional: _Mapped,
    FittedOnFeatures: _Classifier,
    Linear: _LinearBlocks,
    Mapped: _Grouped,
}


def _fitted(fitted: Any) -> nn.Module:
    return _MODULES[type(fitted)](fitted)


class _Blend(nn.Module):
    """The weighted mean of members, at a temperature, and a tuned network with its share."""

    def __init__(self, blend: Blend, places: list[list[tuple]], tuned: nn.Module | None):
        super().__init__()
        self.parts = nn.ModuleList(map(_Part, blend.parts))
        self.places, self.temperature = places, blend.temperature
        self.tuned = tuned
        self.scaler = TunedOutputs(blend.scaler) if isinstance(blend, NumberBlend) else None

    def forward(self, outputs: list[list[torch.Tensor]], *counts: torch.Tensor) -> torch.Tensor:
        total: Any = 0.0
        for part, places in zip(self.parts, self.places, strict=True):
            total = total + part([_block(outputs, counts, place) for place in places])
        if self.temperature is not None:
            total = (total.log() / self.temperature).softmax(1)
        if self.tuned is not None:
            total = self.tuned(total, outputs)
        if self.scaler is not None:
            return self.scaler([[total]])
        return total.float()


def _block(outputs, counts, place: tuple) -> torch.Tensor:
    """Return the poolings of a block side by side."""
    return torch.cat([outputs[i][j] if i is not None else counts[0] for i, j in place], 1)


class _NumberShare(nn.Module):
    """Mix in the standardised numbers of a tuned network, the last one of the list."""

    factor: torch.Tensor
    shift: torch.Tensor

    def __init__(self, member: TunedNumbers):
        super().__init__()
        self.weight, own, scaler = member.weight, member.model.target_, member.scaler
        self.register_buffer("factor", torch.from_numpy(np.asarray(own.scale / scaler.scale)))
        shift = (own.mean - scaler.mean) / scaler.scale
        self.register_buffer("shift", torch.from_numpy(np.asarray(shift)))

    def forward(self, mean: torch.Tensor, outputs: list[list[torch.Tensor]]) -> torch.Tensor:
        own = outputs[-1][0].double() * self.factor + self.shift
        return (1 - self.weight) * mean + self.weight * own


class _Share(nn.Module):
    """Mix in the probabilities of a tuned network, the last one of the list."""

    columns: torch.Tensor

    def __init__(self, member: TunedMember):
        super().__init__()
        self.weight, self.temperature = member.weight, member.temperature
        self.register_buffer("columns", torch.from_numpy(np.array(member.columns)))
        self.n_classes = member.n_classes

    def forward(self, mean: torch.Tensor, outputs: list[list[torch.Tensor]]) -> torch.Tensor:
        own = outputs[-1][0].double().softmax(1).clamp_min(1e-6).log()
        own = (_spread(own, self.columns, self.n_classes) / self.temperature).softmax(1)
        return (1 - self.weight) * mean + self.weight * own


def export_blend(blend: Blend, estimator: Any, X: Any) -> Exportable:
    wanted: dict[Any, list[tuple]] = {}  # outputs by size
    places: Any = [[_place(block, wanted) for block in part.member.blocks] for part in blend.parts]
    order = {size: i for i, size in enumerate(wanted)}
    places = [[[(order.get(s), j) for s, j in block] for block in one] for one in places]
    pairs = [_exported(blend.backbone.with_image_size(size), outs) for size, outs in wanted.items()]
    tuned = blend.tuned
    if tuned is not None:
        network = tuned.model.to_backbone()
        pairs.append((network, [(list(stages_of(network))[-1], "avg")]))
    sources, networks = make_networks(estimator, pairs, X)
    module = Then(networks, _Blend(blend, places, _share(tuned)))
    if isinstance(blend, ClassBlend):
        return Exportable(sources, module, "probabilities", blend.classes_, blend.vectorizer)
    return Exportable(sources, module, "prediction", counts=blend.vectorizer)


def _exported(backbone: Backbone, outputs: list[tuple]) -> tuple[Backbone, list[tuple]]:
    """Return outputs with the weights of words in place of the pooling by rank."""
    learned = {BY_RANK: TokenWeights.by_rank(backbone)} if has_ranks(backbone) else {}
    return backbone, [(layer, learned.get(pooling, pooling)) for layer, pooling in outputs]


def _share(tuned: TunedMember | TunedNumbers | None) -> nn.Module | None:
    if tuned is None:
        return None
    return _NumberShare(tuned) if isinstance(tuned, TunedNumbers) else _Share(tuned)


_COUNTS = "counts"  # the place of the features that need no network


def _place(block: Block, wanted: dict) -> list[tuple]:
    """Add the outputs of a block to those of its size, and return their places."""
    if block == RAW:
        return [(_COUNTS, 0)]
    outputs = wanted.setdefault(block.size, [])
    poolings = block.pooling if isinstance(block.pooling, tuple) else (block.pooling,)
    pairs = [(block.layer, pooling) for pooling in poolings]
    outputs += [pair for pair in pairs if pair not in outputs]
    return [(block.size, outputs.index(pair)) for pair in pairs]
