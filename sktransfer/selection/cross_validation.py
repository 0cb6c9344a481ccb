"""Cross-validate the candidates of a blend: the setting and temperature of each, weights of all."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any, ClassVar, NamedTuple

import numpy as np
from scipy.special import log_softmax

from ..data import NumericTarget
from ..transferability import (
    MANY_CLASSES,
    greedy_weights,
    indicators,
    make_folds,
    mixture_weights,
    small_in_one_thread,
    temperature,
)
from .candidates import COUNTS, Candidate, LinearCandidate, Tables, logs, tempered
from .proposals import BLEND

__all__ = [
    "Judged",
    "Labels",
    "Numbers",
    "OutOfFold",
    "cross_validate",
    "make_splits",
    "standardized",
]

_LEAST = float(np.log(np.finfo(float).tiny))


class OutOfFold(NamedTuple):
    """What a blend predicts of the samples by which it was weighted, each without its fold.

    Parameters
    ----------
    predictions : ndarray of shape (n_samples, n_outputs)
        The weighted mean, at its temperature; NaN where it was not judged.
    groups : ndarray of shape (n_samples,)
        Equal samples have the same number.
    """

    predictions: np.ndarray
    groups: np.ndarray


class Judged(NamedTuple):
    """The samples on which candidates are judged, those of all splits in a row.

    Parameters
    ----------
    rows : ndarray of int
    weight : ndarray of float
        Of these; a sample has its weight in all splits together.
    """

    rows: np.ndarray
    weight: np.ndarray


@small_in_one_thread
def cross_validate(
    candidates: list[Candidate], by_read: dict[Any, Any], outcome: Labels | Numbers, seed: int
) -> tuple[list[Candidate], float | None, OutOfFold]:
    """Judge candidates on folds, and choose those with a weight.

    Parameters
    ----------
    candidates : list of Candidate
    by_read : dict of Output or "counts" to array of shape (n_samples, n_features)
    outcome : Labels or Numbers
    seed : int

    Returns
    -------
    chosen : list of Candidate
        With settings, temperatures and weights, the highest weight first. Not fitted.
    temperature : float or None
        Of the weighted mean; None for numbers.
    out_of_fold : OutOfFold
    """
    tables, outcome, groups = _merge_equal(by_read, outcome)
    n, has_many_classes = len(outcome.weight), outcome.n_outputs > MANY_CLASSES
    candidates = list(map(copy.copy, candidates))
    if has_many_classes:
        candidates = _narrow(candidates, by_read)
    splits = make_splits(outcome, seed)
    known = np.zeros((len(splits), n), bool)
    for row, folds in zip(known, splits, strict=True):
        for train, test in folds:
            row[test] = outcome.is_known(train, test)
    places = np.flatnonzero(known)  # among the samples of all splits
    rows = places % n
    judged = Judged(rows, outcome.weight[rows] / max(1, len(splits)))
    prior = _prior(candidates, len(rows) > 0)
    if len(rows):
        predictions = np.stack(
            [_judge(candidate, tables, outcome, splits, places, judged) for candidate in candidates]
        )
        weights = outcome.mix(predictions, prior, judged, seed)
    else:
        predictions = np.empty((len(candidates), 0, outcome.n_outputs))
        weights = prior / prior.sum()
        for candidate in candidates:
            candidate.temperature = outcome.unjudged[0]
            if candidate.prior and candidate.temperature is not None:
                candidate.temperature = 1.0
            # With one sample of each class, nothing varies within classes.
            if isinstance(candidate, LinearCandidate) and not has_many_classes:
                candidate.is_discriminant = False
    least = min(BLEND["least_weight"], weights.max())
    order = [i for i in np.argsort(-weights, kind="stable") if weights[i] >= least]
    weights = weights[order] / weights[order].sum()
    chosen = [candidates[i] for i in order]
    for candidate, weight in zip(chosen, weights, strict=True):
        candidate.weight = float(weight)
    mean, heat = np.tensordot(weights, predictions[order], 1), outcome.unjudged[1]
    if len(rows) and heat is not None:
        logits = logs(mean)
        heat = outcome.loss(logits, judged)[1]
        mean = tempered(logits, heat)
    sums = np.zeros((n, outcome.n_outputs))  # over splits
    np.add.at(sums, rows, mean)
    times = np.bincount(rows, minlength=n)[:, None]
    means = np.divide(sums, times, out=np.full_like(sums, np.nan), where=times > 0)
    return chosen, heat, OutOfFold(means[groups], groups)


def _merge_equal(
    by_read: dict, outcome: Labels | Numbers
) -> tuple[Tables, Labels | Numbers, np.ndarray]:
    """Merge equal samples: in several folds, a model would be judged on what it has seen."""
    keys = [next(iter(by_read.values())), outcome.codes]
    if COUNTS in by_read:  # texts may differ in words that the network does not know
        n_columns = by_read[COUNTS].shape[1]
        keys.append(by_read[COUNTS] @ np.random.default_rng(0).uniform(size=n_columns))
    _, rows, inverse = np.unique(
        np.column_stack(keys), axis=0, return_index=True, return_inverse=True
    )
    groups = inverse.ravel()
    weight = np.bincount(groups, outcome.weight)
    tables = Tables({read: table[rows] for read, table in by_read.items()})
    return tables, dataclasses.replace(outcome.take(rows), weight=weight), groups


def _narrow(candidates: list[Candidate], by_read: dict) -> list[Candidate]:
    """Return the candidates with few enough features to be solved, or the one with fewest."""
    widths = [sum(by_read[read].shape[1] for read in c.reads) for c in candidates]
    most = max(BLEND["many_features"], min(widths))
    return [c for c, width in zip(candidates, widths, strict=True) if width <= most]


def make_splits(outcome: Labels | Numbers, seed: int) -> list[list[Any]]:
    """Split samples into folds, several times if they are few."""
    n, (few, many) = len(outcome.weight), BLEND["folds"]
    n_folds = min(many if n > BLEND["many"] else few, outcome.most_folds)
    n_splits = int(np.clip(BLEND["judged"] // n, 1, BLEND["splits"])) if n_folds > 1 else 0
    return [make_folds(outcome.codes, n_folds, seed + i) for i in range(n_splits)]


def _prior(candidates: list[Candidate], is_judged: bool) -> np.ndarray:
    """Return the pseudo-samples of each candidate."""
    known = np.array([candidate.prior != "" for candidate in candidates])
    name = next((candidate.prior for candidate in candidates if candidate.prior), "")
    total, share, share_unjudged = BLEND["priors"][name]
    share = share if is_judged else share_unjudged
    each = np.where(known, share / max(1, known.sum()), (1 - share) / max(1, (~known).sum()))
    return total * each / each.sum()


def _judge(
    candidate: Candidate,
    tables: Tables,
    outcome: Labels | Numbers,
    splits: list,
    places: np.ndarray,
    judged: Judged,
) -> np.ndarray:
    """Set the setting and the temperature with the smallest loss; return the predictions."""
    found = [candidate.out_of_fold(tables, outcome, folds) for folds in splits]
    scores = np.concatenate(found, axis=1)[:, places]  # (n_settings, n_judged, n_outputs)
    losses, heats = zip(*(outcome.loss(one, judged) for one in scores), strict=True)
    best = int(np.argmin(losses))
    candidate.setting, candidate.temperature = candidate.settings[best], heats[best]
    return tempered(scores[best], heats[best])


# -- what is predicted -----------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of some samples.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        As given.
    codes : ndarray of shape (n_samples,)
        Their positions among the classes.
    classes : ndarray of shape (n_classes,)
        Sorted.
    weight : ndarray of shape (n_samples,)
    """

    y: np.ndarray
    codes: np.ndarray
    classes: np.ndarray
    weight: np.ndarray

    @property
    def target(self) -> Any:
        """Indicators of the classes ``(n_samples, n_classes)``, sparse if there are many."""
        return indicators(self.codes, len(self.classes))

    @property
    def n_outputs(self) -> int:
        """The number of classes."""
        return len(self.classes)

    @property
    def strata(self) -> np.ndarray:
        """The group of each sample, of which each part of a split has its share."""
        return self.codes

    def errors(self, predictions: np.ndarray) -> np.ndarray:
        """Tell which predictions are wrong, as 0 or 1."""
        return (predictions.argmax(1) != self.codes).astype(float)

    def take(self, rows: np.ndarray) -> Labels:
        """Return the labels of some samples."""
        return Labels(self.y[rows], self.codes[rows], self.classes, self.weight[rows])

    @property
    def most_folds(self) -> int:
        """The largest number of folds; none, if all classes have one sample."""
        counts = np.bincount(self.codes)
        return int(counts.max()) if (counts > 0).sum() > 1 else 0

    def is_known(self, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Tell which test samples have their class in the training set."""
        return np.isin(self.codes[test], self.codes[train])

    # The temperature of a candidate that is not judged, and of a mean of those.
    unjudged: ClassVar[tuple[float, float]] = (BLEND["temperature"], 1.0)

    def loss(self, scores: np.ndarray, judged: Judged) -> tuple[float, float | None]:
        """Return the log loss of logits, and the temperature at which it is smallest."""
        codes, smoothing = self.codes[judged.rows], 1 / (len(self.weight) + 2)
        settings = {"label_smoothing": smoothing, "sample_weight": judged.weight}
        heat = temperature(scores, codes, **settings)
        logged = np.maximum(log_softmax(scores / heat, axis=1), _LEAST)
        own = logged[np.arange(len(codes)), codes]
        mean = (1 - smoothing) * own + smoothing * logged.mean(1)
        return -float(judged.weight @ mean), heat

    def mix(
        self, predictions: np.ndarray, prior: np.ndarray, judged: Judged, seed: int
    ) -> np.ndarray:
        """Return the weights with which the mean of probabilities explains the labels best."""
        codes = self.codes[judged.rows]
        return mixture_weights(predictions, codes, prior=prior, sample_weight=judged.weight)


@dataclasses.dataclass(frozen=True)
class Numbers:
    """The numbers of some samples.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        As given.
    scaler : NumericTarget
        Its means and standard deviations.
    weight : ndarray of shape (n_samples,)
    """

    y: np.ndarray
    scaler: NumericTarget
    weight: np.ndarray

    @property
    def target(self) -> np.ndarray:
        """Standardized numbers, ``(n_samples, n_targets)``."""
        return standardized(self.y, self.scaler)

    @property
    def n_outputs(self) -> int:
        """The number of targets."""
        return self.target.shape[1]

    @property
    def codes(self) -> np.ndarray:
        """The numbers; there are no classes."""
        return self.target

    @property
    def strata(self) -> np.ndarray:
        """The group of each sample: there is one."""
        return np.zeros(len(self.y), int)

    def errors(self, predictions: np.ndarray) -> np.ndarray:
        """Return the squared errors, as shares of the variance."""
        return ((predictions - self.target) ** 2).mean(1)

    def take(self, rows: np.ndarray) -> Numbers:
        """Return the numbers of some samples."""
        return Numbers(self.y[rows], self.scaler, self.weight[rows])

    @property
    def most_folds(self) -> int:
        """The largest number of folds."""
        return len(self.y)

    def is_known(self, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Tell which test samples can be predicted: all."""
        return np.ones(len(test), bool)

    unjudged: ClassVar[tuple[None, None]] = (None, None)

    def loss(self, scores: np.ndarray, judged: Judged) -> tuple[float, float | None]:
        """Return the squared error of numbers; they have no temperature."""
        return float(judged.weight @ ((scores - self.target[judged.rows]) ** 2).sum(1)), None

    def mix(
        self, predictions: np.ndarray, prior: np.ndarray, judged: Judged, seed: int
    ) -> np.ndarray:
        """Return the weights with which the mean of numbers has the smallest squared error."""
        settings = {"n_bags": BLEND["bags"], "random_state": seed, "n_rounds": BLEND["rounds"]}
        settings |= {"loss": "squared_error", "sample_weight": judged.weight}
        return greedy_weights(predictions, self.target[judged.rows], **settings)


def standardized(y: np.ndarray, scaler: NumericTarget) -> np.ndarray:
    """Return numbers minus their mean, divided by their deviation, ``(n_samples, n_targets)``."""
    return (scaler.encode(y) - scaler.mean) / scaler.scale
