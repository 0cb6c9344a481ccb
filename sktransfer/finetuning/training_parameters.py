"""The parameters of the fine-tuned estimators."""

from __future__ import annotations

from numbers import Real
from pathlib import Path
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions

from ..features import BackboneEstimator, Count
from .augment import Augmentation

__all__ = ["TrainingParameters"]


class TrainingParameters(BackboneEstimator):
    """Base of the fine-tuned estimators, with the parameters that all of them have."""

    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "trainable": [StrOptions({"head", "all", "norm", "bias"}), Count(1), str],
        "head": [StrOptions({"linear", "mlp"}), callable],
        "head_init": [StrOptions({"auto", "probe", "random"})],
        "train_batch_norm": ["boolean"],
        "augment": [StrOptions({"light", "strong"}), Augmentation, callable, None],
        "lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "layer_decay": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="right")],
        "loss": [StrOptions({"auto"}), callable],
        "max_epochs": [Count(0), StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, None],
        "net_params": [dict, None],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "micro_batch_size": [Count(1), None],
        "max_cache_bytes": [Count(0, 2**62)],
        "checkpoint": [str, Path, None],
        "random_state": ["random_state"],
    }
