"""All that is measured about one task: each thing once, and only if it is asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from ..backbones import Backbone, penultimate, resolve_layer
from ..data import named_among, take
from ..engines import Recipe
from ..features import (
    LayerChoice,
    as_store,
    candidate_layers,
    choose_layer,
    compute_features,
    takes_weights,
)
from ..transferability import LinearProbe, explained_share, leep, make_folds, subsample, summarise
from .recommendation import Outlook, Recommendation, decide, is_settled
from .rules import RULES, expected_gain, headroom_of, learning_rate, update
from .similarity import Similarity, measure_similarity, measure_size
from .strategies import (
    TRAINED,
    Settings,
    available,
    early_layer,
    make_candidate,
    measure,
    trainable,
)
from .timing import Timing, measure_timing, seconds_of

__all__ = ["Study"]


class Study:
    """Samples, labels and a network, and what is found out about them.

    Parameters
    ----------
    backbone : Backbone
    samples : sequence
        As an estimator has checked them.
    y : ndarray of shape (n_samples,)
        Labels.
    seed : int
    classifier : estimator or None
        On features.
    max_epochs : int
    batch_size : int or "auto"
    run : dict
        device, memory, n_jobs, verbose.
    """

    def __init__(
        self,
        backbone: Backbone,
        samples: Sequence,
        y: np.ndarray,
        seed: int,
        *,
        classifier,
        max_epochs: int,
        batch_size: int | str,
        run: dict,
    ):
        self.backbone = backbone
        self.samples = samples
        self.y = y
        self.classes, self.codes = np.unique(y, return_inverse=True)
        self.seed = seed
        self.run = run
        # All that is measured is measured on these: what so many do not tell apart hardly matters.
        self.rows = subsample(self.codes, RULES["rows"], seed)
        self._settings = Settings(
            backbone, classifier, max_epochs, 1e-4, run, batch_size, seed, {}, self.rows
        )

    # -- what is computed once -----------------------------------------------------------------

    @functools.cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """Features of the rows at every layer worth probing, and the outputs: one pass."""
        layers = candidate_layers(self.backbone)
        if self.backbone.classes is not None:
            layers.append(resolve_layer(self.backbone, -1))
        with named_among(self.rows):
            return compute_features(
                take(self.samples, self.rows),
                Recipe(self.backbone, tuple(dict.fromkeys(layers)), "avg"),
                device=self.run["device"],
                store=as_store(self.run["memory"]),
                n_jobs=self.run["n_jobs"],
                verbose=self.run["verbose"],
            )

    @functools.cached_property
    def outputs(self) -> np.ndarray | None:
        """The network's logits, where it has classes."""
        if self.backbone.classes is None:
            return None
        return self.tables[resolve_layer(self.backbone, -1)]

    @functools.cached_property
    def explained(self) -> float:
        """The share of the labels that the network's own classes explain."""
        return explained_share(self._own_probabilities(), self.codes[self.rows])

    def _own_probabilities(self) -> np.ndarray:
        return softmax(self.outputs.astype(np.float64), axis=1)

    @functools.cached_property
    def similarity(self) -> Similarity:
        """How like the samples are to the network's own."""
        device = self.run["device"]
        with named_among(self.rows):
            few = take(self.samples, self.rows)
            return measure_similarity(self.backbone, few, self.outputs, device=device)

    @functools.cached_property
    def layers(self) -> LayerChoice:
        """What a probe makes of each layer."""
        return choose_layer(
            self.backbone,
            self.codes[self.rows],
            lambda names, rows: {name: self.tables[name][rows] for name in names},
            layers=candidate_layers(self.backbone),
            task="classification",
            random_state=self.seed,
        )

    @functools.cached_property
    def splits(self) -> list[list]:
        """How rows are split to try strategies on: several times where they are few."""
        n_splits = int(np.clip(RULES["judged"] // len(self.rows), 1, RULES["splits"]))
        return [make_folds(self.codes, self.seed + i, self.rows) for i in range(n_splits)]

    @functools.cached_property
    def timing(self) -> Timing:
        """Seconds for a sample, forward and in training."""
        what = {name: trainable(name, self.backbone) for name in self.names if name in TRAINED}
        device = self.run["device"]
        timing = measure_timing(self.backbone, self.samples, what, device=device)
        return dataclasses.replace(timing, once=self._fitting_seconds())

    def _fitting_seconds(self) -> dict[str, float]:
        """Time what is fitted on features: a linear classifier, and the choice of a layer."""
        table, codes = self.tables[penultimate(self.backbone)], self.codes[self.rows]
        fitted = seconds_of(lambda: LinearProbe(random_state=self.seed).fit(table, codes))
        found = {"features": fitted, "direct": 0.0, "early": fitted}
        if "early" in self.names:
            settings = self.settings("early")
            found["early"] += seconds_of(lambda: early_layer(settings, self.y))
        return found

    @property
    def names(self) -> list[str]:
        """The strategies that the network allows; without epochs nothing of it is trained."""
        names = available(self.backbone)
        if self._settings.max_epochs:
            return names
        return [name for name in names if name not in ("last", "all")]

    # -- strategies ----------------------------------------------------------------------------

    def settings(self, name: str) -> Settings:
        """Return the settings of a strategy; only what it needs is computed."""
        if name == "early":
            return dataclasses.replace(self._settings, tables=self.tables)
        if name in ("last", "all"):
            return dataclasses.replace(self._settings, lr=self._learning_rate())
        return self._settings

    def _learning_rate(self) -> float:
        if takes_weights(self.backbone):
            return RULES["lr_words"]
        return learning_rate(self.similarity.value)

    def make(self, name: str):
        """Make the estimator of a strategy for all samples, not fitted."""
        return make_candidate(name, self.settings(name), self.y)

    def judge(self, name: str, folds: list) -> np.ndarray:
        """Cross-validate a strategy: 1, 0 or NaN for each sample."""
        # Progress is of interest where it is long: a bar for each trial would not tell anything.
        settings = self.settings(name)
        settings = dataclasses.replace(settings, run=settings.run | {"verbose": 0})
        return measure(name, settings, self.samples, self.y, folds)

    def score(self, name: str, rows: np.ndarray) -> float:
        """Return the cross-validated accuracy of a strategy on some rows; NaN without folds."""
        folds = make_folds(self.codes, self.seed, rows)
        return float(np.nanmean(self.judge(name, folds))) if folds else math.nan

    # -- the recommendation --------------------------------------------------------------------

    def recommend(self, *, timed: bool = False) -> Recommendation:
        """Weigh the evidence.

        Parameters
        ----------
        timed : bool, default=False
            Whether to estimate seconds, which decide nothing.

        Returns
        -------
        Recommendation
        """
        size = measure_size(self.y)
        evidence = {"size": size, "similarity": self.similarity}
        evidence |= {"layers": None, "leep": math.nan, "explained": math.nan}
        if len(self.classes) < 2:
            return decide([Outlook("features", 0.0, 0.0)], [], "there is one class only", evidence)
        evidence["layers"] = self.layers
        if self.outputs is not None:
            evidence["leep"] = leep(self._own_probabilities(), self.codes[self.rows])
            evidence["explained"] = self.explained
        too_little = _too_little(size, self.splits[0])
        # Where nothing could be told from long trials there are none. One tiny class beside
        # others takes away the certainty, not what is known of the others.
        counts = np.bincount(self.codes)
        ample = counts[counts >= RULES["fewest"]]
        blind = len(ample) < 2 or ample.sum() < len(self.codes) / 2 or not self.splits[0]
        outlooks = self._outlooks(size.smallest, [] if blind else self.splits[0])
        outlooks = [self._timed(outlook) if timed else outlook for outlook in outlooks]
        # With next to nothing to learn from, fixed features can go wrong least.
        fallback = "features" if blind else None
        return decide(outlooks, _in_words(evidence), too_little, evidence, fallback)

    def _outlooks(self, smallest: int, folds: list) -> list[Outlook]:
        """Try what is cheap, then, on folds, what is long where it may be worth it."""
        reference = [self.judge("features", folds) for folds in self.splits]
        n = int(np.isfinite(reference[0]).sum())
        accuracy = float(np.nanmean(reference)) if n else math.nan
        headroom = headroom_of(accuracy, n)
        found = {"features": Outlook("features", 0.0, 0.0, n, accuracy)}
        early = 0.0
        for name in [name for name in _ORDER if name in self.names]:
            hint = self.explained if name == "direct" else early
            expected = expected_gain(name, headroom, smallest, self.similarity.value, hint)
            others = list(found.values())
            if name in TRAINED:
                found[name] = self._tried_long(name, expected, reference[0], others, folds)
            else:
                found[name] = self._tried(name, expected, reference, others)
            if name == "early":
                early = found[name].gain / headroom
        return [found[name] for name in self.names]

    def _tried(self, name: str, expected: tuple, reference: list, others: list) -> Outlook:
        """Judge a strategy that costs next to nothing on all splits."""
        hits = [self.judge(name, folds) for folds in self.splits]
        gained = np.mean(np.subtract(hits, reference), axis=0)
        return self._outlook(name, expected, gained, others)

    def _tried_long(
        self, name: str, expected: tuple, reference: np.ndarray, others: list, folds: list
    ) -> Outlook:
        """Judge a strategy fold by fold, as long as it is not settled whether it is the best."""
        gained = np.full(len(self.codes), np.nan)
        outlook = self._outlook(name, expected, gained, others)
        for fold in folds:
            if outlook.n_judged >= RULES["judged_long"] or is_settled(outlook, others):
                break
            hits = self.judge(name, [fold])
            gained = np.where(np.isfinite(hits), hits - reference, gained)
            outlook = self._outlook(name, expected, gained, others)
        return outlook

    def _outlook(self, name: str, expected: tuple, gained: np.ndarray, others: list) -> Outlook:
        """Weigh a rule and what a strategy gained, sample by sample, NaN where not judged."""
        gained = gained[np.isfinite(gained)]
        measured = summarise(gained)
        gain, error = update(expected, measured)
        accuracy = float(np.clip(others[0].accuracy + gain, 0.0, 1.0))  # NaN stays NaN
        return Outlook(name, gain, error, len(gained), accuracy, measured)

    def _timed(self, outlook: Outlook) -> Outlook:
        epochs = self._settings.max_epochs
        seconds = self.timing.seconds(outlook.name, len(self.codes), epochs)
        return dataclasses.replace(outlook, seconds=seconds)


# What an earlier layer gains tells what training the network may.
_ORDER = ("early", "direct", "head", "last", "all")


def _too_little(size, folds: list) -> str:
    if size.smallest < RULES["fewest"] or not folds:
        samples = "sample" if size.smallest == 1 else "samples"
        label = size.smallest_label
        return f"too little to tell: {size.smallest} {samples} in class {label!r}"
    return ""


def _in_words(evidence: dict) -> list[str]:
    """Say what size, similarity, layers and the network's own classes are."""
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
