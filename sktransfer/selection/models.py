"""What a member of a blend fits on its features, except for linear models of blocks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from scipy.sparse import issparse
from scipy.special import softmax
from sklearn.base import clone
from sklearn.preprocessing import normalize

from ..features import mapped_logits
from ..transferability import (
    inner_products,
    labels_given_classes,
    scale_of,
    unit_rows,
)
from .trials import fit as fit_weighted

__all__ = [
    "Direct",
    "Fitted",
    "Mapped",
    "Model",
    "OnFeatures",
    "Outcome",
    "Tables",
    "logs",
]


class Outcome(Protocol):
    """What is predicted, of some samples: labels or numbers.

    Attributes
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
        As given.
    codes : ndarray of shape (n_samples,)
        Classes by position.
    target : ndarray or sparse array of shape (n_samples, n_outputs)
        Indicators of classes, or numbers.
    n_outputs : int
    weight : ndarray of shape (n_samples,)
        Positive.
    """

    @property
    def y(self) -> np.ndarray: ...

    @property
    def codes(self) -> np.ndarray: ...

    @property
    def weight(self) -> np.ndarray: ...

    @property
    def target(self) -> Any: ...

    @property
    def n_outputs(self) -> int: ...


class Tables:
    """Features by block, with the inner products of their rows.

    Parameters
    ----------
    by_block : mapping of Block to ndarray of shape (n_samples, n_features)
    """

    products: Callable[..., np.ndarray]
    unit: Callable[..., np.ndarray]

    def __init__(self, by_block: Mapping[Any, np.ndarray]):
        self.by_block = by_block
        self.unit = functools.cache(self._unit)
        self.products = functools.cache(self._products)

    def _unit(self, block):
        """Return a block with rows of length 1."""
        table = self.by_block[block]
        return table if issparse(table) else unit_rows(table)

    def _products(self, blocks: tuple) -> np.ndarray:
        """Return the products ``(n, n)`` of rows of blocks, each scaled to a mean square of 1."""
        if len(blocks) == 1:
            return inner_products(self.unit(blocks[0]))
        return np.mean([self.products((block,)) for block in blocks], axis=0)

    def between(self, blocks: tuple[Any, ...], test: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Return the products ``(n_test, n_train)`` of rows with those that a model is fitted to.

        Words that no training row has count as unknown, as those of new texts. They do not belong
        to the length of a row, which is 1.
        """
        found = self.products(blocks)[np.ix_(test, train)]
        counted = [block for block in blocks if issparse(self.unit(block))]
        changes = [self._of_known_words(block, test, train) for block in counted]
        return sum((change / len(blocks) for change in changes), found)

    def _of_known_words(self, block, test: np.ndarray, train: np.ndarray) -> np.ndarray:
        """Return what unknown words change in the products of a block."""
        rows = self.unit(block)
        seen = rows[train].getnnz(axis=0) > 0
        asked, known = rows[test][:, seen], rows[train][:, seen]
        return scale_of(rows) * ((normalize(asked) - asked) @ known.T).toarray()

    def side_by_side(self, blocks: Sequence[Any]) -> np.ndarray:
        """Return the blocks of a member as one array, as they are."""
        parts = [self.by_block[block] for block in blocks]
        return parts[0] if len(parts) == 1 else np.hstack(parts)


class Fitted(Protocol):
    """A fitted model."""

    def scores(self, tables: Tables, blocks: tuple[Any, ...]) -> np.ndarray:
        """Return logits of classes, or numbers, ``(n_samples, n_outputs)``."""


class Model(Protocol):
    """A kind of model: how it is judged on folds, and how it is fitted.

    Attributes
    ----------
    settings : tuple
        What is chosen by cross-validation, such as a penalty.
    usual : object
        The one that is taken where nothing can be judged.
    """

    @property
    def settings(self) -> tuple[Any, ...]: ...

    @property
    def usual(self) -> Any: ...

    def out_of_fold(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, folds: list[Any]
    ) -> np.ndarray:
        """Return the scores of each sample by a model fitted without its fold, by setting."""

    def fit(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, setting: Any
    ) -> Fitted:
        """Fit on all samples."""


@dataclasses.dataclass(frozen=True)
class Conditional:
    """The probability of each label, given a class of the network.

    Parameters
    ----------
    conditional : ndarray of shape (n_source_classes, n_classes)
    """

    conditional: np.ndarray

    def scores(self, tables: Tables, blocks: tuple[Any, ...]) -> np.ndarray:
        """Return logarithms of probabilities, ``(n_samples, n_classes)``."""
        return logs(_own_probabilities(tables, blocks) @ self.conditional)


