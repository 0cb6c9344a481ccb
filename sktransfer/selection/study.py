"""The study of one task: all measurements, each made once and only if it is asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.special import softmax

from ..backbones import Backbone, resolve_layer
from ..data import UnreadableSamplesError, named_among, take
from ..features import (
    LayerChoice,
    Output,
    as_store,
    candidate_layers,
    choose_layer,
    compute_outputs,
)
from ..finetuning import training_length
from ..transferability import explained_share, leep, make_trial_folds, subsample, summarise
from .input_size import note_on_size
from .memory import StudyMemory
from .recommendation import REFERENCE, Recommendation, StrategyEstimate, decide, is_settled
from .rules import RULES, Evidence, headroom_of, update
from .similarity import (
    NormWatcher,
    Similarity,
    Size,
    measure_similarity,
    measure_size,
    rows_to_watch,
    why_no_statistics,
)
from .strategies import STRATEGIES, available_strategies, whole_layers
from .timing import Timing, measure_timing
from .trials import fit, out_of_fold_hits, set_running

__all__ = ["Study"]


class Study:
    """Measure a task: samples, their labels and a network.

    Parameters
    ----------
    backbone : Backbone
    samples : sequence
        Checked by an estimator.
    y : ndarray of shape (n_samples,)
        Labels.
    seed : int
    weight : ndarray of shape (n_samples,) or None, default=None
        Weights of the samples in training and in the accuracies. Samples of weight 0 are not
        measured.
    classifier : estimator or None
        The classifier on features; None is :class:`LinearProbe`.
    class_map : dict or None, default=None
        The classes of the network that mean each label; None learns them.
    max_epochs, batch_size : int or "auto"
    run : dict
        device, engine, memory, verbose.
    strategy : str or None, default=None
        The only strategy that is asked for; None studies all that the network allows.
    """

    classes: np.ndarray
    codes: np.ndarray
    memory: StudyMemory
    names: list[str]
    rows: np.ndarray
    weighted: np.ndarray

    def __init__(
        self,
        backbone: Backbone,
        samples: Any,  # a sequence or an array
        y: np.ndarray,
        seed: int,
        *,
        weight: np.ndarray | None = None,
        classifier: Any,
        class_map: dict[Any, Any] | None = None,
        max_epochs: int | str,
        batch_size: int | str,
        run: dict[str, Any],
        strategy: str | None = None,
    ):
        self.backbone = backbone
        self.samples = samples
        self.y = y
        self.classes, self.codes = np.unique(y, return_inverse=True)
        self.seed = seed
        self.weight = weight
        self.weighted = np.arange(len(y)) if weight is None else np.flatnonzero(weight)
        self.classifier = classifier
        self.class_map = class_map
        self.max_epochs = max_epochs
        self.batch_size = batch_size
        self.run = run
        self.memory = StudyMemory(as_store(run["memory"]))
        # The samples that are measured: a difference that so many do not show hardly matters.
        self.rows = self.weighted[subsample(self.codes[self.weighted], RULES["rows"], seed)]
        self.names = available_strategies(backbone, max_epochs) if strategy is None else [strategy]
        self._compares = strategy is None

    # -- what is computed once -----------------------------------------------------------------

    @functools.cached_property
    def _pass(self) -> tuple[dict[str, np.ndarray], NormWatcher | None]:
        """Run the samples through the network once, for everything that is computed from them.

        Returns the pooled features of each candidate layer and the outputs, and what recorded the
        inputs of batch norms. The activations at which training begins are kept in memory.
        """
        layers = candidate_layers(self.backbone)
        if self.backbone.classes is not None:
            layers.append(resolve_layer(self.backbone, -1))
        names = tuple(dict.fromkeys(layers))
        outputs = [Output(self.backbone, name) for name in names]
        whole = whole_layers(self.backbone, self.names)
        aside = [Output(self.backbone, name, "none") for name in whole]
        run = {name: self.run[name] for name in ("device", "engine")}
        run |= {"store": self.memory, "aside": aside}
        with named_among(self.rows):
            samples = take(self.samples, self.rows)
            watcher = self._watch(samples, outputs, run)
            tables = compute_outputs(samples, outputs, **run, verbose=self.run["verbose"])
        return dict(zip(names, tables, strict=True)), watcher

    def _watch(self, samples: Sequence, outputs: list[Output], run: dict) -> NormWatcher | None:
        """Run the samples whose similarity is measured, where it is needed and possible."""
        if not self._compares or why_no_statistics(self.backbone, len(self.rows)):
            return None
        watcher = NormWatcher([*outputs, *run["aside"]], self.run["device"])
        rows = rows_to_watch(len(self.rows))
        try:
            compute_outputs(take(samples, rows), outputs, **run, runner=watcher)
        except UnreadableSamplesError:
            compute_outputs(samples, outputs, **run)  # names all samples that cannot be read
            raise
        return watcher

    def features(self, layers: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the pooled features of each layer for some of ``rows``."""
        tables, positions = self._pass[0], np.searchsorted(self.rows, rows)
        return {layer: tables[layer][positions] for layer in layers}

    @functools.cached_property
    def outputs(self) -> np.ndarray | None:
        """The network's logits for ``rows``, where it has classes."""
        if self.backbone.classes is None:
            return None
        layer = resolve_layer(self.backbone, -1)
        return self.features((layer,), self.rows)[layer]

    @functools.cached_property
    def explained(self) -> float:
        """The share of the labels that the network's own classes explain."""
        if self.outputs is None:
            return math.nan
        return explained_share(self._probabilities(self.outputs), self.codes[self.rows])

    @staticmethod
    def _probabilities(outputs: np.ndarray) -> np.ndarray:
        return softmax(outputs.astype(np.float64), axis=1)

    @functools.cached_property
    def similarity(self) -> Similarity:
        """The similarity of the samples to the network's training data."""
        with named_among(self.rows):
            return measure_similarity(
                self.backbone,
                take(self.samples, self.rows),
                self.outputs,
                device=self.run["device"],
                watcher=self._pass[1],
            )

    @functools.cached_property
    def layers(self) -> LayerChoice:
        """The score of a linear probe at each layer."""
        return choose_layer(
            self.backbone,
            self.codes[self.rows],
            lambda names, chosen: self.features(names, self.rows[chosen]),
            layers=candidate_layers(self.backbone),
            task="classification",
            random_state=self.seed,
            weight=None if self.weight is None else self.weight[self.rows],
        )

    @functools.cached_property
    def splits(self) -> list[list[Any]]:
        """The splits on which strategies are tried: several where there are few samples."""
        n_splits = int(np.clip(RULES["judged"] // len(self.rows), 1, RULES["splits"]))
        return [make_trial_folds(self.codes, self.seed + i, self.rows) for i in range(n_splits)]

    @functools.cached_property
    def timing(self) -> Timing:
        """Seconds for one sample, forward and in training, and for what is fitted on features."""
        chosen = {name: STRATEGIES[name] for name in self.names}
        trained = {n: s.trainable(self.backbone) for n, s in chosen.items() if s.trainable}
        timing = measure_timing(self.backbone, self.samples, trained, device=self.run["device"])
        once = {n: s.fitting_time(self) for n, s in chosen.items() if s.fitting_time}
        return dataclasses.replace(timing, once=once)

    # -- strategies ----------------------------------------------------------------------------

    def make(self, name: str, rows: np.ndarray | None = None, **run: Any) -> Any:
        """Make the estimator of a strategy for some samples or for all, not fitted."""
        rows = np.arange(len(self.y)) if rows is None else rows
        model = STRATEGIES[name].make(self, rows)
        return set_running(model, **self.run | {"memory": self.memory} | run)

    def judge(self, name: str, folds: list[Any]) -> np.ndarray:
        """Cross-validate a strategy: 1, 0 or NaN for each sample."""
        _ = self._pass  # before any trial, which would run samples itself
        # A progress bar for each trial would be of no use.
        make = functools.partial(self.make, name, verbose=0)
        return out_of_fold_hits(make, self.samples, self.y, folds, self.weight)

    def fit(self, name: str) -> Any:
        """Fit the estimator of a strategy on all samples."""
        model = self.make(name)
        self.memory.keeps = False
        if not len(self.memory):  # nothing was computed that could be used again
            set_running(model, memory=self.run["memory"])
        return fit(model, self.samples, self.y, self.weight)

    def _accuracy(self, hits: np.ndarray | list[np.ndarray]) -> float:
        """Return the weighted share of hits among the samples that were judged."""
        if self.weight is None:
            return float(np.nanmean(hits))
        hits = np.atleast_2d(hits)
        judged = np.isfinite(hits)
        weight = np.broadcast_to(self.weight, hits.shape)[judged]
        return float(np.average(hits[judged], weights=weight))

    # -- the recommendation --------------------------------------------------------------------

    def recommend(self, *, timed: bool = False) -> Recommendation:
        """Estimate every strategy and recommend one.

        Parameters
        ----------
        timed : bool, default=False
            Whether to estimate seconds, which do not influence the choice.

        Returns
        -------
        Recommendation
        """
        size = measure_size(self.y[self.weighted])
        evidence = {"size": size, "similarity": self.similarity}
        evidence |= {"layers": None, "leep": math.nan, "explained": math.nan}
        if len(size.counts) < 2:
            only = StrategyEstimate(REFERENCE, 0.0, 0.0)
            return decide([only], [], "there is one class only", evidence)
        evidence["layers"] = self.layers
        if self.outputs is not None:
            own = self._probabilities(self.outputs)
            evidence["leep"] = leep(own, self.codes[self.rows])
            evidence["explained"] = self.explained
        estimates = self._estimates(size.smallest, [] if self._is_blind() else self.splits[0])
        estimates = [self._timed(estimate) if timed else estimate for estimate in estimates]
        too_little = _too_little(size, self.splits[0])
        # With next to nothing to learn from, fixed features are the least likely to go wrong.
        fallback = REFERENCE if self._is_blind() else None
        words, note = _in_words(evidence), note_on_size(self.backbone, self.samples)
        words += [] if note is None else [note]
        return decide(estimates, words, too_little, evidence, fallback)

    def _is_blind(self) -> bool:
        """Tell whether there are too few samples for trials of what is trained.

        One tiny class beside others takes away the certainty, not what is known of the others.
        """
        counts = np.bincount(self.codes[self.weighted])
        ample = counts[counts >= RULES["fewest"]]
        return len(ample) < 2 or ample.sum() < counts.sum() / 2 or not self.splits[0]

    def _estimates(self, smallest: int, folds: list) -> list[StrategyEstimate]:
        """Estimate every strategy; those that are trained are tried where that may pay."""
        reference = [self.judge(REFERENCE, folds) for folds in self.splits]
        n = int(np.isfinite(reference[0]).sum())
        accuracy = self._accuracy(reference) if n else math.nan
        found = {REFERENCE: StrategyEstimate(REFERENCE, 0.0, 0.0, n, accuracy)}
        headroom = headroom_of(accuracy, n)
        for name in [name for name in self.names if name != REFERENCE]:
            others = list(found.values())
            gains = {other.name: other.gain / headroom for other in others}
            seen = Evidence(headroom, smallest, self.similarity.value, self.explained, gains)
            expected = STRATEGIES[name].prior(seen)
            if STRATEGIES[name].trainable:
                found[name] = self._tried_by_fold(name, expected, reference[0], others, folds)
            else:
                found[name] = self._tried(name, expected, reference, others)
        return [found[name] for name in self.names]

    def _tried(self, name: str, expected: tuple, reference: list, others: list) -> StrategyEstimate:
        """Estimate a strategy from trials on all splits."""
        hits = [self.judge(name, folds) for folds in self.splits]
        gained = np.mean(np.subtract(hits, reference), axis=0)
        return self._estimate(name, expected, gained, others)

    def _tried_by_fold(
        self, name: str, expected: tuple, reference: np.ndarray, others: list, folds: list
    ) -> StrategyEstimate:
        """Estimate a strategy from one fold after another, until the choice is settled."""
        gained = np.full(len(self.codes), np.nan)
        estimate = self._estimate(name, expected, gained, others)
        for fold in folds:
            if estimate.n_judged >= RULES["judged_long"] or is_settled(estimate, others):
                break
            hits = self.judge(name, [fold])
            gained = np.where(np.isfinite(hits), hits - reference, gained)
            estimate = self._estimate(name, expected, gained, others)
        return estimate

    def _estimate(
        self, name: str, expected: tuple, gained: np.ndarray, others: list
    ) -> StrategyEstimate:
        """Combine a rule with what a strategy gained on each sample, NaN where not judged."""
        judged = np.isfinite(gained)
        n = int(judged.sum())
        weight = None if self.weight is None else self.weight[judged]
        measured = summarise(gained[judged], weight)
        gain, error = update(expected, measured)
        accuracy = float(np.clip(others[0].accuracy + gain, 0.0, 1.0))  # NaN stays NaN
        effort = STRATEGIES[name].effort
        return StrategyEstimate(name, gain, error, n, accuracy, measured, effort=effort)

    def _timed(self, estimate: StrategyEstimate) -> StrategyEstimate:
        n = len(self.codes)
        _, n_epochs = training_length(n, self.batch_size, self.max_epochs)
        seconds = self.timing.seconds(estimate.name, n, n_epochs)
        return dataclasses.replace(estimate, seconds=seconds)


def _too_little(size: Size, folds: list) -> str:
    if size.smallest < RULES["fewest"] or not folds:
        samples = "sample" if size.smallest == 1 else "samples"
        label = size.smallest_label
        return f"too little to tell: {size.smallest} {samples} in class {label!r}"
    return ""


def _in_words(evidence: dict) -> list[str]:
    """Describe size, similarity, layers and the network's own classes in words."""
    size, similarity, layers = (evidence[key] for key in ("size", "similarity", "layers"))
    words = [f"{size.n_samples} samples, {size.smallest} in the smallest class"]
    if similarity.value is None:
        words.append(f"similarity to the network's own data: unknown, as {similarity.why}")
    else:
        words.append(
            f"similarity to the network's own data: {similarity.value:.2f}, from its "
            f"{similarity.source}"
        )
    score, error = layers.score_of(layers.default)
    words.append(f"a probe of the penultimate layer is right for {score:.2f} ± {error:.2f}")
    if layers.layer != layers.default:
        score, error = layers.score_of(layers.layer)
        words.append(f"layer {layers.layer!r} is better: {score:.2f} ± {error:.2f}")
    if not math.isnan(evidence["leep"]):
        words.append(
            f"the network's own classes explain {evidence['explained']:.0%} of the labels, "
            f"those of other samples given (LEEP {evidence['leep']:.2f})"
        )
    return words
