"""Train the end of a network on activations at a cut: skorch's loop, and what it is given.

The frozen part is not here. What it computes is an array by now, so nothing in this module
could change it.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import skorch
import torch
from skorch.callbacks import (
    Callback,
    EarlyStopping,
    Freezer,
    GradientNormClipping,
    LRScheduler,
    Unfreezer,
)
from skorch.helper import predefined_split
from torch import nn
from torch.utils.checkpoint import checkpoint

from .layers import pool

__all__ = ["Batches", "Rows", "Tail", "TrainingPlan", "find_lr", "train"]

_ON_DEVICE = 0.5  # share of an accelerator's free memory that activations may take


class Pooling(nn.Module):
    """Pooling as the stage between a network and its head."""

    def __init__(self, square: bool, masked: bool):
        super().__init__()
        self.square = square
        self.masked = masked

    def forward(self, x):
        return pool(x, "avg", square=self.square, masked=self.masked)


class Tail(nn.Module):
    """The stages above the cut and the head.

    Parameters
    ----------
    stages : dict of str to torch.nn.Module
        Trained from here on.
    head : torch.nn.Module
    square, masked : bool
        See :func:`sktransfer.layers.pool`.
    train_batch_norm : bool
        Whether batch norm adapts its statistics. If not, it stays in ``eval`` mode.
    precision : {"float32", "bfloat16"}
    """

    def __init__(
        self, stages, head, *, square: bool, masked: bool, train_batch_norm: bool, precision: str
    ):
        super().__init__()
        self.names = list(stages)
        self.masked = masked
        self.body = nn.Sequential(*stages.values(), Pooling(square, masked), head)
        self.train_batch_norm = train_batch_norm
        self.precision = precision
        self.n_chunks = 1

    @property
    def head(self) -> nn.Module:
        return self.body[-1]

    def train(self, mode: bool = True) -> Tail:
        super().train(mode)
        # A batch norm in the new head has no statistics yet that could be kept.
        for module in self.body[:-1].modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and not self.train_batch_norm:
                module.eval()
        return self

    @property
    def learns_statistics(self) -> bool:
        """Whether a batch norm adapts in training, which takes two rows at least."""
        norms = [m for m in self.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        inside = [m for m in self.body[-1].modules() if m in norms]
        return bool(inside) or (self.train_batch_norm and bool(norms))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.is_floating_point():  # ids of tokens stay what they are
            x = x.to(self._like.dtype)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        low = self.precision != "float32"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            return self._run(x).float()

    @property
    def _like(self) -> torch.Tensor:
        return next(self.parameters())

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        if self.n_chunks == 1 or not self.training:
            return self.body(x)
        # Each chunk is run again when its gradients are wanted, so that only one chunk's
        # activations are alive at a time. The sums are those of the whole batch.
        chunks = x.chunk(self.n_chunks)
        return torch.cat([checkpoint(self.body, chunk, use_reentrant=False) for chunk in chunks])

    def as_stages(self, frozen: dict[str, nn.Module]) -> OrderedDict[str, nn.Module]:
        """Return the frozen stages and these, with the new pooling and head behind."""
        stages = OrderedDict(frozen)
        for name, stage in zip([*self.names, "new_pooling", "new_head"], self.body, strict=True):
            while name in stages:  # the network was grown before
                name += "_"
            stages[name] = stage
        return stages


class WeightedLoss(nn.Module):
    """The weighted mean of a loss over a batch.

    Parameters
    ----------
    task : {"multiclass", "multilabel", "regression"}
        Cross-entropy, binary cross-entropy for each label, squared error.
    label_smoothing : float, default=0
        As in ``torch.nn.CrossEntropyLoss`` (Szegedy et al. 2016).
    """

    def __init__(self, task: str, label_smoothing: float = 0.0):
        super().__init__()
        self.task = task
        self.label_smoothing = label_smoothing

    def forward(self, output: torch.Tensor, y: dict[str, torch.Tensor]) -> torch.Tensor:
        loss = self._each(output, y["target"])  # (n,)
        return (loss * y["weight"]).sum() / y["weight"].sum().clamp_min(1e-12)

    def _each(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        smooth = self.label_smoothing
        if self.task == "multiclass":
            return nn.functional.cross_entropy(
                output, target, reduction="none", label_smoothing=smooth
            )
        if self.task == "multilabel":
            target = target * (1 - smooth) + smooth / 2
            loss = nn.functional.binary_cross_entropy_with_logits(output, target, reduction="none")
        else:
            loss = nn.functional.mse_loss(output, target, reduction="none")
        return loss.mean(dim=1)


class Rows(torch.utils.data.Dataset):
    """Training rows: activations at the cut, targets, weights.

    Parameters
    ----------
    views : sequence of ndarray of shape (n, ...)
        The activations; more than one where each sample has several augmented views, of which
        an epoch takes one at random.
    target : ndarray of shape (n,) or (n, n_outputs)
    weight : ndarray of shape (n,)
    fresh : callable, default=None
        From positions and an epoch's seed to activations, for views made anew.
    """

    def __init__(
        self,
        views: Sequence[np.ndarray],
        target: np.ndarray,
        weight: np.ndarray,
        fresh: Callable | None = None,
    ):
        self.views = [as_rows(view) for view in views]
        self.target = torch.from_numpy(target)
        self.weight = torch.from_numpy(weight.astype(np.float32))
        self.fresh = fresh

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, i: int):
        x, y = self.batch(torch.tensor([i]), 0, None)
        return x[0], {name: value[0] for name, value in y.items()}

    def batch(self, index: torch.Tensor, epoch_seed: int, generator) -> tuple[torch.Tensor, dict]:
        """Return the activations, targets and weights of some rows."""
        index = index.to(self.target.device)
        y = {"target": self.target[index], "weight": self.weight[index]}
        if self.fresh is not None:
            return self.fresh(index.tolist(), epoch_seed), y
        if len(self.views) == 1 or generator is None:
            return _take(self.views[0], index), y
        which = torch.randint(len(self.views), (len(index),), generator=generator).tolist()
        pairs = zip(which, index, strict=True)
        return torch.stack([self.views[view][i] for view, i in pairs]), y

    def to(self, device: torch.device) -> Rows:
        """Move everything to an accelerator if it fits there with room to spare."""
        if any(isinstance(view, list) for view in self.views):
            return self  # texts, which are joined batch by batch
        size = sum(view.nbytes for view in self.views)
        if device.type == "cuda" and size < _ON_DEVICE * torch.cuda.mem_get_info(device)[0]:
            self.views = [view.to(device) for view in self.views]
            self.target, self.weight = self.target.to(device), self.weight.to(device)
        return self


def as_rows(view: np.ndarray) -> torch.Tensor | list[torch.Tensor]:
    """Turn a table into a tensor, or one of texts, which differ in length, into a list.

    Parameters
    ----------
    view : ndarray of shape (n, ...) or array of n arrays

    Returns
    -------
    Tensor or list of Tensor
    """
    if view.dtype == object:
        return [torch.from_numpy(row) for row in view]
    return torch.from_numpy(view)


def _take(rows, index: torch.Tensor) -> torch.Tensor:
    """Take some rows as one tensor, texts filled up with zeros, which hold no token."""
    if isinstance(rows, torch.Tensor):
        return rows[index]
    chosen = [rows[i] for i in index.tolist()]
    shape = [max(sizes) for sizes in zip(*(row.shape for row in chosen), strict=True)]
    filled = chosen[0].new_zeros(len(chosen), *shape)
    for place, row in zip(filled, chosen, strict=True):
        place[tuple(slice(size) for size in row.shape)] = row
    return filled


class Batches:
    """Iterate over rows in batches, each epoch in a new order drawn from its own generator.

    Parameters
    ----------
    rows : Rows
    batch_size : int
    seed : int, default=None
        None keeps the order of the rows.
    in_pairs : bool, default=False
        Whether a last batch of one row joins the batch before it.
    """

    def __init__(
        self, rows: Rows, batch_size: int, seed: int | None = None, in_pairs: bool = False
    ):
        self.rows = rows
        self.batch_size = batch_size
        self.in_pairs = in_pairs
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, dict]]:
        order, epoch_seed = torch.arange(len(self.rows)), 0
        if self.generator is not None:
            order = torch.randperm(len(self.rows), generator=self.generator)
            epoch_seed = int(torch.randint(2**31, (1,), generator=self.generator))
        batches = list(order.split(self.batch_size))
        if self.in_pairs and len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        for index in batches:
            yield self.rows.batch(index, epoch_seed, self.generator)


@dataclasses.dataclass
class TrainingPlan:
    """How the tail is trained; the fields are parameters of the estimators."""

    task: str
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


_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


def train(
    tail: Tail, rows: Rows, valid: Rows | None, plan: TrainingPlan, device: torch.device
) -> skorch.NeuralNet:
    """Train a tail in place and return the skorch net that did it.

    Without enough device memory, the batch is split into chunks that are run one after
    another, and training starts again from the same weights with the same numbers.

    Parameters
    ----------
    tail : Tail
    rows : Rows
    valid : Rows or None
        Where given, the best epoch on them is restored, the state before training included.
    plan : TrainingPlan
    device : torch.device

    Returns
    -------
    skorch.NeuralNet

    Raises
    ------
    FloatingPointError
        If the loss is not finite.
    """
    before = _copy_state(tail)
    while True:
        try:
            return _train_once(tail, rows, valid, plan, device)
        except torch.OutOfMemoryError:
            if tail.n_chunks >= min(plan.batch_size, len(rows)):
                raise
            _make_chunks(tail, plan)
            tail.load_state_dict(before)


def _make_chunks(tail: Tail, plan: TrainingPlan) -> None:
    if tail.n_chunks == 1:
        warnings.warn(
            f"A batch of {plan.batch_size} does not fit into the device's memory: it is run in "
            "parts whose gradients are added up, with the same result, more slowly.",
            stacklevel=2,
        )
    tail.n_chunks *= 2
    tail.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _train_once(tail, rows, valid, plan, device) -> skorch.NeuralNet:
    cuda = [device] if device.type == "cuda" else []
    # Dropout draws from the global generator, which is put back afterwards.
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(plan.seed)
        net = make_net(tail, len(rows), valid, plan, device)
        return net.fit(rows.to(device), y=None)


def make_net(tail: Tail, n_rows: int, valid: Rows | None, plan: TrainingPlan, device):
    """Assemble the skorch net: what to train, on what, how, and what to watch."""
    cls = skorch.NeuralNetRegressor if plan.task == "regression" else skorch.NeuralNetClassifier
    settings = {
        "max_epochs": plan.max_epochs,
        "batch_size": plan.batch_size,
        "iterator_train": Batches,
        "iterator_train__seed": plan.seed,
        "iterator_train__in_pairs": tail.learns_statistics,
        "iterator_valid": Batches,
        "train_split": None if valid is None else predefined_split(valid.to(device)),
        "criterion": WeightedLoss(plan.task, plan.label_smoothing),
        "device": str(device),
        "verbose": plan.verbose,
        "callbacks": _callbacks(tail, n_rows, valid, plan),
        **_optimizer(tail, plan, device),
    }
    if plan.task != "regression":
        settings["callbacks__valid_acc"] = None  # it would want the labels as one array
    return cls(tail, **settings | plan.net_params)


def _optimizer(tail: Tail, plan: TrainingPlan, device: torch.device) -> dict:
    """Name the optimizer and a learning rate for each stage, falling towards the input."""
    optimizer = _OPTIMIZERS.get(plan.optimizer, plan.optimizer)
    settings = {"optimizer": optimizer, "lr": plan.lr}
    settings["optimizer__weight_decay"] = plan.weight_decay
    if optimizer is torch.optim.SGD:
        settings["optimizer__momentum"] = 0.9
    if device.type == "cuda" and optimizer in _OPTIMIZERS.values():
        settings["optimizer__fused"] = True
    depth = len(tail.body) - 1
    settings["optimizer__param_groups"] = [
        (f"body.{i}.*", {"lr": plan.lr * plan.layer_decay ** (depth - i)})
        for i, stage in enumerate(tail.body)
        if next(stage.parameters(), None) is not None
    ]
    name, head = settings["optimizer__param_groups"][-1]
    settings["optimizer__param_groups"][-1] = (name, {"lr": head["lr"] * plan.head_factor})
    return settings


def _callbacks(tail: Tail, n_rows: int, valid: Rows | None, plan: TrainingPlan) -> list:
    n_steps = plan.max_epochs * math.ceil(n_rows / plan.batch_size)
    callbacks: list = [("finite", StopOnNonFinite())]
    if plan.clip_norm is not None:
        callbacks.append(("clip", GradientNormClipping(plan.clip_norm)))
    schedule = WarmupCosine(n_steps, plan.warmup)
    policy = torch.optim.lr_scheduler.LambdaLR
    step = LRScheduler(policy=policy, lr_lambda=schedule, step_every="batch")
    callbacks.append(("schedule", step))
    if plan.gradual_unfreezing:
        callbacks += _unfreezing(tail)
    if valid is not None:
        callbacks.append(("best", KeepBest()))
        if plan.patience is not None:
            stop = EarlyStopping(monitor="valid_loss", patience=plan.patience, sink=_silent)
            callbacks.append(("stop", stop))
    return callbacks + list(plan.callbacks)


def _silent(text: str) -> None:
    pass


def _unfreezing(tail: Tail) -> list:
    """Train the head alone in the first epoch, then one more stage each (Howard & Ruder 2018)."""
    stages = [i for i, s in enumerate(tail.body) if next(s.parameters(), None) is not None][:-1]
    callbacks: list = [("freeze", Freezer([f"body.{i}.*" for i in stages]))] if stages else []
    for wait, i in enumerate(reversed(stages)):
        callbacks.append((f"unfreeze_{i}", Unfreezer(f"body.{i}.*", at=wait + 2)))
    return callbacks


class WarmupCosine:
    """Factor on the learning rate: up in a line, down in half a cosine (Loshchilov 2017)."""

    def __init__(self, n_steps: int, warmup: float):
        self.n_steps = n_steps
        self.n_warmup = round(n_steps * warmup)

    def __call__(self, step: int) -> float:
        if step < self.n_warmup:
            return (step + 1) / (self.n_warmup + 1)
        done = (step - self.n_warmup) / max(1, self.n_steps - self.n_warmup)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class EpochWatch(Callback):
    """Call two functions around each epoch: progress bars hang there."""

    def __init__(self, begin: Callable[[], None], end: Callable[[], None]):
        self.begin = begin
        self.end = end

    def on_epoch_begin(self, net, **kwargs):
        self.begin()

    def on_epoch_end(self, net, **kwargs):
        self.end()


class StopOnNonFinite(Callback):
    """Stop as soon as a loss is NaN or infinite, and say what to try."""

    def on_batch_end(self, net, batch=None, training=None, loss=None, **kwargs):
        value = net.history[-1, "batches", -1]["train_loss" if training else "valid_loss"]
        if not math.isfinite(value):
            lr = max(group["lr"] for group in net.optimizer_.param_groups)
            raise FloatingPointError(
                f"The loss is {value} in epoch {len(net.history)} at a learning rate of {lr:.3g}. "
                f"Try lr={lr / 10:.1g}, a longer warmup, clip_norm=1.0, or precision='float32'."
            )


class KeepBest(Callback):
    """Remember the tail at its lowest validation loss, before training included; restore it."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        valid = net.train_split(None)[1]
        self.epoch_, self.loss_ = 0, _mean_loss(net, valid)
        self.initial_loss_, self.state_ = self.loss_, _copy_state(net.module_)

    def on_epoch_end(self, net, **kwargs):
        loss = net.history[-1, "valid_loss"]
        if loss < self.loss_:
            self.epoch_, self.loss_ = len(net.history), loss
            self.state_ = _copy_state(net.module_)

    def on_train_end(self, net, **kwargs):
        net.module_.load_state_dict(self.state_)
        self.state_ = None


