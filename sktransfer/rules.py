"""From evidence to a recommendation: numbers in, a choice with its reasons out. No torch."""

from __future__ import annotations

import dataclasses
import html
import math

import numpy as np

__all__ = [
    "RULES",
    "Outlook",
    "Recommendation",
    "decide",
    "expected_gain",
    "headroom_of",
    "is_settled",
    "learning_rate",
    "summarise",
    "update",
]

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


@dataclasses.dataclass(frozen=True)
class Outlook:
    """What a strategy is expected to be worth.

    Parameters
    ----------
    name : str
    gain : float
        Expected difference of its accuracy from that of "features".
    error : float
        Standard deviation of that.
    n_judged : int
        Samples on which it was tried; 0 where it is an expectation by rule.
    measured : tuple of float
        The difference that was measured on those and its standard error; empty where it was
        not tried.
    accuracy : float
        Expected accuracy in cross-validation; NaN where none could be measured.
    seconds : float
        Estimate for fitting it on all samples on this device; NaN where nothing was timed.
    """

    name: str
    gain: float
    error: float
    n_judged: int = 0
    accuracy: float = math.nan
    measured: tuple[float, ...] = ()
    seconds: float = math.nan

    @property
    def value(self) -> float:
        """The gain less caution and effort: what decides."""
        effort = RULES["effort"].get(self.name, 0.0)
        return self.gain - RULES["caution"] * self.error - effort


def is_settled(outlook: Outlook, others: list[Outlook]) -> bool:
    """Tell whether trying a strategy further could hardly change what is taken.

    Parameters
    ----------
    outlook : Outlook
        Of the strategy that is being tried.
    others : list of Outlook
        All that were looked at before.

    Returns
    -------
    bool
    """
    best = max(others, key=lambda other: other.value)
    hopeless = outlook.gain + outlook.error < best.value + RULES["worth_trying"]
    ahead, spread = _compare(outlook, best)
    return hopeless or ahead > RULES["settled"] * spread


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


def summarise(differences: np.ndarray) -> tuple[float, ...]:
    """Return the mean and its standard error of what a strategy gained on each sample.

    Parameters
    ----------
    differences : ndarray of shape (n,)
        Over "features", sample by sample: 1, 0 or -1.

    Returns
    -------
    tuple of float
        Empty where there are none.
    """
    n = len(differences)
    if n == 0:
        return ()
    # One more sample that differs: no difference among ten is not certainty.
    return float(differences.mean()), math.sqrt((differences.var() + 1 / n) / n)


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


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """Which strategy suits, why, at what cost and how sure that is.

    Parameters
    ----------
    strategy : str or None
        The recommended one; None where the evidence cannot tell.
    runner_up : str or None
    confidence : float
        Probability that no other strategy is better by more than a point (``RULES``), taken
        against each of the others and the least of these.
    reasons : tuple of str
        In words.
    table : tuple of Outlook
        All strategies that the network allows, the simplest first.
    fallback : str
        What is done where nothing is recommended: the best guess, or "features" where there is
        too little to guess by.
    evidence : dict
        "size", "similarity", "layers", "leep" and "explained", as they were measured.
    """

    strategy: str | None
    runner_up: str | None
    confidence: float
    reasons: tuple[str, ...]
    table: tuple[Outlook, ...]
    fallback: str = "features"
    evidence: dict = dataclasses.field(default_factory=dict, repr=False)

    @property
    def chosen(self) -> str:
        """The recommended strategy, or what is done without a recommendation."""
        return self.strategy or self.fallback

    def rows(self) -> list[list[str]]:
        """Return the table of evidence as text."""
        return [
            [
                outlook.name,
                _number(outlook.accuracy, "{:.3f}"),
                f"{outlook.gain:+.3f} ± {outlook.error:.3f}",
                f"tried on {outlook.n_judged}" if outlook.n_judged else "by rule",
                _number(outlook.seconds, "{:.1f} s"),
            ]
            for outlook in self.table
        ]

    @property
    def title(self) -> str:
        """The recommendation in a line."""
        if not self.strategy:
            return "No recommendation"
        then = f", then {self.runner_up}" if self.runner_up else ""
        return f"Recommended: {self.strategy}{then} (confidence {self.confidence:.0%})"

    def __repr__(self) -> str:
        lines = [self.title, *(f"  - {reason}" for reason in self.reasons), ""]
        rows = [_HEADER, *self.rows()]
        widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADER))]
        lines += ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
        return "\n".join(line.rstrip() for line in lines)

    def _repr_html_(self) -> str:
        reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in self.reasons)
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows()
        )
        header = "".join(f"<th>{html.escape(cell)}</th>" for cell in _HEADER)
        return (
            f"<div><b>{html.escape(self.title)}</b><ul>{reasons}</ul>"
            f"<table><thead><tr>{header}</tr></thead><tbody>{cells}</tbody></table></div>"
        )

    def plot(self, ax=None):
        """Draw what each strategy is expected to be worth.

        Parameters
        ----------
        ax : matplotlib Axes, default=None

        Returns
        -------
        StrategyDisplay
        """
        from .display import StrategyDisplay

        return StrategyDisplay.from_recommendation(self, ax=ax)


