"""Recommend one strategy: measure a task, estimate every strategy, and decide.

The gain of a strategy is first predicted by a rule, from the size of the data and their similarity
to those that the network was trained on. Strategies without training, and those that may be the
best, are cross-validated. Rule and measurement are combined, each weighted by its precision.
"""

from __future__ import annotations

import dataclasses
import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone, modality_of, size_step, takes_size
from ..data import documentation_link, some_cells, table_columns
from ..transferability import leep, summarise
from .blend_estimator import is_table
from .displays import StrategyDisplay
from .similarity import measure_size
from .strategies import REFERENCE, RULES, STRATEGIES, Evidence
from .study import Study
from .transfer import TransferClassifier, strategy_task

_HEADER = ["strategy", "accuracy", "gain over features", "evidence", "time"]
# A larger input that shows more: 288 pixels for weights that were trained with 224. In training,
# objects are enlarged by random crops, so that the best size of a test is larger (Touvron et al.,
# 2019, Fixing the train-test resolution discrepancy, NeurIPS).
_LARGER = 9 / 7
_LOOKED_AT = 20  # samples whose headers are read


def recommend_strategy(
    X: Any,
    y: Any,
    backbone: Any = "efficientnet_lite0",
    *,
    weights: Any = "default",
    image_size: int | None = None,
    estimator: Any = None,
    max_epochs: int | str = "auto",
    batch_size: int | str = "auto",
    device: str = "auto",
    engine: str = "auto",
    memory: Any = None,
    random_state: Any = None,
    verbose: int = 0,
    sample_weight: Any = None,
) -> Recommendation:
    """Recommend a strategy for samples and labels, with reasons, costs and a confidence.

    Parameters
    ----------
    X : list, array, Series or DataFrame column of n_samples samples
        As in :meth:`PretrainedFeatureExtractor.fit`.
    y : array-like of shape (n_samples,)
        Labels of any type.
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`, like the parameters below.
    weights : str, Path or None, default="default"
        Which weights, for names.
    image_size : int, default=None
        Side of the square given to the network, in pixels.
    estimator : classifier, default=None
        As in :class:`TransferClassifier`.
    max_epochs : int or "auto", default="auto"
        As in :class:`TransferClassifier`.
    batch_size : int or "auto", default="auto"
        Samples in a training step.
    device : str, default="auto"
        Where the network runs.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are kept, by sample.
    random_state : int, RandomState instance or None, default=None
        Seed of the folds and of what is trained.
    verbose : int, default=0
        1 shows progress bars.
    sample_weight : array-like of shape (n_samples,), default=None
        As in :meth:`TransferClassifier.fit`.

    Returns
    -------
    Recommendation
        Its ``strategy`` is None if the evidence does not suffice.

    Raises
    ------
    ValueError
        As :meth:`TransferClassifier.fit`.

    See Also
    --------
    TransferClassifier : Combine strategies, or fit the recommended one (``strategy=``).

    Notes
    -----
    Features of all layers come from one pass. Strategies that take little time on them are
    cross-validated. Training stages of the network is tried if a rule expects a gain, on the folds
    that ``sktransfer.selection.RULES`` names. Rule and measurement are combined by
    inverse-variance weighting. Seconds are those of a probe batch on this device, times the number
    of samples and epochs; they do not influence the recommendation.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import recommend_strategy
    >>> digits = load_digits()
    >>> few = recommend_strategy(list(digits.images[:20] / 16), digits.target[:20], image_size=64)
    >>> print(few.strategy, few.reasons[0], sep=": ")
    None: too little to tell: 2 samples in class 0
    """
    _refuse_several(X, backbone)
    model = TransferClassifier(
        backbone,
        weights=weights,
        image_size=image_size,
        estimator=estimator,
        max_epochs=max_epochs,
        batch_size=batch_size,
        device=device,
        engine=engine,
        memory=memory,
        random_state=random_state,
        verbose=verbose,
    )
    return recommend(Study(strategy_task(model, X, y, sample_weight)), timed=True)


