"""Train the end of a network on activations at a cut: skorch's loop, and what it is given.

The frozen part is not here. What it computes is an array by now, so nothing in this module
could change it.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
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
from skorch.utils import to_device
from torch import nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import default_collate

from .augment import seeded
from .layers import pool

__all__ = [
    "Batches",
    "Rows",
    "Table",
    "Tail",
    "TrainingPlan",
    "check_net_params",
    "find_lr",
    "train",
]

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

    Attributes
    ----------
    n_chunks : int
        Into how many parts a batch is divided where memory is short.
    seed : int
        Of what is drawn in training (dropout); each batch has the next one.
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
        self.seed = 0

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

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None = None):
        """Return outputs; with weights, which pass by, outputs and weights for the loss."""
        if x.is_floating_point():  # ids of tokens stay what they are
            x = x.to(self._like.dtype)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        low = self.precision != "float32"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            output = self._run(x).float()
        return output if weight is None else (output, weight)

    @property
    def _like(self) -> torch.Tensor:
        return next(self.parameters())

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        chunks = x.chunk(self.n_chunks)
        if not self.training:
            return torch.cat([self.body(chunk) for chunk in chunks])
        seeds = range(self.seed, self.seed + len(chunks))
        self.seed += len(chunks)
        # Each chunk is run again when its gradients are wanted, so that only one chunk's
        # activations are alive at a time. The sums are those of the whole batch.
        run = self._draw if len(chunks) == 1 else self._draw_again
        return torch.cat([run(chunk, seed) for chunk, seed in zip(chunks, seeds, strict=True)])

    def _draw(self, x: torch.Tensor, seed: int) -> torch.Tensor:
        """Run the body in training, what it draws given by a seed."""
        with seeded(seed, x.device):
            return self.body(x)

    def _draw_again(self, x: torch.Tensor, seed: int) -> torch.Tensor:
        kept = {"use_reentrant": False, "preserve_rng_state": False}  # the seed does that
        return checkpoint(self._draw, x, seed, **kept)

    def as_stages(self, frozen: dict[str, nn.Module]) -> OrderedDict[str, nn.Module]:
        """Return the frozen stages and these, with the new pooling and head behind."""
        stages = OrderedDict(frozen)
        for name, stage in zip([*self.names, "new_pooling", "new_head"], self.body, strict=True):
            while name in stages:  # the network was grown before
                name += "_"
            stages[name] = stage
        return stages


class WeightedLoss(nn.Module):
    """The weighted mean of a loss over a batch, of outputs that come with their weights.

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

    def forward(self, output: tuple, target: torch.Tensor) -> torch.Tensor:
        output, weight = output
        loss = self._each(output, target)  # (n,)
        return (loss * weight).sum() / weight.sum().clamp_min(1e-12)

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


class Table:
    """Some rows of an array and others behind them, copied only when they are asked for.

    Parameters
    ----------
    rows : ndarray of shape (n, ...) or array of n arrays
        In memory or in a file that is mapped.
    index : ndarray of int, default=None
        Which of them; None for all.
    behind : ndarray, default=None
        More rows.
    """

    def __init__(self, rows: np.ndarray, index=None, behind: np.ndarray | None = None):
        self.rows = rows
        self.index = np.arange(len(rows)) if index is None else index
        self.behind = behind

    def __len__(self) -> int:
        return len(self.index) + (0 if self.behind is None else len(self.behind))

    def __getitem__(self, at) -> np.ndarray:
        at = np.arange(*at.indices(len(self))) if isinstance(at, slice) else at
        front = at < len(self.index)
        if front.all():
            return self.rows[self.index[at]]
        taken = np.empty((len(at), *self.rows.shape[1:]), self.rows.dtype)
        taken[front] = self.rows[self.index[at[front]]]
        taken[~front] = self.behind[at[~front] - len(self.index)]
        return taken

    @property
    def dtype(self) -> np.dtype:
        return self.rows.dtype

    @property
    def nbytes(self) -> int:
        return len(self) * self.rows[:1].nbytes

    @property
    def is_ragged(self) -> bool:
        """Whether rows are texts, which differ in length."""
        return self.dtype == object


