"""Scores of features: features and labels in, a number out."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from sklearn.model_selection import cross_val_score
from sklearn.utils import check_array

from .._compat.sklearn import Interval, num_samples, validate_params
from ..data import (
    IndicatorTarget,
    NumericTarget,
    check_labels,
    check_numbers,
    check_target,
    find_target,
    naming,
)
from ..data.types import Folds, RandomState, Samples
from .folds import check_folds
from .probes import PROBE_C, GlobalScaler, LinearProbe, RidgeProbe
from .ridge import small_in_one_thread

# The least residual of LogME, as a share of the targets' sum of squares: labels that features fit
# exactly would have infinite evidence.
_RESIDUAL_FLOOR = 1e-10


@small_in_one_thread
def logme(features: ArrayLike, y: ArrayLike, *, task: str = "auto") -> float:
    """Compute the log of the maximum evidence of a linear model, per sample.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
        Not centred: the model has no intercept, so that a shift changes the score.
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Labels of any type, one-vs-rest, averaged over classes; an indicator matrix of several
        labels; or numbers to regress on, averaged over targets.
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" follows `sklearn.utils.multiclass.type_of_target`: numbers with a fractional part
        are regressed on. Whole numbers are classes, also as floats; say "regression" for those.

    Returns
    -------
    float
        Higher is better. The value is a log density, which may be negative; values can only be
        compared for the same ``y``. It is at least that of a model without features (-1.07 for
        two balanced classes), and below 10.5 for two balanced classes.

    Raises
    ------
    ValueError
        If there are NaN, lengths that differ, fewer than two classes, or constant targets.

    Notes
    -----
    With weights :math:`w \\sim N(0, \\alpha^{-1} I)` and targets :math:`N(Fw, \\beta^{-1} I)` the
    score is :math:`\\max_{\\alpha, \\beta} \\log p(y | F, \\alpha, \\beta) / n` [1]_. With the
    singular values :math:`s` and the left vectors :math:`u` of :math:`F` and
    :math:`t = \\alpha / \\beta`, the best :math:`\\beta` is known in closed form, which leaves

    .. math:: -\\frac{n}{2} \\log \\frac{2 \\pi e\\, q(t)}{n} - \\frac12 \\sum_i \\log(1 + s_i^2/t),
        \\quad q(t) = y^T y - \\sum_i \\frac{s_i^2}{s_i^2 + t} (u_i^T y)^2

    to be maximised over one number. The fixed-point iteration of [2]_, which starts at 1 and takes
    ten steps, ends up to 0.12 per sample below the maximum for weak features, more than their
    scores differ. Here the maximum is bracketed on a grid and the bracket is halved repeatedly.
    Directions without a singular value cancel, so that fewer samples than features need no
    special case (in the authors' code they do not cancel). Constant targets are left out.
    Rotating the features or multiplying them by one number does not change the score.

    References
    ----------
    .. [1] You et al., "LogME: Practical Assessment of Pre-trained Models for Transfer Learning",
       ICML 2021. https://arxiv.org/abs/2102.11005
    .. [2] You et al., "Ranking and Tuning Pre-trained Models", JMLR 2022.
       https://arxiv.org/abs/2110.10545

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.transferability import logme
    >>> y = np.repeat(["ant", "bee"], 20)
    >>> noise = np.random.default_rng(0).normal(size=(40, 3))
    >>> informative = noise + 2 * (y == "bee")[:, None]
    >>> logme(informative, y) > logme(noise, y)
    True
    """
    features = check_features(features)
    targets = _as_targets(check_target(y, len(features)), task)  # (n_samples, n_targets)
    scale = np.abs(targets).max(axis=0)
    targets = targets / scale  # so that squares stay finite and positive
    u, s = _thin_svd(_scaled(features))
    squares = (u.T @ targets) ** 2  # (rank, n_targets)
    total = (targets**2).sum(0)
    rest = np.maximum(total - squares.sum(0), 0) + _RESIDUAL_FLOOR * total
    evidence = _max_evidence(s[:, None] ** 2, squares, rest, len(targets))
    return float((evidence / len(targets) - np.log(scale)).mean())


def _max_evidence(power, squares, rest, n_samples) -> np.ndarray:
    """Maximise the log evidence over t = alpha / beta, for every target at once."""

    def evidence(log_t):
        gain = power / np.exp(log_t)
        residual = (squares / (1 + gain)).sum(0) + rest
        fit = n_samples * np.log(2 * np.pi * np.e / n_samples * residual)
        return -(fit + np.log1p(gain).sum(0)) / 2

    no_features = evidence(np.inf)
    if not len(power):
        return no_features
    # The evidence may have several maxima. Take the best point of a grid with steps of one in
    # log t, then halve the steps around it.
    grid = np.log(power.max()) + np.arange(-28.0, 15.0)
    best = grid[np.argmax([evidence(log_t) for log_t in grid], axis=0)]  # (n_targets,)
    for step in 0.5 ** np.arange(1, 21):
        points = best + step * np.array([[0], [-1], [1]])
        values = np.array([evidence(log_t) for log_t in points])
        best = np.take_along_axis(points, values.argmax(0)[None], 0)[0]
    return np.maximum(evidence(best), no_features)


def _as_targets(y, task: str) -> np.ndarray:
    """Make one column of numbers for each class, label or target; drop constant ones."""
    kind = find_target(y, task)
    if kind is NumericTarget:
        targets = check_numbers(y).astype(np.float64).reshape(len(y), -1)
    elif kind is IndicatorTarget:
        targets = y.astype(np.float64)
    else:
        targets = membership(encode_classes(y))
    targets = targets[:, np.ptp(targets, axis=0) > 0]
    if not targets.shape[1]:
        raise ValueError("y is constant; there is nothing that features could explain.")
    return targets


@validate_params({"shrinkage": ["boolean"]}, prefer_skip_nested_validation=True)
@small_in_one_thread
def h_score(features: ArrayLike, y: ArrayLike, *, shrinkage: bool = True) -> float:
    """Compute the share of the features' variance that lies between classes.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        Labels of any type.
    shrinkage : bool, default=True
        Whether the covariance is estimated as by Ledoit and Wolf. Without shrinkage the score of
        pure noise is at its maximum where samples are not more than features.

    Returns
    -------
    float
        Summed over directions: from 0 for constant features to ``n_classes - 1``. Higher is
        better.

    Raises
    ------
    ValueError
        If there are NaN, lengths that differ, or fewer than two classes.

    Notes
    -----
    Without shrinkage :math:`\\mathrm{tr}(\\Sigma^{+} \\Sigma_z)` [1]_, where :math:`\\Sigma` is the
    covariance of the features and :math:`\\Sigma_z` that of each sample's class mean, both divided
    by n. With shrinkage [2]_

    .. math:: \\mathrm{tr}(\\Sigma_\\alpha^{-1} (1 - \\alpha) \\Sigma_z), \\quad
        \\Sigma_\\alpha = (1 - \\alpha) \\Sigma + \\alpha \\sigma I

    with :math:`\\sigma` the mean variance and :math:`\\alpha` the intensity of Ledoit and Wolf
    [3]_. One thin singular value decomposition of the features gives both.

    References
    ----------
    .. [1] Bao et al., "An Information-Theoretic Approach to Transferability in Task Transfer
       Learning", ICIP 2019.
    .. [2] Ibrahim et al., "Newer is not always better", ECML PKDD 2022.
       https://arxiv.org/abs/2110.06893
    .. [3] Ledoit and Wolf, "A well-conditioned estimator for large-dimensional covariance
       matrices", Journal of Multivariate Analysis 88, 2004.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.transferability import h_score
    >>> y = np.repeat(["ant", "bee"], 20)
    >>> noise = np.random.default_rng(0).normal(size=(40, 100))
    >>> round(h_score(noise, y, shrinkage=False), 3), h_score(noise, y) < 0.2
    (1.0, True)
    """
    features, codes = check_labelled(features, y)
    n_samples, n_features = features.shape
    centred = _scaled(_centre(_scaled(features)))
    u, s = _thin_svd(centred)  # (n_samples, rank), (rank,)
    shares = membership(codes) / np.sqrt(np.bincount(codes))
    between = ((shares.T @ u) ** 2).sum(0)  # share of each direction, in [0, 1]
    if not shrinkage:
        return float(between.sum())
    alpha = _ledoit_wolf(centred, s)
    variance = (1 - alpha) * s**2 / n_samples
    target = alpha * (s**2).sum() / (n_samples * n_features)
    return float((between * variance / (variance + target)).sum())


def _ledoit_wolf(centred: np.ndarray, s: np.ndarray) -> float:
    """Compute the intensity of shrinkage from singular values, without a covariance matrix.

    ``sklearn.covariance.ledoit_wolf_shrinkage`` computes the same number in
    ``n_samples * n_features**2`` operations.
    """
    n_samples, n_features = centred.shape
    norm = (s**4).sum() / n_samples**2  # of the covariance, squared
    distance = norm - ((s**2).sum() / n_samples) ** 2 / n_features
    error = (((centred**2).sum(1) ** 2).sum() / n_samples - norm) / n_samples
    return float(min(error, distance) / distance) if distance > 1e-15 * norm else 0.0


@validate_params(
    {"eps": [Interval(Real, 0, None, closed="neither")], "centre_classes": ["boolean"]},
    prefer_skip_nested_validation=True,
)
@small_in_one_thread
def transrate(
    features: ArrayLike, y: ArrayLike, *, eps: float = 1e-4, centre_classes: bool = True
) -> float:
    """Compute the coding rate of all features less the mean rate within classes.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,)
        Labels of any type.
    eps : float, default=0.0001
        Squared distortion up to which features count as encoded, relative to the mean squared
        norm of centred features.
    centre_classes : bool, default=True
        Whether the features of a class are centred by their own mean. False is the published
        formula, which does not depend on the distance between the means of two balanced classes.

    Returns
    -------
    float
        In nats, 0 or more; 0 for constant features. Higher is better. Where classes have fewer
        samples than there are features, the score of noise is nearly as high, and it grows with
        the number of features: compare features of one width there, or use another score.

    Raises
    ------
    ValueError
        If there are NaN, lengths that differ, fewer than two classes, or ``eps`` is not positive.

    Notes
    -----
    With :math:`Z` the features, centred and divided by one number such that their mean squared
    norm is 1, and :math:`Z_c` the :math:`n_c` rows of class :math:`c` [1]_, less their own mean,

    .. math:: R(Z) - \\sum_c \\frac{n_c}{n} R(Z_c), \\quad
        R(Z) = \\frac12 \\log \\det (I + \\frac{1}{n \\epsilon} Z^T Z).

    The score estimates the mutual information of features and labels, for which a class is centred
    by its own mean: for two balanced classes at :math:`\\pm \\mu`, the rates of both around the
    common mean equal that of all samples, and the published form is near 0 for every
    :math:`\\mu`. The listing in the paper also gives all classes the same weight, which may make
    the score negative, and does not scale. The authors' code has the weights of the formula, and
    scales optionally.

    References
    ----------
    .. [1] Huang et al., "Frustratingly Easy Transferability Estimation", ICML 2022.
       https://arxiv.org/abs/2106.09362

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.transferability import transrate
    >>> y = np.repeat(["ant", "bee"], 20)
    >>> noise = np.random.default_rng(0).normal(size=(40, 3))
    >>> transrate(noise + 2 * (y == "bee")[:, None], y) > transrate(noise, y)
    True
    """
    features, codes = check_labelled(features, y)
    centred = GlobalScaler().fit_transform(features) / np.sqrt(features.shape[1])
    shares = np.bincount(codes) / len(codes)
    groups = [centred[codes == c] for c in range(len(shares))]
    if centre_classes:
        groups = [_centre(rows) for rows in groups]
    within = np.array([_coding_rate(rows, eps) for rows in groups])
    return max(0.0, float(_coding_rate(centred, eps) - shares @ within))


def _coding_rate(rows: np.ndarray, eps: float) -> float:
    # Both products have the same determinant. The smaller one is cheaper.
    gram = rows @ rows.T if rows.shape[0] < rows.shape[1] else rows.T @ rows
    return np.linalg.slogdet(np.eye(len(gram)) + gram / (len(rows) * eps))[1] / 2


@validate_params(
    {"cv": ["cv_object"], "random_state": ["random_state"]}, prefer_skip_nested_validation=True
)
@small_in_one_thread
def probe_score(
    features: ArrayLike,
    y: ArrayLike,
    *,
    task: str = "auto",
    cv: Folds = 5,
    scoring: str | Callable[..., float] | None = None,
    random_state: RandomState = 0,
) -> tuple[float, float]:
    """Cross-validate a linear probe, whose score the other scores predict.

    Parameters
    ----------
    features : array-like of shape (n_samples, n_features)
    y : array-like of shape (n_samples,) or (n_samples, n_targets)
        Labels of any type, or numbers to regress on.
    task : {"auto", "classification", "regression"}, default="auto"
        As for :func:`logme`.
    cv : int, cross-validation generator or iterable, default=5
        A number of folds, shuffled and for classes stratified, or splits as in scikit-learn.
        There are no more folds than samples in the largest class.
    scoring : str or callable, default=None
        As in scikit-learn; None is accuracy or R².
    random_state : int, RandomState instance or None, default=0
        For the shuffling.

    Returns
    -------
    mean : float
        Over folds. Higher is better.
    standard_error : float
        Of the mean, as if folds were independent. They share training samples, so that it is
        somewhat too small.

    Raises
    ------
    ValueError
        If there are NaN, lengths that differ, more than one label a sample, or fewer than two
        classes with two samples each; in regression, with fewer than four samples.

    Notes
    -----
    Logistic regression with ``C=0.1`` or ridge regression with ``alpha=10``, on features centred
    and divided by one number for all of them, the root of their mean variance: a scale for each
    feature would amplify the noise of rarely active ones. With one to ten samples per class its
    accuracy was at least that of the nearest class mean (within 0.004), and up to 0.04 higher, on
    digits and on images.

    The only sample of a class is never in both the training and the test set: it counts as an
    error.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sktransfer.transferability import probe_score
    >>> mean, standard_error = probe_score(*load_iris(return_X_y=True))
    >>> round(mean, 2), standard_error < 0.03
    (0.95, True)
    """
    features = check_features(features)
    y = check_target(y, len(features))
    if find_target(y, task) is NumericTarget:
        y = check_numbers(y)
        probe, splits = RidgeProbe(), check_folds(cv, y, random_state)
    else:
        y = check_labels(y)
        codes = encode_classes(y)
        probe, splits = LinearProbe((PROBE_C,)), check_folds(cv, codes, random_state)
    scores = cross_val_score(probe, features, y, cv=splits, scoring=scoring, error_score="raise")
    spread = scores.std(ddof=1) if len(scores) > 1 else np.nan
    return float(scores.mean()), float(spread / np.sqrt(len(scores)))


def _centre(features: np.ndarray) -> np.ndarray:
    """Subtract means; constant features become exactly 0, in spite of rounding errors."""
    return np.where(np.ptp(features, axis=0) > 0, features - features.mean(0), 0.0)


def _scaled(features: np.ndarray) -> np.ndarray:
    """Divide by the largest absolute value, so that squares neither underflow nor overflow."""
    return np.ascontiguousarray(features / (np.abs(features).max() or 1.0))


def _thin_svd(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return left vectors (n, rank) and singular values (rank,) above rounding errors."""
    u, s, _ = np.linalg.svd(matrix, full_matrices=False)
    kept = s > s[0] * max(matrix.shape) * np.finfo(float).eps
    return u[:, kept], s[kept]