def _refuse_several(X: Any, backbone: Any) -> None:
    """Raise an error if there are several networks, or several columns of samples."""
    several = (
        "recommend_strategy compares the strategies of one network on one column of samples, and "
    )
    if isinstance(backbone, dict) and backbone:
        column, network = next(iter(backbone.items()))
        raise ValueError(
            f"{several}backbone is a dictionary: give X[{column!r}] and backbone={network!r:.80}."
        )
    if isinstance(backbone, list | dict):
        raise ValueError(f"{several}backbone names several: see rank_backbones.")
    columns, modality = table_columns(X), modality_of(backbone)
    if is_table(columns, modality):
        cells = {name: some_cells(column) for name, column in columns.items()}
        read = [repr(name) for name, some in cells.items() if some and modality.looks_like(some)]
        which = read[0] if read else "column"
        raise ValueError(f"{several}X has {list(columns)!r:.200}: give X[{which}].")


def recommend(study: Study, *, timed: bool = False) -> Recommendation:
    """Estimate every strategy that a network allows, and recommend one.

    Parameters
    ----------
    timed : bool, default=False
        Whether to estimate seconds, which do not influence the choice.
    """
    task = study.task
    size = measure_size(task.y[task.weighted])
    evidence = {"size": size, "similarity": study.similarity}
    evidence |= {"layers": None, "leep": math.nan, "explained": math.nan}
    if len(size.counts) < 2:
        only = StrategyEstimate(REFERENCE, 0.0, 0.0)
        return decide([only], [], "there is one class only", evidence)
    evidence["layers"] = study.layers
    if study.probabilities is not None:
        evidence["leep"] = leep(study.probabilities, task.codes[task.rows])
        evidence["explained"] = study.explained
    folds = study.splits[0]
    # Too few samples for trials of what is trained? One tiny class beside others takes away the
    # certainty, not what is known of the others.
    counts = np.bincount(task.codes[task.weighted])
    ample = counts[counts >= RULES["fewest"]]
    is_blind = len(ample) < 2 or ample.sum() < counts.sum() / 2 or not folds
    estimates = _estimate_strategies(study, size.smallest, [] if is_blind else folds)
    if timed:
        estimates = [dataclasses.replace(e, seconds=study.seconds(e.name)) for e in estimates]
    too_little = ""
    if size.smallest < RULES["fewest"] or not folds:
        samples = "sample" if size.smallest == 1 else "samples"
        label = size.smallest_label
        too_little = f"too little to tell: {size.smallest} {samples} in class {label!r}"
    words, note = _in_words(evidence), note_on_size(task.backbone, task.samples)
    words += [] if note is None else [note]
    # With next to nothing to learn from, fixed features are the least likely to go wrong.
    return decide(estimates, words, too_little, evidence, REFERENCE if is_blind else None)


def _estimate_strategies(study: Study, smallest: int, folds: list) -> list[StrategyEstimate]:
    """Estimate every strategy; those that are trained are tried on folds where that may pay."""
    reference = [study.judge(REFERENCE, split) for split in study.splits]
    n = int(np.isfinite(reference[0]).sum())
    accuracy = study.accuracy(reference) if n else math.nan
    estimates = {REFERENCE: StrategyEstimate(REFERENCE, 0.0, 0.0, n, accuracy)}
    headroom = headroom_of(accuracy, n)
    for name in [name for name in study.names if name != REFERENCE]:
        others = list(estimates.values())
        gains = {other.name: other.gain / headroom for other in others}
        seen = Evidence(headroom, smallest, study.similarity.value, study.explained, gains)
        expected = STRATEGIES[name].prior(seen)
        if STRATEGIES[name].trainable:  # one fold after another, until the choice is settled
            gained = np.full(len(study.task.codes), np.nan)
            estimates[name] = _estimate(study, name, expected, gained, others)
            for fold in folds:
                enough = estimates[name].n_judged >= RULES["judged_long"]
                if enough or is_settled(estimates[name], others):
                    break
                hits = study.judge(name, [fold])
                gained = np.where(np.isfinite(hits), hits - reference[0], gained)
                estimates[name] = _estimate(study, name, expected, gained, others)
        else:
            of_splits = [study.judge(name, split) for split in study.splits]
            gained = np.mean(np.subtract(of_splits, reference), axis=0)
            estimates[name] = _estimate(study, name, expected, gained, others)
    return [estimates[name] for name in study.names]


