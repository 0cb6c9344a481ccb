"""Train the last stages of a network with skorch, on the outputs of the frozen stages.

The frozen stages are not used here: their output is an array, so that training cannot change
them.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import skorch
import torch
from skorch import NeuralNet
from skorch.callbacks import Callback, Freezer, Unfreezer
from skorch.helper import predefined_split
from torch import nn

from .._compat.torch import COMPILED, uncompiled
from ..data import NumericTarget, Target, check_interrupt, kept_interrupts, was_interrupted
from ..engines import keep_freed_memory
from ..transferability import MANY_CLASSES
from .augmentation import check_augment
from .callbacks import KeepBest, StopOnNonFinite, WarmupCosine, own_copy, sets_learning_rate
from .checkpoint import TrainingFile, saving
from .dataset import Batches, TrainingDataset
from .distributed import ONE_PROCESS, InProcesses, Processes, is_launched
from .learning_rate import training_length
from .trainable_stages import TrainableStages, learned_stages
from .training_step import run_in_micro_batches, within_memory

__all__ = [
    "LOSSES",
    "TrainingPlan",
    "WeightedLoss",
    "by_row",
    "check_callback_names",
    "check_callbacks",
    "check_net_params",
    "check_settings",
    "make_net",
    "steps_of",
    "train",
    "trained_module",
    "weighted_mean",
    "without_callbacks",
]

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

        Returns
        -------
        TrainingPlan
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
            callbacks=[own_copy(c) for c in (*(estimator.callbacks or ()), *more)],
            net_params=net_params,
            verbose=max(0, estimator.verbose - 1),
            seed=seed,
            loss=estimator.loss,
            head_factor=_FRESH_HEAD if fresh_head else 1.0,
        )


def _number(value: str | float) -> float:
    # Searches give numbers of NumPy, which torch refuses in some places.
    return 1.0 if isinstance(value, str) else float(value)


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
    "optimizer__param_groups": "layer_decay",
    "iterator_train__batch_size": "batch_size",
    "iterator_train__seed": "random_state",
    "train_split": "validation_fraction",
    "module": "head",
    "criterion": "loss",
    "callbacks__best": "validation_fraction",
}
_OWN_NAMES: tuple[str, ...] = (
    "finite",
    "schedule",
    "best",
    "progress",
    "loss_monitor",
    "valid_loss",
    "train_loss",
)
_OWN_NAMES += ("epoch_timer", "print_log")


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
    check_callbacks(estimator.callbacks or (), "callbacks")
    check_net_params(estimator)
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
        "rehearsal=": getattr(estimator, "rehearsal", 0),
        "net_params['compile']": params.get("compile"),
        "Freezer or Unfreezer in callbacks": any(issubclass(k, Freezer | Unfreezer) for k in kinds),
        f"device={estimator.device!r}, which is one,": ":" in estimator.device,
    }
    for name, is_set in refused.items():
        if is_set:
            raise ValueError(f"{name} cannot be used in several processes: train in one.")


def check_net_params(estimator: Any) -> None:
    """Check that no parameter of the skorch net is one that the estimator sets.

    Parameters
    ----------
    estimator : TunedEstimator

    Raises
    ------
    TypeError
        If the optimizer is none of torch's.
    ValueError
        Naming the parameter to use.
    """
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
    optimizer = net_params.get("optimizer", torch.optim.AdamW)
    if not (isinstance(optimizer, type) and issubclass(optimizer, torch.optim.Optimizer)):
        raise TypeError(
            f"net_params['optimizer']={optimizer!r:.60} is no class of torch.optim.Optimizer."
        )
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


def by_row(loss: Callable[..., Any]) -> Callable[..., Any]:
    """Make a loss return a value for each row where it can.

    Parameters
    ----------
    loss : callable
        From outputs and targets. A module of torch with ``reduction`` is copied, and reduces
        nothing.

    Returns
    -------
    callable
    """
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        loss = copy.deepcopy(loss)
        vars(loss)["reduction"] = "none"
    return loss


def weighted_mean(
    loss: Callable[..., Any],
    output: torch.Tensor,
    target: torch.Tensor,
    weight: torch.Tensor | None,
) -> torch.Tensor:
    """Call a loss and compute the mean over rows of loss times weight.

    Parameters
    ----------
    loss : callable
    output : Tensor of shape (n, n_outputs)
    target : Tensor of shape (n,) or (n, n_outputs)
    weight : Tensor of shape (n,) or None

    Returns
    -------
    Tensor
        A number.

    Raises
    ------
    ValueError
        If the loss fails, returns something else than a tensor of one value or of one for each
        row, or returns their mean although rows differ in weight.
    """
    values = _call(loss, output, target)
    if values.ndim == 0:
        _check_equal(weight)
        return values if weight is None else values * weight[0]
    if len(values) != len(output):
        raise ValueError(
            f"loss={loss!r:.80} returned the shape {tuple(values.shape)} for {len(output)} rows: "
            "it must return a value for each row, or one."
        )
    rows = values.flatten(1).mean(dim=1) if values.ndim > 1 else values
    return (rows if weight is None else rows * weight).mean()


def _call(loss: Callable, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    try:
        values = loss(output, target)
    except Exception as error:  # of the user's function
        shapes = f"outputs {tuple(output.shape)}, targets {tuple(target.shape)} {target.dtype}"
        raise ValueError(f"loss={loss!r:.80} failed for {shapes}: {error}") from error
    if not isinstance(values, torch.Tensor):
        raise ValueError(f"loss={loss!r:.80} must return a tensor, got {type(values).__name__}.")
    return values


def _check_equal(weight: torch.Tensor | None) -> None:
    if weight is not None and not torch.equal(weight, weight[:1].expand_as(weight)):
        raise ValueError(
            "loss= returns the mean over rows, which cannot be weighted: return a value for each "
            "row, or give neither sample_weight nor class_weight."
        )


def _cross_entropy(output, target) -> torch.Tensor:
    return nn.functional.cross_entropy(output, target, reduction="none")


def _binary_cross_entropy(output, target) -> torch.Tensor:
    loss = nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none")
    return loss.mean(dim=1)


def _squared_error(output, target) -> torch.Tensor:
    return nn.functional.mse_loss(output, target, reduction="none").mean(dim=1)


# From outputs and targets to a loss for each row, by the name in a target.
LOSSES: dict[str, Callable[..., torch.Tensor]] = {
    "cross_entropy": _cross_entropy,
    "binary_cross_entropy": _binary_cross_entropy,
    "squared_error": _squared_error,
}


_WEIGHT_DECAY = 1e-4  # of AdamW
_FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


class WeightedLoss(nn.Module):
    """Compute the mean over a batch of loss times weight, if outputs come with weights.

    The sum is not divided by the weights of the batch: in a batch of one row its weight would
    have no effect.

    Parameters
    ----------
    target : Target
        Its ``loss`` is the name of the loss.
    loss : callable or "auto", default="auto"
        A loss of the user's, from outputs and targets; see :mod:`.training`.
    """

    own: Callable[..., Any] | None

    def __init__(self, target: Target, loss: str | Callable[..., Any] = "auto"):
        super().__init__()
        self.target = target
        self.own = None if isinstance(loss, str) else by_row(loss)

    def forward(self, output: torch.Tensor | tuple[Any, ...], target: torch.Tensor) -> torch.Tensor:
        output, weight = output if isinstance(output, tuple) else (output, None)
        output = cast(torch.Tensor, output)
        if self.own is not None:
            return weighted_mean(self.own, output, target, weight)
        loss = LOSSES[self.target.loss](output, target)  # (n,)
        return (loss if weight is None else loss * weight).mean()


def train(
    module: TrainableStages,
    rows: TrainingDataset,
    valid: TrainingDataset | None,
    plan: TrainingPlan,
    device: torch.device,
    file: TrainingFile | None = None,
    processes: Processes = ONE_PROCESS,
) -> skorch.NeuralNet:
    """Train a module in place and return the skorch net that did it.

    Parameters
    ----------
    module : TrainableStages
    rows : TrainingDataset
    valid : TrainingDataset or None
        If given, the epoch with the lowest loss on them is restored, epoch 0 (before training)
        included.
    plan : TrainingPlan
    device : torch.device
    file : TrainingFile, default=None
        Its training is continued, and saved after each epoch.
    processes : Processes, default=ONE_PROCESS
        Those that train the module together.

    Returns
    -------
    skorch.NeuralNet

    Raises
    ------
    FloatingPointError
        If the loss is not finite, or a weight at the end.
    torch.OutOfMemoryError
        If not even one row fits, or if batch norm that is trained needs the whole batch.
    """
    module.seed = plan.seed
    net = make_net(module, valid, plan, device)
    n_epochs = plan.max_epochs if file is None else file.n_left(plan.max_epochs)
    net.processes = processes
    try:
        with saving(net, file, module), keep_freed_memory():
            net.partial_fit(rows.to(device), y=None, epochs=n_epochs)
        # Rows that are not on an accelerator, for later trainings on the CPU.
        net.train_split = None if valid is None else predefined_split(valid.own())
        return net
    except KeyError as error:
        monitors = [str(getattr(callback, "monitor", "")) for _, callback in net.callbacks_]
        if valid is not None or not any("valid" in monitor for monitor in monitors):
            raise
        raise ValueError(
            "callbacks= need a validation loss, and there is no hold-out set: set "
            "validation_fraction, such as 0.2, or another monitor."
        ) from error
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "Batch norm that is trained (train_batch_norm=True, or in the head) needs at least two "
            f"rows in a batch: {len(rows)} rows, batch_size={plan.batch_size}."
        ) from error
    finally:
        net.processes = ONE_PROCESS


class _Interrupted(BaseException):
    """Replace KeyboardInterrupt of the user, which skorch would suppress."""


class _OwnLoop:
    """Extend skorch's loop.

    - Batches are run in micro-batches if memory is short or ``micro_batch_size`` is set; callbacks
      are called once for each batch.
    - KeyboardInterrupt of the user is raised again, where skorch would return a net that is
      partly trained. Callbacks raise it to stop training early, and still can: a handler tells
      the two apart, also where the user's comes during a callback or was dropped.
    - The module can be trained further after it was used for predictions, without gradients.
    """

    was_stopped = False  # by a callback
    attempt: Callable[..., Any]  # of InProcesses
    on_batches: Callable | None = None  # called with the batches of a training
    most_rows = 2**31  # of a micro-batch
    is_memory_short = False
    _share = 1.0  # of a micro-batch in the rows of its batch

    def partial_fit(self, *args, **kwargs):
        if self.initialized_:
            trained_module(self).unfreeze()
        try:
            with kept_interrupts():
                return super().partial_fit(*args, **kwargs)
        except _Interrupted:
            raise KeyboardInterrupt from None
        finally:
            trained_module(self).n_trainings += 1

    def get_iterator(self, dataset, training=False):
        batches = super().get_iterator(dataset, training=training)
        if training and self.on_batches is not None:
            self.on_batches(batches)
        return batches

    def notify(self, *args, **kwargs):
        try:
            super().notify(*args, **kwargs)
            check_interrupt()
        except KeyboardInterrupt:
            if was_interrupted():
                raise _Interrupted from None
            self.was_stopped = True
            raise

    def fit_loop(self, *args, **kwargs):
        try:
            return super().fit_loop(*args, **kwargs)
        except KeyboardInterrupt:
            if self.was_stopped:
                raise
            raise _Interrupted from None

    def train_step_single(self, batch, **fit_params):
        by_length = _saves_padding(self)
        return self._in_micro_batches(
            super().train_step_single, batch, fit_params, training=True, by_length=by_length
        )

    def validation_step(self, batch, **fit_params):
        return self._in_micro_batches(super().validation_step, batch, fit_params)

    def _in_micro_batches(
        self,
        step: Callable,
        batch: tuple,
        fit_params: dict,
        training: bool = False,
        by_length: bool = False,
    ) -> dict:
        """Run a step for each micro-batch, in fewer rows at a time if memory is short."""
        module = trained_module(self)
        seed, n_rows = module.seed, len(batch[1])
        is_whole = training and module.learns_statistics
        fewest = 2 if is_whole else 1

        def step_of_micro_batch(micro_batch: tuple, share: float) -> dict:
            self._share = share
            try:
                return step(micro_batch, **fit_params)
            finally:
                self._share = 1.0

        def run(most_rows: int) -> dict:
            module.seed = seed
            settings = (batch, most_rows, fewest, by_length)
            return self.attempt(
                lambda: run_in_micro_batches(step_of_micro_batch, *settings), n_rows
            )

        def check(error: Exception) -> None:
            if is_whole:
                raise torch.OutOfMemoryError(
                    f"A batch of {n_rows} does not fit into the device's memory, and batch norm "
                    "that is trained (train_batch_norm=True, or in the head) needs it whole. Set a "
                    "smaller batch_size."
                ) from error
            if not self.is_memory_short:
                self.is_memory_short = True
                warnings.warn(
                    f"A batch of {n_rows} does not fit into the device's memory: it is run in "
                    "parts whose gradients are added up, more slowly, with the same result except "
                    "for random numbers (dropout).",
                    stacklevel=2,
                )
            module.zero_grad(set_to_none=True)

        result, self.most_rows = within_memory(run, n_rows, self.most_rows, check)
        return result

    def get_loss(self, *args, **kwargs):
        loss = super().get_loss(*args, **kwargs)
        return loss if self._share == 1.0 else loss * self._share


class _ClassifierNet(InProcesses, _OwnLoop, skorch.NeuralNetClassifier):
    pass


class _IndicatorNet(InProcesses, _OwnLoop, skorch.NeuralNetClassifier):
    """Predict an indicator matrix instead of the most probable column."""

    def predict(self, X) -> np.ndarray:
        return (self.predict_proba(X) > 0.5).astype(int)


class _RegressorNet(InProcesses, _OwnLoop, skorch.NeuralNetRegressor):
    """Take and predict targets in output units; the module and the loss are standardised."""

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        target, y_true = self.criterion_.target, y_true.reshape(len(y_true), -1)
        mean, scale = (
            torch.as_tensor(x, device=y_true.device) for x in (target.mean, target.scale)
        )
        return super().get_loss(y_pred, ((y_true - mean) / scale).float(), *args, **kwargs)


def _saves_padding(net: Any) -> bool:
    """Tell whether rows of a batch are run by length: on a CPU, where small parts are fast."""
    module = trained_module(net)
    is_whole = module.learns_statistics or net.criterion_.own is not None
    is_plain = net.module_ is module and torch.device(net.device).type == "cpu"
    return module.is_encoder and is_plain and not is_whole


def trained_module(net: skorch.NeuralNet) -> TrainableStages:
    """Return the module that a net trains, without the wrapper of a compiled module."""
    return uncompiled(net.module_)


def make_net(
    module: TrainableStages, valid: TrainingDataset | None, plan: TrainingPlan, device: torch.device
) -> NeuralNet:
    """Assemble and initialize the skorch net: what to train, how, and with which callbacks."""
    objective = _OBJECTIVES[plan.target.loss]
    settings = {
        "max_epochs": plan.max_epochs,
        "batch_size": plan.batch_size,
        "iterator_train": Batches,
        "iterator_train__seed": plan.seed,
        "iterator_train__in_pairs": module.learns_statistics,
        "iterator_valid": Batches,
        "train_split": None if valid is None else predefined_split(valid.to(device)),
        "criterion": WeightedLoss(plan.target, plan.loss),
        "predict_nonlinearity": functools.partial(objective.nonlinearity, target=plan.target),
        "device": str(device),
        "verbose": plan.verbose,
        "callbacks": _callbacks(module, valid, plan),
        **_optimizer(module, plan, device),
    }
    if objective.classes is not None:
        settings["classes"] = objective.classes(plan.target.n_outputs)
        settings["callbacks__valid_acc"] = None  # not a column of the history by default
    try:
        net = objective.net(module, **settings | plan.net_params).initialize()
        net.most_rows = plan.micro_batch_size
        check_callback_names(net, plan.net_params)
        return net
    except Exception as error:  # of skorch, the optimizer or the compiler
        if not plan.net_params:
            raise
        raise ValueError(f"net_params={plan.net_params!r:.150} cannot be used: {error}") from error


@dataclasses.dataclass(frozen=True)
class _Objective:
    """Hold the net of a kind of target.

    Parameters
    ----------
    nonlinearity : callable
        From outputs and the target to predictions of the skorch net.
    net : type
        The skorch net.
    classes : callable, default=None
        From the number of outputs to ``classes_`` of the net, by which the scorers of
        scikit-learn distinguish an indicator matrix from one label per sample.
    """

    nonlinearity: Callable
    net: type
    classes: Callable | None = None


def _softmax(output: torch.Tensor, target: Target) -> torch.Tensor:
    return output.softmax(dim=-1)


def _sigmoid(output: torch.Tensor, target: Target) -> torch.Tensor:
    return output.sigmoid()


def _in_units(output: torch.Tensor, target: NumericTarget) -> torch.Tensor:
    return torch.from_numpy(target.in_units(output.numpy(force=True)))


_OBJECTIVES = {
    "cross_entropy": _Objective(_softmax, _ClassifierNet, lambda n_classes: list(range(n_classes))),
    "binary_cross_entropy": _Objective(
        _sigmoid, _IndicatorNet, lambda n_labels: [[0, 1]] * n_labels
    ),
    "squared_error": _Objective(_in_units, _RegressorNet),
}


def _pattern(stage: int, plan: TrainingPlan) -> str:
    """Return a pattern for the names of the parameters of a stage; compiling adds a prefix."""
    return f"{COMPILED * bool(plan.net_params.get('compile'))}body.{stage}.*"


def _optimizer(module: TrainableStages, plan: TrainingPlan, device: torch.device) -> dict:
    """Return the optimizer, and a learning rate for each stage that decreases towards the input."""
    optimizer = plan.net_params.get("optimizer", torch.optim.AdamW)
    settings: dict = {"optimizer": optimizer, "lr": plan.lr}
    if optimizer is torch.optim.AdamW:
        settings["optimizer__weight_decay"] = _WEIGHT_DECAY
    if device.type == "cuda" and optimizer in _FUSED:
        settings["optimizer__fused"] = True
    groups = [
        (_pattern(i, plan), {"lr": plan.lr * plan.layer_decay**depth})
        for depth, i in enumerate(reversed(learned_stages(module)))
    ][::-1]
    name, head = groups[-1]
    groups[-1] = (name, {"lr": head["lr"] * plan.head_factor})
    return settings | {"optimizer__param_groups": groups}


def _callbacks(module: TrainableStages, valid: TrainingDataset | None, plan: TrainingPlan) -> list:
    callbacks: list = [("finite", StopOnNonFinite())]
    if not any(map(sets_learning_rate, plan.callbacks)):
        callbacks.append(("schedule", WarmupCosine(in_pairs=module.learns_statistics)))
    if valid is not None:
        callbacks.append(("best", KeepBest()))
    return callbacks + plan.callbacks
