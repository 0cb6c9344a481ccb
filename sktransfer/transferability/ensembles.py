"""Combine the predictions of several models: temperatures and weights. Arrays in, numbers out."""

from __future__ import annotations

import math
from numbers import Integral, Real

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.utils import check_random_state

from .._compat.sklearn import Interval, validate_params
from ..data import check_labels, check_numbers, check_weights
from ..data.types import RandomState

_HOTTEST = math.log(100.0)
_TINY = np.finfo(float).tiny


@validate_params(
    {"label_smoothing": [Interval(Real, 0, 1, closed="both")]}, prefer_skip_nested_validation=True
)
def temperature(
    logits: ArrayLike,
    y: ArrayLike,
    *,
    label_smoothing: float = 0.0,
    sample_weight: ArrayLike | None = None,
) -> float:
    """Find the temperature with which logits give the smallest log loss.

    Parameters
    ----------
    logits : array-like of shape (n_samples, n_classes)
        Of samples that the model was not fitted on. Logarithms of probabilities are logits. Minus
        infinity is a class that a model cannot predict.
    y : array-like of shape (n_samples,)
        The column of each sample's class.
    label_smoothing : float, default=0.0
        Share of each label that is distributed over all classes. With few samples, a value such as
        ``1 / (n_samples + 2)`` keeps probabilities from 1.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples in the loss.

    Returns
    -------
    float
        From 0.01 to 100. The calibrated probabilities are ``softmax(logits / temperature)``.

    Raises
    ------
    ValueError
        If logits are no table, lengths differ, values of ``y`` are no columns, or logits of a
        sample are NaN, plus infinity, or minus infinity for all classes.

    Notes
    -----
    This is temperature scaling [1]_.

    References
    ----------
    .. [1] Guo et al., "On Calibration of Modern Neural Networks", ICML 2017.
       https://arxiv.org/abs/1706.04599

    Examples
    --------
    >>> from sktransfer.transferability import temperature
    >>> overconfident = [[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]
    >>> round(temperature(overconfident, [0, 0, 1, 1]), 1)
    8.2
    """
    logits = np.asarray(logits, np.float64)
    if logits.ndim != 2 or not logits.size:
        raise ValueError(
            f"logits must have the shape (n_samples, n_classes), and have {logits.shape}."
        )
    codes = _check_codes(y, *logits.shape)
    weight = check_weights(sample_weight, len(codes))
    # The largest logit of a sample must be a number; others may be minus infinity.
    wrong = np.flatnonzero(~np.isfinite(logits.max(axis=1)))
    if len(wrong):
        raise ValueError(
            f"Logits are NaN or infinite for {len(wrong)} of {len(logits)} samples, the first of "
            f"them sample {wrong[0]}: leave these out."
        )

    def loss(log_t: float) -> float:
        return log_loss(logits / math.exp(log_t), codes, label_smoothing, weight)

    return math.exp(minimize_scalar(loss, bounds=(-_HOTTEST, _HOTTEST), method="bounded").x)


def log_loss(
    logits: np.ndarray, codes: np.ndarray, label_smoothing: float, weight: np.ndarray
) -> float:
    """Return the weighted sum of the log losses of logits, with smoothed labels.

    Parameters
    ----------
    logits : ndarray of shape (n_samples, n_classes)
    codes : ndarray of shape (n_samples,)
        The column of each sample's class.
    label_smoothing : float
        Share of each label that is distributed over all classes.
    weight : ndarray of shape (n_samples,)
    """
    logs = np.maximum(log_softmax(logits, axis=1), math.log(_TINY))
    own = logs[np.arange(len(codes)), codes]
    return -float(weight @ ((1 - label_smoothing) * own + label_smoothing * logs.mean(1)))


