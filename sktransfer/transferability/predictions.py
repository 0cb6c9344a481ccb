"""Scores of a network's own predictions, and how far samples are from its training data."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import entr, logsumexp

from .._compat.sklearn import Interval, validate_params
from ..data import check_labels
from .scores import (
    check_labelled,
    check_numeric,
    check_probabilities,
    encode_classes,
    membership,
)


def leep(probabilities: ArrayLike, y: ArrayLike) -> float:
    """Compute the log expected empirical prediction of a network's own class probabilities.

    Parameters
    ----------
    probabilities : array-like of shape (n_samples, n_source_classes)
        Rows sum to 1.
    y : array-like of shape (n_samples,)
        Labels of any type.

    Returns
    -------
    float
        0 at most. Higher is better: the mean log likelihood of the labels, predicted from the
        network's probabilities and the frequencies of labels given each of its classes.

    Raises
    ------
    ValueError
        If there are NaN, lengths that differ, fewer than two classes, or rows that are no
        probabilities.

    Notes
    -----
    With :math:`\\theta_z(x)` the probability of class :math:`z` and
    :math:`p(y | z) = \\sum_{i: y_i = y} \\theta_z(x_i) / \\sum_i \\theta_z(x_i)` [1]_

    .. math:: \\frac1n \\sum_i \\log \\sum_z p(y_i | z)\\, \\theta_z(x_i).

    References
    ----------
    .. [1] Nguyen et al., "LEEP: A New Measure to Evaluate Transferability of Learned
       Representations", ICML 2020. https://arxiv.org/abs/2002.12462

    Examples
    --------
    >>> from sktransfer.transferability import leep
    >>> round(leep([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]], ["bee", "bee", "ant"]), 3)
    -0.192
    """
    probabilities, codes = check_labelled(probabilities, y, "probabilities")
    theta = check_probabilities(probabilities)
    joint = membership(codes).T @ theta  # (n_classes, n_source_classes)
    conditional = joint / np.maximum(joint.sum(0), np.finfo(float).tiny)
    return min(0.0, float(np.log((theta * conditional[codes]).sum(1)).mean()))


def labels_given_classes(
    theta: np.ndarray, target: np.ndarray, smoothing: float, weight: np.ndarray | None = None
) -> np.ndarray:
    """Estimate the probability of each label, given a class of the network.

    Parameters
    ----------
    theta : ndarray of shape (n_samples, n_source_classes)
        The network's probabilities.
    target : ndarray or sparse array of shape (n_samples, n_classes)
        Indicators of the labels.
    smoothing : float
        Pseudo-samples, distributed as the labels are, that each class of the network starts with.
    weight : ndarray of shape (n_samples,), default=None
        Weights of the samples.

    Returns
    -------
    ndarray of shape (n_source_classes, n_classes)
        Without smoothing, a class that no sample resembles has the labels' frequencies.
    """
    onehot = target if weight is None else (target.T * weight).T
    frequency = onehot.sum(axis=0) / onehot.sum()
    counts = theta.T @ onehot + smoothing * frequency
    total = counts.sum(axis=1, keepdims=True)
    share = counts / np.where(total > 0, total, 1)
    return np.where(total > 0, share, frequency)


@validate_params(
    {"smoothing": [Interval(Real, 0, None, closed="neither")]},
    prefer_skip_nested_validation=True,
)
def explained_share(probabilities: ArrayLike, y: ArrayLike, *, smoothing: float = 0.01) -> float:
    """Compute the mean probability that a network's own classes give to labels of other samples.

    Parameters
    ----------
    probabilities : array-like of shape (n_samples, n_source_classes)
        Rows sum to 1.
    y : array-like of shape (n_samples,)
        Labels of any type.
    smoothing : float, default=0.01
        Weight of the labels' overall frequencies in those of each source class, in samples.

    Returns
    -------
    float
        From 0 to 1. Higher is better. For labels that are independent of the source classes it is
        about the sum of their squared shares: 0.5 for two balanced labels.

    Raises
    ------
    ValueError
        If there are NaN, lengths that differ, fewer than two classes, rows that are no
        probabilities, or ``smoothing`` is not positive.

    See Also
    --------
    leep : The same predictor, scored on the labels that it was made from.

    Notes
    -----
    The predictor of :func:`leep`, for each sample made from the others:

    .. math:: \\frac1n \\sum_i \\sum_z p_{-i}(y_i | z)\\, \\theta_z(x_i).

    With fewer samples than source classes LEEP is near its maximum for any labels, since each
    sample has source classes of its own. This score is not.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.transferability import explained_share, leep
    >>> own_class_each = np.eye(10)
    >>> y = np.repeat(["ant", "bee"], 5)
    >>> round(leep(own_class_each, y), 3), round(explained_share(own_class_each, y), 3)
    (0.0, 0.444)
    """
    probabilities, codes = check_labelled(probabilities, y, "probabilities")
    theta = check_probabilities(probabilities)
    counts = np.bincount(codes)
    others = theta.sum(0) - theta  # (n_samples, n_source_classes), what the others have of each
    own = (membership(codes).T @ theta)[codes] - theta  # of those, with the same label
    prior = (counts[codes] - 1)[:, None] / (len(codes) - 1)
    given = (own + smoothing * prior) / (others + smoothing)
    return float(np.clip((theta * given).sum(1).mean(), 0.0, 1.0))


def nce(source_labels: ArrayLike, y: ArrayLike) -> float:
    """Compute the negative conditional entropy of labels, given a network's own classes.

    Parameters
    ----------
    source_labels : array-like of shape (n_samples,)
        The network's class for each sample, of any type.
    y : array-like of shape (n_samples,)
        Labels of any type.

    Returns
    -------
    float
        In nats, from minus the entropy of ``y`` to 0, where the network's class determines the
        label. Higher is better. It is also 0 where each sample has a class of its own.

    Raises
    ------
    ValueError
        If there are NaN, lengths that differ, or ``y`` has fewer than two classes.

    Notes
    -----
    :math:`-H(Y | Z) = \\sum_{z, y} p(z, y) \\log p(y | z)` with the empirical frequencies [1]_.

    References
    ----------
    .. [1] Tran et al., "Transferability and Hardness of Supervised Classification Tasks",
       ICCV 2019. https://arxiv.org/abs/1908.08142

    Examples
    --------
    >>> from sktransfer.transferability import nce
    >>> round(nce(["tabby", "tabby", "beagle", "beagle"], ["cat", "cat", "cat", "dog"]), 3)
    -0.347
    """
    source_labels = check_labels(source_labels, name="source_labels")
    source = np.unique(source_labels, return_inverse=True)[1]
    codes = encode_classes(y, len(source))
    pairs, counts = np.unique(np.column_stack([source, codes]), axis=0, return_counts=True)
    given = np.bincount(source)[pairs[:, 0]]
    return min(0.0, float((counts * np.log(counts / given)).sum() / len(codes)))


# -- distance from the training data ---------------------------------------------------------------


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
