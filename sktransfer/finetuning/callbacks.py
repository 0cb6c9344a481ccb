"""Callbacks of the training loop: learning rate, progress, finite losses, the best epoch."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterable
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from scipy.special import xlogy
from skorch import NeuralNet
from skorch.callbacks import Callback
from skorch.dataset import get_len
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from ..data import NumericTarget, Target
from .dataset import TrainingDataset, count_batches
from .trainable_stages import copy_state

_AT_MOST = 256  # training rows whose loss is computed before and after training
_NOISE, _SMALL = 1.02, 1e-3  # a loss up to this many times another, or this small, is no worse
_SHARE = 0.1  # nor is a training loss of up to this share of that of constant predictions


def has_callback(callbacks: Iterable[Any], *kinds: type) -> bool:
    """Tell whether callbacks of skorch include one of some classes.

    Parameters
    ----------
    callbacks : iterable of Callback, type or tuple of str and one of these
    *kinds : type
    """
    given = [entry[1] if isinstance(entry, tuple) else entry for entry in callbacks]
    classes = [callback if isinstance(callback, type) else type(callback) for callback in given]
    return any(issubclass(cls, kinds) for cls in classes)


def warmup_cosine(step: int, n_steps: int, warmup: float) -> float:
    """Return the factor on the learning rate at a step (Loshchilov & Hutter 2017).

    Parameters
    ----------
    step : int
        From 0.
    warmup : float
        Share of the steps in which the factor rises linearly; then it falls as a half cosine.
    """
    n_warmup = round(n_steps * warmup)
    if step < n_warmup:
        return (step + 1) / (n_warmup + 1)
    done = (step - n_warmup) / max(1, n_steps - n_warmup)
    return 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


class WarmupCosine(Callback):
    """Set the learning rates before each step of a training.

    Each training (``fit``, or ``partial_fit`` of the net) runs the whole schedule. The schedule
    ends as soon as something else sets a rate, such as another callback; that rate is kept.

    Parameters
    ----------
    warmup : float, default=0.1
        As in :func:`warmup_cosine`.
    in_pairs : bool, default=False
        As in :class:`Batches`.
    """

    n_batches_: int
    n_steps_: int
    step_: int

    def __init__(self, warmup: float = 0.1, in_pairs: bool = False):
        self.warmup = warmup
        self.in_pairs = in_pairs

    def initialize(self) -> Self:
        self.rates_: list[float] = []
        return self

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.n_batches_ = count_batches(get_len(X), net.batch_size, self.in_pairs)
        if _rates(net) != self.rates_:  # else they are those at the end of the schedule before
            for group in net.optimizer_.param_groups:
                group["initial_lr"] = group["lr"]
        self.restart(net, net.max_epochs)

    def restart(self, net: NeuralNet, n_epochs: int) -> None:
        """Begin a schedule of some epochs."""
        self.n_steps_, self.step_ = n_epochs * self.n_batches_, 0
        self._set(net)

    def on_batch_begin(
        self, net: NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        if not training or _rates(net) != self.rates_:
            return
        self._set(net)
        net.history.record_batch("event_lr", self.rates_[0])
        self.step_ += 1

    def _set(self, net) -> None:
        factor = warmup_cosine(self.step_, self.n_steps_, self.warmup)
        for group in net.optimizer_.param_groups:
            group["lr"] = group["initial_lr"] * factor
        self.rates_ = _rates(net)


def _rates(net) -> list[float]:
    return [float(group["lr"]) for group in net.optimizer_.param_groups]


class EpochProgress(Callback):
    """Report each epoch to a bar, and to scikit-learn's callbacks of an estimator.

    Both are dropped at the end of training, so that the net can be pickled and trained again.

    Parameters
    ----------
    advance : callable or None
        Called with 1 after each epoch.
    context : CallbackContext of scikit-learn, default=None
    estimator : TunedEstimator, default=None
    """

    advance: Callable[[int], object] | None
    context: Any
    estimator: Any
    epoch_: Any

    def __init__(
        self, advance: Callable[[int], object] | None, context: Any = None, estimator: Any = None
    ):
        self.advance = advance
        self.context = context
        self.estimator = estimator

    def on_epoch_begin(self, net: NeuralNet, **kwargs: Any) -> None:
        if self.context is not None:
            epoch = self.context.subcontext(task_name="epoch")
            self.epoch_ = epoch.call_on_fit_task_begin(estimator=self.estimator)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        if self.advance is not None:
            self.advance(1)
        if self.context is not None:
            self.epoch_.call_on_fit_task_end(estimator=self.estimator)

    def on_train_end(self, net: NeuralNet, **kwargs: Any) -> None:
        self.advance = self.context = self.estimator = self.epoch_ = None


class StopOnNonFinite(Callback):
    """Raise an error if a loss, or a weight at the end, is NaN or infinite."""

    finite_: list[Any]

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        # Pretrained networks may have infinite buffers, such as masks.
        state = net.module_.state_dict()
        self.finite_ = [name for name, tensor in state.items() if tensor.isfinite().all()]

    def on_batch_end(
        self,
        net: NeuralNet,
        batch: Any = None,
        training: bool | None = None,
        loss: Any = None,
        **kwargs: Any,
    ) -> None:
        value = net.history[-1, "batches", -1]["train_loss" if training else "valid_loss"]
        if not math.isfinite(value):
            rates = [group["lr"] for group in net.optimizer_.param_groups]
            self._stop(net, f"The loss is {value}", max(rates))

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        # No loss was computed with the weights of the last step.
        state = net.module_.state_dict()
        if not all(state[name].isfinite().all() for name in self.finite_):
            self._stop(net, "Weights are NaN or infinite", net.lr)

    def _stop(self, net, what: str, lr: float):
        groups = net.optimizer_.param_groups
        decays = max(group.get("weight_decay", 0) for group in groups)
        decay = "a smaller weight_decay, " if decays > 1 else ""
        raise FloatingPointError(
            f"{what} in epoch {len(net.history)} at a learning rate of {lr:.3g}. Try {decay}"
            f"lr={lr / 10:.1g}, callbacks=[GradientNormClipping(1.0)], or precision='float32'."
        )


class StopAtTime(Callback):
    """End a training after the step in which its time is over; its weights are kept.

    Parameters
    ----------
    until : float
        As of ``clock``.
    clock : callable, default=time.perf_counter
        Returns the time in seconds.
    """

    def __init__(self, until: float, clock: Callable[[], float] = time.perf_counter):
        self.until = until
        self.clock = clock

    def on_batch_end(
        self, net: NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        if training and self.clock() >= self.until:
            raise KeyboardInterrupt  # the way to end a training in skorch


class AverageWeights(Callback):
    """Average the weights over the end of a training, and predict with the average.

    Izmailov et al. 2018, arXiv:1803.05407, with ``torch.optim.swa_utils``. Buffers, such as the
    statistics of batch norm, are averaged too.

    Parameters
    ----------
    start : float, default=0.5
        Share of the epochs after which the average begins; the weights after each optimizer step
        count.
    decay : float, default=None
        None for the mean of all these weights. A number below 1 for an exponential moving average,
        in which those of a step are multiplied by it at each further step.

    Examples
    --------
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import AverageWeights, FineTunedClassifier
    >>> photos = load_sample_images().images
    >>> model = FineTunedClassifier(
    ...     trainable=1, image_size=64, max_epochs=2, callbacks=[AverageWeights()]
    ... )
    >>> model.fit(photos, ["house", "flower"]).predict(photos).shape
    (2,)
    """

    average_: dict[str, Any] | None
    n_averaged_: int

    def __init__(self, start: float = 0.5, decay: float | None = None):
        self.start = start
        self.decay = decay

    def initialize(self) -> Self:
        """Check the parameters, before training.

        Returns
        -------
        self : AverageWeights

        Raises
        ------
        ValueError
            For a share or a decay that is out of bounds or no number.
        """
        start, decay = self.start, self.decay
        is_share = isinstance(start, Real) and 0 <= start < 1
        if not is_share or not (decay is None or (isinstance(decay, Real) and 0 < decay < 1)):
            raise ValueError(
                f"{self!r}: start is a number from 0 on, decay None or a number above 0, and both "
                "are below 1."
            )
        return self

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Forget the average of an earlier training.

        Parameters
        ----------
        net : skorch.NeuralNet
        X, y : object, default=None
            The rows that are trained on.
        **kwargs
            What skorch passes besides.
        """
        self.average_, self.n_averaged_ = None, 0

    def on_batch_end(
        self, net: NeuralNet, batch: Any = None, training: bool | None = None, **kwargs: Any
    ) -> None:
        """Add the weights after a step to the average.

        Parameters
        ----------
        net : skorch.NeuralNet
        batch : object, default=None
            The rows of the step.
        training : bool, default=None
            Whether the step was one of training.
        **kwargs
            What skorch passes besides.
        """
        if not training or len(net.history) <= self.start * net.max_epochs:
            return
        self.n_averaged_ += 1
        if self.average_ is None:
            self.average_ = copy_state(net.module_)
            return
        state = net.module_.state_dict()
        decay = None if self.decay is None else float(self.decay)  # torch takes no number of NumPy
        average = get_swa_multi_avg_fn() if decay is None else get_ema_multi_avg_fn(decay)
        names = [name for name, tensor in state.items() if tensor.is_floating_point()]
        # In place: only the first step copies the weights.
        averages = [self.average_[name] for name in names]
        average(averages, [state[name] for name in names], self.n_averaged_ - 1)
        for name in state.keys() - set(names):  # such as the number of batches
            self.average_[name].copy_(state[name])

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        """Give the network the average of its weights.

        Parameters
        ----------
        net : skorch.NeuralNet
        X, y : object, default=None
            The rows that were trained on.
        **kwargs
            What skorch passes besides.
        """
        if self.average_ is not None:
            net.module_.load_state_dict(self.average_)
        elif net.max_epochs:
            warnings.warn(
                f"{self!r} averaged nothing, since training ended in epoch {len(net.history)} of "
                f"{net.max_epochs}: the model predicts with weights that are not averaged. Set a "
                "smaller start, or let training go on for longer.",
                stacklevel=2,
            )
        self.average_ = None

    def __repr__(self) -> str:
        return f"AverageWeights(start={self.start!r}, decay={self.decay!r})"


