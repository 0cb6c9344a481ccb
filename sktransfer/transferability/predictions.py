"""Scores of predictions: a network's own classes and labels in, a number out."""

from __future__ import annotations

from numbers import Real

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils._param_validation import Interval, validate_params

from ..data import check_labels
from .checks import check_labelled, check_probabilities, encode_classes, membership

__all__ = ["explained_share", "labels_given_classes", "leep", "nce"]


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
