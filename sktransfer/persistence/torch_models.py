"""Fitted estimators as one module of torch: from resized samples to predictions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbones import stages_of
from ..data import NumericTarget
from ..features import PretrainedClassifier, PretrainedFeatureExtractor
from ..finetuning.estimator import TunedEstimator
from ..selection import TransferClassifier, TransferRegressor
from .torch_blends import AffineScores, export_blend
from .torch_networks import Exportable, Then, TunedOutputs, grouped, make_networks

__all__ = ["export_features", "exportable"]


def exportable(estimator: Any, X: Any = None) -> Exportable:
    """Make a module of a fitted estimator of sktransfer.

    Parameters
    ----------
    estimator : estimator
    X : sequence of samples, default=None
        Needed for own modules, whose input has a shape that nothing else tells.

    Returns
    -------
    Exportable

    Raises
    ------
    TypeError, ValueError
        If there is no module for it.
    """
    for cls, make in _MAKERS.items():
        if isinstance(estimator, cls):
            return make(estimator, X)
    raise TypeError(f"{type(estimator).__name__} is not an estimator that to_onnx exports.")


class _SideBySide(nn.Module):
    """Put the blocks of several networks side by side, in an order."""

    def __init__(self, order: list[tuple[int, int]]):
        super().__init__()
        self.order = order

    def forward(self, outputs: list[list[torch.Tensor]]) -> torch.Tensor:
        return torch.cat([outputs[i][j] for i, j in self.order], 1)


class _Reduced(nn.Module):
    """Put blocks side by side, and reduce them by principal components."""

    def __init__(self, blocks: nn.Module, pca: Any):
        super().__init__()
        self.blocks = blocks
        self.scores = AffineScores(pca.components_.T, -(pca.mean_ @ pca.components_.T))

    def forward(self, outputs: list[list[torch.Tensor]]) -> torch.Tensor:
        return self.scores(self.blocks(outputs)).float()


def export_features(estimator: PretrainedFeatureExtractor, X: Any, column: int = 0) -> Exportable:
    """Make a module of the features of one column of samples.

    Parameters
    ----------
    estimator : PretrainedFeatureExtractor
    X : sequence of samples or None
        As in :func:`exportable`.
    column : int, default=0
        The position of the column.

    Returns
    -------
    Exportable
    """
    pairs: dict[Any, list] = {}  # by backbone, layers and poolings
    order = []
    for output in estimator.outputs_:
        wanted = pairs.setdefault(output.backbone, [])
        order.append((list(pairs).index(output.backbone), len(wanted)))
        wanted.append((output.layer, output.pooling))
    sources, networks = make_networks(estimator, list(pairs.items()), X)
    then: nn.Module = _SideBySide(order)
    pcas = getattr(estimator, "pca_", ())
    then = _Reduced(then, pcas[column]) if pcas else then
    return Exportable(sources, Then(networks, then), "features")


class _DirectUse(nn.Module):
    """Average the probabilities of several sizes, mapped onto the user's classes."""

    conditional: torch.Tensor

    def __init__(self, groups: list | None, conditional: np.ndarray | None):
        super().__init__()
        self.groups = groups
        table = torch.empty(0) if conditional is None else torch.from_numpy(conditional)
        self.register_buffer("conditional", table)

    def forward(self, outputs: list[list[torch.Tensor]]) -> torch.Tensor:
        logits = [one.double() for (one,) in outputs]
        if self.groups is not None:
            logits = [grouped(one, self.groups) for one in logits]
        mean = torch.stack([one.softmax(1) for one in logits]).mean(0)
        return (mean @ self.conditional if self.conditional.numel() else mean).float()


def _direct(estimator: PretrainedClassifier, X) -> Exportable:
    pairs = [(x.backbone, [(x.layer, x.pooling)]) for x in estimator.outputs_]
    sources, networks = make_networks(estimator, pairs, X)
    mapped = isinstance(estimator.class_map, dict)
    groups = [list(found) for found in estimator.class_positions_.values()] if mapped else None
    learned = estimator.conditional_ if estimator.class_map == "learn" else None
    then = _DirectUse(groups, learned)
    return Exportable(sources, Then(networks, then), "probabilities", estimator.classes_)


def _tuned(estimator: TunedEstimator, X) -> Exportable:
    backbone, target = estimator.to_backbone(), estimator.target_
    pairs = [(backbone, [(list(stages_of(backbone))[-1], "avg")])]
    sources, networks = make_networks(estimator, pairs, X)
    output = "prediction" if isinstance(target, NumericTarget) else "probabilities"
    labels = None if target.labels is None else estimator.classes_
    return Exportable(sources, Then(networks, TunedOutputs(target)), output, labels)


def _transfer(estimator: TransferClassifier, X) -> Exportable:
    return export_blend(estimator.estimator_, estimator, X)


def _regressor(estimator: TransferRegressor, X) -> Exportable:
    return export_blend(estimator.blend_, estimator, X)


_MAKERS: dict[type[Any], Callable[..., Any]] = {
    PretrainedFeatureExtractor: export_features,
    PretrainedClassifier: _direct,
    TunedEstimator: _tuned,
    TransferClassifier: _transfer,
    TransferRegressor: _regressor,
}