# -- a score as a scorer of scikit-learn -----------------------------------------------------------


_FEATURE_SCORES = {f.__name__: f for f in (h_score, logme, probe_score, transrate)}


def make_transferability_scorer(
    score: str | Callable[..., Any], **options: Any
) -> Callable[[Any, Samples, ArrayLike], float]:
    """Make a scorer for transformers, with which a search compares features.

    Parameters
    ----------
    score : {"h_score", "logme", "probe_score", "transrate"} or callable
        A callable takes ``(features, y)`` and returns a number, or a tuple that begins with one.
    **options : dict
        Further arguments of the score.

    Returns
    -------
    callable
        From ``(estimator, X, y)`` to the score of ``estimator.transform(X)``, a float. It can be
        pickled if the score can.

    Raises
    ------
    ValueError
        If there is no score of that name.

    Notes
    -----
    A search does not stratify the folds of a transformer: with sorted labels a fold may hold one
    class only, and its score is NaN. These scores need no hold-out set. A split whose training and
    test sets are all samples, as below, uses every sample and fits each candidate once.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.decomposition import PCA
    >>> from sklearn.model_selection import GridSearchCV
    >>> from sktransfer.transferability import make_transferability_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> every = np.arange(len(X))
    >>> scorer = make_transferability_scorer("h_score")
    >>> grid = {"n_components": [1, 3]}
    >>> search = GridSearchCV(PCA(), grid, scoring=scorer, cv=[(every, every)])
    >>> search.fit(X, y).best_params_
    {'n_components': 3}
    """
    if not callable(score) and score not in list(_FEATURE_SCORES):
        names = ", ".join(map(repr, _FEATURE_SCORES))
        raise ValueError(f"score={score!r}: expected a callable or one of {names}.")
    return _TransferabilityScorer(score, options)


