"""What is predicted, labels or numbers: their weights, splits, losses, and fits to them."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize, nnls
from scipy.special import logsumexp, softmax
from sklearn import get_config
from sklearn.base import clone
from sklearn.pipeline import Pipeline
from sklearn.utils.metadata_routing import get_routing_for_object
from sklearn.utils.validation import has_fit_parameter

from ..data import ClassTarget, check_weights
from ..features import empty_table
from ..transferability import (
    greedy_weights,
    indicators,
    log_loss,
    make_folds,
    mixture_weights,
    one_thread_if_small,
    temperature,
)

LEAST_PROBABILITY = 1e-6  # of a class
# How candidates of a blend are judged. The numbers were chosen on the first half of the tasks of
# benchmarks/regret.py.
JUDGING: dict[str, Any] = {
    # Folds for few and for many samples, where many begin, and the largest number of splits and of
    # samples judged in them.
    "folds": (5, 3),
    "many": 200,
    "splits": 5,
    "judged": 300,
    # Where nothing can be judged: the temperature of probes.
    "temperature": 0.2,
    # For numbers, whose weights are selected greedily: rounds of the selection, and bags.
    "rounds": 50,
    "bags": 20,
}


class Judged(NamedTuple):
    """The samples on which candidates are judged, those of all splits in a row.

    Parameters
    ----------
    weight : ndarray of float
        Of these; a sample has its weight in all splits together.
    """

    rows: np.ndarray
    weight: np.ndarray


@dataclasses.dataclass(frozen=True)
class BaseOutcome:
    """What is known of some samples: their labels or numbers.

    Parameters
    ----------
    kind : Target
        What they are, the same for all samples.
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        As given.
    weight : ndarray of shape (n_samples,)
    """

    kind: Any
    y: np.ndarray
    weight: np.ndarray

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """Positions of labels among the classes, or standardized numbers."""
        return self.kind.encode(self.y)

    @property
    def n_outputs(self) -> int:
        """The number of classes or targets."""
        return self.kind.n_outputs

    @property
    def strata(self) -> np.ndarray:
        """The group of each sample, of which each part of a split has its share."""
        return self.kind.strata(self.codes)

    def take(self, rows: np.ndarray) -> Self:
        """Return the labels or numbers of some samples."""
        return dataclasses.replace(self, y=self.y[rows], weight=self.weight[rows])

    @property
    def most_folds(self) -> int:
        """The largest number of folds."""
        return len(self.y)

    def is_known(self, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Tell which test samples can be predicted after training on others; by default all."""
        return np.ones(len(test), bool)


class Labels(BaseOutcome):
    """The labels of some samples; ``kind`` is a :class:`ClassTarget`."""

    @property
    def target(self) -> Any:
        """Indicators of the classes ``(n_samples, n_classes)``, sparse if there are many."""
        return indicators(self.codes, self.n_outputs)

    def errors(self, predictions: np.ndarray) -> np.ndarray:
        """Tell which predictions are wrong, as 0 or 1."""
        return (predictions.argmax(1) != self.codes).astype(float)

    @property
    def most_folds(self) -> int:
        """The largest number of folds; none, if all classes have one sample."""
        counts = np.bincount(self.codes)
        return int(counts.max()) if (counts > 0).sum() > 1 else 0

    def is_known(self, train: np.ndarray, test: np.ndarray) -> np.ndarray:
        """Tell which test samples have their class in the training set."""
        return np.isin(self.codes[test], self.codes[train])

    # The temperature of a candidate that is not judged, and of a mean of those.
    unjudged: ClassVar[tuple[float, float]] = (JUDGING["temperature"], 1.0)

    def loss(self, scores: np.ndarray, judged: Judged) -> tuple[float, float | None]:
        """Return the log loss of logits, and the temperature at which it is smallest."""
        codes, smoothing = self.codes[judged.rows], 1 / (len(self.weight) + 2)
        settings = {"label_smoothing": smoothing, "sample_weight": judged.weight}
        heat = temperature(scores, codes, **settings)
        return log_loss(scores / heat, codes, smoothing, judged.weight), heat

    def mix(
        self, predictions: np.ndarray, prior: np.ndarray, judged: Judged, seed: int
    ) -> np.ndarray:
        """Return the weights with which the mean of probabilities explains the labels best."""
        codes = self.codes[judged.rows]
        return mixture_weights(predictions, codes, prior=prior, sample_weight=judged.weight)

    @property
    def base(self) -> np.ndarray:
        """The logarithms of the shares of the classes, by which a product is divided."""
        mass = np.bincount(self.codes, self.weight, self.n_outputs)
        return np.log(np.maximum(mass / mass.sum(), LEAST_PROBABILITY))

    def powers(self, predictions: np.ndarray, judged: Judged) -> np.ndarray:
        """Return the exponents with which a product of probabilities explains the labels best.

        They begin with 1, which is right where columns are independent given the label.
        """
        codes, base = self.codes[judged.rows], self.base
        gains = np.log(np.maximum(predictions, LEAST_PROBABILITY)) - base  # (k, n, n_classes)
        own = gains[:, np.arange(len(codes)), codes]

        def loss(powers: np.ndarray) -> tuple[float, np.ndarray]:
            scores = np.tensordot(powers, gains, 1) + base
            errors = logsumexp(scores, axis=1) - scores[np.arange(len(codes)), codes]
            expected = np.einsum("nc,knc->kn", softmax(scores, axis=1), gains)
            apart = powers - 1
            slope = (expected - own) @ judged.weight + apart
            return float(errors @ judged.weight + apart @ apart / 2), slope

        start = np.ones(len(predictions))
        return minimize(loss, start, jac=True, bounds=[(0, None)] * len(start)).x


