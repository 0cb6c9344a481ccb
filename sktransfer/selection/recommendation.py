"""A recommendation: the estimates of all strategies, the choice and its reasons."""

from __future__ import annotations

import dataclasses
import html
import math
from typing import Any

from ..data import documentation_link
from .display import StrategyDisplay
from .rules import RULES

__all__ = ["REFERENCE", "Recommendation", "StrategyEstimate", "decide", "is_settled"]

# The strategy from which gains are measured, and the one to use where nothing can be told.
REFERENCE = "features"
_HEADER = ["strategy", "accuracy", "gain over features", "evidence", "time"]


@dataclasses.dataclass(frozen=True)
class StrategyEstimate:
    """The estimated accuracy and cost of a strategy.

    Parameters
    ----------
    name : str
    gain : float
        Expected difference of its accuracy from that of "features".
    error : float
        Standard deviation of the gain.
    n_judged : int
        Number of samples on which it was tried; 0 if the estimate follows from a rule alone.
    accuracy : float
        Expected accuracy in cross-validation; NaN if none could be measured.
    measured : tuple of float
        Difference measured on those samples and its standard error; empty if it was not tried.
    seconds : float
        Estimated time to fit it on all samples on this device; NaN if nothing was timed.
    effort : float
        Accuracy that it must gain to be worth its training.
    """

    name: str
    gain: float
    error: float
    n_judged: int = 0
    accuracy: float = math.nan
    measured: tuple[float, ...] = ()
    seconds: float = math.nan
    effort: float = 0.0

    @property
    def value(self) -> float:
        """The gain less caution and effort, by which strategies are ordered."""
        return self.gain - RULES["caution"] * self.error - self.effort


def is_settled(estimate: StrategyEstimate, others: list[StrategyEstimate]) -> bool:
    """Tell whether another trial of a strategy could hardly change the choice.

    Parameters
    ----------
    estimate : StrategyEstimate
        Of the strategy under trial.
    others : list of StrategyEstimate
        All strategies estimated before.

    Returns
    -------
    bool
    """
    best = max(others, key=lambda other: other.value)
    hopeless = estimate.gain + estimate.error < best.value + RULES["worth_trying"]
    ahead, spread = _compare(estimate, best)
    return hopeless or ahead > RULES["settled"] * spread


@dataclasses.dataclass(frozen=True)
class Recommendation:
    """A recommended strategy with its reasons, its cost and its confidence.

    Parameters
    ----------
    strategy : str or None
        The recommended strategy; None if the evidence does not suffice.
    runner_up : str or None
        The second best strategy.
    confidence : float
        Probability that no other strategy is better by more than one point (``RULES``): the
        smallest of the probabilities for each of the others.
    reasons : tuple of str
        The reasons in words.
    table : tuple of StrategyEstimate
        All strategies that the network allows, the simplest first.
    fallback : str
        The strategy to use without a recommendation: the most likely one, or "features" if there
        are too few samples.
    evidence : dict
        The measurements "size", "similarity", "layers", "leep" and "explained".
    """

    strategy: str | None
    runner_up: str | None
    confidence: float
    reasons: tuple[str, ...]
    table: tuple[StrategyEstimate, ...]
    fallback: str = REFERENCE
    evidence: dict[str, Any] = dataclasses.field(default_factory=dict, repr=False)

    @property
    def chosen(self) -> str:
        """The recommended strategy, or the fallback without a recommendation."""
        return self.strategy or self.fallback

    @property
    def accuracy(self) -> float:
        """The cross-validated accuracy of "features"; NaN if none could be measured."""
        return next((e.accuracy for e in self.table if e.name == REFERENCE), math.nan)

    @property
    def header(self) -> list[str]:
        """Names of the columns of :meth:`rows`."""
        return _HEADER

    def rows(self) -> list[list[str]]:
        """Return the table of estimates as text."""
        return [
            [
                estimate.name,
                _number(estimate.accuracy, "{:.3f}"),
                f"{estimate.gain:+.3f} ± {estimate.error:.3f}",
                f"tried on {estimate.n_judged}" if estimate.n_judged else "by rule",
                _number(estimate.seconds, "{:.1f} s"),
            ]
            for estimate in self.table
        ]

    @property
    def title(self) -> str:
        """The recommendation in one line."""
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
        address = html.escape(documentation_link("guide/choosing.html"))
        link = f'<a href="{address}">How strategies are chosen</a>' if address else ""
        return (
            f"<div><b>{html.escape(self.title)}</b><ul>{reasons}</ul>"
            f"<table><thead><tr>{header}</tr></thead><tbody>{cells}</tbody></table>{link}</div>"
        )

    def plot(self, ax: Any = None) -> StrategyDisplay:
        """Plot the estimated gain of each strategy.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Where to plot; None makes a new figure.

        Returns
        -------
        StrategyDisplay
        """
        return StrategyDisplay.from_recommendation(self, ax=ax)


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else form.format(value)