class _TransferabilityScorer:
    """Score the features of a transformer. A class can be pickled, unlike a closure."""

    def __init__(self, score: str | Callable, options: dict):
        self.score = score
        self.options = options

    def __call__(self, estimator, X, y) -> float:
        if not hasattr(estimator, "transform"):
            raise TypeError(
                f"{type(estimator).__name__} has no transform, which this scorer calls. Give it "
                "a transformer, or the part of a pipeline before the classifier."
            )
        score = self.score if callable(self.score) else _FEATURE_SCORES[self.score]
        features = estimator.transform(X)
        if y is not None:  # not every callable needs it
            y = check_target(y, num_samples(features))
        value = score(features, y, **self.options)
        return float(value[0] if isinstance(value, tuple) else value)

    def __repr__(self) -> str:
        name = getattr(self.score, "__name__", repr(self.score))  # of a function, or a string
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        return f"make_transferability_scorer({name}{options})"


# -- checks of arrays ------------------------------------------------------------------------------


_SUM_TOLERANCE = 1e-2  # a softmax over 1000 classes in half precision stays within it


def check_features(features: ArrayLike, name: str = "features") -> np.ndarray:
    """Return finite features in float64, ``(n_samples, n_features)``, of two samples or more."""
    return check_numeric(features, name, ensure_min_samples=2)


