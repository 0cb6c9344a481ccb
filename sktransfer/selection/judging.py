"""Judge members out of fold: the setting and the temperature of each, and the weights of all."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from ..data import NumericTarget
from ..transferability import (
    MANY_CLASSES,
    greedy_weights,
    indicators,
    make_folds,
    mixture_weights,
    one_thread_if_small,
    small_in_one_thread,
    temperature,
)
from .linear_models import for_single_samples
from .members import BLEND, RAW, Block, Member
from .models import Fitted, Tables, logs

__all__ = [
    "BlendPart",
    "Choice",
    "Chosen",
    "Labels",
    "Numbers",
    "choose_members",
    "make_splits",
    "mean_prediction",
    "standardised",
    "tempered",
]

_LEAST = float(np.log(np.finfo(float).tiny))


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
        """Standardised numbers, ``(n_samples, n_targets)``."""
        return standardised(self.y, self.scaler)

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


def standardised(y: np.ndarray, scaler: NumericTarget) -> np.ndarray:
    """Return numbers minus their mean, divided by their deviation, ``(n_samples, n_targets)``."""
    return (scaler.encode(y) - scaler.mean) / scaler.scale


@dataclasses.dataclass(frozen=True)
class BlendPart:
    """A fitted member of a blend.

    Parameters
    ----------
    member : Member
    weight : float
    temperature : float or None
        Divides the logits of the model; None for numbers.
    fitted : object
        The model, whose method ``scores`` takes features by block.
    """

    member: Member
    weight: float
    temperature: float | None
    fitted: Fitted

    def predictions(self, tables: Tables) -> np.ndarray:
        """Return probabilities or numbers of samples, ``(n_samples, n_outputs)``."""
        with one_thread_if_small(tables.by_block):
            return tempered(self.fitted.scores(tables, self.member.blocks), self.temperature)


def tempered(scores: np.ndarray, temperature: float | None) -> np.ndarray:
    """Return the probabilities of logits at a temperature; without one, the scores."""
    return scores if temperature is None else softmax(scores / temperature, axis=-1)


def mean_prediction(
    parts: list[BlendPart], tables: Tables, temperature: float | None
) -> np.ndarray:
    """Return the weighted mean of predictions, ``(n_samples, n_outputs)``, at a temperature."""
    mean = np.sum([part.weight * part.predictions(tables) for part in parts], axis=0)
    if temperature is None:
        return mean
    return tempered(logs(mean), temperature)


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A member with a weight, before it is fitted on all samples."""

    member: Member
    weight: float
    temperature: float | None
    setting: Any

    def fit(self, tables: Tables, outcome: Labels | Numbers) -> BlendPart:
        """Fit the model of the member."""
        with one_thread_if_small(tables.by_block):
            fitted = self.member.model.fit(tables, self.member.blocks, outcome, self.setting)
        return BlendPart(self.member, self.weight, self.temperature, fitted)


@dataclasses.dataclass(frozen=True)
class Choice:
    """The members with a weight, and what they predict of samples they were not fitted on.

    Parameters
    ----------
    members : list of Chosen
        The highest weight first.
    temperature : float or None
        Of the weighted mean; None for numbers.
    out_of_fold : ndarray of shape (n_samples, n_outputs)
        The weighted mean for each sample, at that temperature; NaN where it was not judged.
    groups : ndarray of shape (n_samples,)
        Equal samples have the same number.
    """

    members: list[Chosen]
    temperature: float | None
    out_of_fold: np.ndarray
    groups: np.ndarray


