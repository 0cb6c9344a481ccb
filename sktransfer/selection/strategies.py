"""The strategies: a table with one record for each, what it expects, and fitting one.

To add a strategy, add its record to ``STRATEGIES``. The recommendation, ``TransferClassifier`` and
the plots read everything they need from there.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import Pipeline, make_pipeline

from ..backbones import (
    Backbone,
    boundary,
    is_single_classifier,
    penultimate,
    stages_of,
    weighted_layers,
)
from ..data import named_among, take
from ..features import (
    Output,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    as_store,
    candidate_layers,
    choose_layer,
    compute_outputs,
)
from ..finetuning import FineTunedClassifier
from ..transferability import LinearProbe, subsample
from .outcomes import fit, joined_rows

# The strategy from which gains are measured, and the one to use where nothing can be told.
REFERENCE = "features"
_LAST_STAGES = 2  # trained by "last", where the network has more

# The thresholds that no single strategy owns; those of one strategy are in its record.
# They were chosen on the first half of the tasks of benchmarks/regret.py.
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


@dataclasses.dataclass(eq=False)
class StrategyTask:
    """Samples, labels and a network, to which a strategy is fitted.

    Parameters
    ----------
    samples : sequence
        Checked by an estimator.
    y : ndarray of shape (n_samples,)
        Labels.
    run : dict
        device, engine, memory, verbose.
    weight : ndarray of shape (n_samples,) or None, default=None
        Weights of the samples in training and in the accuracies. Samples of weight 0 are not
        measured.
    classifier : estimator or None, default=None
        The classifier on features; None is :class:`LinearProbe`.
    class_map : dict or None, default=None
        The classes of the network that mean each label; None learns them.
    max_epochs, batch_size : int or "auto", default="auto"
    tables : dict of str to ndarray or None, default=None
        Pooled features by layer of the samples at ``rows``; None computes them when a strategy
        needs them.
    """

    backbone: Backbone
    samples: Any
    y: np.ndarray
    seed: int
    run: dict[str, Any]
    weight: np.ndarray | None = None
    classifier: Any = None
    class_map: dict[Any, Any] | None = None
    max_epochs: int | str = "auto"
    batch_size: int | str = "auto"
    tables: dict[str, np.ndarray] | None = None

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """The labels as positions among the sorted classes."""
        return np.unique(self.y, return_inverse=True)[1]

    @functools.cached_property
    def weighted(self) -> np.ndarray:
        """Positions of the samples with a weight."""
        return np.arange(len(self.y)) if self.weight is None else np.flatnonzero(self.weight)

    @functools.cached_property
    def rows(self) -> np.ndarray:
        """Positions, ascending, of the samples that are measured.

        A difference that so many do not show hardly matters.
        """
        return self.weighted[subsample(self.codes[self.weighted], RULES["rows"], self.seed)]

    def features(self, layers: Sequence[str], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the pooled features of each layer for some of ``rows``."""
        if self.tables is None:
            candidates = candidate_layers(self.backbone)
            outputs = [Output(self.backbone, layer) for layer in candidates]
            computed = compute_at(self, outputs, self.rows)
            self.tables = dict(zip(candidates, computed, strict=True))
        positions = np.searchsorted(self.rows, rows)
        return {layer: self.tables[layer][positions] for layer in layers}


def compute_at(task: StrategyTask, outputs: Sequence[Output], rows: np.ndarray) -> list[np.ndarray]:
    """Return outputs of the samples at some positions, in one pass."""
    how = {name: task.run[name] for name in ("device", "engine", "verbose")}
    with named_among(rows):
        samples = take(task.samples, rows)
        return compute_outputs(samples, outputs, **how, store=as_store(task.run["memory"]))


def fit_strategy(task: StrategyTask, name: str) -> Any:
    """Fit the estimator of a strategy to all samples."""
    model: Any = STRATEGIES[name].make(task, np.arange(len(task.y)))
    set_running(model, **task.run)
    tables = task.tables or {}
    if not isinstance(model, Pipeline) or model[0].layer not in tables:
        return fit(model, task.samples, task.y, task.weight)
    # Features of some samples are known from the choice of the layer.
    extractor, classifier = model[0].fit(task.samples), model[-1]
    features: Any = tables[extractor.layer]
    if len(task.rows) < len(task.y):
        is_known = np.isin(np.arange(len(task.y)), task.rows)
        (rest,) = compute_at(task, extractor.outputs_, np.flatnonzero(~is_known))
        features = joined_rows(is_known, features, rest)
    fit(classifier, features, task.y, task.weight)
    return model


