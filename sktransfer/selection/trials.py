"""Trials: fit and judge estimators on folds."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn import get_config
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter

from ..data import ClassTarget, check_weights, named_among, take
from ..transferability import one_thread_if_small

__all__ = [
    "check_takes_weights",
    "combined_weights",
    "fit",
    "out_of_fold_hits",
    "run_settings",
    "set_running",
]


def _weight_parameter(estimator) -> str | None:
    """Return the name under which ``fit`` accepts weights, or None."""
    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = _weight_parameter(last)
        return f"{name}__{inner}" if inner else None
    if get_config()["enable_metadata_routing"]:
        asked = get_routing_for_object(estimator).consumes("fit", ["sample_weight"])
        return "sample_weight" if asked else None
    is_search = hasattr(estimator, "estimator") and hasattr(estimator, "refit")
    return _weight_parameter(estimator.estimator) if is_search else None


def check_takes_weights(estimator: Any) -> str:
    """Return the name under which ``fit`` accepts weights.

    Parameters
    ----------
    estimator : estimator

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If it does not accept any.
    """
    name = _weight_parameter(estimator)
    if name is None:
        raise ValueError(
            f"estimator={estimator!r:.200}: its fit does not accept sample_weight. Give an "
            "estimator whose fit does, such as LogisticRegression(), or fit without weights."
        )
    return name


def combined_weights(
    sample_weight: ArrayLike | None, class_weight: Any, y: np.ndarray, estimator: Any
) -> np.ndarray | None:
    """Return the weights of samples, times those of their classes; None where all are 1.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,) or None
    class_weight : dict, "balanced" or None
    y : ndarray of shape (n_samples,)
        Labels.
    estimator : estimator or None
        Must accept weights.

    Returns
    -------
    ndarray of shape (n_samples,) or None
    """
    if sample_weight is None and class_weight is None:
        return None
    if estimator is not None:
        check_takes_weights(estimator)
    weight = check_weights(sample_weight, len(y)).copy()
    if class_weight is not None:
        target, used = ClassTarget(np.unique(y)), weight > 0
        weight[used] *= target.class_factors(class_weight, target.encode(y[used]), False)
    return check_weights(weight, len(y))


def fit(model: Any, samples: Sequence[Any], y: np.ndarray, weight: np.ndarray | None) -> Any:
    """Fit a model, and pass weights to what learns from labels in it.

    Parameters
    ----------
    model : estimator
        A classifier of raw samples, or a pipeline of a transformer and a classifier.
    samples : sequence
    y : ndarray of shape (n_samples,)
        Labels.
    weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    estimator
        The same.
    """
    is_table = isinstance(samples, np.ndarray)
    if isinstance(model, Pipeline) and not (is_table and weight is None):
        # Not through the pipeline: how it passes parameters depends on scikit-learn's
        # configuration, and the threads of BLAS on the features.
        features = model[:-1].fit_transform(samples, y) if len(model) > 1 else samples
        fit(model[-1], features, y, weight)
        return model
    weights = {} if weight is None else {check_takes_weights(model): weight}
    with one_thread_if_small(samples) if is_table else contextlib.nullcontext():
        return model.fit(samples, y, **weights)


def run_settings(model: Any) -> dict[str, Any]:
    """Return how a model runs its network: device, engine, memory and verbose."""
    names = ("device", "engine", "memory", "verbose")
    return {name: getattr(model, name) for name in names}


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


def out_of_fold_hits(
    make: Callable[[np.ndarray], Any],
    samples: Sequence[Any],
    y: np.ndarray,
    folds: list[Any],
    weight: np.ndarray | None = None,
) -> np.ndarray:
    """Cross-validate a classifier and tell which samples it classifies correctly.

    Parameters
    ----------
    make : callable
        Given the positions of training samples, returns an estimator that is not fitted.
    samples : sequence
    y : ndarray of shape (n_samples,)
        Labels.
    folds : list of (train, test)
        All of a split, or some.
    weight : ndarray of shape (n_samples,), default=None
        Weights in training.

    Returns
    -------
    ndarray of shape (n_samples,)
        1.0 for a correct and 0.0 for a wrong prediction of a model that was not fitted on the
        sample; NaN for samples in none of the test sets.
    """
    hits = np.full(len(y), np.nan)
    for train, test in folds:
        model = make(train)
        with warnings.catch_warnings():  # the last fit repeats the warnings about samples
            warnings.simplefilter("ignore", UserWarning)
            with named_among(train):
                known = None if weight is None else weight[train]
                fit(model, take(samples, train), y[train], known)
            with named_among(test):
                hits[test] = model.predict(take(samples, test)) == y[test]
    return hits
