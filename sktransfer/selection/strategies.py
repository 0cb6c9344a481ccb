"""The strategies by name: an estimator for each, and what each is worth in cross-validation."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from ..backbones import Backbone, penultimate, stages_of
from ..backbones.stages import _has_matrix
from ..data import named_among, take
from ..features import (
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    candidate_layers,
    choose_layer,
)
from ..finetuning import FineTunedClassifier
from ..transferability import LinearProbe, subsample

__all__ = [
    "STRATEGIES",
    "TRAINED",
    "Settings",
    "available",
    "early_layer",
    "halving",
    "make_candidate",
    "measure",
    "trainable",
]

# The simplest and cheapest first: of two that are worth the same the first is taken.
STRATEGIES = {
    "direct": "the network's own classes, mapped onto yours",
    "features": "features of the penultimate layer and a linear classifier",
    "early": "features of an earlier layer and a linear classifier",
    "head": "a new classifier, trained with the network fixed",
    "last": "the last stages trained, with a new classifier",
    "all": "the whole network trained",
}

TRAINED = ("head", "last", "all")
_LAST_STAGES = 2


@dataclasses.dataclass(frozen=True)
class Settings:
    """What all candidates share.

    Parameters
    ----------
    backbone : Backbone
    classifier : estimator or None
        On features; None is :class:`LinearProbe`.
    max_epochs : int
    lr : float
        Learning rate of the network's own stages.
    run : dict
        device, memory, n_jobs, verbose.
    batch_size : int or "auto"
    seed : int
    tables : dict of str to ndarray
        Features by layer of some samples, in which "early" looks for its layer.
    table_rows : ndarray of int
        Which samples these are, ascending.
    """

    backbone: Backbone
    classifier: object
    max_epochs: int
    lr: float
    run: dict
    batch_size: int | str
    seed: int
    tables: dict
    table_rows: np.ndarray


def available(backbone: Backbone) -> list[str]:
    """Name the strategies that a network allows, the simplest first.

    Parameters
    ----------
    backbone : Backbone

    Returns
    -------
    list of str
    """
    n_stages = _n_trainable(backbone)
    possible = {
        "direct": backbone.classes is not None,
        "features": True,
        "early": len(candidate_layers(backbone)) > 1,
        "head": True,
        "last": n_stages > 1,
        "all": n_stages > 0,
    }
    return [name for name in STRATEGIES if possible[name]]


def _n_trainable(backbone: Backbone) -> int:
    """Count the stages with matrices below the head."""
    stages = list(stages_of(backbone).items())
    top = [name for name, _ in stages].index(penultimate(backbone))
    return sum(_has_matrix(stage) for _, stage in stages[: top + 1])


def trainable(name: str, backbone: Backbone) -> str | int:
    """Return what a strategy trains, as ``trainable`` of :class:`FineTunedClassifier`."""
    return min(_LAST_STAGES, _n_trainable(backbone) - 1) if name == "last" else name


def make_candidate(name: str, settings: Settings, y, rows: np.ndarray | None = None):
    """Make the estimator of a strategy, not fitted.

    Parameters
    ----------
    name : {"direct", "features", "early", "head", "last", "all"}
    settings : Settings
    y : ndarray of shape (n,)
        The labels it will be given.
    rows : ndarray of int, default=None
        Which of all samples they belong to; None is all.

    Returns
    -------
    estimator
    """
    backbone, run = settings.backbone, settings.run
    if name == "direct":
        return PretrainedClassifier(backbone, class_map="learn", **run)
    if name in ("features", "early"):
        layer = None if name == "features" else early_layer(settings, y, rows)
        own = settings.classifier
        classifier = LinearProbe(random_state=settings.seed) if own is None else clone(own)
        return make_pipeline(PretrainedFeatureExtractor(backbone, layer=layer, **run), classifier)
    own_lr = {} if name == "head" else {"lr": settings.lr}
    return FineTunedClassifier(
        backbone,
        trainable=trainable(name, backbone),
        **own_lr,
        max_epochs=settings.max_epochs,
        batch_size=settings.batch_size,
        random_state=settings.seed,
        **run,
    )


def early_layer(settings: Settings, y, rows: np.ndarray | None = None) -> str:
    """Find the best layer before the penultimate one, by the rows given only."""
    rows = np.arange(len(y)) if rows is None else rows
    known = np.isin(rows, settings.table_rows)
    own = np.searchsorted(settings.table_rows, rows[known])
    return choose_layer(
        settings.backbone,
        y[known],
        lambda names, chosen: {name: settings.tables[name][own[chosen]] for name in names},
        layers=candidate_layers(settings.backbone)[:-1],
        task="classification",
        random_state=settings.seed,
    ).layer


def measure(
    name: str, settings: Settings, samples: Sequence, y: np.ndarray, folds: list
) -> np.ndarray:
    """Cross-validate a strategy.

    Parameters
    ----------
    name : str
    settings : Settings
    samples : sequence
    y : ndarray of shape (n_samples,)
        Labels.
    folds : list of (train, test)
        Some or all of a split.

    Returns
    -------
    ndarray of shape (n_samples,)
        1.0 where a sample's class is predicted by a model that has not seen it, 0.0 where not,
        NaN for samples that no fold judges.
    """
    hits = np.full(len(y), np.nan)
    for train, test in folds:
        model = make_candidate(name, settings, y[train], train)
        with warnings.catch_warnings():  # of what they find in samples, the last fit tells
            warnings.simplefilter("ignore", UserWarning)
            with named_among(train):
                model.fit(take(samples, train), y[train])
            with named_among(test):
                hits[test] = model.predict(take(samples, test)) == y[test]
    return hits


def halving(
    names: list[str], score: Callable[[str, np.ndarray], float], y: np.ndarray, seed: int
) -> list[dict]:
    """Search by successive halving: all on a few samples, the better half on twice as many.

    Parameters
    ----------
    names : list of str
        The simplest first.
    score : callable
        Given a name and rows, returns an accuracy, or NaN where there is none.
    y : ndarray of shape (n_samples,)
    seed : int

    Returns
    -------
    list of dict
        For each round the scores by name; the first name in the last one is the best. A round
        without scores leaves nobody out.

    References
    ----------
    Jamieson, Talwalkar (2016). Non-stochastic best arm identification and hyperparameter
    optimization. AISTATS. arXiv:1502.07943.
    """
    rounds = []
    n_rounds = max(1, int(np.ceil(np.log2(len(names)))))
    fewest = min(len(y), max(20, 4 * len(np.unique(y))))  # so that classes can be split
    for left in reversed(range(n_rounds)):
        rows = subsample(y, max(len(y) // 2**left, fewest), seed)
        found = {name: score(name, rows) for name in names}
        rounds.append(dict(sorted(found.items(), key=lambda item: -np.nan_to_num(item[1]))))
        if not np.isnan(list(found.values())).all():
            kept = list(rounds[-1])[: max(1, -(-len(names) // 2))]
            names = [name for name in names if name in kept]
    return rounds
