"""Fit a blend: propose candidates, weight them by cross-validation, fit those with a weight."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backbones import Backbone, LayerInfo
from ..data import named_among, take
from ..features import Output, empty_table
from .blend import Blend, read_samples
from .candidates import COUNTS, Candidate, Tables, TunedCandidate
from .cross_validation import Labels, Numbers, OutOfFold, cross_validate
from .proposals import BLEND, Layout, input_sizes, propose_candidates
from .self_training import self_train, some_unlabelled
from .timing import sizes_within
from .tuned import fit_tuned, may_pay

__all__ = ["BlendTask", "fit_blend"]


@dataclasses.dataclass(frozen=True)
class BlendTask:
    """Data and settings for fitting a blend.

    Parameters
    ----------
    backbone : Backbone
    samples : sequence
        Checked by an estimator.
    outcome : Labels or Numbers
        Of all samples; weights may be 0.
    rows : ndarray of int
        Positions, ascending, of the samples on which candidates are compared.
    seed : int
    run : dict
        device, engine, memory, verbose.
    classifier : classifier or None, default=None
        The user's classifier on features.
    unlabelled : sequence or None, default=None
        Samples without labels, checked by an estimator.
    groups : tuple of tuple of int or None, default=None
        The classes of the network that mean each label, where the user says so.
    batch_size : int or "auto", default="auto"
        Rows in a training step of a tuned network.
    until : float or None, default=None
        Time, as of ``time.perf_counter``, at which training must be over; None trains none.
    phase : callable, default=contextlib.nullcontext
        From the name of a phase to a context around it, which reports progress.
    """

    backbone: Backbone
    samples: Any
    outcome: Labels | Numbers
    rows: np.ndarray
    seed: int
    run: dict[str, Any]
    classifier: Any = None
    unlabelled: Any = None
    groups: tuple[tuple[int, ...], ...] | None = None
    batch_size: int | str = "auto"
    until: float | None = None
    phase: Callable[..., Any] = contextlib.nullcontext


def fit_blend(task: BlendTask, infos: dict[str, LayerInfo], image_size: int | None) -> Blend:
    """Fit a blend.

    Parameters
    ----------
    task : BlendTask
    infos : dict of str to LayerInfo
        Of the layers of its backbone.
    image_size : int or None
        The input size that is asked for; None takes several.

    Returns
    -------
    Blend
    """
    outcome, weighted = task.outcome, np.flatnonzero(task.outcome.weight)
    sizes = input_sizes(task.backbone, image_size)
    if task.until is not None:  # fewer, where time is short
        left, device = task.until - time.perf_counter(), task.run["device"]
        sizes = sizes_within(task.backbone, sizes, task.samples, len(weighted), left, device)
    is_labels = isinstance(outcome, Labels)
    layout = Layout(task.backbone, infos, sizes, task.classifier, is_labels, task.groups)
    candidates = propose_candidates(layout)
    vectorizer = _fitted_vectorizer(task, task.rows)
    if vectorizer is None:
        candidates = [candidate for candidate in candidates if COUNTS not in candidate.reads]
    with task.phase("compare"):
        few = _read_rows(task, _reads(candidates), task.rows, vectorizer)
        known = outcome.take(task.rows)
        chosen, temperature, out_of_fold = cross_validate(candidates, few, known, task.seed)
    with task.phase("fit"):
        needed = _reads(chosen)
        vectorizer = _fitted_vectorizer(task, weighted) if COUNTS in needed else None
        tables = _complete(task, needed, few, weighted, vectorizer)
        known = outcome.take(weighted)
        if task.unlabelled is None or isinstance(known, Numbers):
            fitted = [candidate.fitted(Tables(tables), known) for candidate in chosen]
        else:
            rows = some_unlabelled(len(task.unlabelled), task.seed)
            with named_among(rows, "X_unlabelled"):
                new = read_samples(take(task.unlabelled, rows), needed, vectorizer, task.run)
            fitted = self_train(chosen, temperature, tables, known, new, task.seed)
        start = layout.at(sizes[min(BLEND["trained_size"], len(sizes) - 1)], layout.head)
        tuned = _tuned(task, out_of_fold, start, few[start])
    if isinstance(outcome, Numbers):
        return Blend(fitted, temperature, scaler=outcome.scaler, vectorizer=vectorizer, tuned=tuned)
    return Blend(fitted, temperature, classes=outcome.classes, vectorizer=vectorizer, tuned=tuned)


def _reads(candidates: list[Candidate]) -> list[Any]:
    return list(dict.fromkeys(read for candidate in candidates for read in candidate.reads))


def _fitted_vectorizer(task: BlendTask, rows: np.ndarray) -> Any:
    """Fit the vectorizer of the modality to enough samples; return None without features."""
    if len(rows) < BLEND["least_counted"]:
        return None
    vectorizer = task.backbone.modality.vectorizer()
    try:
        return None if vectorizer is None else vectorizer.fit(take(task.samples, rows))
    except ValueError:  # no text has a word
        return None


def _read_rows(task: BlendTask, reads: list[Any], rows: np.ndarray, vectorizer) -> dict[Any, Any]:
    with named_among(rows):
        return read_samples(take(task.samples, rows), reads, vectorizer, task.run)


def _complete(
    task: BlendTask, reads: list[Any], few: dict, weighted: np.ndarray, vectorizer
) -> dict[Any, Any]:
    """Return the features of all samples with a weight, computing those that are missing."""
    is_known = np.isin(weighted, task.rows)
    if is_known.all():
        return {read: few[read] for read in reads}
    outputs = [read for read in reads if read != COUNTS]
    missing = _read_rows(task, outputs, weighted[~is_known], None)
    tables: dict[Any, Any] = {}
    for output in outputs:
        shape = (len(is_known), few[output].shape[1])
        tables[output] = empty_table(shape, few[output].dtype)
        tables[output][is_known], tables[output][~is_known] = few[output], missing[output]
    if vectorizer is not None:
        tables[COUNTS] = vectorizer.transform(take(task.samples, weighted))
    return tables


def _tuned(
    task: BlendTask, out_of_fold: OutOfFold, start: Output, features: np.ndarray
) -> TunedCandidate | None:
    """Return a trained network, if it has a weight; ``start`` is what its training begins from."""
    if task.until is None:
        return None
    data = task.outcome, out_of_fold, task.rows
    if not may_pay(start, features, *data, task.seed):
        return None
    return fit_tuned(
        start.backbone,
        task.samples,
        *data,
        seed=task.seed,
        batch_size=task.batch_size,
        run=task.run,
        until=task.until,
    )
