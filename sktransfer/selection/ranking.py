"""Rank networks by a score of their features, and layers by a linear probe, without training."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from scipy.special import softmax
from sklearn.utils import check_random_state, column_or_1d
from torch import nn

from .._compat.sklearn import validate_params
from ..backbones import Backbone, load_backbone, resolve_layer
from ..data import NumericTarget, check_target, encode_target, named_among, take
from ..features import (
    Count,
    LayerChoice,
    PretrainedFeatureExtractor,
    as_store,
    checked_samples,
    compute_outputs,
)
from ..transferability import h_score, leep, logme, nce, probe_score, subsample, transrate

_ON_FEATURES = {"logme": logme, "h_score": h_score, "transrate": transrate, "probe": probe_score}

# Scores of the network's own predictions, which must have classes: functions of the logits.
_ON_PREDICTIONS = {
    "leep": lambda logits, y: leep(softmax(logits.astype(np.float64), axis=1), y),
    "nce": lambda logits, y: nce(logits.argmax(axis=1), y),
}
_ROWS = 1000


@dataclasses.dataclass(frozen=True)
class BackboneRanking:
    """Networks ranked by a score, the best first.

    Parameters
    ----------
    names : tuple of str
    scores : ndarray of shape (n_backbones,)
        NaN, and last, for networks that do not have the score.
    errors : ndarray of shape (n_backbones,)
        Standard errors, where the score has them, else NaN.
    score : str
        The name of the score.
    n_features : tuple of int
        Number of features of each; 0 if it was not run.
    seconds : tuple of float
        Time that the features of each took.
    backbones : tuple
        The networks, as they were given.
    """

    names: tuple[str, ...]
    scores: np.ndarray
    errors: np.ndarray
    score: str
    n_features: tuple[int, ...]
    seconds: tuple[float, ...]
    backbones: tuple[Any, ...] = dataclasses.field(default=(), repr=False)

    def best(self, n: int) -> list[Any]:
        """Return the first networks, as they were given, such as for a blend of them.

        Parameters
        ----------
        n : int
            How many. Networks that do not have the score are left out.

        Returns
        -------
        list
            The ``backbone`` of a :class:`~sktransfer.TransferClassifier`.
        """
        known = np.isfinite(self.scores)[:n]
        return [backbone for backbone, has in zip(self.backbones, known, strict=False) if has]

    def __repr__(self) -> str:
        width = max(len(name) for name in self.names)
        return "\n".join(
            f"{name:<{width}}  {self.score} {score:.3f}" + (f" ± {e:.3f}" if e == e else "")
            for name, score, e in zip(self.names, self.scores, self.errors, strict=True)
        )


@validate_params(
    {
        "image_size": [Count(1), None],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=False,
)
def rank_backbones(
    X: Any,
    y: Any,
    backbones: Any,
    *,
    score: Any = "probe",
    task: str = "auto",
    image_size: int | None = None,
    batch_size: int | str = "auto",
    device: str = "auto",
    engine: str = "auto",
    memory: Any = None,
    random_state: Any = None,
    verbose: int = 0,
) -> BackboneRanking:
    """Rank networks by a score of their features, without training them.

    Parameters
    ----------
    X : list, array, Series or DataFrame column of n_samples samples
        As in :meth:`PretrainedFeatureExtractor.fit`; of more than 1000, that many are looked at.
    y : array-like of shape (n_samples,)
        Labels of any type; for "probe" and "logme" also numbers to regress on: see ``task``.
    backbones : list or dict
        Names, modules, functions that make modules, fitted models or :class:`Backbone`. A
        dictionary gives them other names.
    score : {"probe", "logme", "h_score", "transrate", "leep", "nce"} or callable, \