def is_averaged(net: NeuralNet) -> bool:
    """Tell whether the last training of a net ends with an average of its weights."""
    return any(isinstance(c, AverageWeights) and c.n_averaged_ > 0 for _, c in net.callbacks_)


class KeepBest(Callback):
    """Restore the module of the lowest validation loss; before training counts as epoch 0.

    An average of the weights replaces it: nothing is restored then.
    """

    epoch_: int
    initial_loss_: float
    loss_: float

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        valid = net.train_split(None)[1]
        self.epoch_, self.loss_ = 0, mean_loss(net, valid)
        self.initial_loss_ = self.loss_
        self.state_: dict[str, Any] | None = copy_state(net.module_)

    def on_epoch_end(self, net: NeuralNet, **kwargs: Any) -> None:
        loss = net.history[-1, "valid_loss"]
        if loss < self.loss_:
            self.epoch_, self.loss_ = len(net.history), loss
            self.state_ = copy_state(net.module_)

    def on_train_end(self, net: NeuralNet, **kwargs: Any) -> None:
        if is_averaged(net):
            self.state_ = None
            return
        if self.epoch_ == 0 and len(net.history):
            last = net.history[-1, "valid_loss"]
            if is_worse(self.initial_loss_, last):
                kept = "The weights before training are kept. "
                _warn_worse("validation", self.initial_loss_, last, net, kept)
        net.module_.load_state_dict(self.state_)
        self.state_ = None


