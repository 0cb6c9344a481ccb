"""Rules: predict from the evidence what a strategy gains. Numbers in, numbers out, no torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = [
    "RULES",
    "Evidence",
    "ExplainedLabels",
    "ShareOfErrors",
    "headroom_of",
    "rule_inputs",
    "update",
]

# The thresholds that no single strategy owns; those of one strategy are in its record
# (strategies.py). They were chosen on the first half of the tasks of benchmarks/regret.py.
RULES: dict[str, Any] = {
    # The similarity that is assumed where it cannot be measured.
    "unknown_similarity": 0.7,
    # Standard deviations that are subtracted from the gain of a strategy over the reference.
    "caution": 0.25,
    # Added to the errors of the reference in cross-validation, and to the samples judged: no error
    # among ten samples is not certainty, and new samples often differ more than those at hand.
    "more_errors": (3, 20),
    # A trained strategy is tried on another fold where, within one standard deviation, its accuracy
    # may exceed that of the best so far by this much,
    "worth_trying": 0.005,
    # and is not better than it by more than this many standard deviations,
    "settled": 1.5,
    # until this many samples have been judged.
    "judged_long": 72,
    # The largest number of samples on which strategies are tried.
    "rows": 600,
    # Strategies without training are tried on several splits where samples are few: at most this
    # many splits, and at most this many samples judged in all.
    "splits": 5,
    "judged": 300,
    # The least number of samples of a class with which it can be both learned and judged.
    "fewest": 4,
    # The standard deviation of the difference between two strategies above which none is
    # recommended, unless the difference is larger.
    "unclear": 0.10,
    # A difference in accuracy that the confidence ignores.
    "hardly_matters": 0.01,
}


@dataclasses.dataclass(frozen=True)
class Evidence:
    """The measurements from which the gain of a strategy is predicted.

    Parameters
    ----------
    headroom : float
        Expected share of errors of the reference strategy, "features".
    smallest : int
        Number of samples of the smallest class.
    similarity : float or None
        Similarity of the samples to the network's training data, from 0 to 1; None if unknown.
    explained : float, default=nan
        Share of the labels that the network's own classes explain.
    gains : mapping of str to float
        Gains of the strategies estimated before, as shares of the headroom.
    """

    headroom: float
    smallest: int
    similarity: float | None
    explained: float = math.nan
    gains: Mapping[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class ShareOfErrors:
    """Predict a gain as a share of the errors of the reference.

    The share is linear in the logarithm of the size of the smallest class, in the unlikeness of
    the data and in the gain of another strategy.

    Parameters
    ----------
    constant : float
    size : float
        Weight of log10 of the smallest class over 20 samples.
    unlikeness : float
        Weight of one minus the similarity.
    hint : float
        Weight of the gain of the strategy ``hint_from``, itself a share of the errors.
    spread : float
        Standard deviation of the share.
    hint_from : str, default=""
        Name of a strategy that stands before in the table.
    """

    constant: float
    size: float
    unlikeness: float
    hint: float
    spread: float
    hint_from: str = ""

    def __call__(self, evidence: Evidence) -> tuple[float, float]:
        """Return the expected gain in accuracy and its standard deviation."""
        weights = [self.constant, self.size, self.unlikeness, self.hint]
        hint = evidence.gains.get(self.hint_from, 0.0)
        share = float(np.dot(weights, rule_inputs(evidence.smallest, evidence.similarity, hint)))
        return evidence.headroom * share, evidence.headroom * self.spread


@dataclasses.dataclass(frozen=True)
class ExplainedLabels:
    """Predict an accuracy from the share of the labels that the network's own classes explain.

    Parameters
    ----------
    constant : float
    slope : float
        Weight of :func:`sktransfer.transferability.explained_share`.
    spread : float
        Standard deviation of the accuracy.
    """

    constant: float
    slope: float
    spread: float

    def __call__(self, evidence: Evidence) -> tuple[float, float]:
        """Return the expected gain in accuracy and its standard deviation."""
        accuracy = self.constant + self.slope * evidence.explained
        return accuracy - (1 - evidence.headroom), self.spread


def rule_inputs(smallest: int, similarity: float | None, hint: float) -> list[float]:
    """Return the inputs of :class:`ShareOfErrors`: 1, size, unlikeness and a hint."""
    similarity = RULES["unknown_similarity"] if similarity is None else similarity
    return [1.0, float(np.clip(math.log10(smallest / 20), -1.5, 1.5)), 1 - similarity, hint]


def headroom_of(accuracy: float, n: int) -> float:
    """Return the share of errors that the reference is expected to make.

    Parameters
    ----------
    accuracy : float
        In cross-validation.
    n : int
        Number of samples judged.

    Returns
    -------
    float
    """
    errors, samples = RULES["more_errors"]
    return ((1 - accuracy) * n + errors) / (n + samples) if n else 0.5


def update(expected: tuple[float, float], measured: tuple[float, ...]) -> tuple[float, float]:
    """Combine the prediction of a rule with a measurement, each weighted by its precision.

    Parameters
    ----------
    expected : tuple of float
        Gain and its standard deviation.
    measured : tuple of float
        Gain and its standard error; empty without a measurement.

    Returns
    -------
    gain, error : float
        Mean and standard deviation of the normal distribution that is the product of the two.
    """
    gain, error = expected
    if not measured or error == 0:
        return gain, error
    found, chance = measured
    weight = error**2 / (error**2 + chance**2)
    return gain + weight * (found - gain), math.sqrt(weight) * chance
