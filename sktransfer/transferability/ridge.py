"""Linear models in closed form: ridge regression and discriminant analysis.

One matrix of inner products of rows serves all penalties and folds. A linear map of the scores of
ridge regression on indicators makes discriminant analysis of it.
"""

from __future__ import annotations

import contextlib
import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import scipy.linalg.blas  # noqa: F401  (loads its library, so that it is found)
from scipy.linalg import cho_factor, cho_solve, lapack
from scipy.sparse import csr_array, issparse
from threadpoolctl import ThreadpoolController

from ..data import is_numbers
from .ensembles import log_loss

# -- one thread for small matrices -----------------------------------------------------------------


# Numbers of the largest matrix, such as 1600 rows of 1280 features. Above, threads can pay.
_SMALL = 2**21

_Function = TypeVar("_Function", bound=Callable[..., Any])
_limiting = threading.RLock()  # held by the thread that has set the number


@contextlib.contextmanager
def one_thread_if_small(*arrays: Any) -> Iterator[None]:
    """Let BLAS use one thread meanwhile if arrays are small.

    The threads of OpenBLAS wait for each other in every operation. Where another process uses one
    of the cores, each operation waits until all threads have had their turn: five folds of a probe
    on 400 samples take a hundred times as long as with one thread. The number of threads belongs to
    the process. It is set back at the end of the block; while one thread of Python is in such a
    block, others leave the number as it is.

    Parameters
    ----------
    *arrays : array, sparse matrix, or dict of those
        Up to two million numbers each are small. Other objects do not count.
    """
    is_large = max(map(_size, arrays), default=0) > _SMALL
    if is_large or not _limiting.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        _limiting.release()


def small_in_one_thread(function: _Function) -> _Function:
    """Decorate a function, so that BLAS uses one thread if its arguments are small."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with one_thread_if_small(*args, *kwargs.values()):
            return function(*args, **kwargs)

    return cast(_Function, run)


@functools.cache
def _libraries() -> ThreadpoolController:
    """Find the libraries once, which takes longer than a small operation."""
    return ThreadpoolController().select(user_api="blas")


def _size(array: Any) -> int:
    """Count the numbers of an array, or of the largest in a dictionary; 0 for other objects."""
    if isinstance(array, dict):
        return max(map(_size, array.values()), default=0)
    size = getattr(array, "size", 0)
    return size if isinstance(size, int) else 0


# -- ridge regression from inner products ----------------------------------------------------------


_TINY = np.finfo(float).tiny


class Dual(NamedTuple):
    """A linear model as weights of its training rows.

    Parameters
    ----------
    rows : ndarray of shape (n_samples, n_outputs)
        Scores of a sample are its inner products with the training rows, times these weights,
        plus the intercept. Each column has a sum of 0.
    intercept : ndarray of shape (n_outputs,)
    """

    rows: np.ndarray
    intercept: np.ndarray

    def scores(self, products: np.ndarray) -> np.ndarray:
        """Return ``(n, n_outputs)`` from the products ``(n, n_samples)`` with training rows."""
        return products @ self.rows + self.intercept


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Divide each row by its length; rows of zeros stay as they are.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_features), float64
    """
    features = features.astype(np.float64)
    length = np.sqrt(np.einsum("ij,ij->i", features, features))[:, None]
    return np.divide(features, length, out=features, where=length > 0)


def scale_of(rows: Any, weight: np.ndarray | None = None) -> float:
    """Return the factor of inner products that gives centred rows a mean square of 1.

    Parameters
    ----------
    rows : ndarray or sparse matrix of shape (n_samples, n_features)
        Of length 1, or zeros.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the samples in the mean.

    Returns
    -------
    float
        0.0 where rows are equal.
    """
    weight = np.ones(rows.shape[0]) if weight is None else weight
    mean = rows.T @ (weight / weight.sum())
    squares = rows.power(2).sum(1).A1 if issparse(rows) else np.einsum("ij,ij->i", rows, rows)
    mean_square = np.average(squares, weights=weight) - mean @ mean
    return 1 / mean_square if mean_square > 1e-12 else 0.0


def inner_products(rows: Any) -> np.ndarray:
    """Compute the inner products of centred rows, whose mean square is scaled to 1.

    The mean of the products of several tables is that of the tables side by side, each scaled as
    a block.

    Parameters
    ----------
    rows : ndarray or sparse matrix of shape (n_samples, n_features)
        Of length 1, or zeros.

    Returns
    -------
    ndarray of shape (n_samples, n_samples), float64
        Zeros where rows are equal.
    """
    products = rows @ rows.T
    products = products.toarray() if issparse(products) else products
    means = products.mean(0)
    return scale_of(rows) * (products - means - means[:, None] + means.mean())


