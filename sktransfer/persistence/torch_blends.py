"""Blends and linear models as modules of torch, for export."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from torch import nn

from ..backbones import Backbone
from ..features import TokenWeights
from ..selection import Blend, ClassifierCandidate
from ..transferability import LinearProbe, RidgeProbe
from .torch_networks import Exportable, Then, make_networks

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


class _Blend(nn.Module):
    """Call a blend with the outputs of its networks, and with counts of words."""

    def __init__(self, blend: Blend, places: list[tuple[int, list[int]]]):
        super().__init__()
        self.blend, self.places = blend, places
        self.is_flat = blend.scaler is not None and blend.scaler.is_flat

    def forward(self, outputs: list[list[torch.Tensor]], *counts: torch.Tensor) -> torch.Tensor:
        inputs = [torch.cat([outputs[i][j] for j in parts], 1) for i, parts in self.places]
        counted = [c.multiply_counts(counts[0].double()) for c in self.blend.counting]
        found = self.blend(inputs, counted)
        return (found[:, 0] if self.is_flat else found).float()


def export_blend(blend: Blend, estimator: Any, X: Any) -> Exportable:
    """Make a module of a blend.

    Parameters
    ----------
    blend : Blend
    estimator : TransferClassifier or TransferRegressor
        Which has it.
    X : sequence of samples or None
        As in :func:`exportable`.

    Returns
    -------
    Exportable

    Raises
    ------
    ValueError
        If a classifier in it is no linear function of features.
    """
    for candidate in blend.candidates:
        if isinstance(candidate, ClassifierCandidate) and not candidate.is_linear:
            raise ValueError(
                f"The blend holds a {type(candidate.estimator).__name__}, which is no linear "
                "function of features. to_onnx exports blends with estimator=None, or with "
                "LogisticRegression()."
            )
    wanted: dict[Backbone, list[tuple]] = {}
    places = []
    for output in blend.outputs:
        exported = wanted.setdefault(output.backbone, [])
        how = output.pooling if isinstance(output.pooling, tuple) else (output.pooling,)
        if output.pooling == "zipf":
            how = (TokenWeights.by_rank(output.backbone),)
        parts = []
        for pooling in how:
            same = [
                i for i, (layer, p) in enumerate(exported) if layer == output.layer and p is pooling
            ]
            parts.append(same[0] if same else len(exported))
            if not same:
                exported.append((output.layer, pooling))
        places.append((list(wanted).index(output.backbone), parts))
    sources, networks = make_networks(estimator, list(wanted.items()), X)
    module = Then(networks, _Blend(blend, places))
    labels, vectorizer = blend.classes, blend.vectorizer if blend.counting else None
    if labels is None:
        return Exportable(sources, module, "prediction", counts=vectorizer)
    return Exportable(sources, module, "probabilities", labels, vectorizer)