def check_numeric(values: ArrayLike, name: str, **settings: Any) -> np.ndarray:
    """Return finite numbers in float64; settings are those of ``sklearn.utils.check_array``."""
    if np.ma.is_masked(values):
        raise ValueError(f"{name} holds masked values. Fill them, or leave these rows out.")
    return naming(name, check_array, values, dtype=np.float64, input_name=name, **settings)


def check_labelled(
    features: ArrayLike, y: ArrayLike, name: str = "features"
) -> tuple[np.ndarray, np.ndarray]:
    """Check features and labels; return them in float64 and as codes from 0."""
    features = check_features(features, name)
    return features, encode_classes(y, len(features))


def encode_classes(y: ArrayLike, n_samples: int | None = None) -> np.ndarray:
    """Check labels of two classes or more and return their codes, ``(n_samples,)``."""
    classes, codes = np.unique(check_labels(y, n_samples), return_inverse=True)
    if len(classes) < 2:
        raise ValueError(
            f"y: all samples have the label {classes[0]}; how well features tell classes apart "
            "needs two classes at least."
        )
    return codes


def membership(codes: np.ndarray) -> np.ndarray:
    """Return an indicator of shape (n_samples, n_classes)."""
    return np.eye(codes.max() + 1)[codes]


def check_probabilities(p: np.ndarray) -> np.ndarray:
    """Return rows that sum to 1 in float64, or raise an error that names the first other row."""
    sums = p.sum(1)
    wrong = np.flatnonzero((p.min(1) < 0) | (abs(sums - 1) > _SUM_TOLERANCE))
    if len(wrong):
        i = wrong[0]
        raise ValueError(
            f"Sample {i}: not probabilities (smallest {p[i].min():.3g}, sum {sums[i]:.3g}). "
            "If these are logits, apply a softmax first."
        )
    return p / sums[:, None]