@small_in_one_thread
def choose_members(
    members: list[Member], by_block: dict[Block, Any], outcome: Labels | Numbers, seed: int
) -> Choice:
    """Judge members on folds, and choose those with a weight.

    Parameters
    ----------
    members : list of Member
    by_block : dict of Block to ndarray of shape (n_samples, n_features)
    outcome : Labels or Numbers
    seed : int

    Returns
    -------
    Choice
    """
    tables, outcome, groups = _distinct(by_block, outcome)
    has_many_classes = outcome.n_outputs > MANY_CLASSES
    if has_many_classes:
        members = _narrow(members, by_block)
    kind = _LabelJudge if isinstance(outcome, Labels) else _NumberJudge
    judge: _Judge = kind(tables, outcome, make_splits(outcome, seed), seed)
    if not len(judge.rows) and not has_many_classes:
        members = [dataclasses.replace(m, model=for_single_samples(m.model)) for m in members]
    judged = [judge(member) for member in members]
    predictions = np.stack([found for *_, found in judged])
    prior = _prior(members, len(judge.rows) > 0)
    weights = judge.weights(predictions, prior) if len(judge.rows) else prior / prior.sum()
    least = min(BLEND["least_weight"], weights.max())
    order = [i for i in np.argsort(-weights, kind="stable") if weights[i] >= least]
    weights = weights[order] / weights[order].sum()
    chosen = [
        Chosen(members[i], float(weight), judged[i][0], judged[i][1])
        for i, weight in zip(order, weights, strict=True)
    ]
    heat, mean = judge.at_best_temperature(np.tensordot(weights, predictions[order], 1))
    return Choice(chosen, heat, judge.by_sample(mean)[groups], groups)


def _narrow(members: list[Member], by_block: dict) -> list[Member]:
    """Return the members whose number of features allows their solution, or the one with fewest."""
    widths = [sum(by_block[block].shape[1] for block in member.blocks) for member in members]
    most = max(BLEND["many_features"], min(widths))
    return [member for member, width in zip(members, widths, strict=True) if width <= most]


def _distinct(by_block: dict, outcome: Labels | Numbers) -> tuple:
    """Merge equal samples: in several folds, a model would be judged on what it has seen."""
    keys = [next(iter(by_block.values())), outcome.codes]
    if RAW in by_block:  # texts may differ in words that the network does not know
        n_columns = by_block[RAW].shape[1]
        keys.append(by_block[RAW] @ np.random.default_rng(0).uniform(size=n_columns))
    _, rows, inverse = np.unique(
        np.column_stack(keys), axis=0, return_index=True, return_inverse=True
    )
    groups = inverse.ravel()
    weight = np.bincount(groups, outcome.weight)
    tables = Tables({block: table[rows] for block, table in by_block.items()})
    return tables, dataclasses.replace(outcome.take(rows), weight=weight), groups


