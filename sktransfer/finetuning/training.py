"""Train the last stages of a network with skorch, on the outputs of the frozen stages.

The frozen stages are not used here: their output is an array, so that training cannot change
them.
"""

from __future__ import annotations

import contextlib
import copy
import fnmatch
import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import skorch
import torch
from skorch import NeuralNet
from skorch.callbacks import LRScheduler
from skorch.helper import predefined_split
from skorch.utils import to_tensor
from torch import nn

from .._compat.torch import COMPILED, uncompiled
from ..data import NumericTarget, Target, check_interrupt, kept_interrupts, was_interrupted
from ..engines import fewer_rows, keep_freed_memory
from .callbacks import KeepBest, StopOnNonFinite, WarmupCosine, has_callback
from .checkpoint import SaveTraining, TrainingFile
from .dataset import Batches, TrainingDataset
from .distributed import ONE_PROCESS, Processes
from .plan import TrainingPlan
from .trainable_stages import TrainableStages

_WEIGHT_DECAY = 1e-4  # of AdamW
_TOKENS = 128  # of a micro-batch, about; products of smaller matrices take longer for each row
_FUSED = (torch.optim.AdamW, torch.optim.Adam, torch.optim.SGD)


def train(
    module: TrainableStages,
    dataset: TrainingDataset,
    valid: TrainingDataset | None,
    plan: TrainingPlan,
    device: torch.device,
    file: TrainingFile | None = None,
    processes: Processes = ONE_PROCESS,
) -> NeuralNet:
    """Train a module in place and return the skorch net that did it, both on the CPU.

    Parameters
    ----------
    valid : TrainingDataset or None
        If given, the epoch with the lowest loss on it is restored, epoch 0 (before training)
        included.
    file : TrainingFile, default=None
        Its training is continued, and saved after each epoch.
    processes : Processes, default=ONE_PROCESS
        Those that train the module together.

    Raises
    ------
    FloatingPointError
        If the loss is not finite, or a weight at the end.
    torch.OutOfMemoryError
        If not even one row fits, or if batch norm that is trained needs the whole batch.
    """
    module.seed = plan.seed
    net = make_net(module, valid, plan, device)
    n_epochs = plan.max_epochs
    if file is not None:
        n_epochs = file.n_left(plan.max_epochs)
        # The last callback, so that the others have done their part of an epoch.
        net.callbacks_.append(("checkpoint", SaveTraining(file, module)))
    net.processes = processes
    try:
        with keep_freed_memory():
            net.partial_fit(dataset.to(device), y=None, epochs=n_epochs)
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
            f"rows in a batch: {len(dataset)} rows, batch_size={plan.batch_size}."
        ) from error
    if file is not None:
        net.callbacks_.pop()
    net.processes = ONE_PROCESS
    # For later trainings on the CPU: the module, the rows, and the state of the optimizer, which
    # moves to the device of the parameters when it is loaded.
    module.to("cpu")
    net.device = "cpu"
    net.optimizer_.load_state_dict(net.optimizer_.state_dict())
    net.train_split = None if valid is None else predefined_split(valid.own())
    return net


