"""Measures of how far samples are from the data that a network was trained on."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, logsumexp
from sklearn.utils._param_validation import Interval, validate_params

from .checks import check_numeric, check_probabilities

__all__ = ["free_energy", "gaussian_divergence", "prediction_entropy"]


@validate_params(
    {"eps": [Interval(Real, 0, None, closed="neither")]}, prefer_skip_nested_validation=True
)
def gaussian_divergence(
    mean: ArrayLike,
    var: ArrayLike,
    other_mean: ArrayLike,
    other_var: ArrayLike,
    *,
    eps: float = 1e-5,
) -> float:
    """Compute the squared Hellinger distance of two Gaussians, averaged over channels.

    It compares the statistics that batch normalisation keeps of its training data with those of
    other data.

    Parameters
    ----------
    mean, var : array-like of shape (n_channels,)
        Of the one Gaussian in each channel.
    other_mean, other_var : array-like of shape (n_channels,)
        Of the other Gaussian. The distance is symmetric.
    eps : float, default=0.00001
        Added to every variance, as by batch normalisation, so that channels without variance in
        both do not differ.

    Returns
    -------
    float
        From 0 for equal Gaussians to 1 for Gaussians without overlap.

    Raises
    ------
    ValueError
        If there are NaN, shapes that differ, negative variances, or ``eps`` is not positive.

    Notes
    -----
    The mean over channels of

    .. math:: 1 - \\sqrt{\\frac{2 \\sigma_1 \\sigma_2}{\\sigma_1^2 + \\sigma_2^2}}
        \\exp\\left(-\\frac{(\\mu_1 - \\mu_2)^2}{4 (\\sigma_1^2 + \\sigma_2^2)}\\right).

    The divergence of Kullback and Leibler is not bounded: one channel with little variance would
    determine the mean.

    Examples
    --------
    >>> from sktransfer.transferability import gaussian_divergence
    >>> gaussian_divergence([0, 1], [1, 1], [0, 1], [1, 1])
    0.0
    >>> round(gaussian_divergence([0, 0], [1, 1], [0, 4], [1, 1]), 3)
    0.432
    """
    names = ("mean", "var", "other_mean", "other_var")
    arrays = [
        check_numeric(values, name, ensure_2d=False)
        for name, values in zip(names, (mean, var, other_mean, other_var), strict=True)
    ]
    if len({a.shape for a in arrays}) > 1:
        shapes = ", ".join(f"{name} {a.shape}" for name, a in zip(names, arrays, strict=True))
        raise ValueError(f"Shapes differ: {shapes}.")
    m1, v1, m2, v2 = arrays
    if min(v1.min(), v2.min()) < 0:
        raise ValueError("var and other_var must not be negative.")
    v1, v2 = v1 + eps, v2 + eps
    ratio = np.sqrt(v1 / v2)
    overlap = -np.log((ratio + 1 / ratio) / 2) / 2 - (m1 - m2) ** 2 / (4 * (v1 + v2))  # log of it
    return float(-np.expm1(overlap).mean() + 0.0)


@validate_params(
    {"temperature": [Interval(Real, 0, None, closed="neither")]},
    prefer_skip_nested_validation=True,
)
def free_energy(logits: ArrayLike, *, temperature: float = 1.0) -> np.ndarray:
    """Compute the free energy of each sample, which is low for samples like the training data.

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_classes)
        Outputs before a softmax.
    temperature : float, default=1.0

    Returns
    -------
    ndarray of shape (n_samples,)
        In the units of the logits. Lower values mean more similar to the training data.

    Raises
    ------
    ValueError
        If there are NaN or infinite logits, or the temperature is not positive.

    Notes
    -----
    :math:`-T \\log \\sum_k \\exp(f_k / T)` [1]_.

    References
    ----------
    .. [1] Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020.
       https://arxiv.org/abs/2010.03759

    Examples
    --------
    >>> from sktransfer.transferability import free_energy
    >>> free_energy([[9.0, 0.0], [1.0, 0.0]]).round(2)
    array([-9.  , -1.31])
    """
    logits = check_numeric(logits, "logits")
    return -temperature * logsumexp(logits / temperature, axis=1)


def prediction_entropy(probabilities: ArrayLike) -> np.ndarray:
    """Compute the entropy of each sample's probabilities, as a share of the maximum.

    Parameters
    ----------
    probabilities : array-like of shape (n_samples, n_classes)
        Rows sum to 1; two classes at least.

    Returns
    -------
    ndarray of shape (n_samples,)
        From 0 for one certain class to 1 for equal probabilities:
        :math:`-\\sum_k p_k \\log p_k / \\log K`.

    Raises
    ------
    ValueError
        If there are NaN, one class only, or rows that are no probabilities.

    Examples
    --------
    >>> from sktransfer.transferability import prediction_entropy
    >>> prediction_entropy([[1.0, 0.0], [0.5, 0.5], [0.9, 0.1]]).round(3)
    array([0.   , 1.   , 0.469])
    """
    probabilities = check_numeric(probabilities, "probabilities", ensure_min_features=2)
    p = check_probabilities(probabilities)
    return np.minimum(entr(p).sum(1) / np.log(p.shape[1]), 1.0)