def solve_ridge(
    products: np.ndarray, target: np.ndarray, weight: np.ndarray, penalty: float
) -> Dual:
    """Fit ridge regression with an intercept that is not penalised.

    Parameters
    ----------
    products : ndarray of shape (n_samples, n_samples)
        Of the training rows. Centring them differently does not change the model.
    target : ndarray of shape (n_samples, n_outputs)
    weight : ndarray of shape (n_samples,)
        Positive.
    penalty : float
        Positive. The objective is the weighted sum of squared errors plus this times the sum of
        squared coefficients.

    Notes
    -----
    With K the products and W the weights, the weights of rows a and the intercept b solve
    (K + penalty W⁻¹) a + b = target, where a has a sum of 0.
    """
    matrix = products + np.diag(penalty / weight)
    sides = np.column_stack([target, np.ones(len(target))])
    _, solved, failed = lapack.dposv(matrix, sides, lower=1, overwrite_a=1, overwrite_b=1)
    if failed:  # rounding errors of the products exceed the penalty
        solved = np.linalg.lstsq(products + np.diag(penalty / weight), sides, rcond=None)[0]
    return _with_intercept(solved)


def _with_intercept(solved: np.ndarray) -> Dual:
    """Return a model from the solutions for its targets and, in the last column, for ones."""
    rows, ones = solved[:, :-1], solved[:, -1:]
    intercept = rows.sum(0) / ones.sum()
    return Dual(rows - ones * intercept, intercept)


def solve_large_ridge(
    blocks: Sequence[Any],
    target: np.ndarray,
    weight: np.ndarray,
    penalty: float,
    max_iter: int = 300,
) -> Dual:
    """Fit ridge regression with an intercept to many rows, without their inner products.

    Parameters
    ----------
    blocks : sequence of ndarray or sparse matrix of shape (n_samples, n_features)
        Tables side by side.
    target, weight, penalty
        As in :func:`solve_ridge`.

    Notes
    -----
    Conjugate gradients (Hestenes, Stiefel 1952) for the system of :func:`solve_ridge`, with its
    diagonal for rows of length 1 as preconditioner, to a relative residual of 1e-5.

    References
    ----------
    Hestenes, Stiefel (1952). Methods of conjugate gradients for solving linear systems. Journal of
    Research of the National Bureau of Standards 49.
    """
    diagonal = (penalty / weight)[:, None]

    def times(v: np.ndarray) -> np.ndarray:
        centred = v - v.mean(0)
        product = sum(block @ (block.T @ centred) for block in blocks)
        return product - product.mean(0) + diagonal * v

    sides = np.column_stack([target, np.ones(len(target))])
    solved = _conjugate_gradients(times, sides, 1 / (1 + diagonal), max_iter)
    rows, intercept = _with_intercept(solved)
    # Scores of uncentred products: the model is the same, with another intercept.
    mean = [block.T @ np.full(len(target), 1 / len(target)) for block in blocks]
    shift = sum(m @ (block.T @ rows) for m, block in zip(mean, blocks, strict=True))
    return Dual(rows, intercept - shift)


def _conjugate_gradients(
    times: Callable, sides: np.ndarray, inverse_diagonal: np.ndarray, max_iter: int
) -> np.ndarray:
    """Solve a system for each column of ``sides``, all at once."""
    solved, residual = np.zeros_like(sides), sides.copy()
    scaled = inverse_diagonal * residual
    direction, energy = scaled, (residual * scaled).sum(0)
    limit = 1e-10 * (sides**2).sum(0)
    for _ in range(max_iter):
        if ((residual**2).sum(0) <= limit).all():
            break
        product = times(direction)
        step = energy / np.maximum((direction * product).sum(0), _TINY)
        solved = solved + step * direction
        residual = residual - step * product
        scaled = inverse_diagonal * residual
        before, energy = energy, (residual * scaled).sum(0)
        direction = scaled + energy / np.maximum(before, _TINY) * direction
    return solved


# -- discriminant analysis -------------------------------------------------------------------------


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

    Returns
    -------
    ndarray or csr_array of shape (n_samples, n_classes), float64
        Sparse for more than 1,000 classes.
    """
    rows = np.arange(len(codes))
    if n_classes > MANY_CLASSES:
        return csr_array((np.ones(len(codes)), (rows, codes)), shape=(len(codes), n_classes))
    indicator = np.zeros((len(codes), n_classes))
    indicator[rows, codes] = 1.0
    return indicator


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


# -- scores of samples without their fold ----------------------------------------------------------


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
    of_penalties = np.empty((len(_PENALTIES), *target.shape))
    for train, test in folds:
        known, asked = _ridge(features[train], target[train], features[test], weight[train])
        for i, scores in enumerate(known):
            coef, intercept = discriminant(scores, target[train], weight[train])
            of_penalties[i, test] = asked[i] @ coef + intercept
    smoothing = 1 / (len(codes) + 2)
    losses = [log_loss(logits, codes, smoothing, weight) for logits in of_penalties]
    return of_penalties[int(np.argmin(losses))]


def _residuals(
    features: np.ndarray, target: np.ndarray, folds: list, weight: np.ndarray
) -> np.ndarray:
    """Return the residuals ``(n, n_targets)`` of ridge regression on the test sets of folds."""
    residuals = np.empty((len(_PENALTIES), *target.shape))
    for train, test in folds:
        _, asked = _ridge(features[train], target[train], features[test], weight[train])
        residuals[:, test] = target[test] - asked
    squares = (residuals**2).sum(2)  # (n_penalties, n)
    return residuals[(squares * weight).sum(1).argmin()]


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
    predicted = (np.stack([left @ coef for coef in coefs]) for left in (known / root, asked))
    known, asked = (scores + level for scores in predicted)
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
