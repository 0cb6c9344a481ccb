"""The candidates of a blend: models of what is read from networks.

A candidate is one object all along. It is proposed (``proposals.py``), gets its setting,
temperature and weight by cross-validation (``blend_fitting.py``), is fitted to all samples, and
is then a part of a :class:`~sktransfer.selection.blend.Blend`. Fitting is done by NumPy on tables
of features; the prediction is the forward of a module of torch in float64, with gradients.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from scipy.sparse import issparse
from scipy.special import softmax
from sklearn.base import clone
from sklearn.preprocessing import normalize
from torch import nn

from ..features import Output, mapped_logits
from ..transferability import (
    MANY_CLASSES,
    Dual,
    discriminant,
    fit_discriminant,
    inner_products,
    labels_given_classes,
    one_thread_if_small,
    scale_of,
    solve_large_ridge,
    solve_ridge,
    unit_rows,
)
from .outcomes import LEAST_PROBABILITY, Outcome
from .outcomes import fit as fit_weighted

_FROM_PRODUCTS = 2000  # rows up to which a linear model is computed from their inner products
_AT_ONCE = 256  # rows of a unit matrix


@dataclasses.dataclass(frozen=True)
class Counts:
    """What is read of texts without a network: counts of words, by the vectorizer of the modality.

    Parameters
    ----------
    column : str or int, default=None
        As of :class:`Output`.
    """

    column: str | int | None = None


@dataclasses.dataclass(frozen=True)
class Tabular:
    """What is read of a table without a network: its numbers and categories."""


Read = Output | Counts | Tabular
COUNTS = Counts()  # of samples that are no table


class Tables:
    """Features of some samples by what is read, with the inner products of their rows.

    Parameters
    ----------
    by_read : mapping of Output, Counts or Tabular to array of shape (n_samples, n_features)
    """

    products: Callable[..., np.ndarray]
    unit: Callable[..., Any]

    def __init__(self, by_read: Mapping[Read, Any]):
        self.by_read = by_read
        self.unit = functools.cache(self._unit)
        self.products = functools.cache(self._products)

    def _unit(self, read):
        """Return features with rows of length 1, which those of counts have; others as they are."""
        table = self.by_read[read]
        return table if isinstance(read, Counts | Tabular) else unit_rows(table)

    def _products(self, reads: tuple[Read, ...], shares: tuple[float, ...]) -> Any:
        """Return the products ``(n, n)`` of rows; the mean square of each table is its share."""
        if len(reads) == 1:
            return inner_products(self.unit(reads[0]))
        parts = zip(shares, reads, strict=True)
        return sum(share * self.products((read,), (1.0,)) for share, read in parts)

    def between(
        self,
        reads: tuple[Read, ...],
        shares: tuple[float, ...],
        test: np.ndarray,
        train: np.ndarray,
    ) -> np.ndarray:
        """Return the products ``(n_test, n_train)`` of rows with those that a model is fitted to.

        Words that no training row has count as unknown, as those of new texts. They do not belong
        to the length of a row, which is 1.
        """
        products = self.products(reads, shares)[np.ix_(test, train)]
        for share, read in zip(shares, reads, strict=True):
            rows = self.unit(read)
            if issparse(rows):
                seen = rows[train].getnnz(axis=0) > 0
                asked, known = rows[test][:, seen], rows[train][:, seen]
                change = ((normalize(asked) - asked) @ known.T).toarray()
                products = products + scale_of(rows) * change * share
        return products

    def side_by_side(self, reads: Sequence[Read]) -> np.ndarray:
        """Return what a candidate reads as one array, as it is."""
        parts = [self.by_read[read] for read in reads]
        return parts[0] if len(parts) == 1 else np.hstack(parts)


class Candidate(nn.Module):
    """A model of outputs of networks: what it reads, how it is judged, and what it predicts.

    Parameters
    ----------
    name : str
    reads : sequence of Output, Counts or Tabular
        The features that it is given.
    prior : str, default=""
        Name of what is known in its favor, in ``BLEND["priors"]``.

    Attributes
    ----------
    settings : tuple
        What cross-validation chooses from, such as penalties.
    setting : object
        The chosen one; before, the one that is taken where nothing can be judged.
    temperature : float or None
        Divides the scores, which are logits. None for numbers, or before it is chosen.
    weight : float
        In the blend; NaN before it is chosen.
    """

    reads: tuple[Read, ...]
    settings: tuple[Any, ...] = (None,)
    setting: Any = None
    weight: float

    def __init__(self, name: str, reads: Sequence[Read], prior: str = ""):
        super().__init__()
        self.name = name
        self.reads = tuple(reads)
        self.prior = prior
        self.temperature: float | None = None
        self.weight = math.nan

    def out_of_fold(self, tables: Tables, outcome: Outcome, folds: list[Any]) -> np.ndarray:
        """Return scores of each sample by a model fitted without its fold.

        Parameters
        ----------
        tables : Tables
        outcome : Outcome
        folds : list of (train, test)

        Returns
        -------
        ndarray of shape (n_settings, n_samples, n_outputs)
        """
        raise NotImplementedError

    def fitted(self, tables: Tables, outcome: Outcome) -> Self:
        """Return this candidate with its setting fitted to all samples; this one is not changed.

        Parameters
        ----------
        tables : Tables
        outcome : Outcome

        Returns
        -------
        Candidate
        """
        fitted = copy.copy(self)
        with one_thread_if_small(tables.by_read):
            fitted._learn(tables, outcome)
        return fitted

    def _learn(self, tables: Tables, outcome: Outcome) -> None:
        raise NotImplementedError

    def scores(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return logits, or numbers, from what is read.

        Parameters
        ----------
        inputs : sequence of Tensor of shape (n_samples, n_features)
            One for each of ``reads``, in float64. Counts are multiplied already: their part of
            the scores, ``(n_samples, n_outputs)``.

        Returns
        -------
        Tensor of shape (n_samples, n_outputs)
        """
        raise NotImplementedError

    def forward(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return probabilities, or standardized numbers, from what is read; see :meth:`scores`."""
        scores = self.scores(inputs)
        return scores if self.temperature is None else (scores / self.temperature).softmax(1)

    def set_tensor(self, name: str, values: Any) -> None:
        """Keep an array of the fitted model as a buffer.

        Parameters
        ----------
        name : str
        values : array-like
        """
        tensor = torch.as_tensor(np.ascontiguousarray(values))
        self.register_buffer(name, tensor)

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes and the tensors as arrays, which skops can write too."""
        own = {k: v for k, v in vars(self).items() if not k.startswith("_") and k != "training"}
        return own | {"tensors": {name: x.numpy() for name, x in self.named_buffers()}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        nn.Module.__init__(self)
        state = dict(state)
        for name, values in state.pop("tensors").items():
            self.register_buffer(name, torch.from_numpy(np.array(values)))
        vars(self).update(state)


def tempered(scores: np.ndarray, temperature: float | None) -> np.ndarray:
    """Return the probabilities of logits at a temperature; without one, the scores."""
    return scores if temperature is None else softmax(scores / temperature, axis=-1)


def logs(probabilities: np.ndarray) -> np.ndarray:
    """Return logarithms; that of zero is minus infinity."""
    with np.errstate(divide="ignore"):
        return np.log(probabilities)


def log_of(probabilities: torch.Tensor) -> torch.Tensor:
    """Return logarithms; that of zero is minus infinity, with a gradient of zero."""
    absent = probabilities <= 0
    return probabilities.masked_fill(absent, 1.0).log().masked_fill(absent, -torch.inf)


# -- linear models ---------------------------------------------------------------------------------


class LinearCandidate(Candidate):
    """Ridge regression on features, or linear discriminant analysis.

    Rows of each output have length 1, and all that is read is scaled as a whole.

    Parameters
    ----------
    name, reads, prior
        As of :class:`Candidate`.
    settings : tuple of float
        Penalties, for rows with a mean square of 1.
    setting : float
        The one where nothing can be judged.
    is_discriminant : bool
        Whether a linear map makes discriminant analysis of the regression on indicators of classes.
    shares : tuple of float, default=()
        The mean square of each of ``reads`` after scaling, with a sum of 1. Equal by default.
    """

    is_discriminant: bool
    shares: tuple[float, ...] = ()
    setting: float
    settings: tuple[float, ...]

    def __init__(
        self,
        name: str,
        reads: Sequence[Read],
        settings: tuple[float, ...],
        setting: float,
        is_discriminant: bool,
        prior: str = "",
        shares: tuple[float, ...] = (),
    ):
        super().__init__(name, reads, prior)
        self.settings, self.setting, self.is_discriminant = settings, setting, is_discriminant
        self.shares = shares or tuple(1 / len(self.reads) for _ in self.reads)

    def out_of_fold(self, tables: Tables, outcome: Outcome, folds: list[Any]) -> np.ndarray:
        reads, shares = self.reads, self.shares
        products, target = tables.products(reads, shares), _dense(outcome.target)
        scores = np.empty((len(self.settings), *target.shape))
        for train, test in folds:
            known = products[np.ix_(train, train)]
            asked = tables.between(reads, shares, test, train)
            to, weight = target[train], outcome.weight[train]
            for i, penalty in enumerate(self.settings):
                model = solve_ridge(known, to, weight, penalty)
                if self.is_discriminant:
                    scores[i, test] = _discriminant_scores(model, known, asked, to, weight)
                else:
                    scores[i, test] = model.scores(asked)
        return scores

    def _learn(self, tables: Tables, outcome: Outcome) -> None:
        rows = [tables.unit(read) for read in self.reads]
        target, weight = outcome.target, outcome.weight
        shared = zip(self.shares, rows, strict=True)
        scales = [share * scale_of(part, weight) for share, part in shared]
        parts = list(zip(scales, rows, strict=True))
        if self.is_discriminant and outcome.n_outputs > MANY_CLASSES:
            side_by_side = np.hstack([np.sqrt(scale) * _dense(part) for scale, part in parts])
            joint, intercept = fit_discriminant(side_by_side, target, weight, self.setting)
            ends = np.cumsum([part.shape[1] for part in rows])[:-1]
            of_parts = zip(scales, np.split(joint, ends), strict=True)
            coefs = [np.sqrt(scale) * coef for scale, coef in of_parts]
        else:
            if len(weight) <= _FROM_PRODUCTS:
                products = np.sum([scale * _dense(part @ part.T) for scale, part in parts], axis=0)
                dual = solve_ridge(products, target, weight, self.setting)
            else:
                scaled = [part * np.sqrt(scale) for scale, part in parts]
                dual = solve_large_ridge(scaled, target, weight, self.setting)
            coefs, intercept = (
                [scale * (part.T @ dual.rows) for scale, part in parts],
                dual.intercept,
            )
            if self.is_discriminant:
                scores = sum((r @ c for r, c in zip(rows, coefs, strict=True)), intercept)
                change, shift = discriminant(scores, target, weight)
                coefs, intercept = [coef @ change for coef in coefs], intercept @ change + shift
        for i, coef in enumerate(coefs):
            self.set_tensor(f"coef_{i}", coef)
        self.set_tensor("intercept", intercept)

    @property
    def coefs(self) -> list[torch.Tensor]:
        """The coefficients ``(n_features, n_outputs)`` of what is read."""
        return [getattr(self, f"coef_{i}") for i in range(len(self.reads))]

    def multiply_counts(self, i: int, counts: Any) -> Any:
        """Return the part of the scores that counts have, ``(n_samples, n_outputs)``.

        Parameters
        ----------
        i : int
            The place of the counts among ``reads``.
        counts : sparse matrix, array or Tensor of shape (n_samples, n_words)
        """
        coef = self.coefs[i]
        return counts @ (coef if isinstance(counts, torch.Tensor) else coef.numpy())

    def scores(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        total: Any = self.intercept
        for read, x, coef in zip(self.reads, inputs, self.coefs, strict=True):
            if not isinstance(read, Counts | Tabular):
                squares = (x * x).sum(1, keepdim=True)
                x = x / torch.where(squares > 0, squares, 1.0).sqrt()
            total = total + (x if isinstance(read, Counts) else x @ coef)
        return total


def _discriminant_scores(
    model: Dual, known: np.ndarray, asked: np.ndarray, target: np.ndarray, weight: np.ndarray
) -> np.ndarray:
    """Return the scores of rows from their products with those that a model is fitted to."""
    # Of the classes that no sample has, all with one constant score, the first stands for all.
    mass = weight @ target
    some = np.sort(np.append(np.flatnonzero(mass), np.flatnonzero(mass == 0)[:1]))
    coef, intercept = discriminant(model.scores(known)[:, some], target[:, some], weight)
    scores = np.full((len(asked), target.shape[1]), intercept[np.argmin(mass[some])])
    scores[:, some] = model.scores(asked)[:, some] @ coef + intercept
    return scores


def _dense(array: Any) -> np.ndarray:
    return array.toarray() if issparse(array) else array


# -- the classes of the network --------------------------------------------------------------------


class OwnClassesCandidate(Candidate):
    """The network's own classes, mapped onto the labels by what the samples show.

    Parameters
    ----------
    name, reads, prior
        As of :class:`Candidate`; the only output has the logits of the network's classes.
    smoothing : float
        Pseudo-samples that each class of the network starts with, as ``smoothing`` of
        :class:`PretrainedClassifier`.
    """

    conditional: torch.Tensor  # (n_source_classes, n_classes)
    setting: float
    settings: tuple[float, ...]

    def __init__(self, name: str, reads: Sequence[Read], smoothing: float, prior: str = ""):
        super().__init__(name, reads, prior)
        self.settings, self.setting = (smoothing,), smoothing

    def out_of_fold(self, tables: Tables, outcome: Outcome, folds: list[Any]) -> np.ndarray:
        theta, target = self._own(tables), outcome.target
        scores = np.empty((1, len(theta), outcome.n_outputs))
        for train, test in folds:
            known = theta[train], target[train]
            given = labels_given_classes(*known, self.setting, outcome.weight[train])
            scores[0, test] = logs(theta[test] @ given)
        return scores

    def _own(self, tables: Tables) -> np.ndarray:
        return softmax(tables.by_read[self.reads[0]].astype(np.float64), axis=1)

    def _learn(self, tables: Tables, outcome: Outcome) -> None:
        theta, weight = self._own(tables), outcome.weight
        given = labels_given_classes(theta, outcome.target, self.setting, weight)
        self.set_tensor("conditional", given)

    def scores(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return log_of(inputs[0].softmax(1) @ self.conditional)


class ClassMapCandidate(Candidate):
    """The network's own classes, mapped onto the labels by the user: nothing is fitted.

    Parameters
    ----------
    name, reads, prior
        As of :class:`Candidate`; the only output has the logits of the network's classes.
    groups : sequence of sequence of int
        The classes of the network that mean each label, by position.
    """

    groups: tuple[tuple[int, ...], ...]

    def __init__(
        self, name: str, reads: Sequence[Read], groups: Sequence[Sequence[int]], prior: str = ""
    ):
        super().__init__(name, reads, prior)
        self.groups = tuple(map(tuple, groups))

    def out_of_fold(self, tables: Tables, outcome: Outcome, folds: list[Any]) -> np.ndarray:
        logits = tables.by_read[self.reads[0]].astype(np.float64)
        return mapped_logits(torch.from_numpy(logits), self.groups).numpy()[None]

    def _learn(self, tables: Tables, outcome: Outcome) -> None:
        pass

    def scores(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        return mapped_logits(inputs[0], self.groups)


# -- classifiers of scikit-learn -------------------------------------------------------------------


class ClassifierCandidate(Candidate):
    """A classifier on features.

    Parameters
    ----------
    name, reads, prior
        As of :class:`Candidate`.
    estimator : classifier
        With ``predict_proba`` or ``decision_function``.

    Attributes
    ----------
    is_linear : bool
        Whether the fitted classifier is a linear function of the features, which the forward then
        has. Others are called with arrays of NumPy: they have no gradients and cannot be exported.
    """

    columns: torch.Tensor  # of the classes that it knows
    coef: torch.Tensor
    estimator: Any
    intercept: torch.Tensor
    is_linear: bool = False
    n_classes: int

    def __init__(self, name: str, reads: Sequence[Read], estimator: Any, prior: str = ""):
        super().__init__(name, reads, prior)
        self.estimator = estimator

    def out_of_fold(self, tables: Tables, outcome: Outcome, folds: list[Any]) -> np.ndarray:
        X = tables.side_by_side(self.reads)
        scores = np.full((1, len(X), outcome.n_outputs), -np.inf)
        for train, test in folds:
            classes = np.unique(outcome.codes[train])
            if len(classes) == 1:  # which many classifiers refuse
                scores[0, test, classes[0]] = 0
            else:
                estimator = self._fit(X, outcome, train)
                scores[0, np.ix_(test, classes)[0], classes] = logits_of(estimator, X[test])
        return scores

    def _fit(self, X: np.ndarray, outcome: Outcome, rows: np.ndarray) -> Any:
        weight = outcome.weight[rows]
        weight = None if (weight == weight[0]).all() else weight
        return fit_weighted(clone(self.estimator), X[rows], outcome.y[rows], weight)

    def _learn(self, tables: Tables, outcome: Outcome) -> None:
        X = tables.side_by_side(self.reads)
        self.estimator = self._fit(X, outcome, np.arange(len(X)))
        self.n_classes = outcome.n_outputs
        self.set_tensor("columns", np.unique(outcome.codes))  # in the order of its classes
        linear = linear_scores(self.estimator, X)
        self.is_linear = linear is not None
        if linear is not None:
            self.set_tensor("coef", linear[0])
            self.set_tensor("intercept", linear[1])

    def scores(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        x = inputs[0] if len(inputs) == 1 else torch.cat(list(inputs), 1)
        if not self.is_linear:
            own = torch.as_tensor(logits_of(self.estimator, x.detach().cpu().numpy()))
        else:
            own = x @ self.coef + self.intercept
            if hasattr(self.estimator, "predict_proba"):
                own = own.softmax(1).clamp_min(LEAST_PROBABILITY).log()
        return spread(own, self.columns, self.n_classes)


def logits_of(estimator: Any, X: np.ndarray) -> np.ndarray:
    """Return the logits that a fitted classifier gives its classes, ``(n_samples, n_classes)``."""
    if hasattr(estimator, "predict_proba"):
        return np.log(np.maximum(estimator.predict_proba(X), LEAST_PROBABILITY))
    return _two_columns(estimator.decision_function(X))


def _two_columns(scores: np.ndarray) -> np.ndarray:
    return scores if scores.ndim == 2 else np.column_stack([-scores, scores]) / 2


def linear_scores(estimator: Any, X: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a classifier as a linear function, if it is one.

    Parameters
    ----------
    estimator : classifier
        Fitted.
    X : ndarray of shape (n_samples, n_features)
        Features on which it is compared with the function.

    Returns
    -------
    coef : ndarray of shape (n_features, n_classes)
    intercept : ndarray of shape (n_classes,)
        Of the logits of the classes. None if its probabilities are not their softmax.
    """
    if hasattr(estimator, "coef_") and hasattr(estimator, "intercept_"):
        coef = np.atleast_2d(estimator.coef_).T.astype(np.float64)
        shift = np.ravel(estimator.intercept_).astype(np.float64)
        if coef.shape[1] == 1:
            coef, shift = _two_columns(coef[:, 0]), _two_columns(shift)[0]
    elif hasattr(estimator, "decision_function"):  # such as a pipeline with a scaler
        n_features = X.shape[1]

        def function(rows: np.ndarray) -> np.ndarray:
            return _two_columns(np.asarray(estimator.decision_function(rows), np.float64))

        shift, parts = function(np.zeros((1, n_features)))[0], []
        for start in range(0, n_features, _AT_ONCE):
            rows = np.eye(min(_AT_ONCE, n_features - start), n_features, start)
            parts.append(function(rows) - shift)
        coef = np.concatenate(parts)
    else:
        return None
    some = X[np.linspace(0, len(X) - 1, min(len(X), 50)).astype(int)].astype(np.float64)
    linear = some @ coef + shift
    if hasattr(estimator, "predict_proba"):
        linear = np.log(np.maximum(softmax(linear, axis=1), LEAST_PROBABILITY))
    expected = logits_of(estimator, some)
    is_equal = linear.shape == expected.shape and np.allclose(linear, expected, atol=1e-6)
    return (coef, shift) if is_equal else None


def spread(own: torch.Tensor, columns: torch.Tensor, n_classes: int) -> torch.Tensor:
    """Put columns at their places among all classes; the others are minus infinity.

    Parameters
    ----------
    own : Tensor of shape (n_samples, n_own)
    columns : Tensor of shape (n_own,), int64

    Returns
    -------
    Tensor of shape (n_samples, n_classes)
    """
    if len(columns) == n_classes:
        return own
    place = nn.functional.one_hot(columns, n_classes)  # (n_own, n_classes)
    return (own @ place.to(own.dtype)).masked_fill(place.sum(0) == 0, -torch.inf)


# -- a trained network -----------------------------------------------------------------------------


class TunedCandidate(Candidate):
    """A network whose stages were trained: the only output has its logits or numbers.

    It is mixed with the mean of the other candidates when that has its temperature.

    Parameters
    ----------
    name, reads
        As of :class:`Candidate`.
    factor, shift : ndarray of shape (n_targets,), default=None
        For numbers: from its outputs to those that the blend standardizes.
    columns : ndarray of int, default=None
        For labels: the class of each of its outputs.
    """

    columns: torch.Tensor
    factor: torch.Tensor
    shift: torch.Tensor

    def __init__(
        self,
        name: str,
        reads: Sequence[Read],
        *,
        factor: np.ndarray | None = None,
        shift: np.ndarray | None = None,
        columns: np.ndarray | None = None,
        n_classes: int = 0,
    ):
        super().__init__(name, reads)
        self.n_classes = n_classes
        if columns is not None:
            self.set_tensor("columns", columns)
        else:
            self.set_tensor("factor", factor)
            self.set_tensor("shift", shift)

    def scores(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        if not self.n_classes:
            return inputs[0] * self.factor + self.shift
        own = inputs[0].softmax(1).clamp_min(LEAST_PROBABILITY).log()
        return spread(own, self.columns, self.n_classes)


# -- columns that are judged alone -----------------------------------------------------------------


class ProductCandidate(Candidate):
    """The product of the probabilities that the columns of a table give, or the sum of numbers.

    With exponents of 1, it is Bayes' rule for columns that are independent given the label: the
    probabilities of each column are divided by the shares of the classes.

    Parameters
    ----------
    columns : sequence of sequence of Candidate
        The models of each column with their weights, which sum to 1.
    powers : array-like of float
        The exponent of each column, or the factor of its numbers.
    base : array-like of float
        Logarithms of the shares of the classes, or means of the numbers.
    temperature : float or None
        1 for probabilities; None for numbers.
    """

    base: list[float]
    parts: nn.ModuleList
    powers: list[float]
    sizes: list[int]

    def __init__(
        self,
        name: str,
        columns: Sequence[Sequence[Candidate]],
        powers: Any,
        base: Any,
        temperature: float | None,
    ):
        parts = [candidate for column in columns for candidate in column]
        super().__init__(name, [read for candidate in parts for read in candidate.reads])
        self.parts = nn.ModuleList(parts)
        self.sizes = [len(column) for column in columns]
        self.powers, self.base = list(map(float, powers)), list(map(float, base))
        self.temperature = temperature

    def _columns(self) -> list[list[Any]]:
        parts = iter(self.parts)
        return [list(itertools.islice(parts, size)) for size in self.sizes]

    def fitted(self, tables: Tables, outcome: Outcome) -> ProductCandidate:
        columns = [[part.fitted(tables, outcome) for part in own] for own in self._columns()]
        fitted = ProductCandidate(self.name, columns, self.powers, self.base, self.temperature)
        fitted.weight = self.weight
        return fitted

    def multiply_counts(self, i: int, counts: Any) -> Any:
        """Return the part of the scores of one model that counts have; see its own method."""
        for part in self.parts:
            candidate: Any = part
            if i < len(candidate.reads):
                return candidate.multiply_counts(i, counts)
            i -= len(candidate.reads)
        raise IndexError(i)

    def scores(self, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
        given = iter(inputs)
        base = torch.tensor(self.base, dtype=torch.float64)
        total: Any = base
        for power, own in zip(self.powers, self._columns(), strict=True):
            mean: Any = 0.0
            for part in own:
                mean = mean + part.weight * part(list(itertools.islice(given, len(part.reads))))
            if self.temperature is not None:
                mean = mean.clamp_min(LEAST_PROBABILITY).log() - base
            total = total + power * mean
        return total

    def __getstate__(self) -> dict[str, Any]:
        """Return the arguments of the constructor, and the weight."""
        names = ("name", "powers", "base", "temperature", "weight")
        return {name: getattr(self, name) for name in names} | {"columns": self._columns()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        weight = state.pop("weight")
        ProductCandidate.__init__(self, **state)
        self.weight = weight
