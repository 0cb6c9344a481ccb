"""A network whose stages are all trained, as a member of a blend."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone, weighted_layers
from ..data import take
from ..finetuning import FineTunedClassifier, auto_batch_size, auto_epochs
from ..transferability import hold_out, mixture_weights, temperature
from .judging import Choice, Labels, tempered
from .members import BLEND
from .timing import measure_timing
from .trials import set_running

__all__ = ["TunedMember", "fit_tuned", "may_pay"]


@dataclasses.dataclass(frozen=True)
class TunedMember:
    """A tuned network with its weight in a blend.

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

    def probabilities(self, samples: Sequence, run: dict) -> np.ndarray:
        """Return the probabilities of samples, ``(n_samples, n_classes)``."""
        return tempered(self.logits(samples, run), self.temperature)

    def logits(self, samples: Sequence, run: dict) -> np.ndarray:
        """Return logarithms of probabilities; minus infinity for classes it has not seen."""
        found = np.full((len(samples), self.n_classes), -np.inf)
        own = set_running(self.model, **run).predict_proba(samples)
        found[:, self.columns] = np.log(np.maximum(own, 1e-6))
        return found


def may_pay(backbone: Backbone, labels: Labels, choice: Choice, rows: np.ndarray) -> bool:
    """Tell whether a tuned network may improve a blend: there are samples and errors enough.

    Parameters
    ----------
    backbone : Backbone
    labels : Labels
        Of all samples.
    choice : Choice
    rows : ndarray of int
        Positions of the samples of its predictions.

    Returns
    -------
    bool
    """
    judged = np.isfinite(choice.out_of_fold).all(1)
    n, n_classes = int((labels.weight > 0).sum()), len(np.unique(labels.codes[rows]))
    if n < max(BLEND["tuned_rows"], BLEND["tuned_rows_of_class"] * n_classes) or not judged.any():
        return False
    wrong = choice.out_of_fold[judged].argmax(1) != labels.codes[rows[judged]]
    errors = float(np.average(wrong, weights=labels.weight[rows[judged]]))
    return errors >= BLEND["tuned_errors"] and len(weighted_layers(backbone)) > 0


def fit_tuned(
    backbone: Backbone,
    samples: Any,
    labels: Labels,
    choice: Choice,
    rows: np.ndarray,
    *,
    seed: int,
    batch_size: int | str,
    run: dict,
    until: float,
) -> TunedMember | None:
    """Train all stages without some samples, and weight the network by its predictions of these.

    Parameters
    ----------
    backbone : Backbone
        For the size at which it is trained.
    samples : sequence
    labels : Labels
        Of all samples.
    choice : Choice
    rows : ndarray of int
        Positions of the samples of its predictions.
    seed : int
    batch_size : int or "auto"
    run : dict
        device, engine, memory, n_jobs, verbose.
    until : float
        Time, as of ``time.perf_counter``, at which training must be over; it does not begin, if it
        would take longer.

    Returns
    -------
    TunedMember or None
        None without a weight, or without time.
    """
    train, held = _split(labels, choice, rows, seed)
    if time.perf_counter() + _seconds(backbone, samples, len(train)) > until:
        return None
    model = FineTunedClassifier(
        backbone, trainable="all", batch_size=batch_size, random_state=seed, **run
    )
    with warnings.catch_warnings():  # a training that does not help has no weight
        warnings.simplefilter("ignore", UserWarning)
        model.fit(take(samples, train), labels.y[train], sample_weight=labels.weight[train])
    columns = np.searchsorted(labels.classes, model.classes_)
    size = "" if backbone.input_shape is None else f", {max(backbone.input_shape[1:])} pixels"
    member = TunedMember(f"all stages trained{size}", 0.0, 1.0, model, columns, len(labels.classes))
    return _weighted(member, take(samples, rows[held]), labels.take(rows[held]), choice, held, run)


def _split(
    labels: Labels, choice: Choice, rows: np.ndarray, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions to train on, and places among ``rows`` of the samples held out."""
    judged = np.flatnonzero(np.isfinite(choice.out_of_fold).all(1))
    least, most = BLEND["held_out"]
    n_held = np.clip(len(judged) // 5, least, most)
    positions = rows[judged]
    fraction = min(float(n_held / len(judged)), 1 / 3)
    _, found = hold_out(labels.codes[positions], labels.weight[positions], fraction, seed)
    held = judged[found]
    equal = np.isin(choice.groups, choice.groups[held])  # to a sample held out
    return np.setdiff1d(np.flatnonzero(labels.weight), rows[equal]), held


def _seconds(backbone: Backbone, samples: Any, n: int) -> float:
    """Estimate the time of training on n samples."""
    step = measure_timing(backbone, samples, {"all": "all"}).step["all"]
    return step * n * auto_epochs(n, auto_batch_size(n))


def _weighted(
    member: TunedMember, held_out: Sequence, labels: Labels, choice: Choice, held, run: dict
) -> TunedMember | None:
    """Return the member with its temperature and its weight, by samples held out."""
    logits = member.logits(held_out, run)
    smoothing = 1 / (len(labels.codes) + 2)
    settings = {"label_smoothing": smoothing, "sample_weight": labels.weight}
    heat = temperature(logits, labels.codes, **settings)
    pair = np.stack([choice.out_of_fold[held], tempered(logits, heat)])
    own = np.log(np.maximum(pair[:, np.arange(len(held)), labels.codes], 1e-6))
    if np.subtract(*own) @ labels.weight > 0:  # worse than the others alone
        return None
    prior = np.full(2, BLEND["tuned_pseudo_samples"] / 2)
    _, weight = mixture_weights(pair, labels.codes, prior=prior, sample_weight=labels.weight)
    if weight < BLEND["tuned_least_weight"]:
        return None
    return dataclasses.replace(member, weight=float(weight), temperature=heat)
