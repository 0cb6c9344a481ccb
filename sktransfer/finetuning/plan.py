"""The settings of a training, and checks of the parameters that they come from."""

from __future__ import annotations

import dataclasses
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import skorch
import torch
from skorch.callbacks import Callback, Freezer, Unfreezer

from ..data import Target
from .callbacks import own_copy
from .distributed import is_launched
from .parameters import PARTIAL
from .schedule import training_length

__all__ = [
    "OPTIMIZERS",
    "TrainingPlan",
    "check_callback_names",
    "check_callbacks",
    "check_net_params",
    "check_optimizer",
    "check_settings",
    "optimizer_class",
    "steps_of",
    "warn_too_few_epochs",
    "without_callbacks",
]

_FRESH_HEAD = 10.0  # factor on the learning rate of a head that is initialized at random
OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


@dataclasses.dataclass
class TrainingPlan:
    """Hold the settings of a training, most of them parameters of the estimators."""

    target: Target
    lr: float
    layer_decay: float
    weight_decay: float
    optimizer: str | type[Any]
    warmup: float
    clip_norm: float | None
    gradual_unfreezing: bool
    patience: int | None
    max_epochs: int
    batch_size: int
    callbacks: list[Any]
    net_params: dict[str, Any]
    verbose: int
    seed: int
    label_smoothing: float = 0.0
    loss: str | Callable[..., Any] = "auto"
    head_factor: float = 1.0  # on the learning rate of the head
    accumulate: int = 1  # parts in which the rows of a step are run

    @classmethod
    def of(
        cls, estimator: Any, target: Target, n_rows: int, seed: int, fresh_head: bool
    ) -> TrainingPlan:
        """Read the parameters of a fine-tuned estimator.

        Parameters
        ----------
        estimator : TunedEstimator
            If ``lr`` or ``layer_decay`` is no number, that of the plan is 1 until it is found.
        target : Target
        n_rows : int
        seed : int
        fresh_head : bool
            Whether the head is initialized at random.

        Returns
        -------
        TrainingPlan
        """
        same = {field.name for field in dataclasses.fields(cls)} & set(estimator.get_params(False))
        net_params = dict(estimator.net_params or {})
        more = net_params.pop("callbacks", None) or ()
        size, epochs = steps_of(estimator, n_rows)
        read = {
            "target": target,
            # Searches give numbers of NumPy, which torch refuses in some places.
            **{name: _number(getattr(estimator, name)) for name in ("lr", "layer_decay")},
            "batch_size": size,
            "accumulate": int(min(estimator.accumulate, size)),
            "max_epochs": epochs,
            "callbacks": [own_copy(c) for c in (*(estimator.callbacks or ()), *more)],
            "net_params": net_params,
            "verbose": max(0, estimator.verbose - 1),
            "seed": seed,
            "head_factor": _FRESH_HEAD if fresh_head else 1.0,
        }
        return cls(**{name: getattr(estimator, name) for name in same} | read)


def _number(value: str | float) -> float:
    return 1.0 if isinstance(value, str) else float(value)


def steps_of(estimator: Any, n_rows: int) -> tuple[int, int]:
    """Return the rows in a step, of all its batches, and the number of epochs.

    Parameters
    ----------
    estimator : TunedEstimator
    n_rows : int

    Returns
    -------
    batch_size, max_epochs : int
    """
    size, epochs = estimator.batch_size, estimator.max_epochs
    return training_length(n_rows, size, epochs, estimator.accumulate)


def warn_too_few_epochs(plan: TrainingPlan, n_stages: int) -> None:
    """Warn if gradual unfreezing does not reach all stages.

    Parameters
    ----------
    plan : TrainingPlan
    n_stages : int
        Number of stages with parameters, the head included.
    """
    if plan.gradual_unfreezing and 0 < plan.max_epochs < n_stages:
        warnings.warn(
            f"gradual_unfreezing=True trains one more stage in each epoch: with max_epochs="
            f"{plan.max_epochs} the first {n_stages - plan.max_epochs} of {n_stages} stages "
            "are not trained.",
            stacklevel=2,
        )


# Parameters of skorch's net, and the parameter of the estimators that sets each.
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
    "criterion": "loss",
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
_OURS += ("callbacks__finite", "callbacks__progress", "callbacks__watch", "callbacks__valid_loss")
_OWN_NAMES = ("finite", "clip", "schedule", "freeze", "best", "progress", "watch", "stop")