def decide(
    estimates: list[StrategyEstimate],
    reasons: list[str],
    too_little: str,
    evidence: dict[str, Any],
    fallback: str | None = None,
) -> Recommendation:
    """Recommend the strategy with the highest value, or none.

    Parameters
    ----------
    estimates : list of StrategyEstimate
        The simplest strategy first.
    reasons : list of str
        The evidence in words.
    too_little : str
        Why the evidence does not suffice; empty if it does.
    evidence : dict
        The measurements.
    fallback : str, default=None
        The strategy to use without a recommendation; None is the best guess.

    Returns
    -------
    Recommendation
    """
    ranked = sorted(estimates, key=lambda e: -e.value)  # stable: of equals the simplest is first
    best, others = ranked[0], ranked[1:]
    second = others[0] if others else None
    too_little = too_little or _unclear(best, others)
    why = too_little or _why(best, second, estimates)
    confidence = min((_probability(best, other) for other in others), default=1.0)
    return Recommendation(
        None if too_little else best.name,
        second.name if second else None,
        math.nan if too_little else confidence,
        (why, *reasons),
        tuple(estimates),
        fallback or best.name,
        evidence,
    )


def _compare(best: StrategyEstimate, other: StrategyEstimate) -> tuple[float, float]:
    """Return the expected difference of two strategies and its standard deviation."""
    return best.gain - other.gain, math.hypot(best.error, other.error)


def _unclear(best: StrategyEstimate, others: list[StrategyEstimate]) -> str:
    """Name another strategy that may be better by far; return "" if there is none."""
    for other in others:
        ahead, spread = _compare(best, other)
        if spread > max(RULES["unclear"], ahead):
            differ = f"{best.name} and {other.name} differ by {ahead:+.2f} ± {spread:.2f}"
            return f"too little to tell: {differ}"
    return ""


def _probability(best: StrategyEstimate, other: StrategyEstimate) -> float:
    """Return the probability that another strategy is not better by more than hardly matters."""
    ahead, spread = _compare(best, other)
    ahead += RULES["hardly_matters"]
    return _normal_cdf(ahead / spread) if spread else float(ahead >= 0)


def _why(
    best: StrategyEstimate, second: StrategyEstimate | None, estimates: list[StrategyEstimate]
) -> str:
    if second is None:
        return f"{best.name} is the only one that this network allows"
    ahead, spread = _compare(best, second)
    if ahead > spread:
        return f"{best.name} is expected to be {ahead:.3f} better than {second.name}"
    kind = "simpler" if estimates.index(best) < estimates.index(second) else "likelier"
    return (
        f"{best.name} and {second.name} differ by {ahead:+.3f} ± {spread:.3f}, less than can be "
        f"told for certain; the {kind} one is taken"
    )


def _normal_cdf(z: float) -> float:
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))
