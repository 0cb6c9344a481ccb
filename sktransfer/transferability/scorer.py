"""A transferability score as a scikit-learn scorer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import ArrayLike
from sklearn.utils.validation import _num_samples

from ..data import check_target
from ..data.types import Samples
from .scores import h_score, logme, probe_score, transrate

__all__ = ["make_transferability_scorer"]

_FEATURE_SCORES = {f.__name__: f for f in (h_score, logme, probe_score, transrate)}


def make_transferability_scorer(
    score: str | Callable[..., Any], **options: Any
) -> Callable[[Any, Samples, ArrayLike], float]:
    """Make a scorer for transformers, with which a search compares features.

    Parameters
    ----------
    score : {"h_score", "logme", "probe_score", "transrate"} or callable
        A callable takes ``(features, y)`` and returns a number, or a tuple that begins with one.
    **options : dict
        Further arguments of the score.

    Returns
    -------
    callable
        From ``(estimator, X, y)`` to the score of ``estimator.transform(X)``, a float. It can be
        pickled if the score can.

    Raises
    ------
    ValueError
        If there is no score of that name.

    Notes
    -----
    A search does not stratify the folds of a transformer: with sorted labels a fold may hold one
    class only, and its score is NaN. These scores need no hold-out set. A split whose training and
    test sets are all samples, as below, uses every sample and fits each candidate once.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sktransfer.transferability import make_transferability_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> every = np.arange(len(X))
    >>> scorer = make_transferability_scorer("h_score")
    >>> grid = {"n_components": [1, 3]}
    >>> search = GridSearchCV(PCA(), grid, scoring=scorer, cv=[(every, every)])
    >>> search.fit(X, y).best_params_
    {'n_components': 3}
    """
    if not callable(score) and score not in list(_FEATURE_SCORES):
        names = ", ".join(map(repr, _FEATURE_SCORES))
        raise ValueError(f"score={score!r}: expected a callable or one of {names}.")
    return _TransferabilityScorer(score, options)


class _TransferabilityScorer:
    """Score the features of a transformer. A class can be pickled, unlike a closure."""

    def __init__(self, score: str | Callable, options: dict):
        self.score = score
        self.options = options

    def __call__(self, estimator, X, y) -> float:
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"{type(estimator).__name__} has no transform, which this scorer calls. Give it "
                "a transformer, or the part of a pipeline before the classifier."
            )
        score = self.score if callable(self.score) else _FEATURE_SCORES[self.score]
        features = estimator.transform(X)
        if y is not None:  # not every callable needs it
            y = check_target(y, _num_samples(features))
        value = score(features, y, **self.options)
        return float(value[0] if isinstance(value, tuple) else value)

    def __repr__(self) -> str:
        name = getattr(self.score, "__name__", repr(self.score))  # of a function, or a string
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"make_transferability_scorer({name}{options})"