def check_settings(estimator: Any, with_validation: bool = False) -> None:
    """Check what the table of constraints cannot express.

    Parameters
    ----------
    estimator : TunedEstimator
    with_validation : bool, default=False
        Whether ``fit`` is given a validation set.

    Raises
    ------
    ValueError, TypeError
    """
    check_optimizer(estimator.optimizer)
    check_callbacks(estimator.callbacks or (), "callbacks")
    check_net_params(estimator.net_params or {})
    if estimator.gradual_unfreezing and estimator.trainable in PARTIAL:
        raise ValueError(
            "gradual_unfreezing=True trains whole stages, one after another: it cannot be "
            f"combined with trainable={estimator.trainable!r}."
        )
    if estimator.loss != "auto" and getattr(estimator, "label_smoothing", 0):
        raise ValueError("label_smoothing= is a part of loss='auto': leave it at 0 with a loss.")
    if estimator.patience is not None and not (estimator.validation_fraction or with_validation):
        raise ValueError(
            "patience= needs validation rows: set validation_fraction, such as 0.2, or give X_val "
            "and y_val to fit."
        )
    _refuse_in_processes(estimator)


def _refuse_in_processes(estimator: Any) -> None:
    """Refuse parameters of a fine-tuned estimator that several processes cannot train with."""
    if not is_launched():
        return
    params = estimator.net_params or {}
    callbacks = [*(estimator.callbacks or ()), *(params.get("callbacks") or ())]
    callbacks = [entry[1] if isinstance(entry, tuple) else entry for entry in callbacks]
    kinds = [callback if isinstance(callback, type) else type(callback) for callback in callbacks]
    is_worker = multiprocessing.current_process().name.startswith("LokyProcess")
    refused = {
        "n_jobs= of a search": is_worker
        or threading.current_thread() is not threading.main_thread(),
        "train_batch_norm=True": estimator.train_batch_norm,
        "gradual_unfreezing=True": estimator.gradual_unfreezing,
        "rehearsal=": getattr(estimator, "rehearsal", 0),
        "net_params['compile']": params.get("compile"),
        "Freezer or Unfreezer in callbacks": any(issubclass(k, Freezer | Unfreezer) for k in kinds),
        f"device={estimator.device!r}, which is one,": ":" in estimator.device,
    }
    for name, is_set in refused.items():
        if is_set:
            raise ValueError(f"{name} cannot be used in several processes: train in one.")


def check_net_params(net_params: dict[str, Any]) -> None:
    """Check that no parameter of the skorch net is one that the estimator sets.

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
            raise ValueError(f"net_params[{key!r}] cannot be set: training depends on it.")
    check_callbacks(net_params.get("callbacks") or (), "net_params['callbacks']")


def check_callbacks(callbacks: Sequence[Any], name: str) -> None:
    """Check that callbacks are callbacks of skorch.

    Parameters
    ----------
    callbacks : sequence of Callback, or of name and Callback
    name : str
        The name of the parameter, for the message.

    Raises
    ------
    TypeError
        If an entry is not a callback.
    ValueError
        If a name occurs twice, or is that of a callback of the estimator.
    """
    if not isinstance(callbacks, list | tuple):
        raise TypeError(f"{name} must be a list of skorch callbacks, got {callbacks!r:.60}.")
    taken = set(_OWN_NAMES)
    for i, entry in enumerate(callbacks):
        named = isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
        callback = entry[1] if named else entry
        cls = callback if isinstance(callback, type) else type(callback)
        if not issubclass(cls, Callback):
            raise TypeError(
                f"{name}[{i}] must be a skorch callback, or a name and a callback, got "
                f"{entry!r:.60}."
            )
        if named and entry[0] in taken:
            raise ValueError(f"{name}[{i}]: the name {entry[0]!r} is in use. Give another one.")
        taken.update(entry[:1] if named else ())


def check_callback_names(net: skorch.NeuralNet, net_params: dict[str, Any]) -> None:
    """Check that parameters of callbacks are those of callbacks of the net; skorch does not.

    Parameters
    ----------
    net : skorch.NeuralNet
    net_params : dict

    Raises
    ------
    ValueError
        If a callback does not exist.
    """
    for key, value in net_params.items():
        callbacks, _, rest = key.partition("__")
        name = rest.partition("__")[0]
        if callbacks == "callbacks" and value is not None and name not in dict(net.callbacks_):
            raise ValueError(f"{key}: no callback is called {name!r}.")


def optimizer_class(optimizer: str | type[Any]) -> type[Any]:
    """Return the class of an optimizer.

    Parameters
    ----------
    optimizer : str or type

    Returns
    -------
    type
    """
    return OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer


def check_optimizer(optimizer: str | type[Any]) -> None:
    """Check that an optimizer given as a class is one of torch's.

    Parameters
    ----------
    optimizer : str or type

    Raises
    ------
    TypeError
        If it is not.
    """
    if isinstance(optimizer, type) and not issubclass(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer={optimizer!r} is no class of torch.optim.Optimizer.")


def _is_of(key: str, name: str) -> bool:
    """Tell whether a key is a name, or a setting of something that the estimator controls."""
    ours = name.startswith(("callbacks__", "module", "criterion", "dataset", "iterator"))
    return key == name or (ours and key.startswith(f"{name}__"))


def without_callbacks(net_params: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters of a net without those of callbacks, which a pickle does not hold.

    Parameters
    ----------
    net_params : dict

    Returns
    -------
    dict
    """
    return {key: v for key, v in net_params.items() if not key.startswith("callbacks")}
