"""How a training goes: its settings, its length, its learning rates, and checks of parameters."""

from __future__ import annotations

import dataclasses
import math
import multiprocessing
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback, Freezer, Unfreezer
from torch import nn

from ..backbones.norm_statistics import (
    keeps_statistics,
    moments_of,
    norm_divergence,
    similarity_of_divergence,
)
from ..data import Target
from ..engines import fewer_rows
from ..features import Count
from ..transferability import MANY_CLASSES
from .adapters import describe_adapters, is_lora
from .augmentation import Augmentation
from .callbacks import has_callback
from .dataset import TrainingDataset
from .distributed import is_launched
from .trainable_stages import TrainableStages

# benchmarks/finetune_defaults.py measures what these defaults give.
_HEAD = 1e-4  # which begins as the linear probe, the best that is known
_UNLIKE, _LIKE = 3e-4, 5e-5  # of all stages, by the similarity of the rows
_LAST = 5e-5  # of some last stages
_LAYER_NORM = 1e-4  # of transformers
_WORDS = 3e-3  # each word occurs in few texts
_LORA = 1e-3  # ten times that of all weights (Schulman 2025, "LoRA without regret")
_PART = 3e-3  # of scales, shifts and biases alone
_DECAY = 0.8  # for each stage towards the input, on rows like those of the weights
_POWER = 4  # of the similarity: on drawings (0.3), any decay makes training worse
# For each block of a transformer for images (He et al., 2022, Masked autoencoders are scalable
# vision learners, table 9; Bao et al., 2022, BEiT, have 0.65 to 0.75).
_BLOCK_DECAY = 0.75
_TEXT_DECAY = 0.9  # for each block of a transformer for texts: benchmarks/text_decay.py
_STEPS = 120  # few rows need many passes, and many rows few
_PASSES = (4, 60)  # at least and at most
_SMALL, _SMALL_BATCH, _BATCH = 1000, 16, 32  # rows; rows in a step
# With many outputs the optimizer, which changes each weight of a head in each step, takes longer
# than the products of a batch of 32 rows.
_LARGE_BATCH, _FEWEST_PASSES = 256, 1


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
    head_factor: float = 1.0  # on the learning rate of the head: 10 for one of random weights

    @classmethod
    def of(cls, estimator: Any, target: Target, n_rows: int, seed: int) -> TrainingPlan:
        """Read the parameters of a fine-tuned estimator.

        Parameters
        ----------
        estimator : TunedEstimator
            If ``lr`` or ``layer_decay`` is no number, that of the plan is 1 until it is found.
        target : Target
        n_rows : int
        seed : int
        """
        net_params = dict(estimator.net_params or {})
        more = net_params.pop("callbacks", None) or ()
        n_classes = len(getattr(estimator, "classes_", ()))
        large_head = estimator.trainable == "head" and n_classes > MANY_CLASSES
        steps = estimator.batch_size, estimator.max_epochs
        batch_size, max_epochs = training_length(n_rows, *steps, large_head=large_head)
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


def training_length(
    n_rows: int, batch_size: int | str, max_epochs: int | str, *, large_head: bool = False
) -> tuple[int, int]:
    """Return how long a training is: the rows in a batch, and the number of epochs.

    Parameters
    ----------
    batch_size : int or "auto"
        "auto" is 16 for up to 1,000 rows, else 32.
    max_epochs : int or "auto"
        "auto" makes 120 steps, in at least 4 and at most 60 epochs.
    large_head : bool, default=False
        Whether only a head of more than 1,000 outputs is trained: a batch then has 256 rows, and
        one epoch can be enough.

    Returns
    -------
    batch_size, n_epochs : int
        A batch has no more rows than there are.
    """
    size, epochs = batch_size, max_epochs
    if isinstance(size, str):
        small = _SMALL_BATCH if n_rows <= _SMALL else _BATCH
        size = _LARGE_BATCH if large_head else small
    size = min(n_rows, size)
    if isinstance(epochs, str):
        fewest, most = _PASSES
        fewest = _FEWEST_PASSES if large_head else fewest
        epochs = min(most, max(fewest, round(_STEPS / math.ceil(n_rows / size))))
    return int(size), int(epochs)


