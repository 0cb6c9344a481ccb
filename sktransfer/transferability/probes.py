"""Linear probes: one scaler, one penalty, and out-of-fold scores."""

from __future__ import annotations

import math

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from ..data import is_numbers

__all__ = ["PROBE_C", "LinearProbe", "OneScale", "judge", "summarise"]

# Inverse strength of a probe's L2 penalty, on features scaled as below. By cross-validation on
# hymenoptera's training part and on 200 and 600 digits, 0.1 is within 0.003 of the best accuracy
# among 1e-5 … 10.
PROBE_C = 0.1


class OneScale(TransformerMixin, BaseEstimator):
    """Centre each feature and divide all by one number, the root of their mean variance.

    A scale for each feature would lift the noise of rarely active ones: on digits that costs a
    linear classifier 1 to 7 points.

    Attributes
    ----------
    mean_ : ndarray of shape (n_features,)
    scale_ : float
        1.0 where no feature varies.
    n_features_in_ : int
    """

    def fit(self, X, y=None, sample_weight=None):
        """Learn the centre and the scale, each row by its weight."""
        X = validate_data(self, X, dtype=np.float64)
        self.mean_ = np.average(X, axis=0, weights=sample_weight)
        variance = np.average((X - self.mean_) ** 2, axis=0, weights=sample_weight)
        self.scale_ = float(np.sqrt(variance.mean())) or 1.0
        return self

    def transform(self, X):
        """Centre and divide."""
        check_is_fitted(self)
        return (validate_data(self, X, dtype=np.float64, reset=False) - self.mean_) / self.scale_


# Penalties tried, as shares of the mean squared length of a centred row of features.
_PENALTIES = 10.0 ** np.arange(-4, 4)


def judge(features: np.ndarray, y: np.ndarray, folds: list) -> np.ndarray:
    """Judge each sample with a linear model of other samples.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
        From :func:`encode_target`.
    folds : list of (train, test)
        From :func:`make_probe_folds`.

    Returns
    -------
    ndarray of shape (n_samples,)
        For labels 1.0 where the sample's is predicted, else 0.0. For numbers 1 less the squared
        error over the variance. The mean is the accuracy, or R².

    Notes
    -----
    Ridge regression on the labels' indicators; the penalty is the one of eight whose squared
    error over all folds is least. Where fewer than two classes have three samples there are no
    folds: the nearest class mean decides, the sample itself left out of its class. A class of one
    is always missed.
    """
    features = features.astype(np.float64)
    if is_numbers(y):
        residual = _residuals(features, y[:, None], folds)
        return 1 - residual[:, 0] ** 2 / (y.var() or 1.0)
    codes = np.unique(y, return_inverse=True)[1]
    counts = np.bincount(codes)
    if not folds:
        return _nearest_mean(features, codes, counts)
    target = np.eye(len(counts))[codes]
    return ((target - _residuals(features, target, folds)).argmax(1) == codes).astype(np.float64)


def _residuals(features: np.ndarray, target: np.ndarray, folds: list) -> np.ndarray:
    """Return residuals ``(n, n_targets)`` on samples that ridge regression has not seen."""
    found = np.empty((len(_PENALTIES), *target.shape))
    for train, test in folds:
        found[:, test] = target[test] - _ridge(features[train], target[train], features[test])
    return found[(found**2).sum((1, 2)).argmin()]


def _ridge(X: np.ndarray, target: np.ndarray, X_test: np.ndarray) -> np.ndarray:
    """Predict with each penalty, ``(n_penalties, n_test, n_targets)``, from one decomposition."""
    mean, level = X.mean(0), target.mean(0)
    X, X_test, target = X - mean, X_test - mean, target - level
    if X.shape[0] <= X.shape[1]:
        squares, u = np.linalg.eigh(X @ X.T)
        left, right = (X_test @ X.T) @ u, u.T @ target
    else:
        squares, v = np.linalg.eigh(X.T @ X)
        left, right = X_test @ v, v.T @ (X.T @ target)
    squares = np.maximum(squares, 0)
    penalties = _PENALTIES * max(squares.sum() / len(X), 1e-12)
    return np.stack([left @ (right / (squares + p)[:, None]) for p in penalties]) + level


