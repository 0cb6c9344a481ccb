"""What a training run is: its length, rates, callbacks and the parameters of the net."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence

import torch
from skorch.callbacks import Callback

from ..data import Target
from .callbacks import own_copy

__all__ = [
    "OPTIMIZERS",
    "TrainingPlan",
    "check_callbacks",
    "check_net_params",
    "check_optimizer",
    "warn_too_few_epochs",
    "without_callbacks",
]

_FRESH_HEAD = 10.0  # times the learning rate, for a head whose weights begin at random
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclasses.dataclass
class TrainingPlan:
    """How the tail is trained; the fields are parameters of the estimators."""

    target: Target
    lr: float
    layer_decay: float
    weight_decay: float
    optimizer: str | type
    warmup: float
    clip_norm: float | None
    gradual_unfreezing: bool
    patience: int | None
    max_epochs: int
    batch_size: int
    callbacks: list
    net_params: dict
    verbose: int
    seed: int
    label_smoothing: float = 0.0
    head_factor: float = 1.0  # on the learning rate of the head

    @classmethod
    def of(
        cls, estimator, target: Target, n_rows: int, seed: int, fresh_head: bool
    ) -> TrainingPlan:
        """Read the parameters of a fine-tuned estimator.

        Parameters
        ----------
        estimator : TunedEstimator
            With ``lr="auto"`` the rate of the plan is 1, until it is found.
        target : Target
        n_rows : int
        seed : int
        fresh_head : bool
            Whether the head begins at random.

        Returns
        -------
        TrainingPlan
        """
        same = {field.name for field in dataclasses.fields(cls)} & set(estimator.get_params(False))
        net_params = dict(estimator.net_params or {})
        more = net_params.pop("callbacks", None) or ()
        auto_lr, auto_size = estimator.lr == "auto", estimator.batch_size == "auto"
        read = {
            "target": target,
            "lr": 1.0 if auto_lr else estimator.lr,
            "batch_size": min(n_rows, 32 if auto_size else estimator.batch_size),
            "callbacks": [own_copy(c) for c in (*(estimator.callbacks or ()), *more)],
            "net_params": net_params,
            "verbose": max(0, estimator.verbose - 1),
            "seed": seed,
            "head_factor": _FRESH_HEAD if fresh_head else 1.0,
        }
        return cls(**{name: getattr(estimator, name) for name in same} | read)


def warn_too_few_epochs(plan: TrainingPlan, n_stages: int) -> None:
    """Warn where gradual unfreezing ends before it has reached the first stage.

    Parameters
    ----------
    plan : TrainingPlan
    n_stages : int
        How many stages have parameters, the head included.
    """
    if plan.gradual_unfreezing and 0 < plan.max_epochs < n_stages:
        warnings.warn(
            f"gradual_unfreezing=True trains one stage more each epoch: with max_epochs="
            f"{plan.max_epochs} the first {n_stages - plan.max_epochs} of {n_stages} stages "
            "stay as they are.",
            stacklevel=2,
        )


# What of skorch's is decided here, and by which parameter of the estimators.
_DECIDED = {
    "lr": "lr",
    "optimizer__lr": "lr",
    "optimizer__param_groups": "layer_decay",
    "optimizer__weight_decay": "weight_decay",
    "optimizer": "optimizer",
    "max_epochs": "max_epochs",
    "batch_size": "batch_size",
    "iterator_train__batch_size": "batch_size",
    "iterator_train__seed": "random_state",
    "train_split": "validation_fraction",
    "device": "device",
    "verbose": "verbose",
    "warm_start": "warm_start",
    "module": "head",
    "criterion": "label_smoothing",
    "callbacks__clip": "clip_norm",
    "callbacks__schedule": "warmup",
    "callbacks__best": "validation_fraction",
    "callbacks__stop": "patience",
    "callbacks__freeze": "gradual_unfreezing",
}

_OURS: tuple[str, ...] = (
    "iterator_train",
    "iterator_valid",
    "dataset",
    "classes",
    "predict_nonlinearity",
)
_OURS += ("callbacks__finite", "callbacks__progress")


def check_net_params(net_params: dict) -> None:
    """Refuse parameters of the skorch net that are decided by the estimator.

    Parameters
    ----------
    net_params : dict

    Raises
    ------
    ValueError
        Naming the parameter to use.
    """
    for key in net_params:
        if not isinstance(key, str):
            raise ValueError(f"net_params has the key {key!r:.60}: keys are names of parameters.")
        parameter = next((p for name, p in _DECIDED.items() if _is_of(key, name)), None)
        if parameter is not None:
            raise ValueError(f"net_params[{key!r}]: use the estimator's parameter {parameter}.")
        if any(_is_of(key, name) for name in _OURS):
            raise ValueError(f"net_params[{key!r}] cannot be changed: training stands on it.")
    check_callbacks(net_params.get("callbacks") or (), "net_params['callbacks']")


def check_callbacks(callbacks: Sequence, name: str) -> None:
    """Check that callbacks are those of skorch.

    Parameters
    ----------
    callbacks : sequence of Callback, or of name and Callback
    name : str
        The parameter, for the message.

    Raises
    ------
    TypeError
        Naming the first entry that is something else.
    """
    if not isinstance(callbacks, list | tuple):
        raise TypeError(f"{name} must be a list of skorch callbacks, got {callbacks!r:.60}.")
    for i, entry in enumerate(callbacks):
        named = isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
        callback = entry[1] if named else entry
        cls = callback if isinstance(callback, type) else type(callback)
        if not issubclass(cls, Callback):
            raise TypeError(
                f"{name}[{i}] must be a skorch callback, or a name and a callback, got "
                f"{entry!r:.60}."
            )


def check_optimizer(optimizer: str | type) -> None:
    """Check that an optimizer is known by name or a class of torch's optimizers.

    Parameters
    ----------
    optimizer : str or type

    Raises
    ------
    TypeError
        If it is another class.
    """
    if isinstance(optimizer, type) and not issubclass(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer={optimizer!r} is no class of torch.optim.Optimizer.")


def _is_of(key: str, name: str) -> bool:
    """Tell whether a key is that name, or a setting of a thing that is ours altogether."""
    ours = name.startswith(("callbacks__", "module", "criterion", "dataset", "iterator"))
    return key == name or (ours and key.startswith(f"{name}__"))


def without_callbacks(net_params: dict) -> dict:
    """Return the parameters of a net without those of callbacks, which are not always there.

    Parameters
    ----------
    net_params : dict

    Returns
    -------
    dict
    """
    return {key: v for key, v in net_params.items() if not key.startswith("callbacks")}
