"""A network whose stages are all trained, as a member of a blend."""

from __future__ import annotations

import dataclasses
import math
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone, weighted_layers
from ..data import NumericTarget, take
from ..finetuning import (
    FineTunedClassifier,
    FineTunedRegressor,
    StopAtTime,
    training_length,
)
from ..transferability import PROBE_C, LinearProbe, hold_out, mixture_weights, temperature
from .judging import Choice, Labels, Numbers, choose_members, standardised, tempered
from .linear_models import Probe
from .members import BLEND, Block, Member
from .models import Model, OnFeatures
from .timing import measure_timing
from .trials import set_running

__all__ = ["TunedMember", "TunedNumbers", "fit_tuned", "may_pay"]


@dataclasses.dataclass(frozen=True)
class TunedMember:
    """A tuned classifier with its weight in a blend.

    Parameters
    ----------
    name : str
    weight : float
    temperature : float
    model : FineTunedClassifier
    columns : ndarray of int
        The class of each of its columns.
    n_classes : int
    """

    name: str
    weight: float
    temperature: float
    model: FineTunedClassifier
    columns: np.ndarray
    n_classes: int

    def predictions(self, samples: Sequence[Any], run: dict[str, Any]) -> np.ndarray:
        """Return the probabilities of samples, ``(n_samples, n_classes)``."""
        return tempered(self.logits(samples, run), self.temperature)

    def logits(self, samples: Sequence[Any], run: dict[str, Any]) -> np.ndarray:
        """Return logarithms of probabilities; minus infinity for classes it has not seen."""
        found = np.full((len(samples), self.n_classes), -np.inf)
        own = set_running(self.model, **run).predict_proba(samples)
        found[:, self.columns] = np.log(np.maximum(own, 1e-6))
        return found

    def weighted(
        self, held_out: Sequence[Any], labels: Labels, others: np.ndarray, run: dict[str, Any]
    ) -> Any:
        """Return the member with its temperature and weight, or None if it is worse than others.

        Parameters
        ----------
        held_out : sequence
            Samples that it was not trained on.
        labels : Labels
            Of these.
        others : ndarray of shape (n_samples, n_classes)
            The probabilities of the other members.
        run : dict
            device, memory, n_jobs, verbose.
        """
        logits = self.logits(held_out, run)
        smoothing = 1 / (len(labels.codes) + 2)
        settings = {"label_smoothing": smoothing, "sample_weight": labels.weight}
        heat = temperature(logits, labels.codes, **settings)
        pair = np.stack([others, tempered(logits, heat)])
        own = np.log(np.maximum(pair[:, np.arange(len(others)), labels.codes], 1e-6))
        if np.subtract(*own) @ labels.weight > 0:
            return None
        prior = np.full(2, BLEND["tuned_pseudo_samples"] / 2)
        _, weight = mixture_weights(pair, labels.codes, prior=prior, sample_weight=labels.weight)
        return dataclasses.replace(self, weight=float(weight), temperature=heat)


@dataclasses.dataclass(frozen=True)
class TunedNumbers:
    """A tuned regressor with its weight in a blend.

    Parameters
    ----------
    name : str
    weight : float
    model : FineTunedRegressor
    scaler : NumericTarget
        Of the blend.
    """

    name: str
    weight: float
    model: FineTunedRegressor
    scaler: NumericTarget

    def predictions(self, samples: Sequence[Any], run: dict[str, Any]) -> np.ndarray:
        """Return the standardised numbers of samples, ``(n_samples, n_targets)``."""
        return standardised(set_running(self.model, **run).predict(samples), self.scaler)

    def weighted(
        self, held_out: Sequence[Any], numbers: Numbers, others: np.ndarray, run: dict[str, Any]
    ) -> Any:
        """Return the member with its weight, as :meth:`TunedMember.weighted`."""
        step = self.predictions(held_out, run) - others
        missing = numbers.target - others
        scale = numbers.weight[:, None]
        if (scale * (step - missing) ** 2).sum() > (scale * missing**2).sum():
            return None
        # The least squared error of the mean, with pseudo-samples for which one half is best.
        square, product = (float((scale * step * x).sum()) for x in (step, missing))
        pseudo = BLEND["tuned_pseudo_samples"] * square / numbers.weight.sum()
        weight = (product + pseudo / 2) / max(square + pseudo, np.finfo(float).tiny)
        return dataclasses.replace(self, weight=float(np.clip(weight, 0, 1)))