# -- a training that did not help ----------------------------------------------------------------


class LossMonitor(Callback):
    """Compare the loss on training rows before and after training, and warn if it has increased.

    Up to 256 rows are compared, without dropout. The loss must have increased by more than two
    percent, to more than a tenth of that of constant predictions. If it is below that of constant
    predictions, more labels must be predicted wrongly, too: a probe that fits its samples exactly
    has almost no loss, and a trained network that is less certain of them can be better. Also
    warns if the loss never drops below that of a constant prediction. It is behind callbacks that
    change the weights at the end of training, such as :class:`AverageWeights`.
    """

    index_: torch.Tensor | None
    initial_loss_: float
    initial_wrong_: float
    loss_: float
    wrong_: float

    def on_train_begin(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        self.index_ = None
        if isinstance(X, TrainingDataset) and net.max_epochs:
            self.index_ = torch.linspace(0, len(X) - 1, min(len(X), _AT_MOST)).long()
            self.initial_loss_, self.initial_wrong_ = _evaluate(net, X, self.index_)

    def on_train_end(self, net: NeuralNet, X: Any = None, y: Any = None, **kwargs: Any) -> None:
        if self.index_ is None:
            return
        before = self.initial_loss_
        self.loss_, self.wrong_ = loss, wrong = _evaluate(net, X, self.index_)
        chance = _loss_by_chance(net, X, self.index_)
        is_clear = wrong > self.initial_wrong_ or wrong == 1 or loss > chance
        if is_clear and is_worse(before, loss, max(_SMALL, _SHARE * chance)):
            _warn_worse("training", before, loss, net, "")
        elif not net.criterion_.is_own and 0 < 0.98 * chance <= loss and loss > 0.9 * before:
            warnings.warn(
                f"Training did not help: the loss on training samples, {loss:.3g} after "
                f"training with lr={net.lr:.3g}, is that of constant predictions, {chance:.3g}. "
                "Try another lr, more epochs or head_init='probe'.",
                stacklevel=2,
            )


def is_worse(before: float, after: float, least: float = _SMALL) -> bool:
    """Tell whether a loss after training is higher than that before, by more than two percent.

    Parameters
    ----------
    before, after : float
        The losses.
    least : float, default=0.001
        The largest loss that is no worse than any other.
    """
    return after > max(_NOISE * before, least)


def _loss_by_chance(net, dataset: TrainingDataset, index: torch.Tensor) -> float:
    """Return the loss of constant predictions; with a loss of the user's, of outputs of zero."""
    target, index = net.criterion_.target, index.to(dataset.target.device)
    if net.criterion_.is_own:
        zeros, loss = torch.zeros(len(index), target.n_outputs, device=net.device), 0.0
        for part in torch.arange(len(index)).split(min(net.batch_size, net.most_rows)):
            loss += net.get_loss(zeros[part], dataset.target[index[part]]).item() * len(part)
        return loss / len(index)
    weight = dataset.weight[index.cpu()].numpy()
    weight = weight if weight.any() else np.ones(len(index))
    return constant_loss(target, dataset.target[index].numpy(force=True), weight)


def _warn_worse(rows: str, before: float, after: float, net: NeuralNet, kept: str) -> None:
    """Warn that a training increased the loss; ``kept`` says which weights are kept."""
    warnings.warn(
        f"Training did not help: the loss on {rows} samples was {before:.3g} before and "
        f"{after:.3g} after training with lr={net.lr:.3g}. {kept}Try lr={net.lr / 10:.1g}, fewer "
        "trained stages, or trainable='head'.",
        stacklevel=2,
    )


def mean_loss(net: NeuralNet, dataset: TrainingDataset, n_rows: int | None = None) -> float:
    """Compute the mean loss over rows without training.

    Parameters
    ----------
    n_rows : int, default=None
        The number of rows, from the first on; None is all.
    """
    return _evaluate(net, dataset, torch.arange(len(dataset))[:n_rows])[0]


@torch.no_grad()
def _evaluate(net: NeuralNet, dataset: TrainingDataset, index: torch.Tensor) -> tuple[float, float]:
    """Return the mean loss and the share of wrong labels of rows; the share is 1 for numbers."""
    target: Target = net.criterion_.target
    loss, n_wrong = 0.0, 0.0
    for part in index.split(net.batch_size):
        step = net.validation_step(dataset.batch(part))
        loss += step["loss"].item() * len(part)
        if isinstance(target, NumericTarget):
            n_wrong += len(part)
            continue
        outputs = step["y_pred"][0] if isinstance(step["y_pred"], tuple) else step["y_pred"]
        predicted = target.encode(target.decode(outputs.numpy(force=True)))
        is_wrong = predicted != dataset.target[part].numpy(force=True)
        n_wrong += float(np.mean(is_wrong)) * len(part)
    return loss / len(index), n_wrong / len(index)


def constant_loss(target: Target, encoded: np.ndarray, weight: np.ndarray) -> float:
    """Return the least loss of a prediction that is the same for all rows.

    Parameters
    ----------
    encoded : ndarray of shape (n,) or (n, n_outputs)
    weight : ndarray of shape (n,)

    Returns
    -------
    float
        The entropy of the classes, the mean entropy of the labels, or the mean variance of the
        standardised targets.
    """
    weight = weight / weight.sum()
    if target.loss == "cross_entropy":
        share = np.bincount(encoded, weight)
        return float(-xlogy(share, share).sum())
    columns = target.scaled(encoded).reshape(len(encoded), -1)
    mean = weight @ columns
    if target.loss == "squared_error":
        return float((weight @ (columns - mean) ** 2).mean())
    return float(-(xlogy(mean, mean) + xlogy(1 - mean, 1 - mean)).mean())
