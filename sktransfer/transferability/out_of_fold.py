"""Out-of-fold scores: how well a linear model of features predicts each sample without its fold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.special import log_softmax

from ..data import is_numbers
from .blas import small_in_one_thread
from .discriminant import discriminant

__all__ = ["out_of_fold_scores", "summarise"]

# Penalties that are compared, relative to the mean squared norm of centred rows.
_PENALTIES = 10.0 ** np.arange(-4, 4)


@small_in_one_thread
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
    The model of labels is penalised discriminant analysis (:func:`discriminant`), that of numbers
    ridge regression, both with the one of eight penalties whose log loss or squared error over all
    folds is least. One decomposition per fold serves all penalties. Without folds (where fewer
    than two classes have three samples) the nearest class mean is predicted, where the sample does
    not count for the mean of its own class.
    """
    features = features.astype(np.float64)
    weight = np.ones(len(features)) if weight is None else weight
    if is_numbers(y):
        residual = _residuals(features, y[:, None], folds, weight)
        return 1 - residual[:, 0] ** 2 / (y.var() or 1.0)
    codes = np.unique(y, return_inverse=True)[1]
    if not folds:
        return _nearest_mean(features, codes, weight)
    return (_logits(features, codes, folds, weight).argmax(1) == codes).astype(np.float64)


def _logits(features: np.ndarray, codes: np.ndarray, folds: list, weight: np.ndarray) -> np.ndarray:
    """Return logits ``(n, n_classes)`` of discriminant analysis on the test sets of folds."""
    target = np.eye(codes.max() + 1)[codes]
    found = np.empty((len(_PENALTIES), *target.shape))
    for train, test in folds:
        known, asked = _ridge(features[train], target[train], features[test], weight[train])
        for i, scores in enumerate(known):
            coef, intercept = discriminant(scores, target[train], weight[train])
            found[i, test] = asked[i] @ coef + intercept
    return found[int(np.argmin([_log_loss(logits, codes, weight) for logits in found]))]


def _log_loss(logits: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> float:
    """Return the weighted mean log loss, with labels that are smoothed a little."""
    smoothing = 1 / (len(codes) + 2)
    logs = log_softmax(logits, axis=1)
    own = (1 - smoothing) * logs[np.arange(len(codes)), codes] + smoothing * logs.mean(1)
    return -float(np.average(own, weights=weight))


def _residuals(
    features: np.ndarray, target: np.ndarray, folds: list, weight: np.ndarray
) -> np.ndarray:
    """Return the residuals ``(n, n_targets)`` of ridge regression on the test sets of folds."""
    found = np.empty((len(_PENALTIES), *target.shape))
    for train, test in folds:
        _, asked = _ridge(features[train], target[train], features[test], weight[train])
        found[:, test] = target[test] - asked
    squares = (found**2).sum(2)  # (n_penalties, n)
    return found[(squares * weight).sum(1).argmin()]


def _ridge(
    X: np.ndarray, target: np.ndarray, X_test: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Predict both sets with each penalty, ``(n_penalties, n, n_targets)``, from one decomposition.

    Parameters
    ----------
    X : ndarray of shape (n_train, n_features)
    target : ndarray of shape (n_train, n_targets)
    X_test : ndarray of shape (n_test, n_features)
    weight : ndarray of shape (n_train,)

    Returns
    -------
    known : ndarray of shape (n_penalties, n_train, n_targets)
    asked : ndarray of shape (n_penalties, n_test, n_targets)
    """
    mean, level = (np.average(values, axis=0, weights=weight) for values in (X, target))
    root = np.sqrt(weight)[:, None]
    X, X_test, target = (X - mean) * root, X_test - mean, (target - level) * root
    if X.shape[0] <= X.shape[1]:
        squares, u = np.linalg.eigh(X @ X.T)
        squares = np.maximum(squares, 0)
        known, asked, right = u * squares, (X_test @ X.T) @ u, u.T @ target
    else:
        squares, v = np.linalg.eigh(X.T @ X)
        squares = np.maximum(squares, 0)
        known, asked, right = X @ v, X_test @ v, v.T @ (X.T @ target)
    penalties = _PENALTIES * max(squares.sum() / weight.sum(), 1e-12)
    coefs = [right / (squares + penalty)[:, None] for penalty in penalties]
    found = (np.stack([left @ coef for coef in coefs]) for left in (known / root, asked))
    known, asked = (scores + level for scores in found)
    return known, asked


def _nearest_mean(features: np.ndarray, codes: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return 1.0 for samples that are nearest to the mean of the others of their class, else 0.0.

    Cross-validating ``NearestCentroid`` would fit a model for each sample.
    """
    counts = np.bincount(codes)
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
