"""Probe the layers of a network with a linear model, all of them from one pass over the data."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold, StratifiedKFold
from sklearn.utils import check_array, check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from .backbones import Backbone
from .layers import _has_matrix, penultimate, resolve_layer, stages_of
from .rules import summarise
from .samples import check_present
from .scaling import PROBE_C, OneScale
from .transferability import find_task

__all__ = [
    "LayerChoice",
    "LinearProbe",
    "candidate_layers",
    "choose_layer",
    "encode_target",
    "judge",
    "make_probe_folds",
    "subsample",
]

# Rows that are probed at most: what so many do not tell apart hardly matters.
_ROWS = 600
_FEWEST_DRAWN = 5  # of each class among them
# Penalties tried, as shares of the mean squared length of a centred row of features.
_PENALTIES = 10.0 ** np.arange(-4, 4)
# An earlier or later layer must beat the default by this many standard errors of the difference.
_CERTAIN = 1.0


@dataclasses.dataclass(frozen=True)
class LayerChoice:
    """What a linear probe makes of several layers, and the layer to take.

    Parameters
    ----------
    layers : tuple of str
        From the input to the output.
    scores : ndarray of shape (n_layers,)
        Cross-validated accuracy, or R² for numbers.
    errors : ndarray of shape (n_layers,)
        Standard error of each, from the spread over samples.
    layer : str
        The chosen layer.
    default : str
        The penultimate layer, which is chosen unless another is clearly better.
    n_features : tuple of int
        The width of each layer.
    is_accuracy : bool
        Whether scores are accuracies.
    """

    layers: tuple[str, ...]
    scores: np.ndarray
    errors: np.ndarray
    layer: str
    default: str
    n_features: tuple[int, ...]
    is_accuracy: bool = True

    def score_of(self, layer: str) -> tuple[float, float]:
        """Return the score of a layer and its standard error."""
        i = self.layers.index(layer)
        return float(self.scores[i]), float(self.errors[i])

    def __repr__(self) -> str:
        lines = [
            f"{'>' if layer == self.layer else ' '} {layer:<20} {score:.3f} ± {error:.3f}"
            for layer, score, error in zip(self.layers, self.scores, self.errors, strict=True)
        ]
        return "\n".join(lines)


def candidate_layers(backbone: Backbone) -> list[str]:
    """Name the layers that are worth probing: the last place before each next stage with weights.

    Parameters
    ----------
    backbone : Backbone

    Returns
    -------
    list of str
        From the input to the penultimate layer, which is the last.
    """
    stages = stages_of(backbone)
    names = list(stages)
    top = names.index(penultimate(backbone))
    heavy = [i for i, stage in enumerate(stages.values()) if _has_matrix(stage)]
    ends = [i - 1 for i in heavy if 0 < i <= top and any(j < i for j in heavy)]
    return [names[i] for i in [*ends, top]]


def choose_layer(
    backbone: Backbone,
    y,
    compute: Callable[[tuple[str, ...], np.ndarray], dict[str, np.ndarray]],
    *,
    layers: Sequence[str | int] | None = None,
    task: str = "auto",
    random_state=None,
) -> LayerChoice:
    """Probe layers and take the default one unless another is clearly better.

    Parameters
    ----------
    backbone : Backbone
    y : array-like of shape (n_samples,)
        Labels, or numbers to regress on.
    compute : callable
        Given names of layers and positions of samples, returns the features
        ``(n_positions, n_features)`` of each layer, from one pass: called once.
    layers : sequence of str or int, default=None
        Candidates, in any order; None takes :func:`candidate_layers`.
    task : {"auto", "classification", "regression"}, default="auto"
        What y is; see :func:`encode_target`.
    random_state : int, RandomState instance or None, default=None
        For the folds, and for the choice of rows, where there are more than 600.

    Returns
    -------
    LayerChoice

    Raises
    ------
    ValueError
        If there is no ``y``, or it is no labels and no numbers.
    """
    if y is None:
        raise ValueError("Choosing a layer requires y to be passed, but the target y is None.")
    asked = candidate_layers(backbone) if layers is None else layers
    wanted = {resolve_layer(backbone, layer) for layer in asked}
    if not wanted:
        raise ValueError("layers=[] asks for no layer at all.")
    # From the input to the output: which layers are neighbours is the network's to say.
    names = tuple(name for name in stages_of(backbone) if name in wanted)
    y = encode_target(y, task)
    rows = subsample(y, _ROWS, random_state)
    tables = compute(names, rows)
    check_consistent_length(tables[names[0]], rows)
    folds = make_probe_folds(y[rows], random_state)
    gains = np.array([judge(tables[name], y[rows], folds) for name in names])
    widths = tuple(tables[name].shape[1] for name in names)
    return _decide(gains, names, penultimate(backbone), widths, not is_numbers(y))


def _decide(gains: np.ndarray, names, default: str, widths, is_accuracy) -> LayerChoice:
    """Choose from what each layer gains on each sample, ``(n_layers, n)``."""
    default = default if default in names else names[-1]
    # The same samples are judged at every layer, so that differences are surer than scores.
    over = _smooth(gains) - gains[names.index(default)]
    value = over.mean(1) - _CERTAIN * _standard_error(over)
    value[names.index(default)] = 0.0
    best = int(np.argmax(value))
    scores, errors = gains.mean(1), _standard_error(gains)
    return LayerChoice(names, scores, errors, names[best], default, widths, is_accuracy)


def _smooth(gains: np.ndarray) -> np.ndarray:
    """Average over neighbouring layers, which are alike: a single high one is mostly chance."""
    padded = np.concatenate([gains[:1], gains, gains[-1:]])
    return (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4


def _standard_error(gains: np.ndarray) -> np.ndarray:
    return np.array([summarise(row)[1] for row in gains])


def subsample(y: np.ndarray, n: int, random_state=None) -> np.ndarray:
    """Choose up to n rows, as many of each class as its share but five at least, sorted.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        Labels, or numbers (floats).
    n : int
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    ndarray of int
    """
    if len(y) <= n:
        return np.arange(len(y))
    shuffled = check_random_state(random_state).permutation(len(y))
    if is_numbers(y):
        return np.sort(shuffled[:n])
    # In the order of the share of its class that each row completes, every class is drawn evenly.
    # A class that is rare among very many would have no row; what is rare matters most.
    codes = np.unique(y, return_inverse=True)[1][shuffled]
    place, counts = np.empty(len(y)), np.bincount(codes)
    first = min(_FEWEST_DRAWN, n // len(counts))
    for code, count in enumerate(counts):
        nth = np.arange(count)
        place[codes == code] = (nth + 0.5) / count - (nth < first)
    return np.sort(shuffled[np.argsort(place, kind="stable")[:n]])


def encode_target(y, task: str = "auto") -> np.ndarray:
    """Return labels as codes (integers), numbers to regress on as floats.

    Parameters
    ----------
    y : array-like of shape (n_samples,)
    task : {"auto", "classification", "regression"}, default="auto"
        "auto" takes whole numbers as labels, as scikit-learn does.

    Returns
    -------
    ndarray of shape (n_samples,), int or float64
    """
    y = column_or_1d(y, warn=True)
    check_present(y)
    if find_task(y, task) == "regression":
        return check_array(y, dtype=np.float64, ensure_2d=False, input_name="y")
    if task == "auto" and _look_like_numbers(y):
        warnings.warn(
            f"y has {len(np.unique(y))} distinct whole numbers, which are taken as labels. If they "
            "are numbers to regress on set task='regression', else task='classification'.",
            stacklevel=2,
        )
    else:
        check_classification_targets(y)
    return np.unique(y, return_inverse=True)[1]


def _look_like_numbers(y: np.ndarray) -> bool:
    """Tell whether labels are many whole numbers with gaps, few samples each."""
    if y.dtype.kind not in "iuf" or not np.isfinite(y).all():
        return False
    n_labels = len(np.unique(y))
    return bool(20 < n_labels <= y.max() - y.min() and len(y) < 10 * n_labels)


def is_numbers(y: np.ndarray) -> bool:
    """Tell whether :func:`encode_target` made numbers, and not codes, of a target."""
    return y.dtype.kind == "f"


def make_probe_folds(y: np.ndarray, random_state=None) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split rows into training and judging, by class: ten folds for up to 100 samples, else five.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
        From :func:`encode_target`.
    random_state : int, RandomState instance or None, default=None

    Returns
    -------
    list of (train, test)
        No more than samples in the smallest class that has three; empty where none has. Samples
        of smaller classes are spread over the folds.
    """
    n_folds = 10 if len(y) <= 100 else 5
    seed = check_random_state(random_state).randint(2**31 - 1)
    if is_numbers(y):
        splitter = KFold(min(n_folds, len(y)), shuffle=True, random_state=seed)
        return list(splitter.split(y[:, None]))
    counts = np.bincount(y)[y]  # of each sample's class
    ample = np.flatnonzero(counts >= 3)
    if len(np.unique(y[ample])) < min(2, len(np.unique(y))):
        return []
    # Each class keeps its share in every fold. Leaving out one sample makes its class the rarest,
    # so that a model which knows nothing is never right.
    n_folds = min(n_folds, counts[ample].min())
    splitter = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # smaller classes are in some folds only
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(splitter.split(y[:, None], y))


