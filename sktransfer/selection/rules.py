"""From evidence to a recommendation: numbers in, a choice with its reasons out. No torch."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["RULES", "describe", "expected_gain", "headroom_of", "learning_rate", "update"]

# Every threshold there is. benchmarks/regret.py --calibrate --draws 3 prints "gains" and "direct"
# anew, to 0.04 of these on another processor, whose last bits training makes larger; the others
# were chosen on the same half of its tasks.
RULES = {
    # What a strategy is expected to gain over "features", as a share of the errors that those
    # make: a constant, times log10 of the smallest class over 20 samples, times 1 - similarity,
    # times what an earlier layer gains as such a share; and how far off that is, typically.
    "gains": {
        "early": (0.15, -0.27, 0.07, 0.00, 0.35),
        "head": (0.01, 0.00, 0.00, 0.00, 0.05),
        "last": (0.04, -0.06, -0.02, 0.10, 0.13),
        "all": (0.10, -0.15, 0.11, 0.18, 0.23),
    },
    # The accuracy of direct use: a constant, times the share of the labels that the network's
    # own classes explain (transferability.explained_share); and how far off that is.
    "direct": (0.18, 0.87, 0.08),
    # Taken for the similarity where nothing tells.
    "unknown_similarity": 0.7,
    # Standard deviations that are subtracted from what a strategy gains over the simplest.
    "caution": 0.25,
    # What training stages of the network must bring to be worth it, in accuracy.
    "effort": {"last": 0.005, "all": 0.005},
    # Errors in samples that are added to those which "features" makes in cross-validation: none
    # among ten is not certainty, and samples to come are often less like those at hand.
    "more_errors": (3, 20),
    # A strategy whose training is long is tried on another fold where it may, within one standard
    # deviation, be better by this than the best so far, in accuracy,
    "worth_trying": 0.005,
    # and is not settled to be better by this many standard deviations,
    "settled": 1.5,
    # until so many samples have been judged, and their fold with them.
    "judged_long": 72,
    # Rows that strategies are tried on at most.
    "rows": 600,
    # What is cheap is tried on several splits where rows are few: up to so many splits, and up to
    # so many samples judged in all.
    "splits": 5,
    "judged": 300,
    # Samples of a class without which it cannot be both learned and judged.
    "fewest": 4,
    # Standard deviation of the difference between the first two above which nothing is advised,
    # unless the difference is larger.
    "unclear": 0.10,
    # A difference in accuracy that is not worth a mention: confidence leaves it out of account.
    "hardly_matters": 0.01,
    # Learning rate of the network's stages, between these by similarity.
    "lr_unlike": 1e-3,
    "lr_like": 1e-4,
    # And of word vectors, each of which few training texts touch.
    "lr_words": 3e-3,
}


def learning_rate(similarity: float | None) -> float:
    """Return a learning rate for pretrained stages: the less alike, the higher.

    Parameters
    ----------
    similarity : float or None

    Returns
    -------
    float
    """
    if similarity is None:
        return RULES["lr_like"]
    return RULES["lr_unlike"] ** (1 - similarity) * RULES["lr_like"] ** similarity


def headroom_of(accuracy: float, n: int) -> float:
    """Return the share of errors that "features" may be expected to make.

    Parameters
    ----------
    accuracy : float
        In cross-validation.
    n : int
        Samples judged.

    Returns
    -------
    float
    """
    errors, samples = RULES["more_errors"]
    return ((1 - accuracy) * n + errors) / (n + samples) if n else 0.5


def expected_gain(
    name: str, headroom: float, smallest: int, similarity: float | None, hint: float
) -> tuple[float, float]:
    """Predict by rule what a strategy gains over "features".

    Parameters
    ----------
    name : str
    headroom : float
        The errors of "features", as a share of samples.
    smallest : int
        Samples of the smallest class.
    similarity : float or None
    hint : float
        For "direct", the share of the labels that the network's own classes explain. For others
        what an earlier layer gained in the probe, as a share of the headroom.

    Returns
    -------
    gain, error : float
    """
    if name == "features":
        return 0.0, 0.0
    if name == "direct":
        constant, slope, spread = RULES["direct"]
        return constant + slope * hint - (1 - headroom), spread
    *weights, spread = RULES["gains"][name]
    share = float(np.dot(weights, describe(smallest, similarity, hint)))
    return headroom * share, headroom * spread


def describe(smallest: int, similarity: float | None, hint: float) -> list[float]:
    """Return what the rules look at: 1, size, unlikeness and a hint."""
    similarity = RULES["unknown_similarity"] if similarity is None else similarity
    return [1.0, float(np.clip(math.log10(smallest / 20), -1.5, 1.5)), 1 - similarity, hint]


def update(expected: tuple[float, float], measured: tuple[float, ...]) -> tuple[float, float]:
    """Combine what a rule predicts with what was measured, each by how sure it is.

    Parameters
    ----------
    expected : tuple of float
        Gain and its standard deviation.
    measured : tuple of float
        Gain and its standard error, or nothing.

    Returns
    -------
    gain, error : float
        The mean and the standard deviation of the normal distribution that the product of the
        two is.
    """
    gain, error = expected
    if not measured or error == 0:
        return gain, error
    found, chance = measured
    weight = error**2 / (error**2 + chance**2)
    return gain + weight * (found - gain), math.sqrt(weight) * chance
