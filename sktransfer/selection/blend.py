"""Fit a blend: features of all members, their weights, and those with a weight on all samples."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import numpy as np

from ..backbones import Backbone, LayerInfo
from ..data import NumericTarget, named_among, take
from ..features import empty_table
from .block_features import compute_blocks, describe_runs
from .judging import BlendPart, Choice, Labels, Numbers, choose_members, mean_prediction
from .members import BLEND, RAW, Block, Layout, Member, make_members, sizes_of
from .models import Tables
from .self_training import self_train, some_unlabelled
from .timing import sizes_within
from .trials import run_settings
from .tuned import TunedMember, TunedNumbers, fit_tuned, may_pay

__all__ = ["Blend", "BlendTask", "fit_blend"]


class Blend:
    """A weighted mean of the predictions of several models on features of one network.

    Parameters
    ----------
    backbone : Backbone
    parts : list of BlendPart
        The highest weight first.
    temperature : float or None
        Of the mean, for probabilities.
    vectorizer : transformer or None
        Makes the features that need no network.
    run : dict
        device, engine, memory, n_jobs, verbose.
    tuned : TunedMember, TunedNumbers or None, default=None
        A trained network; the others have the rest of its weight.
    """

    device: str
    engine: str
    memory: Any

    def __init__(
        self,
        backbone: Backbone,
        parts: list[BlendPart],
        temperature: float | None,
        vectorizer: Any,
        run: dict[str, Any],
        tuned: TunedMember | TunedNumbers | None = None,
    ):
        self.backbone = backbone
        self.parts = parts
        self.temperature = temperature
        self.vectorizer = vectorizer
        self.tuned = tuned
        vars(self).update(run)

    def set_params(self, **run: Any) -> Self:
        """Set device, engine, memory, n_jobs or verbose."""
        vars(self).update(run)
        return self

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each member by name, the highest first."""
        own = {} if self.tuned is None else {self.tuned.name: self.tuned.weight}
        rest = 1 - sum(own.values())
        found = own | {part.member.name: rest * part.weight for part in self.parts}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def execution_(self) -> dict[str, Any]:
        """How the network is run; with several sizes, "batch_size" is a dictionary by size."""
        runs = describe_runs(self.backbone, self._blocks, run_settings(self))
        if len(runs) < 2:
            return dict(*runs.values())
        shapes = {one.input_shape or (): found["batch_size"] for one, found in runs.items()}
        sizes = {shape[-1]: batch_size for shape, batch_size in shapes.items()}
        return next(iter(runs.values())) | {"batch_size": sizes}

    @property
    def _blocks(self) -> list[Block]:
        return _blocks([part.member for part in self.parts])

    def mean(self, samples: Sequence[Any]) -> np.ndarray:
        """Return probabilities or standardised numbers, ``(n_samples, n_outputs)``."""
        run = run_settings(self)
        tables = Tables(compute_blocks(samples, self.backbone, self._blocks, self.vectorizer, run))
        mean = mean_prediction(self.parts, tables, self.temperature)
        if self.tuned is None:
            return mean
        share = self.tuned.weight
        return (1 - share) * mean + share * self.tuned.predictions(samples, run)


class ClassBlend(Blend):
    """A blend of classifiers.

    Parameters
    ----------
    classes : ndarray of shape (n_classes,)
    *args
        Of :class:`Blend`.
    """

    def __init__(self, classes: np.ndarray, *args: Any):
        super().__init__(*args)
        self.classes_ = classes

    def predict_proba(self, samples: Sequence[Any]) -> np.ndarray:
        """Return the probability of each class, ``(n_samples, n_classes)``."""
        return self.mean(samples)

    def predict(self, samples: Sequence[Any]) -> np.ndarray:
        """Return the most probable class of each sample."""
        return self.classes_[self.predict_proba(samples).argmax(axis=1)]


class NumberBlend(Blend):
    """A blend of regressors.

    Parameters
    ----------
    scaler : NumericTarget
    *args
        Of :class:`Blend`.
    """

    def __init__(self, scaler: NumericTarget, *args: Any):
        super().__init__(*args)
        self.scaler = scaler

    def predict(self, samples: Sequence[Any]) -> np.ndarray:
        """Return numbers, in the form of y."""
        return self.scaler.decode(self.mean(samples))