def _check_codes(y, n_samples: int, n_classes: int) -> np.ndarray:
    codes = check_labels(y, n_samples)
    if codes.dtype.kind not in "iu" or codes.min() < 0 or codes.max() >= n_classes:
        raise ValueError(f"y must hold columns, integers from 0 to {n_classes - 1}.")
    return codes


@validate_params(
    {"max_iter": [Interval(Integral, 1, None, closed="left")]}, prefer_skip_nested_validation=True
)
def mixture_weights(
    probabilities: ArrayLike,
    y: ArrayLike,
    *,
    prior: ArrayLike | None = None,
    max_iter: int = 200,
    sample_weight: ArrayLike | None = None,
) -> np.ndarray:
    """Weight models such that the weighted mean of their probabilities has a small log loss.

    Parameters
    ----------
    probabilities : array-like of shape (n_models, n_samples, n_classes)
        Of samples that the models were not fitted on.
    y : array-like of shape (n_samples,)
        The column of each sample's class.
    prior : array-like of shape (n_models,), default=None
        Pseudo-samples, not negative: what is known in favour of each model, as a number of samples
        that it alone would explain. None is one pseudo-sample, the same share for each model.
    max_iter : int, default=200
        Steps; weights hardly change after them.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples in the loss.

    Returns
    -------
    ndarray of shape (n_models,)
        Not negative, with a sum of 1. The prior has a share of
        ``prior.sum() / (prior.sum() + n_samples)`` in them.

    Raises
    ------
    ValueError
        If there is no model, predictions are NaN or infinite, lengths differ, or ``prior`` is
        negative or without a sum.

    See Also
    --------
    greedy_weights : Weights of models that predict numbers.

    Notes
    -----
    Expectation maximisation [1]_ for the weights :math:`w_j` of a mixture, with
    :math:`p_{ij}` the probability that model j gives the class of sample i and
    :math:`\\alpha_j` the prior. It converges to the maximum of

    .. math:: \\sum_i \\log \\sum_j w_j p_{ij} + \\sum_j \\alpha_j \\log w_j.

    References
    ----------
    .. [1] Dempster, Laird, Rubin, "Maximum Likelihood from Incomplete Data via the EM Algorithm",
       Journal of the Royal Statistical Society B, 1977.

    Examples
    --------
    >>> from sktransfer.transferability import mixture_weights
    >>> good, bad = [[0.9, 0.1], [0.2, 0.8]], [[0.4, 0.6], [0.5, 0.5]]
    >>> mixture_weights([good, bad], [0, 1]).round(2).tolist()
    [0.72, 0.28]
    """
    probabilities = _check_predictions(probabilities)
    n_models, n_samples, n_classes = probabilities.shape
    codes = _check_codes(y, n_samples, n_classes)
    weight = check_weights(sample_weight, n_samples)
    prior = np.full(n_models, 1 / n_models) if prior is None else np.asarray(prior, np.float64)
    if prior.shape != (n_models,) or not np.isfinite(prior).all() or (prior < 0).any():
        raise ValueError(f"prior must be {n_models} finite numbers that are not negative.")
    if not prior.sum():
        raise ValueError("prior must have a positive sum.")
    own = np.maximum(probabilities[:, np.arange(n_samples), codes], _TINY)  # (n_models, n)
    weights = prior / prior.sum()
    for _ in range(max_iter):
        # Each sample is shared among the models by how well they explain it.
        shares = weights * (own @ (weight / (weights @ own)))
        weights = (prior + shares) / (prior.sum() + weight.sum())
    return weights


