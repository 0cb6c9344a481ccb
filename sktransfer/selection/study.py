"""The study of one task: all measurements, each made once and only if it is asked for."""

from __future__ import annotations

import copy
import dataclasses
import functools
import math
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from ..backbones import Backbone, boundary, penultimate, resolve_layer, stages_of
from ..data import UnreadableSamplesError, named_among, take
from ..engines import resolve_device
from ..features import (
    FeatureStore,
    LayerChoice,
    Output,
    as_store,
    candidate_layers,
    choose_layer,
    compute_outputs,
    empty_table,
)
from ..finetuning import training_length
from ..transferability import MANY_CLASSES, explained_share, make_trial_folds
from .outcomes import fit
from .similarity import (
    NormWatcher,
    Similarity,
    measure_similarity,
    rows_to_watch,
    why_no_statistics,
)
from .strategies import (
    RULES,
    STRATEGIES,
    StrategyTask,
    available_strategies,
    set_running,
    whole_layers,
)

_IN_MEMORY = 2**30  # bytes of features; further rows are kept in temporary files
_TIMED = 8  # samples in the probe batch that is timed


class Study:
    """Measure a task: samples, their labels and a network.

    Attributes
    ----------
    names : list of str
        The strategies that the network allows, the simplest first.
    memory : StudyMemory
        Of the estimators of all trials, in front of the user's store.
    """

    names: list[str]
    memory: StudyMemory

    def __init__(self, task: StrategyTask):
        self.task = task
        self.memory = StudyMemory(as_store(task.run["memory"]))
        self.names = available_strategies(task.backbone, task.max_epochs)

    # -- what is computed once -----------------------------------------------------------------

    @functools.cached_property
    def _pass(self) -> NormWatcher | None:
        """Run the samples through the network once, for everything that is computed from them.

        The task has the pooled features of each candidate layer and the outputs afterwards, and
        the memory the activations at which training begins. Returns what recorded the inputs of
        batch norms.
        """
        task = self.task
        layers = candidate_layers(task.backbone)
        if task.backbone.classes is not None:
            layers.append(resolve_layer(task.backbone, -1))
        names = tuple(dict.fromkeys(layers))
        outputs = [Output(task.backbone, name) for name in names]
        whole = whole_layers(task.backbone, self.names)
        aside = [Output(task.backbone, name, "none") for name in whole]
        run = {name: task.run[name] for name in ("device", "engine")}
        run |= {"store": self.memory, "aside": aside}
        with named_among(task.rows):
            samples = take(task.samples, task.rows)
            watcher = self._watch(samples, outputs, run)
            tables = compute_outputs(samples, outputs, **run, verbose=task.run["verbose"])
        task.tables = dict(zip(names, tables, strict=True))
        return watcher

    def _watch(self, samples: Sequence, outputs: list[Output], run: dict) -> NormWatcher | None:
        """Run the samples whose similarity is measured, where that is possible."""
        if why_no_statistics(self.task.backbone, len(samples)):
            return None
        watcher = NormWatcher([*outputs, *run["aside"]], self.task.run["device"])
        rows = rows_to_watch(len(samples))
        try:
            compute_outputs(take(samples, rows), outputs, **run, runner=watcher)
        except UnreadableSamplesError:
            compute_outputs(samples, outputs, **run)  # names all samples that cannot be read
            raise
        return watcher

    def features(self, layers: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the pooled features of each layer for some of the rows that are measured."""
        _ = self._pass
        return self.task.features(layers, rows)

    @functools.cached_property
    def outputs(self) -> np.ndarray | None:
        """The network's logits for ``rows``, where it has classes."""
        if self.task.backbone.classes is None:
            return None
        layer = resolve_layer(self.task.backbone, -1)
        return self.features((layer,), self.task.rows)[layer]

    @functools.cached_property
    def probabilities(self) -> np.ndarray | None:
        """The network's own predictions for the rows that are measured, where it has classes."""
        return None if self.outputs is None else softmax(self.outputs.astype(np.float64), axis=1)

    @functools.cached_property
    def explained(self) -> float:
        """The share of the labels that the network's own classes explain."""
        if self.probabilities is None:
            return math.nan
        return explained_share(self.probabilities, self.task.codes[self.task.rows])

    @functools.cached_property
    def similarity(self) -> Similarity:
        """The similarity of the samples to the network's training data."""
        with named_among(self.task.rows):
            return measure_similarity(
                self.task.backbone,
                take(self.task.samples, self.task.rows),
                self.outputs,
                device=self.task.run["device"],
                watcher=self._pass,
            )

    @functools.cached_property
    def layers(self) -> LayerChoice:
        """The score of a linear probe at each layer."""
        return choose_layer(
            self.task.backbone,
            self.task.codes[self.task.rows],
            lambda names, chosen: self.features(names, self.task.rows[chosen]),
            layers=candidate_layers(self.task.backbone),
            task="classification",
            random_state=self.task.seed,
            weight=None if self.task.weight is None else self.task.weight[self.task.rows],
        )

    @functools.cached_property
    def splits(self) -> list[list[Any]]:
        """The splits on which strategies are tried: several where there are few samples."""
        n_splits = int(np.clip(RULES["judged"] // len(self.task.rows), 1, RULES["splits"]))
        return [
            make_trial_folds(self.task.codes, self.task.seed + i, self.task.rows)
            for i in range(n_splits)
        ]

    @functools.cached_property
    def timing(self) -> Timing:
        """Seconds for one sample, forward and in training, and for what is fitted on features."""
        task, chosen = self.task, {name: STRATEGIES[name] for name in self.names}
        trained = {n: s.trainable(task.backbone) for n, s in chosen.items() if s.trainable}
        timing = measure_timing(task.backbone, task.samples, trained, device=task.run["device"])
        on_features = {n: s.fit_on_features for n, s in chosen.items() if s.fit_on_features}
        _ = self._pass
        once = {n: seconds_of(functools.partial(f, task)) for n, f in on_features.items()}
        return dataclasses.replace(timing, once=once)

    # -- strategies ----------------------------------------------------------------------------

    def judge(self, name: str, folds: list[Any]) -> np.ndarray:
        """Cross-validate a strategy.

        Parameters
        ----------
        folds : list of (train, test)
            All of a split, or some.

        Returns
        -------
        ndarray of shape (n_samples,)
            1.0 for a correct and 0.0 for a wrong prediction of a model that was not fitted on the
            sample; NaN for samples in none of the test sets.
        """
        _ = self._pass  # before any trial, which would run samples itself
        task, hits = self.task, np.full(len(self.task.y), np.nan)
        for train, test in folds:
            model: Any = STRATEGIES[name].make(task, train)
            # A progress bar for each trial would be of no use.
            set_running(model, **task.run | {"memory": self.memory, "verbose": 0})
            with warnings.catch_warnings():  # a fit to all samples repeats those about samples
                warnings.simplefilter("ignore", UserWarning)
                with named_among(train):
                    weight = None if task.weight is None else task.weight[train]
                    fit(model, take(task.samples, train), task.y[train], weight)
                with named_among(test):
                    hits[test] = model.predict(take(task.samples, test)) == task.y[test]
        return hits

    def accuracy(self, hits: np.ndarray | list[np.ndarray]) -> float:
        """Return the weighted share of hits among the samples that were judged."""
        if self.task.weight is None:
            return float(np.nanmean(hits))
        hits = np.atleast_2d(hits)
        judged = np.isfinite(hits)
        weight = np.broadcast_to(self.task.weight, hits.shape)[judged]
        return float(np.average(hits[judged], weights=weight))

    def seconds(self, name: str) -> float:
        """Estimate the time that a strategy takes to be fitted to all samples."""
        task = self.task
        train = STRATEGIES[name].trainable
        n_classes = len(np.unique(task.codes))
        large_head = (
            train is not None and train(task.backbone) == "head" and n_classes > MANY_CLASSES
        )
        n, lengths = len(task.y), (task.batch_size, task.max_epochs)
        _, n_epochs = training_length(n, *lengths, large_head=large_head)
        return self.timing.seconds(name, n, n_epochs)


class StudyMemory(FeatureStore):
    """Keep the features of one study in memory, in front of the user's store.

    It is the ``memory`` of the estimators of a study, so that each sample passes each frozen stage
    once.

    Parameters
    ----------
    behind : FeatureStore or None
        The user's store.
    """

    location: Path  # that of the user's store, if there is one

    def __init__(self, behind: FeatureStore | None):
        self.behind = behind
        if behind is not None:
            self.location = behind.location
        self._rows: dict[tuple[str, bytes], np.ndarray] = {}
        self._set_aside: set[tuple[str, bytes]] = set()
        self._n_bytes = 0

    @property
    def conversions(self) -> Path | None:
        """The folder of converted networks in the user's store, if there is one."""
        return None if self.behind is None else self.behind.conversions

    @property
    def generations(self) -> Path | None:
        """That of the user's store; None if there is none, and all rows are of this process."""
        return None if self.behind is None else self.behind.generations

    def get(self, recipe: str, digests: Sequence[bytes]) -> list[np.ndarray | None]:
        """Look up the features of samples, in memory first.

        Parameters
        ----------
        recipe, digests
            As in :meth:`FeatureStore.get`.
        """
        known = [self._rows.get((recipe, digest)) for digest in digests]
        if self.behind is None:
            return known
        self._hand_on(self.behind, recipe, digests)
        missing = [i for i, row in enumerate(known) if row is None]
        rows = self.behind.get(recipe, [digests[i] for i in missing])
        for i, row in zip(missing, rows, strict=True):
            known[i] = row
        return known

    def _hand_on(self, store: FeatureStore, recipe: str, digests: Sequence[bytes]) -> None:
        """Put rows that were set aside into the user's store, now that they are used."""
        used = [d for d in dict.fromkeys(digests) if (recipe, d) in self._set_aside]
        if used:
            self._set_aside -= {(recipe, digest) for digest in used}
            table = np.empty(len(used), object)  # of rows, which may differ in length
            for i, digest in enumerate(used):
                table[i] = self._rows[recipe, digest]
            store.try_put(recipe, used, table)

    def put(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> None:
        """Keep the features of samples, in the user's store too.

        Parameters
        ----------
        recipe, digests, values
            As in :meth:`FeatureStore.put`.
        """
        self._keep(recipe, digests, values)
        if self.behind is not None:
            self.behind.try_put(recipe, digests, values)

    def try_put(
        self, recipe: str, digests: Sequence[bytes], values: np.ndarray, *, aside: bool = False
    ) -> bool:
        """Keep features; the user's store gets those set aside when they are used."""
        if not aside:
            self.put(recipe, digests, values)
        else:
            self._keep(recipe, digests, values)
            if self.behind is not None:
                self._set_aside |= {(recipe, digest) for digest in digests}
        return True

    def _keep(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> None:
        self._n_bytes += values.nbytes
        if self._n_bytes > _IN_MEMORY and values.dtype != object:
            table = empty_table(values.shape, values.dtype, in_memory=0)
            table[:] = values
            values = table
        self._rows |= {(recipe, d): row for d, row in zip(digests, values, strict=True)}

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"StudyMemory({self.behind!r})"


# -- times -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds for one sample, measured on a probe batch on this machine.

    Parameters
    ----------
    forward : float
        Opening a sample and running the network.
    step : dict
        One training step's share, by what is trained.
    once : dict
        What is fitted on features of all samples, in seconds for all.
    """

    forward: float
    step: dict[str, Any]
    once: dict[str, Any] = dataclasses.field(default_factory=dict)

    def seconds(self, strategy: str, n_samples: int, max_epochs: int) -> float:
        """Estimate the time to fit a strategy, as if the store were empty."""
        # What is trained runs once more before, so that the head begins as the probe.
        epochs = max_epochs * n_samples * self.step.get(strategy, 0.0)
        return n_samples * self.forward + epochs + self.once.get(strategy, 0.0)


def measure_timing(
    backbone: Backbone, samples: Sequence[Any], trainable: dict[str, Any], *, device: str = "auto"
) -> Timing:
    """Time a probe batch: opened and run forward, and one training step of each strategy.

    Parameters
    ----------
    samples : sequence
        The first eight are run.
    trainable : dict
        What is trained, by strategy, as ``trainable`` of :class:`FineTunedClassifier`.
    """
    few, on = take(samples, range(min(_TIMED, len(samples)))), resolve_device(device)
    forward = _seconds_forward(backbone, few, device)
    opened = [backbone.open(sample)[None] for sample in few]
    batch = torch.cat([x for x in opened if x.shape == opened[0].shape]).to(on)
    # Copies, so that the backbone is given no gradients.
    stages = {name: copy.deepcopy(stage).to(on) for name, stage in stages_of(backbone).items()}
    step = {}
    for name, what in trainable.items():
        n_frozen = boundary(backbone, what)
        last_frozen, x = list(stages)[n_frozen - 1] if n_frozen else None, batch
        if last_frozen is not None:  # run once for all epochs
            with torch.no_grad():
                (x,) = backbone.run(batch, [(last_frozen, "none")], stages=stages)
        run = functools.partial(_step, backbone, stages, last_frozen, x)
        step[name] = seconds_of(run, on) / len(batch)
    return Timing(forward, step)


def sizes_within(
    backbone: Backbone,
    sizes: tuple[int | None, ...],
    samples: Sequence[Any],
    n: int,
    seconds: float,
    device: str = "auto",
) -> tuple[int | None, ...]:
    """Return the input sizes that can be computed in a time: all, the backbone's own, or the least.

    Parameters
    ----------
    sizes : tuple of int or None
        Ascending; None is the backbone's own.
    samples : sequence
        Of which a few are timed.
    n : int
        The number of samples.
    """
    if len(sizes) == 1:
        return sizes
    shape: Any = backbone.input_shape
    native, few = max(shape[1:]), take(samples, range(min(_TIMED, len(samples))))
    each = _seconds_forward(backbone, few, device)
    for some in (sizes, (None,)):
        share = sum(((size or native) / native) ** 2 for size in some)
        if n * each * share <= seconds:
            return some
    return sizes[:1]


def _seconds_forward(backbone: Backbone, samples: Sequence[Any], device: str) -> float:
    """Time opening a sample and running the network up to the penultimate layer."""
    outputs = [Output(backbone, penultimate(backbone))]
    run = functools.partial(compute_outputs, samples, outputs, device=device)
    return seconds_of(run, resolve_device(device)) / len(samples)


def _step(
    backbone: Backbone, stages: dict[str, nn.Module], after: str | None, x: torch.Tensor
) -> None:
    """Run stages forward and backward, and a head of a few outputs on their pooled result."""
    outputs = [(penultimate(backbone), "avg")]
    (features,) = backbone.run(x, outputs, after=after, stages=stages)
    head = features.new_ones(8, features.shape[1], requires_grad=True)
    nn.functional.linear(features, head).sum().backward()


def seconds_of(action: Callable[..., Any], on: torch.device | None = None) -> float:
    """Time the second run of something; the first one sets things up.

    Parameters
    ----------
    on : torch.device, default=None
        Whose work is waited for.
    """
    action()
    _wait(on)
    start = time.perf_counter()
    action()
    _wait(on)
    return time.perf_counter() - start


def _wait(on: torch.device | None) -> None:
    if on is not None and on.type != "cpu":
        torch.accelerator.synchronize(on)