@dataclasses.dataclass(frozen=True)
class Direct:
    """The network's own classes, mapped onto the labels.

    Parameters
    ----------
    settings : tuple of float
        Pseudo-samples that each class of the network starts with, as ``smoothing`` of
        :class:`PretrainedClassifier`.
    """

    settings: tuple[float, ...]

    @property
    def usual(self) -> float:
        """The first."""
        return self.settings[0]

    def out_of_fold(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, folds: list[Any]
    ) -> np.ndarray:
        """Return logarithms of probabilities ``(n_settings, n_samples, n_classes)``."""
        theta, target = _own_probabilities(tables, blocks), outcome.target
        found = np.empty((len(self.settings), *target.shape))
        for train, test in folds:
            known = theta[train], target[train]
            for i, smoothing in enumerate(self.settings):
                given = labels_given_classes(*known, smoothing, outcome.weight[train])
                found[i, test] = logs(theta[test] @ given)
        return found

    def fit(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, setting: float
    ) -> Conditional:
        """Fit on all samples."""
        theta = _own_probabilities(tables, blocks)
        return Conditional(labels_given_classes(theta, outcome.target, setting, outcome.weight))


@dataclasses.dataclass(frozen=True)
class Mapped:
    """The network's own classes, mapped onto the labels by the user: nothing is fitted.

    Parameters
    ----------
    groups : tuple of tuple of int
        The classes of the network that mean each label, by position.
    """

    groups: tuple[tuple[int, ...], ...]
    settings: tuple[None] = (None,)
    usual: None = None

    def out_of_fold(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, folds: list[Any]
    ) -> np.ndarray:
        """Return logits ``(1, n_samples, n_classes)``."""
        return self.scores(tables, blocks)[None]

    def fit(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, setting: Any
    ) -> Mapped:
        """Return itself."""
        return self

    def scores(self, tables: Tables, blocks: tuple[Any, ...]) -> np.ndarray:
        """Return logits ``(n_samples, n_classes)``."""
        return mapped_logits(tables.by_block[blocks[0]].astype(np.float64), self.groups)


def _own_probabilities(tables: Tables, blocks: tuple) -> np.ndarray:
    return softmax(tables.by_block[blocks[0]].astype(np.float64), axis=1)


def logs(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms; that of zero is minus infinity."""
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


@dataclasses.dataclass(frozen=True)
class OnFeatures:
    """A classifier on features.

    Parameters
    ----------
    estimator : classifier
        With ``predict_proba`` or ``decision_function``.
    """

    estimator: Any
    settings: tuple[None] = (None,)
    usual: None = None

    def out_of_fold(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, folds: list[Any]
    ) -> np.ndarray:
        """Return logits ``(1, n_samples, n_classes)``."""
        X, found = tables.side_by_side(blocks), np.full((1, *outcome.target.shape), -np.inf)
        for train, test in folds:
            classes = np.unique(outcome.codes[train])
            if len(classes) == 1:  # which many classifiers refuse
                found[0, test, classes[0]] = 0
            else:
                found[0, test] = self._fit(X, outcome, train).of(X[test])
        return found

    def fit(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, setting: Any
    ) -> FittedOnFeatures:
        """Fit on all samples."""
        every = np.arange(len(outcome.weight))
        return self._fit(tables.side_by_side(blocks), outcome, every)

    def _fit(self, X: np.ndarray, outcome: Outcome, rows: np.ndarray) -> FittedOnFeatures:
        weight = outcome.weight[rows]
        weight = None if (weight == weight[0]).all() else weight
        fitted = fit_weighted(clone(self.estimator), X[rows], outcome.y[rows], weight)
        columns = np.unique(outcome.codes[rows])  # in the order of the estimator's classes
        return FittedOnFeatures(fitted, columns, outcome.target.shape[1])


@dataclasses.dataclass(frozen=True)
class FittedOnFeatures:
    """A fitted classifier on features.

    Parameters
    ----------
    estimator : classifier
    columns : ndarray of int
        The class of each of its columns.
    n_classes : int
    """

    estimator: Any
    columns: np.ndarray
    n_classes: int

    def scores(self, tables: Tables, blocks: tuple[Any, ...]) -> np.ndarray:
        """Return logits ``(n_samples, n_classes)``."""
        return self.of(tables.side_by_side(blocks))

    def of(self, X: np.ndarray) -> np.ndarray:
        """Return the logits of rows of features."""
        found = np.full((len(X), self.n_classes), -np.inf)
        found[:, self.columns] = self._own(X)
        return found

    def _own(self, X: np.ndarray) -> np.ndarray:
        if hasattr(self.estimator, "predict_proba"):
            return np.log(np.maximum(self.estimator.predict_proba(X), 1e-6))
        scores = self.estimator.decision_function(X)
        return scores if scores.ndim == 2 else np.column_stack([-scores / 2, scores / 2])