def _nearest_mean(features: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Tell which samples are nearest to the mean of their own class without them."""
    sums = np.eye(len(counts))[codes].T @ features  # (n_classes, n_features)
    means = sums / counts[:, None]
    squares = (features**2).sum(1)[:, None] - 2 * features @ means.T + (means**2).sum(1)
    own = np.full(len(codes), np.inf)
    several = counts[codes] > 1
    left = counts[codes[several]][:, None] - 1
    mean = (sums[codes[several]] - features[several]) / left
    own[several] = ((features[several] - mean) ** 2).sum(1)
    squares[np.arange(len(codes)), codes] = own
    return (squares.argmin(1) == codes).astype(np.float64) * several


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Logistic regression on features, its penalty chosen by cross-validation.

    Features are centred and divided by one number for all of them, the root of their mean
    variance: a scale for each would lift the noise of rarely active ones. Where samples are
    fewer than features they are first rotated into as many dimensions as there are samples,
    which leaves the model what it is.

    Parameters
    ----------
    Cs : tuple of float, default=(0.01, 0.1, 1.0)
        Inverse penalties tried, by their log loss in three folds. With fewer than five samples
        in a class it is 0.1.
    random_state : int, RandomState instance or None, default=None
        For the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    C_ : float
        The inverse penalty.
    model_ : LogisticRegression, or DummyClassifier where there is one class only
    """

    def __init__(self, Cs=(0.01, 0.1, 1.0), random_state=None):
        self.Cs = Cs
        self.random_state = random_state

    def fit(self, X, y):
        """Fit on features ``(n_samples, n_features)`` and labels."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, counts = np.unique(y, return_counts=True)
        self._scaler, self._basis = OneScale().fit(X), None
        X = self._scaler.transform(X)
        if X.shape[0] < X.shape[1]:
            self._basis = np.linalg.svd(X, full_matrices=False)[2].T  # (n_features, rank)
            X = X @ self._basis
        self.C_ = self._choose_penalty(X, y, counts)
        if len(counts) == 1:
            self.model_ = DummyClassifier().fit(X, y)
        else:
            self.model_ = LogisticRegression(C=self.C_, max_iter=1000).fit(X, y)
        return self

    def _choose_penalty(self, X, y, counts) -> float:
        if len(self.Cs) == 1:
            return self.Cs[0]
        if len(counts) == 1 or counts.min() < 5:
            return PROBE_C
        losses = np.zeros(len(self.Cs))
        folds = StratifiedKFold(3, shuffle=True, random_state=self.random_state)
        for train, test in folds.split(X, y):
            model = LogisticRegression(tol=1e-3, warm_start=True)
            for i, C in enumerate(self.Cs):
                model.set_params(C=C).fit(X[train], y[train])
                losses[i] += log_loss(y[test], model.predict_proba(X[test]))
        return self.Cs[int(losses.argmin())]

    def _turned(self, X) -> np.ndarray:
        X = self._scaler.transform(validate_data(self, X, dtype=np.float64, reset=False))
        return X if self._basis is None else X @ self._basis

    def predict_proba(self, X):
        """Give the probability of each class, ``(n_samples, n_classes)``."""
        check_is_fitted(self)
        return self.model_.predict_proba(self._turned(X))

    def predict(self, X):
        """Give the most probable class."""
        check_is_fitted(self)
        return self.model_.predict(self._turned(X))


def summarise(differences: np.ndarray) -> tuple[float, ...]:
    """Return the mean and its standard error of what a strategy gained on each sample.

    Parameters
    ----------
    differences : ndarray of shape (n,)
        Over "features", sample by sample: 1, 0 or -1.

    Returns
    -------
    tuple of float
        Empty where there are none.
    """
    n = len(differences)
    if n == 0:
        return ()
    # One more sample that differs: no difference among ten is not certainty.
    return float(differences.mean()), math.sqrt((differences.var() + 1 / n) / n)
