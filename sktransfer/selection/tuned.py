"""A network whose stages are all trained, as a candidate of a blend."""

from __future__ import annotations

import math
import time
import warnings
from typing import Any

import numpy as np
import torch

from ..backbones import Backbone, resolve_layer, weighted_layers
from ..data import take
from ..features import Output
from ..finetuning import (
    FineTunedClassifier,
    FineTunedRegressor,
    StopAtTime,
    training_length,
)
from ..transferability import PROBE_C, LinearProbe, hold_out, mixture_weights, temperature
from .blend import read_samples
from .candidates import Candidate, ClassifierCandidate, LinearCandidate, TunedCandidate, tempered
from .cross_validation import Labels, Numbers, OutOfFold, cross_validate
from .proposals import BLEND
from .timing import measure_timing

__all__ = ["as_candidate", "fit_tuned", "may_pay", "training_seconds", "weigh"]


def may_pay(
    start: Output,
    features: np.ndarray,
    outcome: Labels | Numbers,
    out_of_fold: OutOfFold,
    rows: np.ndarray,
    seed: int,
) -> bool:
    """Tell whether a tuned network may improve a blend: there are samples and errors enough.

    Parameters
    ----------
    start : Output
        What the head of the network is given before the training.
    features : ndarray of shape (n_rows, n_features)
        Its values: the probe is fitted on them from which the training begins.
    outcome : Labels or Numbers
        Of all samples.
    out_of_fold : OutOfFold
        Of the blend.
    rows : ndarray of int
        Positions of the samples of its predictions.
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
    errors = _errors(out_of_fold, known)
    if not errors >= BLEND["tuned_errors"] or not weighted_layers(start.backbone):
        return False
    if isinstance(outcome, Labels):  # the linear probe with which a head begins
        probe: Candidate = ClassifierCandidate("start", [start], LinearProbe((PROBE_C,)))
    else:
        settings = BLEND["penalties"], BLEND["penalty"]
        probe = LinearCandidate("start", [start], *settings, is_discriminant=False)
    *_, before = cross_validate([probe], {start: features}, known, seed)
    return errors >= BLEND["tuned_share"] * _errors(before, known)


def _errors(out_of_fold: OutOfFold, known: Labels | Numbers) -> float:
    """Return the mean error out of fold; NaN where nothing was judged."""
    judged = np.isfinite(out_of_fold.predictions).all(1)
    if not judged.any():
        return math.nan
    some = known.take(np.flatnonzero(judged))
    return float(np.average(some.errors(out_of_fold.predictions[judged]), weights=some.weight))


def fit_tuned(
    backbone: Backbone,
    samples: Any,
    outcome: Labels | Numbers,
    out_of_fold: OutOfFold,
    rows: np.ndarray,
    *,
    seed: int,
    batch_size: int | str,
    run: dict[str, Any],
    until: float,
) -> TunedCandidate | None:
    """Train all stages without some samples, and weight the network by its predictions of these.

    Parameters
    ----------
    backbone : Backbone
        For the size at which it is trained.
    samples : sequence
    outcome : Labels or Numbers
        Of all samples.
    out_of_fold : OutOfFold
        Of the other candidates.
    rows : ndarray of int
        Positions of the samples of its predictions.
    seed : int
    batch_size : int or "auto"
    run : dict
        device, engine, memory, verbose.
    until : float
        Time, as of ``time.perf_counter``, at which training ends, also if it is not finished. It
        does not begin, if it is expected to take longer.

    Returns
    -------
    TunedCandidate or None
        None without a weight, or without time.
    """
    train, held = _split(outcome, out_of_fold, rows, seed)
    if batch_size == "auto":
        few, most = BLEND["tuned_batch"]  # the number of steps is the same
        batch_size = few if len(train) <= most else "auto"
    if time.perf_counter() + training_seconds(backbone, samples, len(train), batch_size) > until:
        return None
    kind = FineTunedClassifier if isinstance(outcome, Labels) else FineTunedRegressor
    settings: dict = {"batch_size": batch_size, "random_state": seed}
    settings["callbacks"] = [StopAtTime(until)]
    model = kind(backbone, trainable="all", **settings, **run)
    with warnings.catch_warnings():  # a training that does not help has no weight
        warnings.simplefilter("ignore", UserWarning)
        model.fit(take(samples, train), outcome.y[train], sample_weight=outcome.weight[train])
    candidate = as_candidate(model, outcome)
    (output,) = candidate.reads
    read = read_samples(take(samples, rows[held]), [output], None, run)[output]
    with torch.no_grad():
        scores = candidate.scores([torch.from_numpy(read).double()]).numpy()
    weigh(candidate, scores, outcome.take(rows[held]), out_of_fold.predictions[held])
    return candidate if candidate.weight >= BLEND["tuned_least_weight"] else None


def _split(
    outcome: Labels | Numbers, out_of_fold: OutOfFold, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions to train on, and places among ``rows`` of the samples held out."""
    judged = np.flatnonzero(np.isfinite(out_of_fold.predictions).all(1))
    least, most = BLEND["held_out"]
    n_held = np.clip(len(judged) // 5, least, most)
    positions = rows[judged]
    fraction = min(float(n_held / len(judged)), 1 / 3)
    _, found = hold_out(outcome.strata[positions], outcome.weight[positions], fraction, seed)
    held = judged[found]
    equal = np.isin(out_of_fold.groups, out_of_fold.groups[held])  # to a sample held out
    return np.setdiff1d(np.flatnonzero(outcome.weight), rows[equal]), held


def training_seconds(backbone: Backbone, samples: Any, n: int, batch_size: int | str) -> float:
    """Estimate the time of training on n samples."""
    step = measure_timing(backbone, samples, {"all": "all"}).step["all"]
    _, n_epochs = training_length(n, batch_size, "auto")
    return step * n * n_epochs


def as_candidate(model: Any, outcome: Labels | Numbers) -> TunedCandidate:
    """Make a candidate of a fitted fine-tuned estimator, without temperature and weight.

    Parameters
    ----------
    model : FineTunedClassifier or FineTunedRegressor
    outcome : Labels or Numbers
        Of the blend.

    Returns
    -------
    TunedCandidate
    """
    network = model.to_backbone()
    shape = network.input_shape
    name = f"all stages trained{'' if shape is None else f', {max(shape[1:])} pixels'}"
    reads = [Output(network, resolve_layer(network, -1))]
    if isinstance(outcome, Labels):
        columns = np.searchsorted(outcome.classes, model.classes_)
        return TunedCandidate(name, reads, columns=columns, n_classes=len(outcome.classes))
    own, scaler = model.target_, outcome.scaler
    shift = (own.mean - scaler.mean) / scaler.scale
    return TunedCandidate(name, reads, factor=own.scale / scaler.scale, shift=shift)


def weigh(
    candidate: TunedCandidate, scores: np.ndarray, known: Labels | Numbers, others: np.ndarray
) -> None:
    """Set the temperature and the weight of a tuned network; 0 if it is worse than the others.

    Parameters
    ----------
    candidate : TunedCandidate
    scores : ndarray of shape (n_samples, n_outputs)
        Of samples on which it was not trained.
    known : Labels or Numbers
        Of these.
    others : ndarray of shape (n_samples, n_outputs)
        The predictions of the other candidates.
    """
    pseudo = BLEND["tuned_pseudo_samples"]
    candidate.weight = 0.0
    if isinstance(known, Labels):
        smoothing = 1 / (len(known.codes) + 2)
        settings = {"label_smoothing": smoothing, "sample_weight": known.weight}
        candidate.temperature = temperature(scores, known.codes, **settings)
        pair = np.stack([others, tempered(scores, candidate.temperature)])
        own = np.log(np.maximum(pair[:, np.arange(len(others)), known.codes], 1e-6))
        if np.subtract(*own) @ known.weight > 0:
            return
        prior = np.full(2, pseudo / 2)
        _, weight = mixture_weights(pair, known.codes, prior=prior, sample_weight=known.weight)
    else:
        step, missing, scale = scores - others, known.target - others, known.weight[:, None]
        if (scale * (step - missing) ** 2).sum() > (scale * missing**2).sum():
            return
        # The least squared error of the mean, with pseudo-samples for which one half is best.
        square, product = (float((scale * step * x).sum()) for x in (step, missing))
        pseudo *= square / known.weight.sum()
        weight = (product + pseudo / 2) / max(square + pseudo, np.finfo(float).tiny)
    candidate.weight = float(np.clip(weight, 0, 1))