@validate_params(
    {
        "n_rounds": [Interval(Integral, 1, None, closed="left")],
        "n_bags": [Interval(Integral, 1, None, closed="left")],
        "random_state": ["random_state"],
    },
    prefer_skip_nested_validation=True,
)
def greedy_weights(
    predictions: ArrayLike,
    y: ArrayLike,
    *,
    n_rounds: int = 50,
    n_bags: int = 1,
    random_state: RandomState = None,
    sample_weight: ArrayLike | None = None,
) -> np.ndarray:
    """Weight models such that the weighted mean of their numbers has a small squared error.

    In each round the model is added whose addition reduces the error of the mean most. The weight
    of a model is the share of the rounds in which it was added.

    Parameters
    ----------
    predictions : array-like of shape (n_models, n_samples, n_targets)
        Of samples that the models were not fitted on.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Numbers.
    n_rounds : int, default=50
        Models that are added, with replacement.
    n_bags : int, default=1
        With more than one, weights are the mean over as many selections, each from half of the
        models (drawn at random) on a bootstrap sample of the samples.
    random_state : int, RandomState instance or None, default=None
        Seed of the bags.
    sample_weight : array-like of shape (n_samples,), default=None
        Weights of the samples in the error, not negative.

    Returns
    -------
    ndarray of shape (n_models,)
        Not negative, with a sum of 1.

    Raises
    ------
    ValueError
        If there is no model, predictions are NaN or infinite, or shapes differ.

    See Also
    --------
    mixture_weights : Weights of models that predict probabilities.

    Notes
    -----
    Ensemble selection with replacement of Caruana et al. [1]_.

    References
    ----------
    .. [1] Caruana et al., "Ensemble Selection from Libraries of Models", ICML 2004.
       https://doi.org/10.1145/1015330.1015432

    Examples
    --------
    >>> from sktransfer.transferability import greedy_weights
    >>> too_low, too_high = [[0.9], [1.9], [2.9]], [[1.2], [2.2], [3.2]]
    >>> greedy_weights([too_low, too_high], [1, 2, 3], n_rounds=4).tolist()
    [0.75, 0.25]
    """
    predictions = _check_predictions(predictions)
    n_models, n_samples, n_targets = predictions.shape
    generator = check_random_state(random_state)
    weight = check_weights(sample_weight, n_samples)
    numbers = check_numbers(y, n_samples)
    if numbers.size != n_samples * n_targets:
        raise ValueError(
            f"y has the shape {numbers.shape}, and predictions have {n_targets} numbers for each "
            f"of {n_samples} samples."
        )
    errors = predictions - numbers.reshape(n_samples, n_targets)
    allowed = np.ones((1, n_models), bool)  # (n_bags, n_models)
    rows = weight[None]  # how often a bag has each sample, times its weight, (n_bags, n)
    if n_bags > 1:
        order = generator.uniform(size=(n_bags, n_models)).argsort(1).argsort(1)
        allowed = order < -(-n_models // 2)
        shares = np.full(n_samples, 1 / n_samples)
        rows = generator.multinomial(n_samples, shares, size=n_bags) * weight
    flat = np.moveaxis(errors, 2, 1).reshape(n_models, -1)  # (n_models, n_targets * n)
    tiled = np.tile(rows, n_targets)
    products = np.stack([(flat * row) @ flat.T for row in tiled])  # of errors, (n_bags, m, m)
    own = np.diagonal(products, axis1=1, axis2=2)
    sums, counts = np.zeros((2, n_bags, n_models))  # sums are products with the sum of errors
    for _ in range(n_rounds):
        # Of |sum + error|², less |sum|², which is the same for all models.
        best = np.where(allowed, 2 * sums + own, np.inf).argmin(1)
        counts[np.arange(n_bags), best] += 1
        sums += products[np.arange(n_bags), :, best]
    return (counts / n_rounds).mean(0)


def _check_predictions(predictions) -> np.ndarray:
    predictions = np.asarray(predictions, np.float64)
    if predictions.ndim != 3 or not len(predictions):
        raise ValueError(
            "Predictions must have the shape (n_models, n_samples, n_outputs), got "
            f"{predictions.shape}."
        )
    if not np.isfinite(predictions).all():
        model = int(np.argwhere(~np.isfinite(predictions))[0][0])
        raise ValueError(f"Predictions of model {model} (from 0) are NaN or infinite.")
    return predictions
