"""Linear models of blocks of features: ridge regression and discriminant analysis."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from scipy.sparse import issparse

from ..transferability import (
    MANY_CLASSES,
    Dual,
    discriminant,
    fit_discriminant,
    scale_of,
    solve_large_ridge,
    solve_ridge,
)
from .models import Model, Outcome, Tables

__all__ = ["Discriminant", "Linear", "Probe", "for_single_samples"]

_DUAL = 2000  # rows up to which a model is computed from their inner products


@dataclasses.dataclass(frozen=True)
class Linear:
    """A fitted linear model of blocks whose rows have length 1.

    Parameters
    ----------
    coef : list of ndarray of shape (n_features, n_outputs)
        For each block.
    intercept : ndarray of shape (n_outputs,)
    """

    coef: list[np.ndarray]
    intercept: np.ndarray

    def scores(self, tables: Tables, blocks: tuple[Any, ...]) -> np.ndarray:
        """Return ``(n_samples, n_outputs)``."""
        pairs = zip(blocks, self.coef, strict=True)
        return sum((tables.unit(block) @ coef for block, coef in pairs), self.intercept)


@dataclasses.dataclass(frozen=True)
class Probe:
    """Ridge regression on blocks of features: on the indicators of classes, or on numbers.

    Rows of each block have length 1, and each block is scaled as a whole.

    Parameters
    ----------
    settings : tuple of float
        Penalties, for rows with a mean square of 1.
    usual : float
    """

    settings: tuple[float, ...]
    usual: float

    def out_of_fold(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, folds: list[Any]
    ) -> np.ndarray:
        """Return ``(n_settings, n_samples, n_outputs)``."""
        products, target = tables.products(blocks), _dense(outcome.target)
        found = np.empty((len(self.settings), *target.shape))
        for train, test in folds:
            known, asked = products[np.ix_(train, train)], tables.between(blocks, test, train)
            for i, penalty in enumerate(self.settings):
                fitted_to = target[train], outcome.weight[train]
                model = solve_ridge(known, *fitted_to, penalty)
                found[i, test] = self._scores(model, known, asked, *fitted_to)
        return found

    def _scores(
        self,
        model: Dual,
        known: np.ndarray,
        asked: np.ndarray,
        target: np.ndarray,
        weight: np.ndarray,
    ) -> np.ndarray:
        """Return the scores of rows from their products with those that a model is fitted to."""
        return model.scores(asked)

    def fit(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, setting: float
    ) -> Linear:
        """Fit on all samples."""
        rows = [tables.unit(block) for block in blocks]
        scales = [scale_of(part, outcome.weight) / len(blocks) for part in rows]
        if len(outcome.weight) <= _DUAL:
            parts = [s * _dense(part @ part.T) for s, part in zip(scales, rows, strict=True)]
            products = np.sum(parts, axis=0)
            dual = solve_ridge(products, outcome.target, outcome.weight, setting)
        else:
            scaled = [part * np.sqrt(scale) for scale, part in zip(scales, rows, strict=True)]
            dual = solve_large_ridge(scaled, outcome.target, outcome.weight, setting)
        coef = [scale * (part.T @ dual.rows) for scale, part in zip(scales, rows, strict=True)]
        return Linear(coef, dual.intercept)


@dataclasses.dataclass(frozen=True)
class Discriminant(Probe):
    """Linear discriminant analysis of blocks of features, whose penalty is that of the probe."""

    def _scores(
        self,
        model: Dual,
        known: np.ndarray,
        asked: np.ndarray,
        target: np.ndarray,
        weight: np.ndarray,
    ) -> np.ndarray:
        # Of the classes that no sample has, all with one constant score, the first stands for all.
        mass = weight @ target
        some = np.sort(np.append(np.flatnonzero(mass), np.flatnonzero(mass == 0)[:1]))
        coef, intercept = discriminant(model.scores(known)[:, some], target[:, some], weight)
        found = np.full((len(asked), target.shape[1]), intercept[np.argmin(mass[some])])
        found[:, some] = model.scores(asked)[:, some] @ coef + intercept
        return found

    def fit(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, setting: float
    ) -> Linear:
        """Fit on all samples."""
        if outcome.n_outputs > MANY_CLASSES:
            return self._fit_many(tables, blocks, outcome, setting)
        probe = super().fit(tables, blocks, outcome, setting)
        scores = probe.scores(tables, blocks)
        coef, intercept = discriminant(scores, outcome.target, outcome.weight)
        return Linear([own @ coef for own in probe.coef], probe.intercept @ coef + intercept)

    def _fit_many(
        self, tables: Tables, blocks: tuple[Any, ...], outcome: Outcome, setting: float
    ) -> Linear:
        """Fit many classes from the covariance of the features."""
        rows = [_dense(tables.unit(block)) for block in blocks]
        roots = [np.sqrt(scale_of(part, outcome.weight) / len(blocks)) for part in rows]
        features = np.hstack([root * part for root, part in zip(roots, rows, strict=True)])
        coef, intercept = fit_discriminant(features, outcome.target, outcome.weight, setting)
        ends = np.cumsum([part.shape[1] for part in rows])[:-1]
        parts = np.split(coef, ends)
        return Linear([root * part for root, part in zip(roots, parts, strict=True)], intercept)


def for_single_samples(model: Model) -> Model:
    """Return the model for one sample of each class: nothing varies within classes."""
    return Probe(model.settings, model.usual) if isinstance(model, Discriminant) else model


def _dense(products) -> np.ndarray:
    return products.toarray() if issparse(products) else products