def judge(features: np.ndarray, y: np.ndarray, folds: list) -> np.ndarray:
    """Judge each sample with a linear model of other samples.

    Parameters
    ----------
    features : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)
        From :func:`encode_target`.
    folds : list of (train, test)
        From :func:`make_probe_folds`.

    Returns
    -------
    ndarray of shape (n_samples,)
        For labels 1.0 where the sample's is predicted, else 0.0. For numbers 1 less the squared
        error over the variance. The mean is the accuracy, or R².

    Notes
    -----
    Ridge regression on the labels' indicators; the penalty is the one of eight whose squared
    error over all folds is least. Where fewer than two classes have three samples there are no
    folds: the nearest class mean decides, the sample itself left out of its class. A class of one
    is always missed.
    """
    features = features.astype(np.float64)
    if is_numbers(y):
        residual = _residuals(features, y[:, None], folds)
        return 1 - residual[:, 0] ** 2 / (y.var() or 1.0)
    codes = np.unique(y, return_inverse=True)[1]
    counts = np.bincount(codes)
    if not folds:
        return _nearest_mean(features, codes, counts)
    target = np.eye(len(counts))[codes]
    return ((target - _residuals(features, target, folds)).argmax(1) == codes).astype(np.float64)


def _residuals(features: np.ndarray, target: np.ndarray, folds: list) -> np.ndarray:
    """Return residuals ``(n, n_targets)`` on samples that ridge regression has not seen."""
    found = np.empty((len(_PENALTIES), *target.shape))
    for train, test in folds:
        found[:, test] = target[test] - _ridge(features[train], target[train], features[test])
    return found[(found**2).sum((1, 2)).argmin()]