def _estimate(
    study: Study, name: str, expected: tuple, gained: np.ndarray, others: list
) -> StrategyEstimate:
    """Combine a rule with what a strategy gained on each sample, NaN where not judged."""
    judged, weight = np.isfinite(gained), study.task.weight
    measured = summarise(gained[judged], None if weight is None else weight[judged])
    gain, error = update(expected, measured)
    accuracy = float(np.clip(others[0].accuracy + gain, 0.0, 1.0))  # NaN stays NaN
    n, effort = int(judged.sum()), STRATEGIES[name].effort
    return StrategyEstimate(name, gain, error, n, accuracy, measured, effort=effort)


def headroom_of(accuracy: float, n: int) -> float:
    """Return the share of errors that the reference is expected to make.

    Parameters
    ----------
    accuracy : float
        In cross-validation.
    n : int
        Number of samples judged.
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
    measured_gain, chance = measured
    weight = error**2 / (error**2 + chance**2)
    return gain + weight * (measured_gain - gain), math.sqrt(weight) * chance


def is_settled(estimate: StrategyEstimate, others: list[StrategyEstimate]) -> bool:
    """Tell whether another trial of a strategy could hardly change the choice.

    Parameters
    ----------
    estimate : StrategyEstimate
        Of the strategy under trial.
    others : list of StrategyEstimate
        All strategies estimated before.
    """
    best = max(others, key=lambda other: other.value)
    hopeless = estimate.gain + estimate.error < best.value + RULES["worth_trying"]
    ahead, spread = _compare(estimate, best)
    return hopeless or ahead > RULES["settled"] * spread


# -- the recommendation ----------------------------------------------------------------------------


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
                "-" if math.isnan(estimate.accuracy) else f"{estimate.accuracy:.3f}",
                f"{estimate.gain:+.3f} ± {estimate.error:.3f}",
                f"tried on {estimate.n_judged}" if estimate.n_judged else "by rule",
                "-" if math.isnan(estimate.seconds) else f"{estimate.seconds:.1f} s",
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
    return 0.5 * (1 + math.erf(ahead / spread / math.sqrt(2))) if spread else float(ahead >= 0)


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


# -- reasons in words ------------------------------------------------------------------------------


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


def note_on_size(backbone: Backbone, samples: Sequence[Any]) -> str | None:
    """Say what a larger input costs, where samples have more pixels than the network takes.

    Returns
    -------
    str or None
        None if the input is not that of the training of the weights, if the network takes no other,
        or if more than half of the samples have too few pixels.
    """
    shape = backbone.input_shape or ()
    if len(shape) != 3 or backbone.native_shape or not hasattr(backbone.preprocess, "with_size"):
        return None
    native = max(shape[1:])
    step = size_step(backbone, 1)
    larger = round(native * _LARGER / step) * step
    places = np.unique(np.linspace(0, len(samples) - 1, _LOOKED_AT).astype(int))
    sides = [backbone.modality.side(samples[i]) for i in places]
    known = [side for side in sides if side is not None]
    side = int(np.median(known)) if known else 0
    if side < larger or not takes_size(backbone, larger):
        return None
    return (
        f"the samples are larger ({side} pixels) than the input of the network ({native}): "
        f"image_size={larger} may see more, in {(larger / native) ** 2:.1f} times the time"
    )
