"""The parameters of the fine-tuned estimators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

from sklearn.utils._param_validation import Interval, StrOptions

from ..data.types import RandomState
from ..features import BackboneEstimator, Count

__all__ = ["TrainingParameters"]


class TrainingParameters(BackboneEstimator):
    """Base of the fine-tuned estimators, with the parameters that all of them have."""

    _parameter_constraints: dict[str, Any] = {
        **BackboneEstimator._parameter_constraints,
        "trainable": [StrOptions({"head", "all", "norm", "bias"}), Count(1), str],
        "head": [StrOptions({"linear", "mlp"}), callable],
        "dropout": [Interval(Real, 0, 1, closed="left")],
        "head_init": [StrOptions({"auto", "probe", "random"})],
        "train_batch_norm": ["boolean"],
        "augment": [StrOptions({"light", "strong"}), callable, None],
        "n_views": [Count(1), None],
        "lr": [StrOptions({"auto"}), Interval(Real, 0, None, closed="neither")],
        "layer_decay": [StrOptions({"auto"}), Interval(Real, 0, 1, closed="right")],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "optimizer": [StrOptions({"adamw", "adam", "sgd"}), type],
        "warmup": [Interval(Real, 0, 1, closed="left")],
        "loss": [StrOptions({"auto"}), callable],
        "clip_norm": [Interval(Real, 0, None, closed="neither"), None],
        "gradual_unfreezing": ["boolean"],
        "max_epochs": [Count(0), StrOptions({"auto"})],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "patience": [Count(1), None],
        "warm_start": ["boolean"],
        "callbacks": [list, tuple, None],
        "net_params": [dict, None],
        "precision": [StrOptions({"auto", "float32", "bfloat16"})],
        "cache_dtype": [StrOptions({"float32", "float16"})],
        "accumulate": [Count(1)],
        "checkpoint_activations": ["boolean"],
        "max_cache_bytes": [Count(0, 2**62)],
        "checkpoint": [str, Path, None],
        "random_state": ["random_state"],
    }

    def __init__(
        self,
        backbone: Any = "efficientnet_lite0",
        *,
        weights: Any = "default",
        trainable: int | str = "head",
        head: str | Callable[..., Any] = "linear",
        dropout: float = 0.0,
        head_init: str = "auto",
        train_batch_norm: bool = False,
        augment: str | Callable[..., Any] | None = None,
        n_views: int | None = 4,
        lr: float | str = "auto",
        layer_decay: float | str = "auto",
        weight_decay: float = 1e-4,
        optimizer: str | type[Any] = "adamw",
        warmup: float = 0.1,
        loss: str | Callable[..., Any] = "auto",
        clip_norm: float | None = None,
        gradual_unfreezing: bool = False,
        max_epochs: int | str = "auto",
        validation_fraction: float = 0.0,
        patience: int | None = None,
        warm_start: bool = False,
        callbacks: Sequence[Any] | None = None,
        net_params: dict[str, Any] | None = None,
        image_size: int | None = None,
        image_shape: tuple[int, ...] | None = None,
        long_texts: str | None = None,
        batch_size: int | str = "auto",
        accumulate: int = 1,
        checkpoint_activations: bool = False,
        device: str = "auto",
        engine: str = "auto",
        precision: str = "auto",
        cache_dtype: str = "float32",
        max_cache_bytes: int = 2**31,
        memory: Any = None,
        checkpoint: str | Path | None = None,
        n_jobs: int | str | None = "auto",
        random_state: RandomState = None,
        verbose: int = 0,
    ):
        self.backbone = backbone
        self.weights = weights
        self.trainable = trainable
        self.head = head
        self.dropout = dropout
        self.head_init = head_init
        self.train_batch_norm = train_batch_norm
        self.augment = augment
        self.n_views = n_views
        self.lr = lr
        self.layer_decay = layer_decay
        self.weight_decay = weight_decay
        self.optimizer = optimizer
        self.warmup = warmup
        self.loss = loss
        self.clip_norm = clip_norm
        self.gradual_unfreezing = gradual_unfreezing
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.warm_start = warm_start
        self.callbacks = callbacks
        self.net_params = net_params
        self.image_size = image_size
        self.image_shape = image_shape
        self.long_texts = long_texts
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.checkpoint_activations = checkpoint_activations
        self.device = device
        self.engine = engine
        self.precision = precision
        self.cache_dtype = cache_dtype
        self.max_cache_bytes = max_cache_bytes
        self.memory = memory
        self.checkpoint = checkpoint
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def _store(self, given: dict[str, Any]) -> None:
        """Store the arguments of a constructor that has more parameters.

        Parameters
        ----------
        given : dict of str to object
            The local variables of the constructor.
        """
        self.__dict__.update({name: value for name, value in given.items() if name != "self"})