@dataclasses.dataclass(frozen=True)
class BlendTask:
    """What a blend is fitted to.

    Parameters
    ----------
    backbone : Backbone
    samples : sequence
        Checked by an estimator.
    outcome : Labels or Numbers
        Of all samples; weights may be 0.
    rows : ndarray of int
        Positions, ascending, of the samples on which members are compared.
    seed : int
    run : dict
        device, engine, memory, n_jobs, verbose.
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

    @property
    def weighted(self) -> np.ndarray:
        """Positions of the samples with a weight."""
        return np.flatnonzero(self.outcome.weight)


def fit_blend(task: BlendTask, infos: dict[str, LayerInfo], asked: int | None) -> Blend:
    """Fit a blend.

    Parameters
    ----------
    task : BlendTask
    infos : dict of str to LayerInfo
        Of the layers of its backbone.
    asked : int or None
        The input size that is asked for; None takes several.

    Returns
    -------
    Blend
    """
    is_labels, sizes = isinstance(task.outcome, Labels), _sizes(task, asked)
    layout = Layout(task.backbone, infos, sizes, task.classifier, is_labels, task.groups)
    members = make_members(layout)
    vectorizer = _fitted_vectorizer(task, task.rows)
    if vectorizer is None:
        members = [member for member in members if RAW not in member.blocks]
    with task.phase("compare"):
        by_block = _compute(task, _blocks(members), task.rows, vectorizer)
        choice = choose_members(members, by_block, task.outcome.take(task.rows), task.seed)
    needed = _blocks([one.member for one in choice.members])
    with task.phase("fit"):
        vectorizer = _fitted_vectorizer(task, task.weighted) if RAW in needed else None
        known = _complete(task, needed, by_block, vectorizer)
        parts = _fit_parts(task, choice, known, needed, vectorizer)
        block = Block(sizes[min(BLEND["trained_size"], len(sizes) - 1)], layout.head)
        tuned = _tuned(task, choice, {block: by_block[block]})
    fitted = (task.backbone, parts, choice.temperature, vectorizer, task.run, tuned)
    if isinstance(task.outcome, Numbers):
        return NumberBlend(task.outcome.scaler, *fitted)
    return ClassBlend(task.outcome.classes, *fitted)


def _sizes(task: BlendTask, asked: int | None) -> tuple[int | None, ...]:
    """Return the input sizes: several, or fewer where time is short."""
    sizes = sizes_of(task.backbone, asked)
    if task.until is None:
        return sizes
    left, device = task.until - time.perf_counter(), task.run["device"]
    return sizes_within(task.backbone, sizes, task.samples, len(task.weighted), left, device)


def _fit_parts(
    task: BlendTask, choice: Choice, known: dict, needed: list[Block], vectorizer
) -> list[BlendPart]:
    """Fit the members with a weight to all samples."""
    outcome: Any = task.outcome.take(task.weighted)
    if task.unlabelled is None:
        return [one.fit(Tables(known), outcome) for one in choice.members]
    new = _compute_unlabelled(task, needed, vectorizer)
    return self_train(choice.members, choice.temperature, known, outcome, new, task.seed)


def _tuned(
    task: BlendTask, choice: Choice, start: dict[Block, np.ndarray]
) -> TunedMember | TunedNumbers | None:
    """Return a tuned network, if it has a weight.

    Parameters
    ----------
    task : BlendTask
    choice : Choice
    start : dict of Block to ndarray of shape (n_rows, n_features)
        The features at the size of the training, before it.
    """
    if task.until is None:
        return None
    if not may_pay(task.backbone, task.outcome, choice, task.rows, start, task.seed):
        return None
    (block,) = start
    return fit_tuned(
        task.backbone.with_image_size(block.size),
        task.samples,
        task.outcome,
        choice,
        task.rows,
        seed=task.seed,
        batch_size=task.batch_size,
        run=task.run,
        until=task.until,
    )


def _blocks(members: list[Member]) -> list[Block]:
    return list(dict.fromkeys(block for member in members for block in member.blocks))


def _fitted_vectorizer(task: BlendTask, rows: np.ndarray):
    """Fit the vectorizer of the modality to enough samples; return None without features."""
    if len(rows) < BLEND["least_counted"]:
        return None
    vectorizer = task.backbone.modality.vectorizer()
    try:
        return None if vectorizer is None else vectorizer.fit(take(task.samples, rows))
    except ValueError:  # no text has a word
        return None


def _compute(
    task: BlendTask, blocks: list[Block], rows: np.ndarray, vectorizer
) -> dict[Block, np.ndarray]:
    with named_among(rows):
        samples = take(task.samples, rows)
        return compute_blocks(samples, task.backbone, blocks, vectorizer, task.run)


def _compute_unlabelled(task: BlendTask, blocks: list[Block], vectorizer) -> dict[Block, Any]:
    """Compute the features of the unlabelled samples that are used."""
    rows = some_unlabelled(len(task.unlabelled), task.seed)
    with named_among(rows, "X_unlabelled"):
        samples = take(task.unlabelled, rows)
        return compute_blocks(samples, task.backbone, blocks, vectorizer, task.run)


def _complete(
    task: BlendTask, blocks: list[Block], known: dict, vectorizer
) -> dict[Block, np.ndarray]:
    """Return the features of all samples with a weight, computing those that are missing."""
    is_known = np.isin(task.weighted, task.rows)
    if is_known.all():
        return {block: known[block] for block in blocks}
    fixed = [block for block in blocks if block != RAW]
    missing = _compute(task, fixed, task.weighted[~is_known], None)
    tables = {}
    for block in fixed:
        shape = (len(is_known), known[block].shape[1])
        tables[block] = empty_table(shape, known[block].dtype)
        tables[block][is_known], tables[block][~is_known] = known[block], missing[block]
    if vectorizer is not None:
        tables[RAW] = vectorizer.transform(take(task.samples, task.weighted))
    return tables