def may_pay(
    backbone: Backbone,
    outcome: Labels | Numbers,
    choice: Choice,
    rows: np.ndarray,
    start: dict[Block, np.ndarray],
    seed: int,
) -> bool:
    """Tell whether a tuned network may improve a blend: there are samples and errors enough.

    Parameters
    ----------
    backbone : Backbone
    outcome : Labels or Numbers
        Of all samples.
    choice : Choice
    rows : ndarray of int
        Positions of the samples of its predictions.
    start : dict of Block to ndarray of shape (n_rows, n_features)
        The features on which the probe is fitted from which the training begins.
    seed : int

    Returns
    -------
    bool
        False if the blend makes less than 0.6 of the errors of that probe. Training leaves 0.7 of
        them: the median of the first 15 tasks of benchmarks/finetune_defaults.py.
    """
    n, n_strata = int((outcome.weight > 0).sum()), len(np.unique(outcome.strata[rows]))
    if n < max(BLEND["tuned_rows"], BLEND["tuned_rows_of_class"] * n_strata):
        return False
    known = outcome.take(rows)
    errors = _errors(choice, known)
    if not errors >= BLEND["tuned_errors"] or not weighted_layers(backbone):
        return False
    probe = Member("start", tuple(start), _probe_of(outcome))
    before = _errors(choose_members([probe], start, known, seed), known)
    return errors >= BLEND["tuned_share"] * before


def _errors(choice: Choice, known: Labels | Numbers) -> float:
    """Return the mean error out of fold; NaN where nothing was judged."""
    judged = np.isfinite(choice.out_of_fold).all(1)
    if not judged.any():
        return math.nan
    some = known.take(np.flatnonzero(judged))
    return float(np.average(some.errors(choice.out_of_fold[judged]), weights=some.weight))


def _probe_of(outcome: Labels | Numbers) -> Model:
    """Return the model of the linear probe with which a head begins."""
    if isinstance(outcome, Labels):
        return OnFeatures(LinearProbe((PROBE_C,)))
    return Probe(BLEND["penalties"], BLEND["penalty"])


def fit_tuned(
    backbone: Backbone,
    samples: Any,
    outcome: Labels | Numbers,
    choice: Choice,
    rows: np.ndarray,
    *,
    seed: int,
    batch_size: int | str,
    run: dict[str, Any],
    until: float,
) -> TunedMember | TunedNumbers | None:
    """Train all stages without some samples, and weight the network by its predictions of these.

    Parameters
    ----------
    backbone : Backbone
        For the size at which it is trained.
    samples : sequence
    outcome : Labels or Numbers
        Of all samples.
    choice : Choice
    rows : ndarray of int
        Positions of the samples of its predictions.
    seed : int
    batch_size : int or "auto"
    run : dict
        device, engine, memory, n_jobs, verbose.
    until : float
        Time, as of ``time.perf_counter``, at which training ends, also if it is not finished. It
        does not begin, if it is expected to take longer.

    Returns
    -------
    TunedMember, TunedNumbers or None
        None without a weight, or without time.
    """
    train, held = _split(outcome, choice, rows, seed)
    batch_size = _rows_in_step(len(train)) if batch_size == "auto" else batch_size
    if time.perf_counter() + _seconds(backbone, samples, len(train), batch_size) > until:
        return None
    estimator = FineTunedClassifier if isinstance(outcome, Labels) else FineTunedRegressor
    settings: dict = {
        "batch_size": batch_size,
        "random_state": seed,
        "callbacks": [StopAtTime(until)],
    }
    model = estimator(backbone, trainable="all", **settings, **run)
    with warnings.catch_warnings():  # a training that does not help has no weight
        warnings.simplefilter("ignore", UserWarning)
        model.fit(take(samples, train), outcome.y[train], sample_weight=outcome.weight[train])
    member = _member(model.set_params(callbacks=None), backbone, outcome)
    known = take(samples, rows[held]), outcome.take(rows[held]), choice.out_of_fold[held]
    member = member.weighted(*known, run)
    return None if member is None or member.weight < BLEND["tuned_least_weight"] else member


def _member(model: Any, backbone: Backbone, outcome: Labels | Numbers) -> Any:
    size = "" if backbone.input_shape is None else f", {max(backbone.input_shape[1:])} pixels"
    name = f"all stages trained{size}"
    if isinstance(outcome, Numbers):
        return TunedNumbers(name, 0.0, model, outcome.scaler)
    columns = np.searchsorted(outcome.classes, model.classes_)
    return TunedMember(name, 0.0, 1.0, model, columns, len(outcome.classes))


def _split(
    outcome: Labels | Numbers, choice: Choice, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions to train on, and places among ``rows`` of the samples held out."""
    judged = np.flatnonzero(np.isfinite(choice.out_of_fold).all(1))
    least, most = BLEND["held_out"]
    n_held = np.clip(len(judged) // 5, least, most)
    positions = rows[judged]
    fraction = min(float(n_held / len(judged)), 1 / 3)
    _, found = hold_out(outcome.strata[positions], outcome.weight[positions], fraction, seed)
    held = judged[found]
    equal = np.isin(choice.groups, choice.groups[held])  # to a sample held out
    return np.setdiff1d(np.flatnonzero(outcome.weight), rows[equal]), held


def _seconds(backbone: Backbone, samples: Any, n: int, batch_size: int | str) -> float:
    """Estimate the time of training on n samples."""
    step = measure_timing(backbone, samples, {"all": "all"}).step["all"]
    _, n_epochs = training_length(n, batch_size, "auto")
    return step * n * n_epochs


def _rows_in_step(n: int) -> int | str:
    """Return half of the usual rows where samples are few; the number of steps is the same."""
    few, most = BLEND["tuned_batch"]
    return few if n <= most else "auto"
