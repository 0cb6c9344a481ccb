"""Linear discriminant analysis from ridge regression on the indicators of classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

__all__ = ["MANY_CLASSES", "discriminant", "fit_discriminant", "indicators"]

# Beyond so many classes, nothing is computed that has a number for each sample and class.
MANY_CLASSES = 1000

# A model of few samples and many features separates the samples that it was fitted on about five
# times as far as others: the median on the tasks of benchmarks/regret.py that serve to calibrate.
_CERTAIN = 0.2
_LARGEST = 1 - 1e-9  # of the share of the variance that lies between classes


def discriminant(
    scores: np.ndarray, target: np.ndarray, weight: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the linear map from scores of ridge regression to those of discriminant analysis.

    Where the means of classes lie along a line, such as those of the numbers one to five, ridge
    regression on indicators rarely gives the largest score to a class in the middle.

    Parameters
    ----------
    scores : ndarray of shape (n_samples, n_classes)
        Of ridge regression, for the rows that it was fitted on.
    target : ndarray of shape (n_samples, n_classes)
        What it was fitted to: indicators of the classes, or their probabilities.
    weight : ndarray of shape (n_samples,)
        Positive.

    Returns
    -------
    coef : ndarray of shape (n_classes, n_classes)
        Logits are ``scores @ coef + intercept``.
    intercept : ndarray of shape (n_classes,)

    Notes
    -----
    Penalised discriminant analysis [1]_: it differs from ridge regression on indicators by a linear
    map of the scores. On the classes that regression misses, see [2]_, section 4.2. With :math:`T`
    the covariance of the features plus the penalty, and :math:`\\mu_j` and :math:`\\pi_j` the
    means (of centred features) and the shares of the classes, a score minus its share is
    :math:`\\pi_j x^T T^{-1} \\mu_j`. The covariance within classes is
    :math:`W = T - \\sum_j \\pi_j \\mu_j \\mu_j^T`, whose inverse follows from that of T
    (Woodbury). The logits are

    .. math:: (x^T W^{-1} \\mu_j - \\mu_j^T W^{-1} \\mu_j / 2) / c + \\log \\pi_j.

    With :math:`c = 1`, models of few samples are too certain; here c is a fifth of the mean of
    :math:`\\mu_j^T W^{-1} \\mu_j`. A class without samples has a small constant logit.

    References
    ----------
    .. [1] Hastie, Buja, Tibshirani, "Penalized Discriminant Analysis", Annals of Statistics 23,
       1995.
    .. [2] Hastie, Tibshirani, Friedman, "The Elements of Statistical Learning", Springer, 2009.
    """
    mass = weight @ target
    seen = np.flatnonzero(mass)
    share = mass[seen] / mass.sum()
    root, weighted = np.sqrt(share), target[:, seen] * weight[:, None]
    means = weighted.T @ (scores[:, seen] - share) / mass[seen, None]  # by class, (k, k)
    between = root[:, None] * means / root  # of the means in the metric of T
    values, vectors = np.linalg.eigh((between + between.T) / 2)
    values = values.clip(0, _LARGEST)
    ratio = values / (1 - values)  # of the variance between classes to that within, by direction
    scale = _CERTAIN * max(ratio.sum(), 1e-6)
    own = (vectors / (1 - values)) @ vectors.T / np.outer(root, root) / scale
    constant = np.log(share) - (vectors**2) @ ratio / share / scale / 2
    n_classes, half = len(mass), -np.log(2 * len(scores))  # of a class with half a sample
    coef = np.zeros((n_classes, n_classes))
    intercept = np.full(n_classes, 2 * constant.min() + half)
    coef[np.ix_(seen, seen)], intercept[seen] = own, constant - share @ own
    return coef, intercept


def indicators(codes: np.ndarray, n_classes: int) -> Any:
    """Return the indicators of classes.

    Parameters
    ----------
    codes : ndarray of shape (n_samples,)
    n_classes : int

    Returns
    -------
    ndarray or csr_array of shape (n_samples, n_classes), float64
        Sparse for more than 1,000 classes.
    """
    rows = np.arange(len(codes))
    if n_classes > MANY_CLASSES:
        return csr_array((np.ones(len(codes)), (rows, codes)), shape=(len(codes), n_classes))
    found = np.zeros((len(codes), n_classes))
    found[rows, codes] = 1.0
    return found


def fit_discriminant(
    features: np.ndarray, target: Any, weight: np.ndarray, penalty: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit penalized linear discriminant analysis to features, for many classes.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
    target : ndarray or sparse array of shape (n_samples, n_classes)
        Indicators of the classes, or their probabilities.
    weight : ndarray of shape (n_samples,)
        Positive.
    penalty : float
        Of ridge regression, as in :func:`solve_ridge`.

    Returns
    -------
    coef : ndarray of shape (n_features, n_classes)
        Logits are ``features @ coef + intercept``.
    intercept : ndarray of shape (n_classes,)

    Notes
    -----
    The model is that of :func:`discriminant` on the scores of ridge regression, computed from the
    covariance of the features and the means of the classes. With n samples, d features and k
    classes it takes time in proportion to d² (n + d + k) and memory for d (n + k) numbers;
    :func:`discriminant` takes n k (k + d) and k (k + n).
    """
    mass = target.T @ weight
    share, total = mass / mass.sum(), weight.sum()
    seen = mass > 0
    mean = weight @ features / total
    centred = features - mean
    weighted = centred * weight[:, None]
    means = target.T @ weighted / np.where(seen, mass, 1.0)[:, None]  # (k, d)
    within = (centred.T @ weighted + penalty * np.eye(len(mean))) / total  # T, (d, d)
    within -= means.T @ (means * share[:, None])  # W
    solved = cho_solve(cho_factor(within, overwrite_a=True), means.T)  # (d, k)
    squares = np.einsum("ji,ij->j", means, solved)
    scale = _CERTAIN * max(float(share @ squares), 1e-6)
    constant = np.log(np.where(seen, share, 1.0)) - squares / scale / 2
    coef = solved / scale
    half = -np.log(2 * len(features))  # of a class with half a sample
    coef[:, ~seen] = 0.0
    intercept = np.where(seen, constant - mean @ coef, 2 * constant[seen].min() + half)
    return coef, intercept