@torch.no_grad()
def _mean_loss(net, rows: Rows) -> float:
    total = 0.0
    for batch in Batches(rows, net.batch_size):
        total += net.validation_step(batch)["loss"].item() * len(batch[0])
    return total / len(rows)


def find_lr(tail: Tail, rows: Rows, plan: TrainingPlan, device: torch.device) -> float:
    """Find a learning rate by a range test on training rows (Smith 2017).

    The rate grows from 1e-6 by a constant factor each step. Each batch's loss is compared with
    its loss before training; a tenth of the rate at which the smoothed gain is largest is
    returned, or, where the head begins so well that nothing is gained, of the highest rate that
    does no harm. The weights are put back.

    Parameters
    ----------
    tail : Tail
    rows : Rows
    plan : TrainingPlan
    device : torch.device

    Returns
    -------
    float

    References
    ----------
    Smith (2017). Cyclical learning rates for training neural networks. WACV. arXiv:1506.01186.
    """
    rates = np.geomspace(1e-6, 1.0, 61)
    state = _copy_state(tail)
    watch = _RangeTest(rates)
    epochs = math.ceil(len(rates) / math.ceil(len(rows) / plan.batch_size))
    test = dataclasses.replace(
        plan, lr=rates[0], max_epochs=epochs, callbacks=[("range", watch)], verbose=0, warmup=0.0
    )
    try:
        train(tail, rows, None, test, device)
    except (_RangeEnd, FloatingPointError):
        pass
    finally:
        tail.load_state_dict(state)
    return float(np.clip(watch.best_rate / 10, 1e-5, 0.1))


