"""Ridge regression from the inner products of rows: fast where rows are fewer than features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.linalg import lapack
from scipy.sparse import issparse

__all__ = [
    "Dual",
    "inner_products",
    "scale_of",
    "solve_large_ridge",
    "solve_ridge",
    "unit_rows",
]

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


def inner_products(rows: Any, weight: np.ndarray | None = None) -> np.ndarray:
    """Compute the inner products of centred rows, whose mean square is scaled to 1.

    The mean of the products of several tables is that of the tables side by side, each scaled as
    a block.

    Parameters
    ----------
    rows : ndarray or sparse matrix of shape (n_samples, n_features)
        Of length 1, or zeros.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the samples in the scale.

    Returns
    -------
    ndarray of shape (n_samples, n_samples), float64
        Zeros where rows are equal.
    """
    products = rows @ rows.T
    products = products.toarray() if issparse(products) else products
    means = products.mean(0)
    return scale_of(rows, weight) * (products - means - means[:, None] + means.mean())


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

    Returns
    -------
    Dual

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
    max_iter : int, default=300

    Returns
    -------
    Dual

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
        found = sum(block @ (block.T @ centred) for block in blocks)
        return found - found.mean(0) + diagonal * v

    sides = np.column_stack([target, np.ones(len(target))])
    solved = _conjugate_gradients(times, sides, 1 / (1 + diagonal), max_iter)
    rows, ones = solved[:, :-1], solved[:, -1:]
    intercept = rows.sum(0) / ones.sum()
    rows = rows - ones * intercept
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
