"""Linear probes: estimators, and the start of a head."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, TransformerMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ..data import Target
from ..data.types import RandomState
from .folds import make_folds
from .ridge import MANY_CLASSES, fit_discriminant, indicators, small_in_one_thread

# Inverse strength of a probe's L2 penalty, on features scaled by GlobalScaler. In cross-validation
# on the training part of hymenoptera and on 200 and 600 digits, its accuracy is within 0.003 of the
# best of 1e-5 … 10.
PROBE_C = 0.1
_LARGE = 20.0  # a logit whose probability is 1 to eight digits


class GlobalScaler(TransformerMixin, BaseEstimator):
    """Centre each feature and divide all by one number, the root of their mean variance.

    A scale for each feature would amplify the noise of rarely active ones, which reduces the
    accuracy of a linear classifier of digits by 0.01 to 0.07.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
    scale_ : float
        1.0 where no feature varies.
    n_features_in_ : int
    """

    mean_: np.ndarray
    scale_: float

    def fit(self, X: Any, y: ArrayLike | None = None, sample_weight: Any = None) -> Self:
        """Learn the centre and the scale, each row by its weight."""
        X = validate_data(self, X, dtype=np.float64)
        mean = np.average(X, axis=0, weights=sample_weight)
        # The mean of a constant has a rounding error, which must not become a scale.
        self.mean_ = np.where(np.ptp(X, axis=0) > 0, mean, X[0])
        variance = np.average((X - self.mean_) ** 2, axis=0, weights=sample_weight)
        self.scale_ = float(np.sqrt(variance.mean())) or 1.0
        return self

    def transform(self, X: ArrayLike) -> np.ndarray:
        """Centre and divide."""
        check_is_fitted(self)
        return (validate_data(self, X, dtype=np.float64, reset=False) - self.mean_) / self.scale_


class _Probe(BaseEstimator):
    """Base of linear models of features on one scale; coefficients are those of the features."""

    _basis: np.ndarray | None = None  # (n_features, rank), of the rotated features

    def _scale(self, X, sample_weight) -> np.ndarray:
        self._scaler = GlobalScaler().fit(X, sample_weight=sample_weight)
        return self._scaler.transform(X)

    def _scaled(self, X) -> np.ndarray:
        check_is_fitted(self)
        X = self._scaler.transform(validate_data(self, X, dtype=np.float64, reset=False))
        return X if self._basis is None else X @ self._basis

    @property
    def coef_(self) -> np.ndarray:
        """Coefficients of the features as they are given, ``(n_outputs, n_features)``."""
        coef = np.atleast_2d(self.model_.coef_) / self._scaler.scale_
        return coef if self._basis is None else coef @ self._basis.T

    @property
    def intercept_(self) -> np.ndarray:
        """The intercepts that belong to ``coef_``, ``(n_outputs,)``."""
        return np.ravel(self.model_.intercept_) - self.coef_ @ self._scaler.mean_

    @small_in_one_thread
    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict the label or the numbers of each row."""
        X = self._scaled(X)
        return self.model_.predict(X)


class LinearProbe(ClassifierMixin, _Probe):
    """Fit logistic regression to features, its penalty chosen by cross-validation.

    Features are centred and divided by one number for all of them, the root of their mean
    variance. Where several penalties are compared and samples are fewer than features, features
    are first rotated into as many dimensions as there are samples, which does not change the model.

    With more than 1,000 classes, penalized discriminant analysis takes the place of logistic
    regression: :func:`~sktransfer.transferability.fit_discriminant`, with the penalty 0.1.

    Parameters
    ----------
    Cs : tuple of float, default=(0.01, 0.1, 1.0)
        Inverse penalties, compared by their log loss in three folds. Where a class has fewer than
        five samples, 0.1 is used.
    max_iter : int, default=1000
        Iterations of the solver.
    random_state : int, RandomState instance or None, default=None
        For the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    C_ : float
        The inverse penalty.
    model_ : LogisticRegression, or DummyClassifier where there is one class only
        With more than 1,000 classes, its coefficients are those of discriminant analysis.
    coef_ : ndarray of shape (n_classes, n_features), or (1, n_features) for two classes
    intercept_ : ndarray of shape (n_classes,), or (1,) for two classes
    """

    model_: Any
    classes_: np.ndarray

    def __init__(
        self,
        Cs: Sequence[float] = (0.01, 0.1, 1.0),
        max_iter: int = 1000,
        random_state: RandomState = None,
    ):
        self.Cs = Cs
        self.max_iter = max_iter
        self.random_state = random_state

    @small_in_one_thread
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit on features ``(n_samples, n_features)``, labels and weights."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, counts = np.unique(y, return_counts=True)
        X, self._basis = self._scale(X, sample_weight), None
        if len(counts) > MANY_CLASSES:
            return self._fit_many(X, y, sample_weight)
        if len(self.Cs) > 1 and X.shape[0] < X.shape[1]:
            self._basis = np.linalg.svd(X, full_matrices=False)[2].T
            X = X @ self._basis
        self.C_ = self._choose_penalty(X, y, counts, sample_weight)
        model = LogisticRegression(C=self.C_, max_iter=self.max_iter)
        if len(counts) == 1:
            from sklearn.dummy import DummyClassifier  # rare

            model = DummyClassifier()
        self.model_ = model.fit(X, y, sample_weight=sample_weight)
        return self

    def _fit_many(self, X, y, weight) -> Self:
        """Fit discriminant analysis, whose solution needs no iterations."""
        self.C_ = self.Cs[0] if len(self.Cs) == 1 else PROBE_C
        target = indicators(np.searchsorted(self.classes_, y), len(self.classes_))
        weight = np.ones(len(X)) if weight is None else np.asarray(weight, np.float64)
        coef, intercept = fit_discriminant(X, target, weight, 1 / self.C_)
        self.model_ = LogisticRegression(C=self.C_)
        self.model_.classes_, self.model_.n_features_in_ = self.classes_, X.shape[1]
        self.model_.coef_, self.model_.intercept_ = coef.T, intercept
        return self

    def _choose_penalty(self, X, y, counts, weight) -> float:
        if len(self.Cs) == 1:
            return self.Cs[0]
        if len(counts) == 1 or counts.min() < 5:
            return PROBE_C
        losses = np.zeros(len(self.Cs))
        codes = np.unique(y, return_inverse=True)[1]
        for train, test in make_folds(codes, 3, self.random_state):
            model = LogisticRegression(tol=1e-3, warm_start=True)
            w, w_test = (None if weight is None else weight[rows] for rows in (train, test))
            for i, C in enumerate(self.Cs):
                model.set_params(C=C).fit(X[train], y[train], sample_weight=w)
                # Not sklearn.metrics.log_loss, whose validation takes as long as the fit.
                p = model.predict_proba(X[test])[np.arange(len(test)), codes[test]]
                losses[i] -= np.average(np.log(p.clip(np.finfo(p.dtype).eps)), weights=w_test)
        return self.Cs[int(losses.argmin())]

    @small_in_one_thread
    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        """Give the probability of each class, ``(n_samples, n_classes)``."""
        X = self._scaled(X)
        return self.model_.predict_proba(X)


