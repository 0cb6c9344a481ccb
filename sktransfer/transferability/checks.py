"""Checks of the arrays that scores are given, and the encoding of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import check_array

from ..data import check_labels, naming

__all__ = [
    "check_features",
    "check_labelled",
    "check_numeric",
    "check_probabilities",
    "encode_classes",
    "membership",
]

_SUM_TOLERANCE = 1e-2  # a softmax over 1000 classes in half precision stays within it


def check_features(features: ArrayLike, name: str = "features") -> np.ndarray:
    """Return finite features in float64, ``(n_samples, n_features)``, of two samples or more."""
    return check_numeric(features, name, ensure_min_samples=2)


def check_numeric(values: ArrayLike, name: str, **settings: Any) -> np.ndarray:
    """Return finite numbers in float64; settings are those of ``sklearn.utils.check_array``."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} holds masked values. Fill them, or leave these rows out.")
    return naming(name, lambda: check_array(values, dtype=np.float64, input_name=name, **settings))


def check_labelled(
    features: ArrayLike, y: ArrayLike, name: str = "features"
) -> tuple[np.ndarray, np.ndarray]:
    """Check features and labels; return them in float64 and as codes from 0."""
    features = check_features(features, name)
    return features, encode_classes(y, len(features))


def encode_classes(y: ArrayLike, n_samples: int | None = None) -> np.ndarray:
    """Check labels of two classes or more and return their codes, ``(n_samples,)``."""
    classes, codes = np.unique(check_labels(y, n_samples), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y: all samples have the label {classes[0]}; how well features tell classes apart "
            "needs two classes at least."
        )
    return codes


def membership(codes: np.ndarray) -> np.ndarray:
    """Return an indicator of shape (n_samples, n_classes)."""
    return np.eye(codes.max() + 1)[codes]


def check_probabilities(p: np.ndarray) -> np.ndarray:
    """Return rows that sum to 1 in float64, or raise an error that names the first other row."""
    sums = p.sum(1)
    wrong = np.flatnonzero((p.min(1) < 0) | (abs(sums - 1) > _SUM_TOLERANCE))
    if len(wrong):
        i = wrong[0]
        raise ValueError(
            f"Sample {i}: not probabilities (smallest {p[i].min():.3g}, sum {sums[i]:.3g}). "
            "If these are logits, apply a softmax first."
        )
    return p / sums[:, None]