def make_net(
    module: TrainableStages,
    valid: TrainingDataset | None,
    plan: TrainingPlan,
    device: torch.device,
) -> NeuralNet:
    """Assemble and initialize the skorch net: what to train, how, and with which callbacks."""
    net_class = _NETS[plan.target.loss]
    callbacks: list[Any] = [("finite", StopOnNonFinite())]
    if not has_callback(plan.callbacks, LRScheduler):
        callbacks.append(("schedule", WarmupCosine(in_pairs=module.learns_statistics)))
    if valid is not None:
        callbacks.append(("best", KeepBest()))
    settings = {
        "max_epochs": plan.max_epochs,
        "batch_size": plan.batch_size,
        "iterator_train": Batches,
        "iterator_train__seed": plan.seed,
        "iterator_train__in_pairs": module.learns_statistics,
        "iterator_valid": Batches,
        "train_split": None if valid is None else predefined_split(valid.to(device)),
        "criterion": WeightedLoss(plan.target, plan.loss),
        "device": str(device),
        "verbose": plan.verbose,
        "callbacks": callbacks + plan.callbacks,
        **net_class.settings_for(plan.target),
        **_optimizer(module, plan, device),
    }
    try:
        groups = {"optimizer__param_groups": settings["optimizer__param_groups"]}
        net = net_class(module, **settings | plan.net_params | groups).initialize()
        net.most_rows = plan.micro_batch_size
        for key, value in plan.net_params.items():  # skorch ignores those of no callback
            first, _, rest = key.partition("__")
            name = rest.partition("__")[0]
            if first == "callbacks" and value is not None and name not in dict(net.callbacks_):
                raise ValueError(f"{key}: no callback is called {name!r}.")
        return net
    except Exception as error:  # of skorch, the optimizer or the compiler
        if not plan.net_params:
            raise
        raise ValueError(f"net_params={plan.net_params!r:.150} cannot be used: {error}") from error


def _optimizer(module: TrainableStages, plan: TrainingPlan, device: torch.device) -> dict:
    """Return the optimizer, and a learning rate for each stage that decreases towards the input."""
    optimizer = plan.net_params.get("optimizer", torch.optim.AdamW)
    settings: dict = {"optimizer": optimizer, "lr": plan.lr}
    if optimizer is torch.optim.AdamW:
        settings["optimizer__weight_decay"] = _WEIGHT_DECAY
    if device.type == "cuda" and optimizer in _FUSED:
        settings["optimizer__fused"] = True
    has_parameters = [any(True for _ in stage.parameters()) for stage in module.body]
    learned = [i for i, has in enumerate(has_parameters) if has]  # the head is the last
    prefix = COMPILED if plan.net_params.get("compile") else ""
    names = module.stage_names()
    given = plan.net_params.get("optimizer__param_groups") or ()
    used, covered, own, groups = set(), {}, [], []
    for depth, i in enumerate(reversed(learned)):
        rate = plan.lr * plan.layer_decay**depth * (1.0 if depth else plan.head_factor)
        groups.append((f"{prefix}body.{i}.*", {"lr": rate}))
        for name, _ in module.body[i].named_parameters() if given else ():
            path = f"{names[i]}.{name}"
            fits = [k for k, (p, _) in enumerate(given) if fnmatch.fnmatchcase(path, p)]
            for k in fits[:1]:  # skorch gives a parameter to the first group whose pattern fits
                own_rate = {"lr": float(given[k][1].get("lr", rate))}
                own.append((f"{prefix}body.{i}.{name}", {**given[k][1], **own_rate}))
                used.add(k)
                covered.update(dict.fromkeys(fits[1:], given[k][0]))
    for k, first in covered.items():
        if k not in used:
            raise ValueError(
                f"optimizer__param_groups: earlier patterns, such as {first!r}, have all "
                f"parameters that fit {given[k][0]!r}. The first pattern that fits a parameter "
                f"counts: put {given[k][0]!r} before it."
            )
    unused = [pattern for k, (pattern, _) in enumerate(given) if k not in used]
    if unused:
        raise ValueError(
            f"optimizer__param_groups: no parameter that is trained fits {unused}. The stages are "
            f"{[names[i] for i in learned]}, and a pattern is one of <stage>.<parameter>, such as "
            f"'{names[learned[0]]}.*' or '*.bias'."
        )
    return settings | {"optimizer__param_groups": own + groups[::-1]}


# -- the net -----------------------------------------------------------------------------------


class _Interrupted(BaseException):
    """Replace KeyboardInterrupt of the user, which skorch would suppress."""