def set_running(model: Any, **settings: Any) -> Any:
    """Set how a model runs its network, in place, where that is not as wanted.

    Parameters
    ----------
    model : estimator
        Runs a network, or is a pipeline whose first step does.
    **settings
        device, engine, memory and verbose; those that the model does not have are ignored.

    Returns
    -------
    estimator
        The same.
    """
    first = getattr(model, "steps", [("", model)])[0][1]
    changed = {
        name: value for name, value in settings.items() if getattr(first, name, value) is not value
    }
    if changed:
        first.set_params(**changed)
    return model


@dataclasses.dataclass(frozen=True)
class Strategy:
    """A way to use a pretrained network, and what is needed to choose it.

    Parameters
    ----------
    name : str
        The value of ``strategy`` in :class:`sktransfer.TransferClassifier`.
    summary : str
        What is fitted, in a few words.
    make : callable
        Given a :class:`StrategyTask` and the positions of the training samples, returns a
        classifier of raw samples that is not fitted. The parameters device, engine, memory and
        verbose are set afterwards, where it has them.
    prior : callable
        Given :class:`Evidence`, returns the expected gain in accuracy over the reference strategy
        and its standard deviation.
    is_available : callable, default=None
        Given a backbone, tells whether the network allows the strategy. None is always.
    trainable : callable, default=None
        Given a backbone, returns what is trained, as ``trainable`` of
        :class:`FineTunedClassifier`. Strategies that train are tried on one fold after another, and
        only while they may be the best. None is a strategy without training.
    needs_epochs : bool, default=False
        Whether the strategy is left out of the choice with ``max_epochs=0``.
    effort : float, default=0.0
        Accuracy that it must gain to be worth its training.
    fit_on_features : callable, default=None
        Given a :class:`StrategyTask`, fits what is on top of the features, which is timed. None is
        no time.
    """

    name: str
    summary: str
    make: Callable[[StrategyTask, np.ndarray], object]
    prior: Callable[[Evidence], tuple[float, float]]
    is_available: Callable[[Backbone], bool] | None = None
    trainable: Callable[[Backbone], str | int] | None = None
    needs_epochs: bool = False
    effort: float = 0.0
    fit_on_features: Callable[[StrategyTask], object] | None = None


def available_strategies(backbone: Backbone, max_epochs: int | str | None = None) -> list[str]:
    """Return the names of the strategies that a network allows, the simplest first.

    Parameters
    ----------
    backbone : Backbone
    max_epochs : int or "auto", default=None
        With 0, strategies that need epochs are left out.

    Returns
    -------
    list of str
        Values of ``strategy`` of :class:`sktransfer.TransferClassifier`, such as for a grid search.

    Examples
    --------
    >>> from sktransfer import load_backbone
    >>> from sktransfer.selection import available_strategies
    >>> available_strategies(load_backbone("efficientnet_lite0"))
    ['direct', 'features', 'early', 'head', 'last', 'all']
    """
    return [
        name
        for name, strategy in STRATEGIES.items()
        if (strategy.is_available is None or strategy.is_available(backbone))
        and not (strategy.needs_epochs and max_epochs == 0)
    ]


def whole_layers(backbone: Backbone, names: list[str]) -> tuple[str, ...]:
    """Return the layers whose whole activations are the input of what strategies train.

    Parameters
    ----------
    names : list of str
        The strategies.
    """
    trained = [STRATEGIES[name].trainable for name in names]
    n_frozen = {boundary(backbone, trainable(backbone)) for trainable in trained if trainable}
    # A head is trained on pooled activations.
    return tuple(
        layer
        for i, layer in enumerate(stages_of(backbone), start=1)
        if i in n_frozen and i < boundary(backbone, "head")
    )


# -- what a strategy is expected to gain -----------------------------------------------------------


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


