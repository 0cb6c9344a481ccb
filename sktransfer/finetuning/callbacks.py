"""What watches training: the schedule, progress, losses that are not finite, the best epoch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from skorch.callbacks import Callback

from .rows import Batches, Rows
from .tail import copy_state

__all__ = ["EpochWatch", "KeepBest", "StopOnNonFinite", "WarmupCosine"]


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
        self.initial_loss_, self.state_ = self.loss_, copy_state(net.module_)

    def on_epoch_end(self, net, **kwargs):
        loss = net.history[-1, "valid_loss"]
        if loss < self.loss_:
            self.epoch_, self.loss_ = len(net.history), loss
            self.state_ = copy_state(net.module_)

    def on_train_end(self, net, **kwargs):
        net.module_.load_state_dict(self.state_)
        self.state_ = None


@torch.no_grad()
def _mean_loss(net, rows: Rows) -> float:
    total = 0.0
    for batch in Batches(rows, net.batch_size):
        total += net.validation_step(batch)["loss"].item() * len(batch[1])
    return total / len(rows)