def auto_rates(
    module: TrainableStages, dataset: TrainingDataset, n_frozen: int, device: torch.device
) -> tuple[float, float]:
    """Return a learning rate and its decay by stage that suit what is trained, and on what.

    Parameters
    ----------
    module : TrainableStages
        Before it is trained.
    n_frozen : int
        Number of stages before the module.

    Returns
    -------
    lr : float
        1e-4 for a head alone and for networks with layer normalization, which are transformers;
        3e-3 for word vectors, and for norms and biases alone; 1e-3 for low-rank adapters; 5e-5
        for some last stages of other networks. For all their stages, between 3e-4 and 5e-5, by
        the similarity of the rows to the data that the network was trained on.
    layer_decay : float
        For all stages between 1 and 0.8, by the fourth power of the same similarity; 0.75 for
        transformers for images (He et al., 2022, "Masked autoencoders are scalable vision
        learners") and 0.9 for those for texts; else 1.
    """
    if not module.names:
        return _HEAD, 1.0
    if module.part != "all":
        return (_LORA if module.part == "lora" else _PART), 1.0
    if hasattr(module.body[0], "restricted"):
        return _WORDS, 1.0
    # Such as LayerNorm2d, ConvNextLayerNorm, Qwen3RMSNorm.
    classes = [type(part).__name__.lower() for part in module.modules()]
    if any("layernorm" in name or "rmsnorm" in name for name in classes):
        # A traced block has the names of its modules, not their classes.
        names = [name.lower() for name, _ in module.body.named_modules()]
        if not any("attn" in name or "attention" in name for name in names):
            return _LAYER_NORM, 1.0
        return _LAYER_NORM, _TEXT_DECAY if module.masked else _BLOCK_DECAY
    if n_frozen:
        return _LAST, 1.0
    similarity = similarity_of(module, dataset, device) or 0.0
    lr, decay = _UNLIKE ** (1 - similarity) * _LIKE**similarity, _DECAY ** (similarity**_POWER)
    return float(f"{lr:.2g}"), float(f"{decay:.2g}")


_AT_MOST, _AT_ONCE = 64, 16  # rows


@torch.no_grad()
def similarity_of(
    module: TrainableStages, dataset: TrainingDataset, device: torch.device
) -> float | None:
    """Measure the similarity of rows to the training data of a network with batch normalization.

    Parameters
    ----------
    module : TrainableStages
        Before it is trained.
    dataset : TrainingDataset
        At most 64 are run.

    Returns
    -------
    float or None
        exp(-(2 d / 0.17)²), where d is the mean divergence of batch normalization layers: from 0,
        like noise, to 1. None if there are none, or if one row has no statistics.
    """
    norms: list[Any] = [m for m in module.body.modules() if keeps_statistics(m)]
    if len(dataset) < 2 or not any(norm.running_mean.any() for norm in norms):
        return None
    seen: dict[nn.Module, list] = {norm: [] for norm in norms}
    hooks = [
        norm.register_forward_pre_hook(lambda m, args: seen[m].append(moments_of(args[0])))
        for norm in norms
    ]
    module.to(device).eval()
    index = torch.linspace(0, len(dataset) - 1, min(len(dataset), _AT_MOST)).long()

    most_rows = _AT_ONCE
    while True:
        try:
            for part in index.split(most_rows):
                module(dataset.batch(part)[0]["x"].to(device))
            break
        except torch.OutOfMemoryError:
            if min(most_rows, len(index)) == 1:
                raise
        for moments in seen.values():
            moments.clear()
        most_rows = fewer_rows(most_rows, len(index))
    for hook in hooks:
        hook.remove()
    own = [np.concatenate(parts) for parts in seen.values() if parts]
    shares = dataset.processes.everyones(own)
    seen_norms = [norm for norm, parts in seen.items() if parts]
    together = map(np.concatenate, zip(*shares, strict=True))
    divergences = [norm_divergence(m, norm) for m, norm in zip(together, seen_norms, strict=True)]
    return similarity_of_divergence(float(np.mean(divergences)))


# -- checks of the parameters ----------------------------------------------------------------------

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
    if isinstance(augment := estimator.augment, Augmentation):
        transform, n_views = augment.transform, augment.n_views
        if not (callable(transform) or transform in ("light", "strong")):
            raise ValueError(
                f"augment={augment!r:.60}: transform is 'light', 'strong' or a callable, got "
                f"{transform!r:.60}."
            )
        if n_views is not None and not Count(1).is_satisfied_by(n_views):
            raise ValueError(
                f"augment={augment!r:.60}: n_views is a positive integer or None, got "
                f"{n_views!r:.60}."
            )
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
