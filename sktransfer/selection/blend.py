"""Blend members: judge them out of fold, weight them, and fit those with a weight."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy.special import log_softmax, softmax

from ..backbones import Backbone, LayerInfo
from ..data import named_among, take
from ..features import Recipe, as_store, compute_several, empty_table
from ..transferability import make_folds, mixture_weights, temperature
from .members import BLEND, RAW, Block, Layout, Member, make_members
from .models import Fitted, Tables
from .study import Study

__all__ = ["Blend", "BlendPart", "Chosen", "Labels", "choose_members", "fit_blend"]

_LEAST = math.log(np.finfo(float).tiny)


@dataclasses.dataclass(frozen=True)
class BlendPart:
    """A fitted member of a blend.

    Parameters
    ----------
    member : Member
    weight : float
    temperature : float
        Divides the logits of the model.
    fitted : object
        The model, whose method ``scores`` takes features by block.
    """

    member: Member
    weight: float
    temperature: float
    fitted: Fitted

    def probabilities(self, tables: Tables) -> np.ndarray:
        """Return the probabilities of samples, ``(n_samples, n_classes)``."""
        return softmax(self.fitted.scores(tables, self.member.blocks) / self.temperature, axis=1)


class Blend:
    """A weighted mean of the probabilities of several models on features of one network.

    Parameters
    ----------
    backbone : Backbone
    classes : ndarray of shape (n_classes,)
    parts : list of BlendPart
        The highest weight first.
    temperature : float
        Of the mean.
    vectorizer : transformer or None
        Makes the features that need no network.
    run : dict
        device, memory, n_jobs, verbose.
    """

    def __init__(
        self,
        backbone: Backbone,
        classes: np.ndarray,
        parts: list[BlendPart],
        temperature: float,
        vectorizer: Any,
        run: dict,
    ):
        self.backbone = backbone
        self.classes_ = classes
        self.parts = parts
        self.temperature = temperature
        self.vectorizer = vectorizer
        vars(self).update(run)

    def set_params(self, **run) -> Blend:
        """Set device, memory, n_jobs or verbose."""
        vars(self).update(run)
        return self

    def predict_proba(self, samples: Sequence) -> np.ndarray:
        """Return the probability of each class, ``(n_samples, n_classes)``."""
        blocks = (block for part in self.parts for block in part.member.blocks)
        run = {name: getattr(self, name) for name in ("device", "memory", "n_jobs", "verbose")}
        tables = Tables(compute_blocks(samples, self.backbone, blocks, self.vectorizer, run))
        parts = [part.weight * part.probabilities(tables) for part in self.parts]
        return _tempered(np.sum(parts, axis=0), self.temperature)

    def predict(self, samples: Sequence) -> np.ndarray:
        """Return the most probable class of each sample."""
        return self.classes_[self.predict_proba(samples).argmax(axis=1)]


def _tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    return softmax(_log(probabilities) / temperature, axis=-1)


def _log(probabilities: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def compute_blocks(
    samples: Sequence, backbone: Backbone, blocks: Iterable[Block], vectorizer: Any, run: dict
) -> dict[Block, np.ndarray]:
    """Compute the features of samples for some blocks, in one pass for each input size.

    Parameters
    ----------
    samples : sequence
    backbone : Backbone
    blocks : iterable of Block
    vectorizer : transformer or None
        Fitted; for the block ``RAW``.
    run : dict
        device, memory, n_jobs, verbose.

    Returns
    -------
    dict of Block to ndarray of shape (n_samples, n_features)
    """
    blocks = list(dict.fromkeys(blocks))
    layers: dict[tuple, list[str]] = {}  # by size and pooling
    for block in (block for block in blocks if block != RAW):
        for pooling in _poolings(block):
            layers.setdefault((block.size, pooling), []).append(block.layer)
    recipes = [
        Recipe(backbone.with_image_size(size), tuple(dict.fromkeys(names)), pooling)
        for (size, pooling), names in layers.items()
    ]
    settings = {name: run[name] for name in ("device", "n_jobs", "verbose")}
    settings["store"] = as_store(run["memory"])
    found = compute_several(samples, recipes, **settings) if recipes else []
    by_key = dict(zip(layers, found, strict=True))
    return {
        block: vectorizer.transform(samples) if block == RAW else _side_by_side(block, by_key)
        for block in blocks
    }


def _side_by_side(block: Block, by_key: dict) -> np.ndarray:
    """Return the poolings of a block, from the tables by size and pooling."""
    parts = [by_key[block.size, pooling][block.layer] for pooling in _poolings(block)]
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def _poolings(block: Block) -> tuple[str, ...]:
    return block.pooling if isinstance(block.pooling, tuple) else (block.pooling,)


def fit_blend(study: Study, infos: dict[str, LayerInfo], sizes: tuple[int | None, ...]) -> Blend:
    """Fit a blend to the samples of a study.

    Parameters
    ----------
    study : Study
    infos : dict of str to LayerInfo
        Of the layers of its backbone.
    sizes : tuple of int or None
        Input sizes.

    Returns
    -------
    Blend
    """
    members = make_members(Layout(study.backbone, infos, sizes, study.classifier))
    vectorizer = _fitted_vectorizer(study, study.rows)
    if vectorizer is None:
        members = [member for member in members if RAW not in member.blocks]
    by_block = _compute(study, _blocks(members), study.rows, vectorizer)
    chosen, temperature = choose_members(members, by_block, _labels(study, study.rows), study.seed)
    needed = _blocks([one.member for one in chosen])
    vectorizer = _fitted_vectorizer(study, study.weighted) if RAW in needed else None
    tables = Tables(_complete(study, needed, by_block, vectorizer))
    parts = [one.fit(tables, _labels(study, study.weighted)) for one in chosen]
    return Blend(study.backbone, study.classes, parts, temperature, vectorizer, study.run)


def _blocks(members: list[Member]) -> list[Block]:
    return list(dict.fromkeys(block for member in members for block in member.blocks))


def _fitted_vectorizer(study: Study, rows: np.ndarray):
    """Fit the vectorizer of the modality to some samples; return None without features."""
    vectorizer = study.backbone.modality.vectorizer()
    try:
        return None if vectorizer is None else vectorizer.fit(take(study.samples, rows))
    except ValueError:  # no text has a word
        return None


def _compute(
    study: Study, blocks: list[Block], rows: np.ndarray, vectorizer
) -> dict[Block, np.ndarray]:
    with named_among(rows):
        samples = take(study.samples, rows)
        return compute_blocks(samples, study.backbone, blocks, vectorizer, study.run)


def _complete(
    study: Study, blocks: list[Block], known: dict, vectorizer
) -> dict[Block, np.ndarray]:
    """Return the features of all samples with a weight, computing those that are missing."""
    is_known = np.isin(study.weighted, study.rows)
    if is_known.all():
        return {block: known[block] for block in blocks}
    fixed = [block for block in blocks if block != RAW]
    missing = _compute(study, fixed, study.weighted[~is_known], None)
    tables = {}
    for block in fixed:
        shape = (len(is_known), known[block].shape[1])
        tables[block] = empty_table(shape, known[block].dtype)
        tables[block][is_known], tables[block][~is_known] = known[block], missing[block]
    if vectorizer is not None:
        tables[RAW] = vectorizer.transform(take(study.samples, study.weighted))
    return tables


def _labels(study: Study, rows: np.ndarray) -> Labels:
    weight = np.ones(len(study.y)) if study.weight is None else study.weight
    return Labels(study.y[rows], study.codes[rows], len(study.classes), weight[rows])


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of some samples.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        As given.
    codes : ndarray of shape (n_samples,)
        Their positions among the classes.
    n_classes : int
    weight : ndarray of shape (n_samples,)
        Positive.
    """

    y: np.ndarray
    codes: np.ndarray
    n_classes: int
    weight: np.ndarray

    @property
    def target(self) -> np.ndarray:
        """Indicators of the classes, ``(n_samples, n_classes)``."""
        return np.eye(self.n_classes)[self.codes]


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A member with a weight, before it is fitted on all samples."""

    member: Member
    weight: float
    temperature: float
    setting: Any

    def fit(self, tables: Tables, labels: Labels) -> BlendPart:
        """Fit the model of the member."""
        fitted = self.member.model.fit(tables, self.member.blocks, labels, self.setting)
        return BlendPart(self.member, self.weight, self.temperature, fitted)


def choose_members(
    members: list[Member], by_block: dict[Block, np.ndarray], labels: Labels, seed: int
) -> tuple[list[Chosen], float]:
    """Judge members on folds, and choose those with a weight.

    Parameters
    ----------
    members : list of Member
    by_block : dict of Block to ndarray of shape (n_samples, n_features)
    labels : Labels
    seed : int

    Returns
    -------
    chosen : list of Chosen
        The highest weight first.
    temperature : float
        Of the weighted mean.
    """
    tables, labels = _distinct(by_block, labels)
    judge = _Judge(tables, labels, _splits(labels.codes, seed))
    judged = [judge(member) for member in members]
    probabilities = np.stack([found for *_, found in judged])
    share = BLEND["direct" if len(judge.rows) else "direct_unjudged"]
    weights = judge.weights(probabilities, _prior(members, share))
    least = min(BLEND["least_weight"], weights.max())
    order = [i for i in np.argsort(-weights, kind="stable") if weights[i] >= least]
    weights = weights[order] / weights[order].sum()
    chosen = [
        Chosen(members[i], float(weight), judged[i][0], judged[i][1])
        for i, weight in zip(order, weights, strict=True)
    ]
    mean = np.tensordot(weights, probabilities[order], 1)
    return chosen, judge.temperature(_log(mean), 1.0)[0]


def _distinct(by_block: dict, labels: Labels) -> tuple[Tables, Labels]:
    """Merge equal samples: in several folds, a model would be judged on what it has seen."""
    keys = np.column_stack([next(iter(by_block.values())), labels.codes])
    _, rows, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    weight = np.bincount(inverse.ravel(), labels.weight)
    tables = Tables({block: table[rows] for block, table in by_block.items()})
    return tables, Labels(labels.y[rows], labels.codes[rows], labels.n_classes, weight)


def _splits(codes: np.ndarray, seed: int) -> list[list]:
    """Split samples into folds several times, if they are few; never, if all classes have one."""
    few, many = BLEND["folds"]
    n_folds = min(many if len(codes) > BLEND["many"] else few, np.bincount(codes).max())
    if n_folds < 2 or len(np.unique(codes)) < 2:
        return []
    n_splits = int(np.clip(BLEND["judged"] // len(codes), 1, BLEND["splits"]))
    return [make_folds(codes, n_folds, seed + i) for i in range(n_splits)]


def _prior(members: list[Member], share: float) -> np.ndarray:
    """Return the pseudo-samples of each member, given the share of direct use in them."""
    direct = np.array([member.is_direct for member in members])
    each = np.where(direct, share / max(1, direct.sum()), (1 - share) / max(1, (~direct).sum()))
    return BLEND["pseudo_samples"] * each / each.sum()


class _Judge:
    """Judges members on samples that they were not fitted on.

    Samples whose class is not in the training set of their fold are left out.

    Parameters
    ----------
    tables : Tables
    labels : Labels
    splits : list of list of (train, test)
    """

    def __init__(self, tables: Tables, labels: Labels, splits: list):
        self.tables, self.labels, self.splits = tables, labels, splits
        self.rows = np.flatnonzero(_judged(labels.codes, splits))  # of all splits in a row
        places = self.rows % len(labels.codes)
        self.codes = labels.codes[places]
        self.weight = labels.weight[places] / max(1, len(splits))

    def __call__(self, member: Member) -> tuple[float, Any, np.ndarray]:
        """Return temperature, setting, and the probabilities ``(n_judged, n_classes)``."""
        if not len(self.rows):
            heat = 1.0 if member.is_direct else BLEND["temperature"]
            return heat, member.model.usual, np.empty((0, self.labels.n_classes))
        found = [
            member.model.out_of_fold(self.tables, member.blocks, self.labels, folds)
            for folds in self.splits
        ]
        logits = np.concatenate(found, axis=1)[:, self.rows]  # (n_settings, n_judged, n_classes)
        heats, losses = zip(*map(self.temperature, logits), strict=True)
        best = int(np.argmin(losses))
        return heats[best], member.model.settings[best], softmax(logits[best] / heats[best], axis=1)

    def temperature(self, logits: np.ndarray, usual: float = 1.0) -> tuple[float, float]:
        """Return the temperature of logits, and the log loss at it."""
        if not len(self.rows):
            return usual, math.nan
        smoothing = 1 / (len(self.labels.codes) + 2)
        settings = {"label_smoothing": smoothing, "sample_weight": self.weight}
        heat = temperature(logits, self.codes, **settings)
        logs = log_softmax(logits / heat, axis=1)
        logs = np.maximum(logs, _LEAST)
        own = logs[np.arange(len(self.codes)), self.codes]
        mean = (1 - smoothing) * own + smoothing * logs.mean(1)
        return heat, -float(self.weight @ mean)

    def weights(self, probabilities: np.ndarray, prior: np.ndarray) -> np.ndarray:
        """Return the weights of members."""
        if not len(self.rows):
            return prior / prior.sum()
        return mixture_weights(probabilities, self.codes, prior=prior, sample_weight=self.weight)


def _judged(codes: np.ndarray, splits: list) -> np.ndarray:
    """Tell which samples have their class in the training set, ``(n_splits * n_samples,)``."""
    known = np.zeros((len(splits), len(codes)), bool)
    for row, folds in zip(known, splits, strict=True):
        for train, test in folds:
            row[test] = np.isin(codes[test], codes[train])
    return known.ravel()
