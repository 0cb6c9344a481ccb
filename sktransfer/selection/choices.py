"""Checks of the parameters of TransferClassifier that its table of constraints cannot express."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import is_classifier

from ..backbones import Backbone
from ..features import resolve_class_map
from .strategies import STRATEGIES

__all__ = ["check_choices", "check_combinable", "sources_of"]

_WITH_OWN_CLASSES = ("auto", "direct")


def check_choices(estimator: Any) -> None:
    """Check parameters before anything is computed.

    Parameters
    ----------
    estimator : TransferClassifier

    Raises
    ------
    ValueError
    """
    strategy, known = estimator.strategy, ["auto", *STRATEGIES]
    if strategy not in known:
        raise ValueError(
            f"The 'strategy' parameter of {type(estimator).__name__} must be one of {known}. Got "
            f"{strategy!r} instead."
        )
    if estimator.class_map is not None and strategy not in _WITH_OWN_CLASSES:
        raise ValueError(
            f"class_map is used by strategy={' or '.join(map(repr, _WITH_OWN_CLASSES))}, not by "
            f"{strategy!r}."
        )
    own = estimator.estimator
    if own is not None and (isinstance(own, type) or not is_classifier(own)):
        raise ValueError(
            f"estimator={own!r} is no classifier: give an instance of one, such as "
            "LogisticRegression()."
        )


def check_combinable(classifier: Any) -> None:
    """Check that a classifier, or None, gives probabilities or scores, which a blend combines.

    Parameters
    ----------
    classifier : classifier or None

    Raises
    ------
    ValueError
    """
    methods = ("predict_proba", "decision_function")
    if classifier is not None and not any(hasattr(classifier, method) for method in methods):
        raise ValueError(
            f"estimator={classifier!r:.200} has neither predict_proba nor decision_function, and "
            "strategy='auto' combines probabilities: give another classifier, or name a strategy."
        )


def sources_of(
    class_map: dict[Any, Any], classes: np.ndarray, backbone: Backbone, n_outputs: int
) -> dict[str, Any]:
    """Return the network's classes that mean each label of y, by position.

    Parameters
    ----------
    class_map : dict
        It may name more labels.
    classes : ndarray of shape (n_classes,)
        The labels of y.
    backbone : Backbone
    n_outputs : int
        Number of outputs of the network.

    Returns
    -------
    dict of label to list of int
        In the order of ``classes``.

    Raises
    ------
    ValueError
        If a label of y is missing, or for names that the network does not have.
    """
    resolved = resolve_class_map(class_map, backbone, n_outputs)
    missing = [label for label in classes.tolist() if label not in resolved]
    if missing:
        raise ValueError(
            f"class_map names no classes of the network for {missing[0]!r}, which is in y. It has "
            f"{list(resolved)!r:.200}."
        )
    return {label: resolved[label] for label in classes.tolist()}