class RidgeProbe(RegressorMixin, _Probe):
    """Fit ridge regression to features, with the penalty of a :class:`LinearProbe` per sample.

    Attributes
    ----------
    model_ : Ridge
    coef_ : ndarray of shape (n_targets, n_features)
    intercept_ : ndarray of shape (n_targets,)
    """

    model_: Ridge

    @small_in_one_thread
    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit on features ``(n_samples, n_features)``, numbers and weights."""
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        X = self._scale(X, sample_weight)
        self.model_ = Ridge(alpha=1 / PROBE_C).fit(X, y, sample_weight=sample_weight)
        return self


# -- the linear model that a head begins with ------------------------------------------------------


@small_in_one_thread
def solve_probe(
    features: np.ndarray, encoded: np.ndarray, weight: np.ndarray, target: Target
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the linear model of an encoded target, with a row for each of its outputs.

    Parameters
    ----------
    features : ndarray of shape (n, n_features)
    encoded : ndarray of shape (n,) or (n, n_outputs)
        From ``target.encode``.
    weight : ndarray of shape (n,)

    Returns
    -------
    coef : ndarray of shape (n_outputs, n_features)
    intercept : ndarray of shape (n_outputs,)
        For the features as they are given: centring and scale are folded in.
    """
    with warnings.catch_warnings():  # training continues from an approximate solution
        warnings.simplefilter("ignore", ConvergenceWarning)
        return _SOLVERS[target.probe](features, encoded, weight, target.n_outputs)


def _multinomial(features, codes, weight, n_outputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a row for each class; absent classes have an intercept of -20."""
    coef, intercept = np.zeros((n_outputs, features.shape[1])), np.full(n_outputs, -_LARGE)
    weighted = weight > 0
    present = np.unique(codes[weighted]).astype(int)
    intercept[present] = 0.0
    if len(present) < 2:
        return coef, intercept
    probe = LinearProbe((PROBE_C,), max_iter=200)
    probe.fit(features[weighted], codes[weighted], weight[weighted])
    if len(present) == 2:
        # The one row of a binary model, halved, with both signs is the same model.
        coef[present] = np.vstack([-probe.coef_, probe.coef_]) / 2
        intercept[present] = np.hstack([-probe.intercept_, probe.intercept_]) / 2
    else:
        coef[present], intercept[present] = probe.coef_, probe.intercept_
    return coef, intercept


def _one_vs_rest(features, indicator, weight, n_outputs: int) -> tuple[np.ndarray, np.ndarray]:
    pairs = [_multinomial(features, column, weight, 2) for column in indicator.T.astype(int)]
    coef = np.vstack([coef[1] - coef[0] for coef, _ in pairs])
    return coef, np.array([intercept[1] - intercept[0] for _, intercept in pairs])


def _ridge_rows(features, numbers, weight, n_outputs: int) -> tuple[np.ndarray, np.ndarray]:
    probe = RidgeProbe().fit(features, numbers, weight)
    return probe.coef_, probe.intercept_


_SOLVERS = {"multinomial": _multinomial, "one_vs_rest": _one_vs_rest, "ridge": _ridge_rows}