default="probe"
        "probe" is the cross-validated accuracy of a linear classifier. The others are the
        functions of ``sktransfer.transferability``; "leep" and "nce" need networks with classes.
        A callable is given features and labels and returns a number.
    task : {"auto", "classification", "regression"}, default="auto"
        What y is. "auto" takes whole numbers as labels.
    image_size : int, default=None
        Side of the square given to the networks, in pixels; None is what each was trained with.
    batch_size : int or "auto", default="auto"
        Samples run at a time.
    device : str, default="auto"
        Where the networks run.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the networks.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are kept, by sample.
    random_state : int, RandomState instance or None, default=None
        For the choice of samples.
    verbose : int, default=0
        1 shows a progress bar for each network.

    Returns
    -------
    BackboneRanking

    Raises
    ------
    ValueError
        If a score is not known, is not for numbers or gives no number, if two backbones have one
        name, or if y and X differ in length.
    TypeError
        If ``backbones`` is no list or dictionary, or one of them is no network.

    See Also
    --------
    BackboneRankingDisplay : A plot of it.
    TransferClassifier : Combines several networks: ``TransferClassifier(ranking.best(3))``.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import load_backbone, rank_backbones
    >>> digits = load_digits()
    >>> lite = load_backbone("efficientnet_lite0")
    >>> sizes = {f"{side} pixels": lite.with_image_size(side) for side in (32, 96)}
    >>> rank_backbones(list(digits.images[:80] / 16), digits.target[:80], sizes).names
    ('96 pixels', '32 pixels')
    """
    y = column_or_1d(check_target(y), warn=True)
    kind, target = encode_target(y, task)
    function, on_predictions = _score_of(score, kind is NumericTarget)
    rows = subsample(target, _ROWS, check_random_state(random_state))
    run = {"batch_size": batch_size, "device": device, "engine": engine, "memory": memory}
    run["verbose"] = verbose
    ranked: list[tuple] = []
    named = _named(backbones, image_size)
    given = backbones.values() if isinstance(backbones, dict) else backbones
    as_given = dict(zip(named, given, strict=True))
    for name, backbone in named.items():
        if on_predictions and backbone.classes is None:
            ranked.append((name, np.nan, np.nan, 0, 0.0))
            continue
        start = time.perf_counter()
        layer = resolve_layer(backbone, -1 if on_predictions else None)
        table = _table(backbone, layer, X, y, rows, run)
        seconds = time.perf_counter() - start
        value, error = _numbers(function(table, y[rows]), score)
        ranked.append((name, value, error, table.shape[1], seconds))
    if not ranked:
        raise ValueError("backbones= names no network.")
    ranked.sort(key=lambda row: -np.nan_to_num(row[1], nan=-np.inf))
    names, scores, errors, widths, times = zip(*ranked, strict=True)
    label = score if isinstance(score, str) else getattr(score, "__name__", "score")
    networks = tuple(as_given[name] for name in names)
    return BackboneRanking(
        names, np.array(scores), np.array(errors), label, widths, times, networks
    )


def _score_of(score, numbers: bool) -> tuple[Callable, bool]:
    """Return the function, and whether it is a score of predictions."""
    if callable(score):
        return score, False
    known = [*_ON_FEATURES, *_ON_PREDICTIONS]
    if score not in known:
        choices = ", ".join(map(repr, known))
        raise ValueError(f"score={score!r}: expected a callable or one of {choices}.")
    if score in ("logme", "probe"):
        task = "regression" if numbers else "classification"
        return functools.partial(_ON_FEATURES[score], task=task), False
    if numbers:
        raise ValueError(
            f"score={score!r} is for labels, and y holds numbers: use 'probe' or 'logme', or "
            "task='classification'."
        )
    if score in _ON_FEATURES:
        return _ON_FEATURES[score], False
    return _ON_PREDICTIONS[score], True


def _numbers(value, score) -> tuple[float, float]:
    """Return a score and its standard error, NaN if the score comes without one."""
    try:
        number, error = value if isinstance(value, tuple) else (value, np.nan)
        return float(number), float(error)
    except (TypeError, ValueError):
        raise ValueError(
            f"score={score!r} returned {value!r}: return a number, or a tuple of a number and its "
            "standard error."
        ) from None


def _named(backbones, image_size: int | None) -> dict:
    known = isinstance(backbones, str | nn.Module | Backbone)
    if known or hasattr(backbones, "to_backbone"):
        raise TypeError(f"backbones={backbones!r} is one network: give several, in a list.")
    if not isinstance(backbones, dict | list | tuple):
        raise TypeError(f"backbones={backbones!r}: expected a list or a dictionary of networks.")
    if not isinstance(backbones, dict):
        loaded = [_loaded(i, b, image_size) for i, b in enumerate(backbones)]
        if len({b.name for b in loaded}) < len(loaded):
            raise ValueError(
                f"Two backbones have one name among {[b.name for b in loaded]}: give a dictionary."
            )
        return {b.name: b for b in loaded}
    named = {str(name): _loaded(name, b, image_size) for name, b in backbones.items()}
    if len(named) < len(backbones):
        raise ValueError(f"Two keys of backbones= are one name: {list(backbones)}.")
    return named


def _loaded(key, backbone, image_size: int | None) -> Backbone:
    """Load one of ``backbones``; an error names its position or key."""
    known = isinstance(backbone, str | nn.Module | Backbone) or callable(backbone)
    if not known and not hasattr(backbone, "to_backbone"):
        raise TypeError(
            f"backbones[{key!r}]={backbone!r}: expected a name, a torch.nn.Module, a function that "
            "makes one, or a Backbone."
        )
    return load_backbone(backbone, image_size=image_size)


def _table(backbone, layer: str, X, y, rows: np.ndarray, run: dict) -> np.ndarray:
    extractor = PretrainedFeatureExtractor(backbone, layer=layer, **run).fit(X)
    samples = checked_samples(extractor, X)
    check_target(y, len(samples))
    how = {name: run[name] for name in ("batch_size", "device", "engine", "verbose")}
    store = as_store(run["memory"])
    with named_among(rows):
        return compute_outputs(take(samples, rows), extractor.outputs_, store=store, **how)[0]


@validate_params(
    {"layers": [list, tuple, None], "random_state": ["random_state"]},
    prefer_skip_nested_validation=False,
)
def probe_layers(
    X: Any,
    y: Any,
    backbone: Any = "efficientnet_lite0",
    *,
    weights: Any = "default",
    layers: Any = None,
    task: str = "auto",
    pooling: Any = "avg",
    image_size: int | None = None,
    batch_size: int | str = "auto",
    device: str = "auto",
    engine: str = "auto",
    memory: Any = None,
    random_state: Any = None,
    verbose: int = 0,
) -> LayerChoice:
    """Cross-validate a linear probe on the features of each layer, from one pass over the samples.

    Parameters
    ----------
    X : list, array, Series or DataFrame column of n_samples samples
        As in :meth:`PretrainedFeatureExtractor.fit`.
    y : array-like of shape (n_samples,)
        Labels, or numbers to regress on: see ``task``.
    backbone : str, torch.nn.Module, callable or Backbone, default="efficientnet_lite0"
        As in :class:`PretrainedFeatureExtractor`, like the parameters below.
    weights : str, Path or None, default="default"
        Which weights, for names.
    layers : list of str or int, default=None
        Layers to probe, in any order; None is the end of every stage with weights.
    task : {"auto", "classification", "regression"}, default="auto"
        What y is. "auto" takes whole numbers as labels.
    pooling : {"avg", "max", "grid", "flatten", "cls"}, callable or list, default="avg"
        How an activation becomes a vector.
    image_size : int, default=None
        Side of the square given to the network, in pixels.
    batch_size : int or "auto", default="auto"
        Samples run at a time.
    device : str, default="auto"
        Where the network runs.
    engine : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        The library that runs the network.
    memory : None, str, Path, FeatureStore or object with a location, default=None
        Where features are kept, by sample.
    random_state : int, RandomState instance or None, default=None
        For the folds, and for the choice of samples, if there are more than 600.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    LayerChoice
        Cross-validated accuracies, or R² for numbers, with standard errors, and the layer to take.

    Raises
    ------
    ValueError
        If a layer is not known, or y is missing, holds missing values or differs from X in length.

    See Also
    --------
    LayerProbeDisplay : A plot of it.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import probe_layers
    >>> digits = load_digits()
    >>> X, y = list(digits.images[:100] / 16), digits.target[:100]
    >>> layers = ["blocks.4", "blocks.10", None]
    >>> probe_layers(X, y, layers=layers, image_size=64, random_state=0).layer
    'blocks.10'
    """
    wrong = [
        x for x in layers or () if isinstance(x, bool) or not isinstance(x, str | Integral | None)
    ]
    if wrong:
        raise TypeError(f"layers={layers!r}: {wrong[0]!r} is no name, no position and not None.")
    extractor = PretrainedFeatureExtractor(
        backbone,
        weights=weights,
        pooling=pooling,
        image_size=image_size,
        batch_size=batch_size,
        device=device,
        engine=engine,
        memory=memory,
        verbose=verbose,
    ).fit(X)
    return extractor.score_layers(X, y, layers, random_state, task)