_HEADER = ["strategy", "accuracy", "gain over features", "evidence", "time"]


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)


def decide(
    outlooks: list[Outlook],
    reasons: list[str],
    too_little: str,
    evidence: dict,
    fallback: str | None = None,
) -> Recommendation:
    """Take the strategy whose gain less caution is highest, or none.

    Parameters
    ----------
    outlooks : list of Outlook
        The simplest first.
    reasons : list of str
        What the evidence says so far.
    too_little : str
        Why nothing can be told, or nothing.
    evidence : dict
    fallback : str, default=None
        What is done where nothing can be told; None is the best guess.

    Returns
    -------
    Recommendation
    """
    ranked = sorted(outlooks, key=lambda outlook: -outlook.value)  # stable: the simplest of equals
    best, others = ranked[0], ranked[1:]
    second = others[0] if others else None
    too_little = too_little or _unclear(best, others)
    why = too_little or _why(best, second, outlooks)
    confidence = min((_probability(best, other) for other in others), default=1.0)
    return Recommendation(
        None if too_little else best.name,
        second.name if second else None,
        math.nan if too_little else confidence,
        (why, *reasons),
        tuple(outlooks),
        fallback or best.name,
        evidence,
    )


def _compare(best: Outlook, other: Outlook) -> tuple[float, float]:
    """Return by how much one is expected to be better than another, and how sure that is."""
    return best.gain - other.gain, math.hypot(best.error, other.error)


def _unclear(best: Outlook, others: list[Outlook]) -> str:
    """Say which other strategy may as well be better by far, or nothing."""
    for other in others:
        ahead, spread = _compare(best, other)
        if spread > max(RULES["unclear"], ahead):
            differ = f"{best.name} and {other.name} differ by {ahead:+.2f} ± {spread:.2f}"
            return f"too little to tell: {differ}"
    return ""


def _probability(best: Outlook, other: Outlook) -> float:
    """Return the probability that another strategy is not better by more than hardly matters."""
    ahead, spread = _compare(best, other)
    ahead += RULES["hardly_matters"]
    return _normal_cdf(ahead / spread) if spread else float(ahead >= 0)


def _why(best: Outlook, second: Outlook | None, outlooks: list[Outlook]) -> str:
    if second is None:
        return f"{best.name} is the only one that this network allows"
    ahead, spread = _compare(best, second)
    if ahead > spread:
        return f"{best.name} is expected to be {ahead:.3f} better than {second.name}"
    kind = "simpler" if outlooks.index(best) < outlooks.index(second) else "likelier"
    return (
        f"{best.name} and {second.name} differ by {ahead:+.3f} ± {spread:.3f}, less than can be "
        f"told for certain; the {kind} one is taken"
    )


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
