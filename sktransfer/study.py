"""All that is measured about one task: each thing once, and only if it is asked for."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import numpy as np
from scipy.special import softmax

from .backbones import Backbone
from .cache import as_store
from .candidates import Settings, available, make_candidate, make_folds, measure, trainable
from .engine import Recipe
from .evidence import Similarity, Timing, measure_similarity, measure_size, measure_timing
from .features import compute_features
from .layers import resolve_layer
from .probing import LayerChoice, candidate_layers, choose_layer, subsample
from .rules import (
    RULES,
    Outlook,
    Recommendation,
    decide,
    expected_gain,
    learning_rate,
    summarise,
    update,
)
from .transferability import leep
from .weighting import takes_weights

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
        self._settings = Settings(backbone, classifier, max_epochs, 1e-4, run, batch_size, seed, {})

    # -- what is computed once -----------------------------------------------------------------

    @functools.cached_property
    def tables(self) -> dict[str, np.ndarray]:
        """Features of all samples at every layer worth probing, and the outputs: one pass."""
        layers = candidate_layers(self.backbone)
        if self.backbone.classes is not None:
            layers.append(resolve_layer(self.backbone, -1))
        return compute_features(
            self.samples,
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
    def similarity(self) -> Similarity:
        """How like the samples are to the network's own."""
        device = self.run["device"]
        return measure_similarity(self.backbone, self.samples, self.outputs, device=device)

    @functools.cached_property
    def layers(self) -> LayerChoice:
        """What a probe makes of each layer."""
        return choose_layer(
            self.backbone,
            self.codes,
            lambda names, rows: {name: self.tables[name][rows] for name in names},
            layers=candidate_layers(self.backbone),
            random_state=self.seed,
        )

    @functools.cached_property
    def folds(self) -> list:
        """How rows are split to try strategies on."""
        rows = subsample(self.codes, RULES["rows"], self.seed)
        return make_folds(self.codes, self.seed, rows)

    @functools.cached_property
    def timing(self) -> Timing:
        """Seconds for a sample, forward and in training."""
        what = {name: trainable(name, self.backbone) for name in self.names if name in _TRAINED}
        device = self.run["device"]
        return measure_timing(self.backbone, self.samples, what, device=device)

    @property
    def names(self) -> list[str]:
        return available(self.backbone)

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
        return measure(name, self.settings(name), self.samples, self.codes, folds)

    def score(self, name: str, rows: np.ndarray) -> float:
        """Return the cross-validated accuracy of a strategy on some rows; 0 where there is none."""
        folds = make_folds(self.codes, self.seed, rows)
        return float(np.nanmean(self.judge(name, folds))) if folds else 0.0

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
        evidence = {"size": size, "similarity": self.similarity, "layers": None, "leep": math.nan}
        if len(self.classes) < 2:
            return decide([Outlook("features", 0.0, 0.0)], [], "there is one class only", evidence)
        evidence["layers"] = self.layers
        if self.outputs is not None:
            evidence["leep"] = leep(softmax(self.outputs, axis=1), self.codes)
        outlooks = [self._timed(o) if timed else o for o in self._outlooks(size.smallest)]
        return decide(outlooks, _in_words(evidence), _too_little(size, self.folds), evidence)

    def _outlooks(self, smallest: int) -> list[Outlook]:
        """Try what is cheap, then what is long where it may be worth it."""
        reference = self.judge("features", self.folds)
        n = int(np.isfinite(reference).sum())
        accuracy = float(np.nanmean(reference)) if n else math.nan
        # Half an error is added: none among ten is not certainty.
        headroom = ((1 - accuracy) * n + 0.5) / (n + 1) if n else 0.5
        found = {"features": Outlook("features", 0.0, 0.0, n, accuracy)}
        similarity, early = self.similarity.value, 0.0
        for name in [name for name in _ORDER if name in self.names]:
            expected = expected_gain(name, headroom, smallest, similarity, early)
            differences = self._tried(name, expected, reference)
            measured = summarise(differences)
            gain, error = update(expected, measured)
            found[name] = Outlook(
                name, gain, error, len(differences), min(1.0, accuracy + gain), measured
            )
            if name == "early":
                early = gain / headroom
        return [found[name] for name in self.names]

    def _tried(self, name: str, expected: tuple, reference: np.ndarray) -> np.ndarray:
        """Return what a strategy gained on each sample that it was tried on, if it was."""
        folds = self.folds[: RULES["folds"].get(name, len(self.folds))]
        long = name in RULES["folds"]
        if not folds or (long and expected[0] + expected[1] < RULES["worth_trying"]):
            return np.empty(0)
        differences = self.judge(name, folds) - reference
        return differences[np.isfinite(differences)]

    def _timed(self, outlook: Outlook) -> Outlook:
        epochs = self._settings.max_epochs
        seconds = self.timing.seconds(outlook.name, len(self.codes), epochs)
        return dataclasses.replace(outlook, seconds=seconds)


_TRAINED = ("head", "last", "all")
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
        words.append(f"its own classes explain the labels with a LEEP of {evidence['leep']:.2f}")
    return words
