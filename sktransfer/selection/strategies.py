"""The strategies: one record for each, in one table.

To add a strategy, add its record to ``STRATEGIES``. The recommendation, ``TransferClassifier`` and
the plots read everything they need from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from ..backbones import (
    Backbone,
    boundary,
    is_single_classifier,
    penultimate,
    stages_of,
    weighted_layers,
)
from ..features import (
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    candidate_layers,
    choose_layer,
)
from ..finetuning import FineTunedClassifier
from ..transferability import LinearProbe
from .recommendation import REFERENCE
from .rules import Evidence, ExplainedLabels, ShareOfErrors
from .timing import seconds_of

__all__ = ["STRATEGIES", "Strategy", "Task", "available_strategies", "whole_layers"]

_LAST_STAGES = 2  # trained by "last", where the network has more


class Task(Protocol):
    """The attributes of a study that the records of strategies may use.

    Attributes
    ----------
    backbone : Backbone
    y : ndarray of shape (n_samples,)
        The labels.
    weight : ndarray of shape (n_samples,) or None
        Weights of the samples.
    rows : ndarray of int
        Positions of the samples whose features are known, ascending; their weights are positive.
    classifier : estimator or None
        The classifier on features; None is :class:`LinearProbe`.
    class_map : dict or None
        The classes of the network that mean each label; None learns them.
    max_epochs, batch_size : int or "auto"
    seed : int
    """

    backbone: Backbone
    y: np.ndarray
    weight: np.ndarray | None
    rows: np.ndarray
    classifier: object
    class_map: dict[Any, Any] | None
    max_epochs: int | str
    batch_size: int | str
    seed: int

    def features(self, layers: tuple[str, ...], rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the pooled features of each layer for some of ``rows``."""


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
        Given a :class:`Task` and the positions of the training samples, returns a classifier of
        raw samples that is not fitted. The parameters device, engine, memory and verbose
        are set afterwards, where it has them.
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
    fitting_time : callable, default=None
        Given a :class:`Task`, returns the seconds that it takes to fit what is on top of the
        features. None is no time.
    """

    name: str
    summary: str
    make: Callable[[Task, np.ndarray], object]
    prior: Callable[[Evidence], tuple[float, float]]
    is_available: Callable[[Backbone], bool] | None = None
    trainable: Callable[[Backbone], str | int] | None = None
    needs_epochs: bool = False
    effort: float = 0.0
    fitting_time: Callable[[Task], float] | None = None


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
    backbone : Backbone
    names : list of str
        The strategies.

    Returns
    -------
    tuple of str
    """
    trained = [STRATEGIES[name].trainable for name in names]
    n_frozen = {boundary(backbone, trainable(backbone)) for trainable in trained if trainable}
    # A head is trained on pooled activations.
    return tuple(
        layer
        for i, layer in enumerate(stages_of(backbone), start=1)
        if i in n_frozen and i < boundary(backbone, "head")
    )


def _direct(task: Task, rows: np.ndarray):
    class_map = "learn" if task.class_map is None else task.class_map
    return PretrainedClassifier(task.backbone, class_map=class_map)


def _on_features(task: Task, layer: str | None):
    own = task.classifier
    classifier = LinearProbe(random_state=task.seed) if own is None else clone(own)
    return make_pipeline(PretrainedFeatureExtractor(task.backbone, layer=layer), classifier)


def _features(task: Task, rows: np.ndarray):
    return _on_features(task, None)


def _early(task: Task, rows: np.ndarray):
    return _on_features(task, early_layer(task, rows))


def early_layer(task: Task, rows: np.ndarray) -> str:
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


def _trained(task: Task, trainable: str | int):
    return FineTunedClassifier(
        task.backbone,
        trainable=trainable,
        max_epochs=task.max_epochs,
        batch_size=task.batch_size,
        random_state=task.seed,
    )


def _head(task: Task, rows: np.ndarray):
    return _trained(task, "head")


def _last(task: Task, rows: np.ndarray):
    return _trained(task, _last_stages(task.backbone))


def _all(task: Task, rows: np.ndarray):
    return _trained(task, "all")


def _last_stages(backbone: Backbone) -> int:
    return min(_LAST_STAGES, len(weighted_layers(backbone)) - 1)


def _probe_seconds(task: Task) -> float:
    """Time the linear probe on the features of the penultimate layer."""
    layer = penultimate(task.backbone)
    table = task.features((layer,), task.rows)[layer]
    return seconds_of(lambda: LinearProbe(random_state=task.seed).fit(table, task.y[task.rows]))


def _early_seconds(task: Task) -> float:
    every = np.arange(len(task.y))
    return _probe_seconds(task) + seconds_of(lambda: early_layer(task, every))


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
            make=_features,
            prior=lambda evidence: (0.0, 0.0),
            fitting_time=_probe_seconds,
        ),
        Strategy(
            "early",
            "a linear classifier on the features of an earlier layer",
            make=_early,
            prior=ShareOfErrors(0.15, -0.27, 0.07, 0.00, 0.35),
            is_available=lambda backbone: len(candidate_layers(backbone)) > 1,
            fitting_time=_early_seconds,
        ),
        Strategy(
            "head",
            "a new classifier, trained with the network fixed",
            make=_head,
            prior=ShareOfErrors(0.01, 0.00, 0.00, 0.00, 0.05, "early"),
            is_available=lambda backbone: not is_single_classifier(backbone),
            trainable=lambda backbone: "head",
        ),
        Strategy(
            "last",
            "the last two stages trained with a new classifier",
            make=_last,
            prior=ShareOfErrors(0.04, -0.06, -0.02, 0.10, 0.13, "early"),
            is_available=lambda backbone: len(weighted_layers(backbone)) > 1,
            trainable=_last_stages,
            needs_epochs=True,
            effort=0.005,
        ),
        Strategy(
            "all",
            "the whole network trained with a new classifier",
            make=_all,
            prior=ShareOfErrors(0.10, -0.15, 0.11, 0.18, 0.23, "early"),
            is_available=lambda backbone: len(weighted_layers(backbone)) > 0,
            trainable=lambda backbone: "all",
            needs_epochs=True,
            effort=0.005,
        ),
    )
}
