"""Settings of a training: checks of the parameters, and the plan that is made of them."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from numbers import Integral, Real
from typing import Any

import skorch
import torch
from skorch.callbacks import Callback, Freezer, Unfreezer

from ..data import Target
from ..transferability import MANY_CLASSES
from .adapters import describe_adapters, is_lora
from .augmentation import check_augment
from .callbacks import has_callback
from .distributed import is_launched
from .learning_rate import training_length

_FRESH_HEAD = 10.0  # factor on the learning rate of a head that is initialized at random


@dataclasses.dataclass
class TrainingPlan:
    """Hold the settings of a training, most of them parameters of the estimators."""

    target: Target
    lr: float
    layer_decay: float
    max_epochs: int
    batch_size: int
    micro_batch_size: int
    callbacks: list[Any]
    net_params: dict[str, Any]
    verbose: int
    seed: int
    loss: str | Callable[..., Any] = "auto"
    head_factor: float = 1.0  # on the learning rate of the head

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
        """
        net_params = dict(estimator.net_params or {})
        more = net_params.pop("callbacks", None) or ()
        batch_size, max_epochs = steps_of(estimator, n_rows)
        return cls(
            target=target,
            lr=_number(estimator.lr),
            layer_decay=_number(estimator.layer_decay),
            max_epochs=max_epochs,
            batch_size=batch_size,
            micro_batch_size=int(estimator.micro_batch_size or batch_size),
            callbacks=list(map(_own_copy, (*(estimator.callbacks or ()), *more))),
            net_params=net_params,
            verbose=max(0, estimator.verbose - 1),
            seed=seed,
            loss=estimator.loss,
            head_factor=_FRESH_HEAD if fresh_head else 1.0,
        )


def _number(value: str | float) -> float:
    # Searches give numbers of NumPy, which torch refuses in some places.
    return 1.0 if isinstance(value, str) else float(value)


def _own_copy(callback: Any) -> Any:
    """Copy a callback, since training changes it; return it as it is if it cannot be copied."""
    try:
        return deepcopy(callback)
    except Exception:  # such as one that holds an open file
        return callback


def steps_of(estimator: Any, n_rows: int) -> tuple[int, int]:
    """Return the rows in a batch and the number of epochs.

    Parameters
    ----------
    estimator : TunedEstimator
    n_rows : int

    Returns
    -------
    batch_size, max_epochs : int
    """
    n_outputs = len(getattr(estimator, "classes_", ()))
    large_head = estimator.trainable == "head" and n_outputs > MANY_CLASSES
    settings = estimator.batch_size, estimator.max_epochs
    return training_length(n_rows, *settings, large_head=large_head)


# Parameters of skorch's net that ``net_params`` may set, and parameters of these.
_FREE = ("optimizer", "callbacks", "compile", "torch_load_kwargs", "use_caching")
# The parameter of the estimators that sets others.
_SET_BY = {
    "optimizer__lr": "lr",
    "iterator_train__batch_size": "batch_size",
    "iterator_train__seed": "random_state",
    "train_split": "validation_fraction",
    "module": "head",
    "criterion": "loss",
    "callbacks__best": "validation_fraction",
}
_OWN_NAMES = frozenset(["finite", "schedule", "best", "progress", "loss_monitor"]) | {
    *("valid_loss", "train_loss", "epoch_timer", "print_log")
}


def check_settings(estimator: Any) -> None:
    """Check what the table of constraints cannot express.

    Parameters
    ----------
    estimator : TunedEstimator

    Raises
    ------
    ValueError, TypeError
    """
    check_augment(estimator.augment)
    if isinstance(loss := estimator.loss, type):
        name = f"{'nn.' if loss.__module__.startswith('torch.nn') else ''}{loss.__name__}"
        raise ValueError(f"loss={name} is a class: give an object of it, loss={name}().")
    if is_lora(estimator.trainable):
        describe_adapters(estimator.trainable)
    elif not isinstance(estimator.trainable, str | Integral):
        raise TypeError(
            f"trainable={estimator.trainable!r:.60} is no name, no number or LoraConfig."
        )
    _check_callbacks(estimator.callbacks or (), "callbacks")
    _check_net_params(estimator)
    if is_launched():
        _refuse_in_processes(estimator)


