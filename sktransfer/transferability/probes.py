"""Linear probes: estimators, the start of a head, and out-of-fold scores of samples."""

from __future__ import annotations

import math
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

from ..data import Target, is_numbers
from ..data.types import RandomState
from .folds import make_folds

__all__ = [
    "PROBE_C",
    "GlobalScaler",
    "LinearProbe",
    "RidgeProbe",
    "out_of_fold_scores",
    "solve_probe",
    "summarise",
]

# Inverse strength of a probe's L2 penalty, on features scaled by GlobalScaler. In cross-validation
# on the training part of hymenoptera and on 200 and 600 digits, its accuracy is within 0.003 of the
# best of 1e-5 … 10.
PROBE_C = 0.1
# Penalties compared by out_of_fold_scores, relative to the mean squared norm of centred rows.
_PENALTIES = 10.0 ** np.arange(-4, 4)
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

    def predict(self, X: ArrayLike) -> np.ndarray:
        """Predict the label or the numbers of each row."""
        X = self._scaled(X)
        return self.model_.predict(X)


class LinearProbe(ClassifierMixin, _Probe):
    """Fit logistic regression to features, its penalty chosen by cross-validation.

    Features are centred and divided by one number for all of them, the root of their mean
    variance. Where several penalties are compared and samples are fewer than features, features
    are first rotated into as many dimensions as there are samples, which does not change the model.

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

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit on features ``(n_samples, n_features)``, labels and weights."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, counts = np.unique(y, return_counts=True)
        X, self._basis = self._scale(X, sample_weight), None
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

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit on features ``(n_samples, n_features)``, numbers and weights."""
        X, y = validate_data(self, X, y, dtype=np.float64, multi_output=True, y_numeric=True)
        X = self._scale(X, sample_weight)
        self.model_ = Ridge(alpha=1 / PROBE_C).fit(X, y, sample_weight=sample_weight)
        return self


# -- the linear model that a head begins with ----------------------------------------------------


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
    target : Target

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


# -- out-of-fold scores --------------------------------------------------------------------------


def out_of_fold_scores(
    features: np.ndarray, y: np.ndarray, folds: list[Any], weight: np.ndarray | None = None
) -> np.ndarray:
    """Score a linear model on each sample, fitted without the sample's fold.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
        From ``encode_target``.
    folds : list of (train, test)
        From :func:`make_probe_folds`.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the samples in the fits, positive.

    Returns
    -------
    ndarray of shape (n_samples,)
        For labels 1.0 where the prediction is right, else 0.0. For numbers one minus the squared
        error divided by the variance. The mean is the accuracy, or R².

    Notes
    -----
    The model is ridge regression on the indicators of labels, with the one of eight penalties
    whose squared error over all folds is least. It computes one decomposition per fold for all
    penalties, and takes a quarter or less of the time of
    :class:`sklearn.linear_model.RidgeClassifierCV` in each fold, at the same accuracy. Without
    folds (where fewer than two classes have three samples) the nearest class mean is predicted,
    where the sample does not count for the mean of its own class.
    """
    features = features.astype(np.float64)
    if is_numbers(y):
        residual = _residuals(features, y[:, None], folds, weight)
        return 1 - residual[:, 0] ** 2 / (y.var() or 1.0)
    codes = np.unique(y, return_inverse=True)[1]
    counts = np.bincount(codes)
    if not folds:
        return _nearest_mean(features, codes, counts, weight)
    target = np.eye(len(counts))[codes]
    residuals = _residuals(features, target, folds, weight)
    return ((target - residuals).argmax(1) == codes).astype(np.float64)


def _residuals(features: np.ndarray, target: np.ndarray, folds: list, weight=None) -> np.ndarray:
    """Return the residuals ``(n, n_targets)`` of ridge regression on the test sets of folds."""
    found = np.empty((len(_PENALTIES), *target.shape))
    for train, test in folds:
        known = None if weight is None else weight[train]
        fitted = _ridge(features[train], target[train], features[test], known)
        found[:, test] = target[test] - fitted
    squares = (found**2).sum(2)  # (n_penalties, n)
    return found[(squares if weight is None else squares * weight).sum(1).argmin()]


def _ridge(X: np.ndarray, target: np.ndarray, X_test: np.ndarray, weight=None) -> np.ndarray:
    """Predict with each penalty, ``(n_penalties, n_test, n_targets)``, from one decomposition."""
    weight = np.ones(len(X)) if weight is None else weight
    mean, level = (np.average(values, axis=0, weights=weight) for values in (X, target))
    root = np.sqrt(weight)[:, None]
    X, X_test, target = (X - mean) * root, X_test - mean, (target - level) * root
    if X.shape[0] <= X.shape[1]:
        squares, u = np.linalg.eigh(X @ X.T)
        left, right = (X_test @ X.T) @ u, u.T @ target
    else:
        squares, v = np.linalg.eigh(X.T @ X)
        left, right = X_test @ v, v.T @ (X.T @ target)
    squares = np.maximum(squares, 0)
    penalties = _PENALTIES * max(squares.sum() / weight.sum(), 1e-12)
    return np.stack([left @ (right / (squares + p)[:, None]) for p in penalties]) + level


def _nearest_mean(
    features: np.ndarray, codes: np.ndarray, counts: np.ndarray, weight=None
) -> np.ndarray:
    """Return 1.0 for samples that are nearest to the mean of the others of their class, else 0.0.

    Cross-validating ``NearestCentroid`` would fit a model for each sample.
    """
    weight = np.ones(len(codes)) if weight is None else weight
    onehot = np.eye(len(counts))[codes] * weight[:, None]  # (n, n_classes)
    sums, total = onehot.T @ features, onehot.sum(0)
    means = sums / total[:, None]
    squares = (features**2).sum(1)[:, None] - 2 * features @ means.T + (means**2).sum(1)
    own = np.full(len(codes), np.inf)
    several = counts[codes] > 1
    left = (total[codes[several]] - weight[several])[:, None]
    mean = (sums[codes[several]] - features[several] * weight[several, None]) / left
    own[several] = ((features[several] - mean) ** 2).sum(1)
    squares[np.arange(len(codes)), codes] = own
    return (squares.argmin(1) == codes).astype(np.float64) * several


def summarise(differences: np.ndarray, weight: np.ndarray | None = None) -> tuple[float, ...]:
    """Return the mean of values of samples, and its standard error.

    Parameters
    ----------
    differences : ndarray of shape (n,)
        Of the scores of two models on each sample: 1, 0 or -1.
    weight : ndarray of shape (n,), default=None
        Weights of the samples, positive. They count as ``weight.sum()**2 / (weight**2).sum()``
        samples (Kish's effective sample size).

    Returns
    -------
    tuple of float
        Empty where there are none.
    """
    if len(differences) == 0:
        return ()
    n, mean, variance = len(differences), differences.mean(), differences.var()
    if weight is not None:
        weight = weight / weight.max()  # so that squares stay finite and positive
        n = weight.sum() ** 2 / (weight**2).sum()
        mean = np.average(differences, weights=weight)
        variance = np.average((differences - mean) ** 2, weights=weight)
    # As if one more sample differed: ten equal samples are no proof of equality.
    return float(mean), math.sqrt((variance + 1 / n) / n)