class _RangeEnd(Exception):
    """The range test has seen enough."""


class _RangeTest(Callback):
    """Raise the rate step by step, and compare each batch's loss with that before training.

    Batches differ more among themselves than a step changes them, so that a loss alone would
    tell which batch was easy.
    """

    def __init__(self, rates: np.ndarray):
        self.rates = rates

    def on_train_begin(self, net, **kwargs):
        self.step_, self.gain_, self.gains_, self.level_ = 0, 0.0, [], 0.0
        self.base_ = [group["lr"] / net.lr for group in net.optimizer_.param_groups]
        self.start_ = copy.deepcopy(net.module_).eval()

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        if self.step_ == len(self.rates):
            raise _RangeEnd
        for group, factor in zip(net.optimizer_.param_groups, self.base_, strict=True):
            group["lr"] = self.rates[self.step_] * factor

    @torch.no_grad()
    def on_batch_end(self, net, batch=None, loss=None, **kwargs):
        x, y = batch
        y = {name: value.to(net.device) for name, value in y.items()}
        before = float(net.criterion_(self.start_(x.to(net.device)), y))
        value = float(loss.detach())
        if not math.isfinite(value):
            raise _RangeEnd
        self.gain_ = 0.8 * self.gain_ + 0.2 * (before - value)
        self.level_ = max(self.level_, before)
        self.gains_.append(self.gain_)
        if self.gain_ < -3 * self.level_:
            raise _RangeEnd
        self.step_ += 1

    @property
    def best_rate(self) -> float:
        """The rate that gained most; where none gained, the highest that lost next to nothing."""
        gains = np.array(self.gains_ or [0.0])
        best = int(gains.argmax())
        if gains[best] < 0.01 * self.level_:
            best = int(np.flatnonzero(gains >= -0.01 * self.level_ - 1e-12).max(initial=0))
        return float(self.rates[best])