def _refuse_in_processes(estimator: Any) -> None:
    """Refuse parameters of a fine-tuned estimator that several processes cannot train with."""
    params = estimator.net_params or {}
    callbacks = [*(estimator.callbacks or ()), *(params.get("callbacks") or ())]
    is_worker = multiprocessing.current_process().name.startswith("LokyProcess")
    refused = {
        "n_jobs= of a search": is_worker
        or threading.current_thread() is not threading.main_thread(),
        "train_batch_norm=True": estimator.train_batch_norm,
        "rehearsal=": getattr(estimator, "rehearsal", 0),
        "net_params['compile']": params.get("compile"),
        "Freezer or Unfreezer in callbacks": has_callback(callbacks, Freezer, Unfreezer),
        f"device={estimator.device!r}, which is one,": ":" in estimator.device,
    }
    for name, is_set in refused.items():
        if is_set:
            raise ValueError(f"{name} cannot be used in several processes: train in one.")


def _check_net_params(estimator: Any) -> None:
    """Check that no parameter of the skorch net is one that the estimator sets."""
    net_params, own = estimator.net_params or {}, estimator.get_params(deep=False)
    for key in net_params:
        if not isinstance(key, str):
            raise ValueError(f"net_params has the key {key!r:.60}: keys are names of parameters.")
        parts = key.split("__")
        parameter = _SET_BY.get("__".join(parts[:2]), _SET_BY.get(parts[0]))
        if key in own and key != "callbacks":
            parameter = key
        if parameter is not None:
            raise ValueError(f"net_params[{key!r}]: use the estimator's parameter {parameter}.")
        ours = parts[0] == "callbacks" and parts[1:2] and parts[1] in _OWN_NAMES
        if parts[0] not in _FREE or (ours and parts[1] != "schedule"):
            raise ValueError(f"net_params[{key!r}] cannot be set: training depends on it.")
    groups = net_params.get("optimizer__param_groups") or ()
    pairs = [group for group in groups if isinstance(group, tuple | list) and len(group) == 2]
    if len(pairs) < len(groups) or not all(
        isinstance(pattern, str) and isinstance(settings, Mapping) for pattern, settings in pairs
    ):
        raise TypeError(
            f"net_params['optimizer__param_groups']={groups!r:.80}: give pairs of a pattern of "
            "names and settings, such as [('new_head.*', {'lr': 0.01}), ('*.bias', {'lr': 0.1})]."
        )
    optimizer = net_params.get("optimizer", torch.optim.AdamW)
    if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
        raise TypeError(
            f"net_params['optimizer']={optimizer!r:.60} is no class of torch.optim.Optimizer."
        )
    _check_groups(pairs, optimizer, net_params)
    _check_callbacks(net_params.get("callbacks") or (), "net_params['callbacks']")


def _check_groups(
    groups: Sequence[Any], optimizer: type[torch.optim.Optimizer], net_params: Mapping[str, Any]
) -> None:
    """Check the settings of groups of parameters; torch keeps unknown ones without a word."""
    known = _known_settings(optimizer, net_params) if groups else None
    for pattern, settings in groups:
        of = f"net_params['optimizer__param_groups'], settings of {pattern!r:.60}"
        for key in settings:
            if key == "params" or (known is not None and key not in known):
                known_ones = f": its settings are {known}" if known else ""
                raise ValueError(f"{of}: {optimizer.__name__} takes no {key!r:.60}{known_ones}.")
        lr = settings.get("lr", 0.0)
        if not isinstance(lr, Real) or not math.isfinite(lr) or lr < 0:
            raise ValueError(f"{of}: lr={lr!r:.60} is no finite number of at least 0.")


def _known_settings(
    optimizer: type[torch.optim.Optimizer], net_params: Mapping[str, Any]
) -> list[str] | None:
    """Return the settings that a group of parameters can have, or None if they are not known."""
    named = {key.partition("__")[::2]: value for key, value in net_params.items()}
    given = {name: value for (first, name), value in named.items() if first == "optimizer" and name}
    given.pop("param_groups", None)
    try:
        make: Any = optimizer
        return sorted(make([torch.nn.Parameter(torch.zeros(1, 1))], lr=1e-3, **given).defaults)
    except Exception:  # training will say what it cannot use
        return None


def _check_callbacks(callbacks: Sequence[Any], name: str) -> None:
    """Check that callbacks are those of skorch, or pairs of a name that is free and one of them."""
    if not isinstance(callbacks, list | tuple):
        raise TypeError(f"{name} must be a list of skorch callbacks, got {callbacks!r:.60}.")
    taken = set(_OWN_NAMES)
    for i, entry in enumerate(callbacks):
        named = isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str)
        callback = entry[1] if named else entry
        if isinstance(callback, tuple) or not has_callback([callback], Callback):
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
