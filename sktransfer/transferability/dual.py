"""Ridge regression from the inner products of rows: fast where rows are fewer than features."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.linalg import lapack

__all__ = ["Dual", "inner_products", "solve_ridge", "unit_rows"]


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


def inner_products(features: np.ndarray) -> np.ndarray:
    """Compute the inner products of centred rows, whose mean square is scaled to 1.

    The mean of the products of several tables is that of the tables side by side, each scaled as
    a block.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_samples), float64
        Zeros where no feature varies.
    """
    features = features.astype(np.float64)
    centred = features - features.mean(0)
    products = centred @ centred.T
    mean_square = np.trace(products) / len(products)
    constant = mean_square <= 1e-20 * np.mean(features**2) * features.shape[1]
    return np.zeros_like(products) if constant else products / mean_square


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