class Rows(torch.utils.data.Dataset):
    """Training rows: activations at the cut, targets, weights.

    Parameters
    ----------
    views : sequence of Table or ndarray of shape (n, ...)
        The activations; more than one where each sample has several augmented views, of which
        an epoch takes one at random.
    target : ndarray of shape (n,) or (n, n_outputs)
    weight : ndarray of shape (n,)
    fresh : callable, default=None
        From positions and an epoch's seed to activations, for views made anew.
    """

    def __init__(
        self,
        views: Sequence[Table | np.ndarray],
        target: np.ndarray,
        weight: np.ndarray,
        fresh: Callable | None = None,
    ):
        self.views = [view if isinstance(view, Table) else Table(view) for view in views]
        self.target = torch.from_numpy(target)
        self.weight = torch.from_numpy(weight.astype(np.float32))
        self.fresh = fresh

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, i: int):
        x, y = self.batch(torch.tensor([i]), 0, None)
        return {name: value[0] for name, value in x.items()}, y[0]

    def batch(self, index: torch.Tensor, epoch_seed: int, generator) -> tuple[dict, torch.Tensor]:
        """Return the activations and weights of some rows, and their targets."""
        index = index.to(self.target.device)
        x = self._activations(index, epoch_seed, generator)
        return {"x": x, "weight": self.weight[index]}, self.target[index]

    def _activations(self, index: torch.Tensor, epoch_seed: int, generator) -> torch.Tensor:
        if self.fresh is not None:
            return self.fresh(index.tolist(), epoch_seed)
        if len(self.views) == 1 or generator is None:
            return _take(self.views[0], index)
        which = torch.randint(len(self.views), (len(index),), generator=generator).to(index.device)
        taken = _take(self.views[0], index)
        for number, view in enumerate(self.views[1:], start=1):
            taken[which == number] = _take(view, index[which == number])
        return taken

    def to(self, device: torch.device) -> Rows:
        """Move everything to an accelerator if it fits there with room to spare."""
        if device.type != "cuda" or any(_is_ragged(view) for view in self.views):
            return self  # texts are joined batch by batch
        size = sum(view.nbytes for view in self.views)
        if size < _ON_DEVICE * torch.cuda.mem_get_info(device)[0]:
            self.views = [_tensor(view).to(device) for view in self.views]
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
        return [torch.from_numpy(np.require(row, requirements="W")) for row in view]
    return torch.from_numpy(np.require(view, requirements="W"))


def _is_ragged(view) -> bool:
    return isinstance(view, Table) and view.is_ragged


def _tensor(view: Table | torch.Tensor) -> torch.Tensor:
    return as_rows(view[:]) if isinstance(view, Table) else view