# -- the table -------------------------------------------------------------------------------------


def _direct(task: StrategyTask, rows: np.ndarray):
    class_map = "learn" if task.class_map is None else task.class_map
    return PretrainedClassifier(task.backbone, class_map=class_map)


def _on_features(task: StrategyTask, layer: str | None):
    own = task.classifier
    classifier = LinearProbe(random_state=task.seed) if own is None else clone(own)
    return make_pipeline(PretrainedFeatureExtractor(task.backbone, layer=layer), classifier)


def early_layer(task: StrategyTask, rows: np.ndarray) -> str:
    """Return the best layer before the penultimate one, by cross-validation on some samples."""
    known = rows[np.isin(rows, task.rows)]
    return choose_layer(
        task.backbone,
        task.y[known],
        lambda names, chosen: task.features(names, known[chosen]),
        layers=candidate_layers(task.backbone)[:-1],
        task="classification",
        random_state=task.seed,
        weight=None if task.weight is None else task.weight[known],
    ).layer


def _trained(task: StrategyTask, trainable: str | int):
    return FineTunedClassifier(
        task.backbone,
        trainable=trainable,
        max_epochs=task.max_epochs,
        batch_size=task.batch_size,
        random_state=task.seed,
    )


def _last_stages(backbone: Backbone) -> int:
    return min(_LAST_STAGES, len(weighted_layers(backbone)) - 1)


def _fit_probe(task: StrategyTask) -> None:
    """Fit the linear probe to the features of the penultimate layer."""
    layer = penultimate(task.backbone)
    features = task.features((layer,), task.rows)[layer]
    LinearProbe(random_state=task.seed).fit(features, task.y[task.rows])


def _fit_probe_to_early_layer(task: StrategyTask) -> None:
    _fit_probe(task)
    early_layer(task, np.arange(len(task.y)))


# From the simplest to the most expensive: of two with the same value the first is recommended. The
# numbers of the priors are printed by benchmarks/regret.py --calibrate --draws 3, to 0.04 of these
# on another processor, where training amplifies differences in the last bits.
STRATEGIES: dict[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy(
            "direct",
            "the network's own classes, mapped onto yours",
            make=_direct,
            prior=ExplainedLabels(0.18, 0.87, 0.08),
            is_available=lambda backbone: backbone.classes is not None,
        ),
        Strategy(
            REFERENCE,
            "a linear classifier on the features of the penultimate layer",
            make=lambda task, rows: _on_features(task, None),
            prior=lambda evidence: (0.0, 0.0),
            fit_on_features=_fit_probe,
        ),
        Strategy(
            "early",
            "a linear classifier on the features of an earlier layer",
            make=lambda task, rows: _on_features(task, early_layer(task, rows)),
            prior=ShareOfErrors(0.15, -0.27, 0.07, 0.00, 0.35),
            is_available=lambda backbone: len(candidate_layers(backbone)) > 1,
            fit_on_features=_fit_probe_to_early_layer,
        ),
        Strategy(
            "head",
            "a new classifier, trained with the network fixed",
            make=lambda task, rows: _trained(task, "head"),
            prior=ShareOfErrors(0.01, 0.00, 0.00, 0.00, 0.05, "early"),
            is_available=lambda backbone: not is_single_classifier(backbone),
            trainable=lambda backbone: "head",
        ),
        Strategy(
            "last",
            "the last two stages trained with a new classifier",
            make=lambda task, rows: _trained(task, _last_stages(task.backbone)),
            prior=ShareOfErrors(0.04, -0.06, -0.02, 0.10, 0.13, "early"),
            is_available=lambda backbone: len(weighted_layers(backbone)) > 1,
            trainable=_last_stages,
            needs_epochs=True,
            effort=0.005,
        ),
        Strategy(
            "all",
            "the whole network trained with a new classifier",
            make=lambda task, rows: _trained(task, "all"),
            prior=ShareOfErrors(0.10, -0.15, 0.11, 0.18, 0.23, "early"),
            is_available=lambda backbone: len(weighted_layers(backbone)) > 0,
            trainable=lambda backbone: "all",
            needs_epochs=True,
            effort=0.005,
        ),
    )
}