def make_splits(outcome: Labels | Numbers, seed: int) -> list[list[Any]]:
    """Split samples into folds, several times if they are few."""
    n, (few, many) = len(outcome.weight), BLEND["folds"]
    n_folds = min(many if n > BLEND["many"] else few, outcome.most_folds)
    n_splits = int(np.clip(BLEND["judged"] // n, 1, BLEND["splits"])) if n_folds > 1 else 0
    return [make_folds(outcome.codes, n_folds, seed + i) for i in range(n_splits)]


def _prior(members: list[Member], is_judged: bool) -> np.ndarray:
    """Return the pseudo-samples of each member."""
    known = np.array([member.prior != "" for member in members])
    name = next((member.prior for member in members if member.prior), "")
    total, share, share_unjudged = BLEND["priors"][name]
    share = share if is_judged else share_unjudged
    each = np.where(known, share / max(1, known.sum()), (1 - share) / max(1, (~known).sum()))
    return total * each / each.sum()


class _Judge(abc.ABC):
    """Judges members on samples that they were not fitted on.

    Parameters
    ----------
    tables : Tables
    outcome : Labels or Numbers
    splits : list of list of (train, test)
    seed : int
    """

    usual: float | None  # temperature of a member that is not judged

    def __init__(self, tables: Tables, outcome: Any, splits: list, seed: int):
        self.tables, self.outcome, self.splits, self.seed = tables, outcome, splits, seed
        known = np.zeros((len(splits), len(outcome.weight)), bool)
        for row, folds in zip(known, splits, strict=True):
            for train, test in folds:
                row[test] = outcome.is_known(train, test)
        self.rows = np.flatnonzero(known)  # of all splits in a row
        self.places = self.rows % len(outcome.weight)
        self.weight = outcome.weight[self.places] / max(1, len(splits))

    def __call__(self, member: Member) -> tuple[float | None, Any, np.ndarray]:
        """Return temperature, setting, and the predictions ``(n_judged, n_outputs)``."""
        if not len(self.rows):
            heat = 1.0 if member.prior else self.usual
            return heat, member.model.usual, np.empty((0, self.outcome.n_outputs))
        found = [
            member.model.out_of_fold(self.tables, member.blocks, self.outcome, folds)
            for folds in self.splits
        ]
        scores = np.concatenate(found, axis=1)[:, self.rows]  # (n_settings, n_judged, n_outputs)
        losses, heats = zip(*map(self.loss, scores), strict=True)
        best = int(np.argmin(losses))
        return heats[best], member.model.settings[best], tempered(scores[best], heats[best])

    @abc.abstractmethod
    def loss(self, scores: np.ndarray) -> tuple[float, float | None]:
        """Return the loss of scores, and the temperature at which it is smallest."""

    @abc.abstractmethod
    def weights(self, predictions: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """Return the weights of members."""

    def at_best_temperature(self, mean: np.ndarray) -> tuple[float | None, np.ndarray]:
        """Return the temperature of the weighted mean, and the mean at it."""
        return None, mean

    def by_sample(self, judged: np.ndarray) -> np.ndarray:
        """Return the mean over the splits for each sample; NaN for samples that are in none."""
        sums = np.zeros((len(self.outcome.weight), judged.shape[1]))
        np.add.at(sums, self.places, judged)
        times = np.bincount(self.places, minlength=len(sums))[:, None]
        return np.divide(sums, times, out=np.full_like(sums, np.nan), where=times > 0)


class _LabelJudge(_Judge):
    usual = BLEND["temperature"]

    @property
    def codes(self) -> np.ndarray:
        return self.outcome.codes[self.places]

    def loss(self, scores: np.ndarray) -> tuple[float, float]:
        smoothing = 1 / (len(self.outcome.weight) + 2)
        settings = {"label_smoothing": smoothing, "sample_weight": self.weight}
        heat = temperature(scores, self.codes, **settings)
        logged = np.maximum(log_softmax(scores / heat, axis=1), _LEAST)
        own = logged[np.arange(len(self.codes)), self.codes]
        mean = (1 - smoothing) * own + smoothing * logged.mean(1)
        return -float(self.weight @ mean), heat

    def weights(self, predictions: np.ndarray, prior: np.ndarray) -> np.ndarray:
        return mixture_weights(predictions, self.codes, prior=prior, sample_weight=self.weight)

    def at_best_temperature(self, mean: np.ndarray) -> tuple[float, np.ndarray]:
        if not len(self.rows):
            return 1.0, mean
        logits = logs(mean)
        heat = self.loss(logits)[1]
        return heat, tempered(logits, heat)


class _NumberJudge(_Judge):
    usual = None

    @property
    def target(self) -> np.ndarray:
        return self.outcome.target[self.places]

    def loss(self, scores: np.ndarray) -> tuple[float, None]:
        return float(self.weight @ ((scores - self.target) ** 2).sum(1)), None

    def weights(self, predictions: np.ndarray, prior: np.ndarray) -> np.ndarray:
        settings = {"n_bags": BLEND["bags"], "random_state": self.seed}
        settings |= {"n_rounds": BLEND["rounds"], "sample_weight": self.weight}
        return greedy_weights(predictions, self.target, loss="squared_error", **settings)
