"""What a training run is: its length, rates, callbacks and the parameters of the net."""

from __future__ import annotations

import dataclasses

from ..data import Target

__all__ = ["TrainingPlan", "check_net_params", "without_callbacks"]


@dataclasses.dataclass
class TrainingPlan:
    """How the tail is trained; the fields are parameters of the estimators."""

    target: Target
    lr: float
    layer_decay: float
    weight_decay: float
    optimizer: str | type
    warmup: float
    label_smoothing: float
    clip_norm: float | None
    gradual_unfreezing: bool
    patience: int | None
    max_epochs: int
    batch_size: int
    callbacks: list
    net_params: dict
    verbose: int
    seed: int
    head_factor: float = 1.0  # on the learning rate of the head


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
        parameter = next((p for name, p in _DECIDED.items() if _is_of(key, name)), None)
        if parameter is not None:
            raise ValueError(f"net_params[{key!r}]: use the estimator's parameter {parameter}.")
        if any(_is_of(key, name) for name in _OURS):
            raise ValueError(f"net_params[{key!r}] cannot be changed: training stands on it.")


def _is_of(key: str, name: str) -> bool:
    """Tell whether a key is that name, or a setting of a thing that is ours altogether."""
    ours = name.startswith(("callbacks__", "module", "criterion", "dataset"))
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