class TrainingNet(NeuralNet):
    """Extend the loop of skorch.

    - A batch is run in micro-batches if ``micro_batch_size`` is set, memory is short, or texts
      differ in length; callbacks are called once for each batch.
    - KeyboardInterrupt of the user is raised again, where skorch would return a net that is
      partly trained. Callbacks raise it to stop training early, and still can: a handler tells
      the two apart, also where the user's comes during a callback or was dropped.
    - The module can be trained further after it was used for predictions, without gradients.
    - Several processes can train together. Callbacks get losses, outputs and targets of whole
      batches, so that all decide the same. ``module_`` is always the module itself; ``infer``
      calls the one in DistributedDataParallel.
    """

    processes: Processes = ONE_PROCESS
    was_stopped: bool = False  # by a callback
    train_batches: Batches | None = None  # of the training that runs
    most_rows: int = 2**31  # of a micro-batch
    is_memory_short: bool = False
    _stops = False  # whether a callback stops the training

    def partial_fit(self, *args: Any, **kwargs: Any) -> Any:
        if self.initialized_:
            uncompiled(self.module_).unfreeze()
        try:
            with kept_interrupts():
                return super().partial_fit(*args, **kwargs)
        except _Interrupted:
            raise KeyboardInterrupt from None
        finally:
            self.train_batches = None
            uncompiled(self.module_).n_trainings += 1

    def fit_loop(self, *args: Any, **kwargs: Any) -> Any:
        self.was_stopped = False
        try:
            return super().fit_loop(*args, **kwargs)
        except KeyboardInterrupt:
            if self.was_stopped:
                raise
            raise _Interrupted from None

    def get_iterator(self, dataset: Any, training: bool = False) -> Any:
        batches = super().get_iterator(dataset, training=training)
        if training:
            self.train_batches = batches
        return batches

    def train_step_single(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        processes, module = self.processes, self.module_
        if processes.size > 1 and processes.trained is None:
            buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
            seed = module.seed
            self._step(batch, True, fit_params)  # a rehearsal, which shows what is trained
            module.seed = seed
            processes.wrap(module, buffers)
        return processes.whole_step(self._step(batch, True, fit_params), batch)

    def validation_step(self, batch: Any, **fit_params: Any) -> dict[str, Any]:
        with torch.no_grad():
            return self.processes.whole_step(self._step(batch, False, fit_params), batch)

    def _step(self, batch: tuple, training: bool, fit_params: dict) -> dict[str, Any]:
        """Run a batch in micro-batches; where memory is short, in smaller ones in all processes."""
        module, n_rows = uncompiled(self.module_), len(batch[1])
        learns_statistics = training and module.learns_statistics
        # Rows are run by length on a CPU, where small micro-batches are fast.
        is_whole = module.learns_statistics or self.criterion_.is_own
        is_plain = self.module_ is module and torch.device(self.device).type == "cpu"
        by_length = training and module.is_encoder and is_plain and not is_whole
        seed = module.seed
        self.module_.train(training)
        self.criterion_.train(training)
        while True:
            module.seed = seed
            fewest_rows = 2 if learns_statistics else 1
            micro_batches, order = split_batch(batch, self.most_rows, fewest_rows, by_length)
            try:
                loss, outputs = self._run_micro_batches(micro_batches, training, fit_params)
                return {"loss": loss, "y_pred": join_outputs(outputs, order)}
            except torch.OutOfMemoryError as error:
                if min(self.most_rows, n_rows) == 1:
                    raise
                self._warn_of_memory(error, n_rows, learns_statistics)
                module.zero_grad(set_to_none=True)
            # Outside the except block, where the error no longer refers to tensors of the batch.
            del micro_batches
            self.most_rows = fewer_rows(self.most_rows, n_rows)

    def _run_micro_batches(
        self, micro_batches: list, training: bool, fit_params: dict
    ) -> tuple[torch.Tensor, list]:
        """Add up the losses and gradients of micro-batches, and return their outputs."""
        trained: Any = self.processes.trained if training else None
        n_rows, is_ready = sum(len(target) for _, target in micro_batches), False
        losses, outputs = [], []
        try:
            for number, (inputs, target) in enumerate(micro_batches, start=1):
                is_last = number == len(micro_batches)
                is_alone = trained is None or is_last
                with contextlib.nullcontext() if is_alone else trained.no_sync():
                    output = self.infer(inputs, **fit_params)
                    loss = self.get_loss(output, target, X=inputs, training=training)
                    if len(target) < n_rows:
                        loss = loss * (len(target) / n_rows)
                    if is_last:
                        is_ready = True
                        self.processes.agree()  # the gradients are averaged over all processes
                    if training:
                        loss.backward()
                losses.append(loss.detach())
                is_tensor = isinstance(output, torch.Tensor)
                outputs.append(output.detach() if is_tensor else [o.detach() for o in output])
        except Exception as error:
            if not is_ready:
                self.processes.agree(error)
            raise
        return sum(losses), outputs

    def _warn_of_memory(self, error: Exception, n_rows: int, learns_statistics: bool) -> None:
        if learns_statistics:
            raise torch.OutOfMemoryError(
                f"A batch of {n_rows} does not fit into the device's memory, and batch norm that "
                "is trained (train_batch_norm=True, or in the head) needs it whole. Set a smaller "
                "batch_size."
            ) from error
        if not self.is_memory_short:
            self.is_memory_short = True
            warnings.warn(
                f"A batch of {n_rows} does not fit into the device's memory: it is run in parts "
                "whose gradients are added up, more slowly, with the same result except for "
                "random numbers (dropout).",
                stacklevel=2,
            )

    def infer(self, x: Any, **fit_params: Any) -> Any:
        trained = self.processes.trained
        if trained is None or not torch.is_grad_enabled():
            return super().infer(x, **fit_params)
        return trained(**to_tensor(x, device=self.device), **fit_params)

    def evaluation_step(self, batch: Any, training: bool = False) -> Any:
        outputs = super().evaluation_step(batch, training=training)
        if not hasattr(batch[0], "places"):  # not of the samples that the processes share
            return outputs
        self.processes.agree()
        return self.processes.whole_outputs(outputs, batch[0])

    def notify(self, method_name: str, **kwargs: Any) -> None:
        processes = self.processes
        if processes.size > 1 and method_name == "on_batch_end":
            inputs, prefix = kwargs["batch"][0], "train" if kwargs["training"] else "valid"
            self.history.record_batch(f"{prefix}_batch_size", len(inputs.target))
            kwargs["batch"] = inputs, inputs.target
        try:
            super().notify(method_name, **kwargs)
            check_interrupt()
        except KeyboardInterrupt:
            if was_interrupted():
                raise _Interrupted from None
            self._stops = True  # the way to stop a training in skorch
        stops = self._stops
        if processes.size > 1:
            processes.check_trained(self.module_)
            asks = method_name in ("on_batch_end", "on_epoch_begin", "on_epoch_end")
            stops = asks and processes.agree(stop=self._stops)
        if stops:
            self._stops, self.was_stopped = False, True
            raise KeyboardInterrupt


# -- micro-batches -------------------------------------------------------------------------------


def split_batch(
    batch: tuple[Any, Any], most_rows: int, fewest_rows: int = 1, by_length: bool = False
) -> tuple[list[tuple[Any, Any]], torch.Tensor]:
    """Split a batch into micro-batches.

    With ``by_length``, texts of similar length are together, the shortest first, since a
    micro-batch is as long as its longest row.

    Parameters
    ----------
    batch : tuple of (Tensor or dict of str to Tensor, Tensor)
        Inputs and targets. With ``by_length`` the inputs are ids of tokens ``(n, L)`` or vectors
        ``(n, L, d)``, and zero behind the last token of a row.
    most_rows : int
        Most rows of a micro-batch, unless ``fewest_rows`` makes it larger. Micro-batches differ by
        one row at most.

    Returns
    -------
    micro_batches : list of tuple
        Each like the batch.
    order : Tensor of int of shape (n,)
        The position in the batch of each row of the micro-batches.
    """
    n_rows = len(batch[1])
    order = torch.arange(n_rows)
    if by_length:
        lengths = _lengths(batch[0])
        order = lengths.argsort(stable=True)
        n_parts = min(n_rows, max(1, int(lengths.sum()) // _TOKENS))
        most_rows = min(most_rows, math.ceil(n_rows / n_parts))
    n_parts = max(1, min(math.ceil(n_rows / most_rows), n_rows // fewest_rows))
    if n_parts == 1 and not by_length:
        return [batch], order
    micro_batches = []
    for rows in order.tensor_split(n_parts):
        inputs, target = _taken(batch, rows)
        if by_length:
            longest = _lengths(inputs).max()
            is_named = isinstance(inputs, dict)
            inputs = inputs | {"x": inputs["x"][:, :longest]} if is_named else inputs[:, :longest]
        micro_batches.append((inputs, target))
    return micro_batches, order


def join_outputs(outputs: list[Any], order: torch.Tensor) -> Any:
    """Join the outputs of micro-batches, their rows in the order of the batch.

    Parameters
    ----------
    outputs : list of Tensor, or of sequence of Tensor
        Of each micro-batch.
    order : Tensor of int
        As :func:`split_batch` returns it.

    Returns
    -------
    Tensor or tuple of Tensor
    """
    if isinstance(outputs[0], torch.Tensor):
        return _taken(torch.cat(outputs), order.argsort())
    return tuple(join_outputs(list(each), order) for each in zip(*outputs, strict=True))


def _lengths(inputs: Any) -> torch.Tensor:
    """Return the place of the last token of each row, at least 1."""
    x = inputs["x"] if isinstance(inputs, dict) else inputs
    tokens = x != 0 if x.ndim == 2 else x.abs().flatten(2).amax(-1) != 0  # (n, L)
    places = torch.arange(1, x.shape[1] + 1, device=x.device)
    return torch.where(tokens, places, 1).amax(1)


def _taken(values: Any, rows: torch.Tensor) -> Any:
    """Take rows of a tensor, or of each tensor in a tuple or a dictionary."""
    if isinstance(values, dict):
        return {name: _taken(each, rows) for name, each in values.items()}
    if isinstance(values, tuple | list):
        return tuple(_taken(each, rows) for each in values)
    return values[rows.to(values.device)]


# -- losses ------------------------------------------------------------------------------------


class WeightedLoss(nn.Module):
    """Compute the mean over a batch of loss times weight, if outputs come with weights.

    The sum is not divided by the weights of the batch: in a batch of one row its weight would
    have no effect.

    Parameters
    ----------
    target : Target
        Its ``loss`` is the name of the loss.
    loss : callable or "auto", default="auto"
        A loss of the user's, from outputs and targets. A module of torch with ``reduction`` is
        copied, and reduces nothing.

    Raises
    ------
    ValueError
        If the loss of the user's fails, returns something else than a tensor of one value or of
        one for each row, or one without a gradient, or returns their mean although rows differ in
        weight.
    """

    is_own: bool
    shown: str

    def __init__(self, target: Target, loss: str | Callable[..., Any] = "auto"):
        super().__init__()
        self.target = target
        self.is_own = not isinstance(loss, str)
        self.loss: Any = loss if self.is_own else _LOSSES[target.loss]()
        self.shown = f"loss={loss!r:.80}"  # in errors
        if isinstance(self.loss, nn.Module) and hasattr(self.loss, "reduction"):
            self.loss = copy.deepcopy(self.loss)
            vars(self.loss)["reduction"] = "none"

    def forward(self, output: torch.Tensor | tuple[Any, ...], target: torch.Tensor) -> torch.Tensor:
        output, weight = output if isinstance(output, tuple) else (output, None)
        output = cast(torch.Tensor, output)
        try:
            values = self.loss(output, target)
        except torch.OutOfMemoryError:
            raise  # the batch is run in parts
        except Exception as error:  # of the user's function
            shapes = f"outputs {tuple(output.shape)}, targets {tuple(target.shape)} {target.dtype}"
            raise ValueError(f"{self.shown} failed for {shapes}: {error}") from error
        if not isinstance(values, torch.Tensor):
            raise ValueError(f"{self.shown} must return a tensor, got {type(values).__name__}.")
        if values.ndim and len(values) != len(output):
            raise ValueError(
                f"{self.shown} returned the shape {tuple(values.shape)} for {len(output)} rows: "
                "it must return a value for each row, or one."
            )
        if torch.is_grad_enabled() and output.requires_grad and not values.requires_grad:
            raise ValueError(
                f"{self.shown} returned a tensor without a gradient: compute it from the outputs, "
                "by functions of torch alone."
            )
        if values.ndim == 0:
            if weight is not None and not torch.equal(weight, weight[:1].expand_as(weight)):
                raise ValueError(
                    "loss= returns the mean over rows, which cannot be weighted: return a value "
                    "for each row, or give neither sample_weight nor class_weight."
                )
            return values if weight is None else values * weight[0]
        rows = values.flatten(1).mean(dim=1) if values.ndim > 1 else values
        return (rows if weight is None else rows * weight).mean()


# By the name of the loss in a target.
_LOSSES = {
    "cross_entropy": nn.CrossEntropyLoss,
    "binary_cross_entropy": nn.BCEWithLogitsLoss,
    "squared_error": nn.MSELoss,
}


# -- the nets of the kinds of targets ------------------------------------------------------------


class _ClassifierNet(TrainingNet, skorch.NeuralNetClassifier):
    @staticmethod
    def settings_for(target: Target) -> dict[str, Any]:
        """Return the arguments of the net that depend on the target."""
        classes = list(range(target.n_outputs))
        # Accuracy is not a column of the history by default.
        own = {"classes": classes, "callbacks__valid_acc": None}
        return own | {"predict_nonlinearity": nn.Softmax(dim=-1)}


class _IndicatorNet(TrainingNet, skorch.NeuralNetClassifier):
    """Predict an indicator matrix instead of the most probable column."""

    @staticmethod
    def settings_for(target: Target) -> dict[str, Any]:
        # By these, the scorers of scikit-learn know an indicator matrix.
        own = {"classes": [[0, 1]] * target.n_outputs, "callbacks__valid_acc": None}
        return own | {"predict_nonlinearity": nn.Sigmoid()}

    def predict(self, X) -> np.ndarray:
        return (self.predict_proba(X) > 0.5).astype(int)


class _RegressorNet(TrainingNet, skorch.NeuralNetRegressor):
    """Take and predict targets in output units; the module and the loss are standardised."""

    @staticmethod
    def settings_for(target: NumericTarget) -> dict[str, Any]:
        return {"predict_nonlinearity": functools.partial(_in_units, target=target)}

    def get_loss(self, y_pred, y_true, *args, **kwargs):
        target, y_true = self.criterion_.target, y_true.reshape(len(y_true), -1)
        mean, scale = (
            torch.as_tensor(x, device=y_true.device) for x in (target.mean, target.scale)
        )
        return super().get_loss(y_pred, ((y_true - mean) / scale).float(), *args, **kwargs)


def _in_units(output: torch.Tensor, target: NumericTarget) -> torch.Tensor:
    return torch.from_numpy(target.in_units(output.numpy(force=True)))


# By the name of the loss in a target.
_NETS: dict[str, Any] = {
    "cross_entropy": _ClassifierNet,
    "binary_cross_entropy": _IndicatorNet,
    "squared_error": _RegressorNet,
}