def _ridge(X: np.ndarray, target: np.ndarray, X_test: np.ndarray) -> np.ndarray:
    """Predict with each penalty, ``(n_penalties, n_test, n_targets)``, from one decomposition."""
    mean, level = X.mean(0), target.mean(0)
    X, X_test, target = X - mean, X_test - mean, target - level
    if X.shape[0] <= X.shape[1]:
        squares, u = np.linalg.eigh(X @ X.T)
        left, right = (X_test @ X.T) @ u, u.T @ target
    else:
        squares, v = np.linalg.eigh(X.T @ X)
        left, right = X_test @ v, v.T @ (X.T @ target)
    squares = np.maximum(squares, 0)
    penalties = _PENALTIES * max(squares.sum() / len(X), 1e-12)
    return np.stack([left @ (right / (squares + p)[:, None]) for p in penalties]) + level


def _nearest_mean(features: np.ndarray, codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Tell which samples are nearest to the mean of their own class without them."""
    sums = np.eye(len(counts))[codes].T @ features  # (n_classes, n_features)
    means = sums / counts[:, None]
    squares = (features**2).sum(1)[:, None] - 2 * features @ means.T + (means**2).sum(1)
    own = np.full(len(codes), np.inf)
    several = counts[codes] > 1
    left = counts[codes[several]][:, None] - 1
    mean = (sums[codes[several]] - features[several]) / left
    own[several] = ((features[several] - mean) ** 2).sum(1)
    squares[np.arange(len(codes)), codes] = own
    return (squares.argmin(1) == codes).astype(np.float64) * several


class LinearProbe(ClassifierMixin, BaseEstimator):
    """Logistic regression on features, its penalty chosen by cross-validation.

    Features are centred and divided by one number for all of them, the root of their mean
    variance: a scale for each would lift the noise of rarely active ones. Where samples are
    fewer than features they are first rotated into as many dimensions as there are samples,
    which leaves the model what it is.

    Parameters
    ----------
    Cs : tuple of float, default=(0.01, 0.1, 1.0)
        Inverse penalties tried, by their log loss in three folds. With fewer than five samples
        in a class it is 0.1.
    random_state : int, RandomState instance or None, default=None
        For the folds.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
    C_ : float
        The inverse penalty.
    model_ : LogisticRegression, or DummyClassifier where there is one class only
    """

    def __init__(self, Cs=(0.01, 0.1, 1.0), random_state=None):
        self.Cs = Cs
        self.random_state = random_state

    def fit(self, X, y):
        """Fit on features ``(n_samples, n_features)`` and labels."""
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, counts = np.unique(y, return_counts=True)
        self._scaler, self._basis = OneScale().fit(X), None
        X = self._scaler.transform(X)
        if X.shape[0] < X.shape[1]:
            self._basis = np.linalg.svd(X, full_matrices=False)[2].T  # (n_features, rank)
            X = X @ self._basis
        self.C_ = self._choose_penalty(X, y, counts)
        if len(counts) == 1:
            self.model_ = DummyClassifier().fit(X, y)
        else:
            self.model_ = LogisticRegression(C=self.C_, max_iter=1000).fit(X, y)
        return self

    def _choose_penalty(self, X, y, counts) -> float:
        if len(self.Cs) == 1:
            return self.Cs[0]
        if len(counts) == 1 or counts.min() < 5:
            return PROBE_C
        losses = np.zeros(len(self.Cs))
        folds = StratifiedKFold(3, shuffle=True, random_state=self.random_state)
        for train, test in folds.split(X, y):
            model = LogisticRegression(tol=1e-3, warm_start=True)
            for i, C in enumerate(self.Cs):
                model.set_params(C=C).fit(X[train], y[train])
                losses[i] += log_loss(y[test], model.predict_proba(X[test]))
        return self.Cs[int(losses.argmin())]

    def _turned(self, X) -> np.ndarray:
        X = self._scaler.transform(validate_data(self, X, dtype=np.float64, reset=False))
        return X if self._basis is None else X @ self._basis

    def predict_proba(self, X):
        """Give the probability of each class, ``(n_samples, n_classes)``."""
        check_is_fitted(self)
        return self.model_.predict_proba(self._turned(X))

    def predict(self, X):
        """Give the most probable class."""
        check_is_fitted(self)
        return self.model_.predict(self._turned(X))
