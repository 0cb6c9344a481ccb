"""A recommendation: the estimates of all strategies, the choice and its reasons."""

from __future__ import annotations

import dataclasses
import html
import math

from .rules import RULES

__all__ = ["Outlook", "Recommendation", "decide", "is_settled"]


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
