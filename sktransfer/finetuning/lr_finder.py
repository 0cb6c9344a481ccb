"""Find a learning rate by a range test on training rows."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import torch
from skorch.callbacks import Callback
from skorch.utils import to_device

from .loop import tail_of, train
from .plan import TrainingPlan, without_callbacks
from .rows import Rows, count_batches
from .short_memory import run_in_parts
from .tail import Tail, copy_state

__all__ = ["find_lr"]


def find_lr(tail: Tail, rows: Rows, plan: TrainingPlan, device: torch.device) -> float:
    """Find a learning rate by a range test on training rows (Smith 2017).

    The rate grows by a constant factor in each step, from 1e-6 to 1. After each step the loss of
    its batch is compared with the loss before training, both without dropout. The result is a
    tenth of the rate at which the smoothed decrease of the loss is largest; if no rate decreases
    it, a tenth of the highest rate that does not increase it. The weights are restored.

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
    state = copy_state(tail)
    watch = _RangeTest(rates)
    n_batches = count_batches(len(rows), plan.batch_size, tail.learns_statistics)
    epochs = math.ceil(len(rates) / n_batches)
    test = dataclasses.replace(
        plan, lr=rates[0], max_epochs=epochs, callbacks=[("range", watch)], verbose=0, warmup=0.0
    )
    test.net_params = without_callbacks(plan.net_params)
    try:
        if train(tail, rows, None, test, device).was_stopped:
            raise KeyboardInterrupt  # only the user stops this training early
    except (_RangeEnd, FloatingPointError):
        pass
    finally:
        tail.load_state_dict(state)
    return float(np.clip(watch.best_rate / 10, 1e-5, 0.1))


class _RangeEnd(Exception):
    """End the range test."""


class _RangeTest(Callback):
    """Increase the rate in each step, and compare the loss of each batch with that before training.

    Losses differ more between batches than one step changes them, so that the losses alone would
    not show the effect of the rate.
    """

    def __init__(self, rates: np.ndarray):
        self.rates = rates

    def on_train_begin(self, net, **kwargs):
        self.step_, self.gain_, self.gains_, self.level_ = 0, 0.0, [], 0.0
        self.base_ = [group["lr"] / net.lr for group in net.optimizer_.param_groups]
        self.start_ = copy.deepcopy(tail_of(net)).eval()

    def on_batch_begin(self, net, batch=None, training=None, **kwargs):
        if self.step_ == len(self.rates):
            raise _RangeEnd
        for group, factor in zip(net.optimizer_.param_groups, self.base_, strict=True):
            group["lr"] = self.rates[self.step_] * factor

    def on_batch_end(self, net, batch=None, **kwargs):
        after = _loss(net, tail_of(net), batch)
        self.start_.n_chunks = tail_of(net).n_chunks
        before = _loss(net, self.start_, batch)
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
        """The rate with the largest decrease; if there is none, the highest without increase."""
        gains = np.array(self.gains_ or [0.0])
        best = int(gains.argmax())
        if gains[best] < 0.01 * self.level_:
            best = int(np.flatnonzero(gains >= -0.01 * self.level_ - 1e-12).max(initial=0))
        return float(self.rates[best])


@torch.no_grad()
def _loss(net, tail: Tail, batch: tuple) -> float:
    x, target = to_device(batch, net.device)
    output = run_in_parts(tail.eval(), lambda: tail(**x), len(target))
    return float(net.get_loss(output, target))