class Numbers(BaseOutcome):
    """The numbers of some samples; ``kind`` is a :class:`NumericTarget`."""

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """Standardized numbers, ``(n_samples, n_targets)``, float64."""
        return (self.kind.encode(self.y) - self.kind.mean) / self.kind.scale

    @property
    def target(self) -> np.ndarray:
        """Standardized numbers, ``(n_samples, n_targets)``."""
        return self.codes

    def errors(self, predictions: np.ndarray) -> np.ndarray:
        """Return the squared errors, as shares of the variance."""
        return ((predictions - self.target) ** 2).mean(1)

    unjudged: ClassVar[tuple[None, None]] = (None, None)

    def loss(self, scores: np.ndarray, judged: Judged) -> tuple[float, float | None]:
        """Return the squared error of numbers; they have no temperature."""
        return float(judged.weight @ ((scores - self.target[judged.rows]) ** 2).sum(1)), None

    def mix(
        self, predictions: np.ndarray, prior: np.ndarray, judged: Judged, seed: int
    ) -> np.ndarray:
        """Return the weights with which the mean of numbers has the smallest squared error."""
        return greedy_weights(
            predictions,
            self.target[judged.rows],
            n_rounds=JUDGING["rounds"],
            n_bags=JUDGING["bags"],
            random_state=seed,
            sample_weight=judged.weight,
        )

    @property
    def base(self) -> np.ndarray:
        """The mean of the numbers, which are standardized."""
        return np.zeros(self.n_outputs)

    def powers(self, predictions: np.ndarray, judged: Judged) -> np.ndarray:
        """Return the factors with which a sum of numbers has the smallest squared error.

        They begin with 1, which is right where the number is a sum over independent columns.
        """
        k, scale = len(predictions), np.sqrt(judged.weight)[:, None]
        rows = (predictions * scale).reshape(k, -1).T
        target = (self.target[judged.rows] * scale).ravel()
        return nnls(np.vstack([rows, np.eye(k)]), np.append(target, np.ones(k)))[0]


Outcome = Labels | Numbers