def _take(view: Table | torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Take some rows as one tensor, texts filled up with zeros, which hold no token."""
    if isinstance(view, torch.Tensor):
        return view[index]
    rows = as_rows(view[index.numpy()])
    return _filled(rows) if isinstance(rows, list) else rows


def _filled(rows: list[torch.Tensor]) -> torch.Tensor:
    """Join rows that differ in length; a token may be one id, or several beside others."""
    rank = max(row.ndim for row in rows)
    rows = [row if row.ndim == rank else row.unsqueeze(1) for row in rows]
    shape = [max(sizes) for sizes in zip(*(row.shape for row in rows), strict=True)]
    filled = rows[0].new_zeros(len(rows), *shape)
    for place, row in zip(filled, rows, strict=True):
        place[tuple(slice(size) for size in row.shape)] = row
    return filled


class Batches:
    """Iterate over rows in batches, each epoch in a new order drawn from its own generator.

    Parameters
    ----------
    rows : Rows or torch.utils.data.Dataset
        Another dataset is what skorch makes of an array.
    batch_size : int
    seed : int, default=None
        None keeps the order of the rows.
    in_pairs : bool, default=False
        Whether a last batch of one row joins the batch before it.
    """

    def __init__(self, rows, batch_size: int, seed: int | None = None, in_pairs: bool = False):
        self.rows = rows
        self.batch_size = batch_size
        self.in_pairs = in_pairs
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return math.ceil(len(self.rows) / self.batch_size)

    def __iter__(self) -> Iterator[tuple]:
        order, epoch_seed = torch.arange(len(self.rows)), 0
        if self.generator is not None:
            order = torch.randperm(len(self.rows), generator=self.generator)
            epoch_seed = int(torch.randint(2**31, (1,), generator=self.generator))
        batches = list(order.split(self.batch_size))
        if self.in_pairs and len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [torch.cat(batches[-2:])]
        for index in batches:
            yield self._batch(index, epoch_seed)

    def _batch(self, index: torch.Tensor, epoch_seed: int) -> tuple:
        if isinstance(self.rows, Rows):
            return self.rows.batch(index, epoch_seed, self.generator)
        return tuple(default_collate([self.rows[i] for i in index.tolist()]))


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
    n_outputs: int
    head_factor: float = 1.0  # on the learning rate of the head


_OPTIMIZERS = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}


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
_OURS = ("iterator_train", "iterator_valid", "dataset", "classes", "predict_nonlinearity")
_OURS += ("callbacks__finite", "callbacks__watch")


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


def train(
    tail: Tail, rows: Rows, valid: Rows | None, plan: TrainingPlan, device: torch.device
) -> skorch.NeuralNet:
    """Train a tail in place and return the skorch net that did it.

    Without enough device memory, the batch is split into chunks that are run one after
    another, and training starts again from the same weights with the same numbers (but for what
    dropout draws).

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
        If the loss is not finite, or a weight at the end.
    torch.OutOfMemoryError
        If not even one row fits, or batch norm would see the parts of a batch.
    """
    before = _copy_state(tail)
    while True:
        try:
            return _train_once(tail, rows, valid, plan, device)
        except torch.OutOfMemoryError as error:
            if tail.n_chunks >= min(plan.batch_size, len(rows)):
                raise
            _make_chunks(tail, plan, error)
            tail.load_state_dict(before)


def _make_chunks(tail: Tail, plan: TrainingPlan, error: Exception) -> None:
    if tail.learns_statistics:
        raise torch.OutOfMemoryError(
            f"A batch of {plan.batch_size} does not fit into the device's memory, and batch norm "
            "that learns (train_batch_norm=True, or in the head) needs it whole. Set a smaller "
            "batch_size."
        ) from error
    if tail.n_chunks == 1:
        drops = any(isinstance(m, nn.modules.dropout._DropoutNd) for m in tail.modules())
        same = "but for what dropout draws" if drops else "with the same result"
        warnings.warn(
            f"A batch of {plan.batch_size} does not fit into the device's memory: it is run in "
            f"parts whose gradients are added up, {same}, more slowly.",
            stacklevel=2,
        )
    tail.n_chunks *= 2
    tail.zero_grad(set_to_none=True)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _train_once(tail, rows, valid, plan, device) -> skorch.NeuralNet:
    tail.seed = plan.seed
    net = make_net(tail, len(rows), valid, plan, device)
    try:
        return net.fit(rows.to(device), y=None)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise ValueError(
            "Batch norm that learns (train_batch_norm=True, or in the head) needs two rows a batch "
            f"at least: {len(rows)} rows, batch_size={plan.batch_size}."
        ) from error


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
        "predict_nonlinearity": _NONLINEARITIES[plan.task],
        "device": str(device),
        "verbose": plan.verbose,
        "callbacks": _callbacks(tail, n_rows, valid, plan),
        **_optimizer(tail, plan, device),
    }
    if plan.task != "regression":
        settings["classes"] = list(range(plan.n_outputs))
        settings["callbacks__valid_acc"] = None  # a column of the history that nobody asked for
    return cls(tail, **settings | plan.net_params)


_NONLINEARITIES = {
    "multiclass": functools.partial(torch.softmax, dim=-1),
    "multilabel": torch.sigmoid,
    "regression": None,
}


def learned_stages(tail: Tail) -> list[int]:
    """Return the places in a tail's body of what has parameters, the head last."""
    return [i for i, stage in enumerate(tail.body) if next(stage.parameters(), None) is not None]


def _pattern(stage: int, plan: TrainingPlan) -> str:
    """Match the parameters of a stage by name, which compiling puts a name before."""
    return f"{'_orig_mod.' * bool(plan.net_params.get('compile'))}body.{stage}.*"


def _optimizer(tail: Tail, plan: TrainingPlan, device: torch.device) -> dict:
    """Name the optimizer and a learning rate for each stage, falling towards the input."""
    optimizer = _OPTIMIZERS.get(plan.optimizer, plan.optimizer)
    settings = {"optimizer": optimizer, "lr": plan.lr}
    settings["optimizer__weight_decay"] = plan.weight_decay
    if optimizer is torch.optim.SGD:
        settings["optimizer__momentum"] = 0.9
    if device.type == "cuda" and optimizer in _OPTIMIZERS.values():
        settings["optimizer__fused"] = True
    groups = [
        (_pattern(i, plan), {"lr": plan.lr * plan.layer_decay**depth})
        for depth, i in enumerate(reversed(learned_stages(tail)))
    ][::-1]
    name, head = groups[-1]
    groups[-1] = (name, {"lr": head["lr"] * plan.head_factor})
    return settings | {"optimizer__param_groups": groups}


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
        callbacks += _unfreezing(tail, plan)
    if valid is not None:
        callbacks.append(("best", KeepBest()))
        if plan.patience is not None:
            stop = EarlyStopping(monitor="valid_loss", patience=plan.patience, sink=_silent)
            callbacks.append(("stop", stop))
    return callbacks + list(plan.callbacks)


def _silent(text: str) -> None:
    pass


def _unfreezing(tail: Tail, plan: TrainingPlan) -> list:
    """Train the head alone in the first epoch, then one more stage each (Howard & Ruder 2018)."""
    stages = {i: _pattern(i, plan) for i in learned_stages(tail)[:-1]}
    callbacks: list = [("freeze", Freezer(list(stages.values())))] if stages else []
    for wait, (i, pattern) in enumerate(reversed(stages.items())):
        callbacks.append((f"unfreeze_{i}", Unfreezer(pattern, at=wait + 2)))
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
    """Stop as soon as a loss is NaN or infinite, or a weight at the end; say what to try."""

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        # A network may have infinite buffers of its own, such as a mask.
        state = net.module_.state_dict()
        self.finite_ = [name for name, tensor in state.items() if tensor.isfinite().all()]

    def on_batch_end(self, net, batch=None, training=None, loss=None, **kwargs):
        value = net.history[-1, "batches", -1]["train_loss" if training else "valid_loss"]
        if not math.isfinite(value):
            rates = [group["lr"] for group in net.optimizer_.param_groups]
            self._stop(net, f"The loss is {value}", max(rates))

    def on_train_end(self, net, X=None, y=None, **kwargs):
        # The last step's weights have met no loss.
        state = net.module_.state_dict()
        if not all(state[name].isfinite().all() for name in self.finite_):
            self._stop(net, "Weights are NaN or infinite", net.lr)

    def _stop(self, net, what: str, lr: float):
        raise FloatingPointError(
            f"{what} in epoch {len(net.history)} at a learning rate of {lr:.3g}. "
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
        total += net.validation_step(batch)["loss"].item() * len(batch[1])
    return total / len(rows)


def find_lr(tail: Tail, rows: Rows, plan: TrainingPlan, device: torch.device) -> float:
    """Find a learning rate by a range test on training rows (Smith 2017).

    The rate grows from 1e-6 by a constant factor each step. Each batch's loss after the step is
    compared with its loss before training, both as in prediction, without dropout; a tenth of
    the rate at which the smoothed gain is largest is returned, or, where the head begins so well
    that nothing is gained, of the highest rate that does no harm. The weights are put back.

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
    test.net_params = without_callbacks(plan.net_params)
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

    def on_batch_end(self, net, batch=None, **kwargs):
        before, after = (_loss(net, module, batch) for module in (self.start_, net.module_))
        if not math.isfinite(after):
            raise _RangeEnd
        self.gain_ = 0.8 * self.gain_ + 0.2 * (before - after)
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


@torch.no_grad()
def _loss(net, module: nn.Module, batch: tuple) -> float:
    x, target = to_device(batch, net.device)
    return float(net.criterion_(module.eval()(**x), target))


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