def make_splits(outcome: Outcome, seed: int) -> list[list[Any]]:
    """Split samples into folds, several times if they are few."""
    n, (few, many) = len(outcome.weight), JUDGING["folds"]
    n_folds = min(many if n > JUDGING["many"] else few, outcome.most_folds)
    n_splits = int(np.clip(JUDGING["judged"] // n, 1, JUDGING["splits"])) if n_folds > 1 else 0
    return [make_folds(outcome.codes, n_folds, seed + i) for i in range(n_splits)]


# -- weights, and fits with them -------------------------------------------------------------------


def combined_weights(
    sample_weight: ArrayLike | None, class_weight: Any, y: np.ndarray, estimator: Any
) -> np.ndarray | None:
    """Return the weights of samples, times those of their classes; None where all are 1.

    Parameters
    ----------
    sample_weight : array-like of shape (n_samples,) or None
    class_weight : dict, "balanced" or None
    y : ndarray of shape (n_samples,)
        Labels.
    estimator : estimator or None
        Must accept weights.

    Returns
    -------
    ndarray of shape (n_samples,) or None
    """
    if sample_weight is None and class_weight is None:
        return None
    if estimator is not None:
        check_takes_weights(estimator)
    weight = check_weights(sample_weight, len(y)).copy()
    if class_weight is not None:
        target, used = ClassTarget(np.unique(y)), weight > 0
        weight[used] *= target.class_factors(class_weight, target.encode(y[used]), False)
    return check_weights(weight, len(y))


def check_takes_weights(estimator: Any) -> str:
    """Return the name under which ``fit`` accepts weights.

    Parameters
    ----------
    estimator : estimator

    Raises
    ------
    ValueError
        If it does not accept any.
    """
    name = _weight_parameter(estimator)
    if name is None:
        raise ValueError(
            f"estimator={estimator!r:.200}: its fit does not accept sample_weight. Give an "
            "estimator whose fit does, such as LogisticRegression(), or fit without weights."
        )
    return name


def _weight_parameter(estimator) -> str | None:
    """Return the name under which ``fit`` accepts weights, or None."""
    if has_fit_parameter(estimator, "sample_weight"):
        return "sample_weight"
    if isinstance(estimator, Pipeline):
        name, last = estimator.steps[-1]
        inner = _weight_parameter(last)
        return f"{name}__{inner}" if inner else None
    if get_config()["enable_metadata_routing"]:
        asked = get_routing_for_object(estimator).consumes("fit", ["sample_weight"])
        return "sample_weight" if asked else None
    is_search = hasattr(estimator, "estimator") and hasattr(estimator, "refit")
    return _weight_parameter(estimator.estimator) if is_search else None


def joined_rows(is_known: np.ndarray, known: np.ndarray, rest: np.ndarray) -> np.ndarray:
    """Return a table of the rows that are known and of the others, each at its place.

    Parameters
    ----------
    is_known : ndarray of bool of shape (n_samples,)
    known : ndarray of shape (n_known, n_features)
    rest : ndarray of shape (n_samples - n_known, n_features)

    Returns
    -------
    ndarray of shape (n_samples, n_features)
    """
    table = empty_table((len(is_known), known.shape[1]), known.dtype)
    table[is_known], table[~is_known] = known, rest
    return table


def fit(model: Any, samples: Sequence[Any], y: np.ndarray, weight: np.ndarray | None) -> Any:
    """Fit a model, and pass weights to what learns from labels in it.

    Parameters
    ----------
    model : estimator
        A classifier of raw samples, or a pipeline of a transformer and a classifier.
    y : ndarray of shape (n_samples,)
        Labels.
    weight : ndarray of shape (n_samples,) or None

    Returns
    -------
    estimator
        The same.
    """
    is_table = isinstance(samples, np.ndarray)
    if isinstance(model, Pipeline) and not (is_table and weight is None):
        # Not through the pipeline: how it passes parameters depends on scikit-learn's
        # configuration, and the threads of BLAS on the features.
        features = model[:-1].fit_transform(samples, y) if len(model) > 1 else samples
        fit(model[-1], features, y, weight)
        return model
    weights = {} if weight is None else {check_takes_weights(model): weight}
    with one_thread_if_small(samples) if is_table else contextlib.nullcontext():
        return model.fit(samples, y, **weights)


def seeded(classifier: Any, seed: int) -> Any:
    """Return a copy of a classifier of the user's, with seeds where it has none.

    Parameters
    ----------
    classifier : classifier or None
    seed : int
        The value of each ``random_state`` that is None, in its steps too, as the ensembles of
        scikit-learn set those of their members.
    """
    if classifier is None:
        return None
    classifier = clone(classifier)
    names = [
        name
        for name, value in classifier.get_params(deep=True).items()
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    ]
    return classifier.set_params(**dict.fromkeys(names, seed)) if names else classifier
