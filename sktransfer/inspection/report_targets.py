"""What a page shows of predictions, for each kind of target: labels, sets of labels, numbers."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import is_regressor
from sklearn.metrics import (
    average_precision_score,
    confusion_matrix,
    precision_recall_fscore_support,
    r2_score,
)
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold
from sklearn.utils.multiclass import type_of_target

from ..data import (
    ClassTarget,
    IndicatorTarget,
    NumericTarget,
    Target,
    check_indicator,
    check_labels,
    check_numbers,
    check_target,
)
from ..features import find_network, takes_most_probable
from ..transferability import check_folds
from .displays import most_confused
from .label_issues import LabelIssues, find_label_issues, label_probabilities
from .metrics import (
    CalibrationBin,
    Score,
    calibration_bins,
    class_scores,
    label_set_scores,
    number_scores,
)
from .page import ErrorGroup, PageTable, Scatter

_LARGEST_TABLE = 25  # classes of a confusion matrix that is shown
_POINTS = 400  # of a figure
_FIFTHS = 5  # parts of the range of y


def report_of_target(estimator: Any, y: Any) -> TargetReport:
    """Check the target of an estimator, and find out its kind.

    It is numbers for a regressor, labels or an indicator matrix otherwise; columns of a table have
    names.
    """
    names = [str(name) for name in getattr(y, "columns", ())]
    if is_regressor(estimator):
        return NumberReport(check_numbers(y), names)
    values = check_target(y)
    if type_of_target(values).startswith("multilabel"):
        check_indicator(values)
        return LabelSetReport(values.astype(int), names)
    return LabelReport(check_labels(y))


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of samples by models that have not seen them.

    Parameters
    ----------
    predicted : ndarray of shape (n_samples,) or (n_samples, n_columns)
    probabilities : ndarray of shape (n_samples, n_classes) or None
    models : list of estimator
        Fitted without a fold each.
    fold : ndarray of int of shape (n_samples,)
        The model that predicted each sample, by position.
    fit_seconds : list of float
        For each fold.
    n_train : float
        Samples in a fit, the mean over folds.
    """

    predicted: np.ndarray
    probabilities: np.ndarray | None
    models: list[Any]
    fold: np.ndarray
    fit_seconds: list[float]
    n_train: float


class TargetReport(abc.ABC):
    """What a page shows of a target of one kind, and how it is split and predicted.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_columns)
    names : sequence of str, default=()
        Of the columns.

    Attributes
    ----------
    target : Target
        Encodes y and knows its labels or units.
    confusion : str
        The title of the section on wrong predictions; empty if there is none.
    meaning : str
        What pictures of saliency show.
    calibrated : str
        What probabilities should be.
    share : str
        What they are compared with.
    noun : str
        What is counted.
    """

    names: list[str]
    target: Target
    y: np.ndarray
    confusion: str = ""
    meaning: str = ""
    calibrated: str = ""
    share: str = "accuracy"
    noun: str = "class"

    def __init__(self, y: np.ndarray, names: Sequence[str] = ()):
        self.y, self.names = y, list(names)

    def take(self, rows: np.ndarray) -> Self:
        """Return the report of some samples."""
        return type(self)(self.y[rows], self.names)

    def knowing(self, model: Any) -> TargetReport:
        """Return the report with the classes of a fitted model too."""
        return self

    @abc.abstractmethod
    def check(self, cv: int) -> None:
        """Raise a ValueError if there are too few samples for the folds."""

    @abc.abstractmethod
    def folds(
        self, groups: np.ndarray, cv: int, random_state: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return rows to train and to test on; each group is in one fold."""

    @abc.abstractmethod
    def predict(self, model: Any, X: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Return predictions in the form of y and, if a model has them, probabilities."""

    @abc.abstractmethod
    def errors(self, predictions: Predictions) -> np.ndarray:
        """Return the positions of errors, the worst first."""

    @abc.abstractmethod
    def scores(self, predictions: Predictions) -> list[Score]:
        """Return scores with intervals."""

    @abc.abstractmethod
    def baseline(self) -> str:
        """Return a sentence on what a constant prediction would give."""

    def text(self, value: Any) -> str:
        """Return a row of y, or of predictions, as text."""
        return as_text(value)

    def sure(self, predictions: Predictions, i: int) -> float:
        """Return the probability of a prediction; NaN where there is none."""
        return float("nan")

    def explained(self, predictions: Predictions, rows: list[int]) -> list[Any] | None:
        """Return the target whose saliency is shown for each sample."""
        return None

    def explanation(self, predictions: Predictions, i: int) -> str:
        """Return the name of that target, if a sample has several."""
        return ""

    def sizes(self) -> dict[str, int]:
        """Return the number of samples of each label."""
        return {}

    def groups(self, predictions: Predictions, order: np.ndarray) -> list[ErrorGroup]:
        """Return wrong predictions by their kind, the most frequent first."""
        return []

    def matrix(self, predictions: Predictions) -> tuple[list[str], np.ndarray] | None:
        """Return labels and their confusion matrix, if it is not too large."""
        return None

    def bins(self, predictions: Predictions) -> list[CalibrationBin]:
        """Return how often predictions of some probability are right."""
        return []

    def issues(self, predictions: Predictions) -> LabelIssues | None:
        """Return labels that are probably wrong; None without probabilities."""
        return None

    def table(self, predictions: Predictions) -> PageTable | None:
        """Return the scores of each column of y."""
        return None

    def scatters(self, predictions: Predictions) -> list[Scatter]:
        """Return predictions against true numbers, for each column of y."""
        return []

    def residuals(self, predictions: Predictions) -> list[PageTable]:
        """Return the errors of parts of the range of y, for each column of y."""
        return []


class LabelReport(TargetReport):
    """One label for each sample; ``classes`` are all labels, by default those of y."""

    target: ClassTarget
    confusion: str = "Confusion"
    meaning: str = (
        "The wrong predictions with the highest probability. Parts in red speak for the wrong "
        "prediction, parts in blue against it."
    )
    calibrated: str = "Of predictions with a probability of 80 %, 80 % should be right."

    def __init__(self, y: np.ndarray, names: Sequence[str] = (), classes: np.ndarray | None = None):
        super().__init__(y, names)
        self.target = ClassTarget(np.unique(y) if classes is None else classes)

    @property
    def classes(self) -> np.ndarray:
        """All labels, sorted."""
        return self.target.classes

    def knowing(self, model: Any) -> LabelReport:
        """Return the report with the classes of a fitted model too."""
        own, given = model.classes_, self.classes
        if isinstance(own[0], str) != isinstance(given[0], str):
            raise ValueError(
                f"y has labels such as {given[0]!r}, and the model has {own[0]!r}: give y the "
                "labels of the model, as with y.astype(model.classes_.dtype)."
            )
        labels = np.unique(np.concatenate([own, given]))
        return LabelReport(self.y, self.names, labels)

    def check(self, cv: int) -> None:
        """Raise a ValueError if there are too few samples for the folds."""
        check_folds(cv, self.target.encode(self.y), 0)

    def folds(
        self, groups: np.ndarray, cv: int, random_state: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return rows to train and to test on, stratified."""
        strata = self.target.strata(self.target.encode(self.y))
        folds = min(cv, len(np.unique(groups)), int(np.bincount(strata).max()))
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=random_state)
        return splitter.split(np.empty((len(strata), 0)), strata, groups)

    def predict(self, model: Any, X: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Return what the model predicts, and probabilities of all classes."""
        if not hasattr(model, "predict_proba"):
            return model.predict(X), None
        network = find_network(model)
        behind, features = network.behind(network.samples(X))  # the network runs once
        own = behind.predict_proba(features)
        table = np.zeros((len(own), len(self.classes)))
        table[:, np.searchsorted(self.classes, model.classes_)] = own
        if takes_most_probable(behind):
            return self.classes[table.argmax(1)], table
        return behind.predict(features), table

    def errors(self, predictions: Predictions) -> np.ndarray:
        """Return the positions of wrong predictions, the most certain first."""
        return most_confused(self.y, predictions.predicted, predictions.probabilities, self.classes)

    def scores(self, predictions: Predictions) -> list[Score]:
        """Return accuracies, F1 and log loss."""
        return class_scores(self.y, predictions.predicted, predictions.probabilities, self.classes)

    def baseline(self) -> str:
        """Return the accuracy of the largest class."""
        share = max(self.sizes().values()) / len(self.y)
        return f"Always predicting the largest class would give an accuracy of {share:.3f}."

    def sure(self, predictions: Predictions, i: int) -> float:
        """Return the probability of a prediction; NaN where there is none."""
        table = predictions.probabilities
        if table is None:
            return float("nan")
        return float(table[i, np.searchsorted(self.classes, predictions.predicted[i])])

    def explained(self, predictions: Predictions, rows: list[int]) -> list[Any]:
        """Return the predicted labels."""
        return predictions.predicted[rows].tolist()

    def sizes(self) -> dict[str, int]:
        """Return the number of samples of each label."""
        labels, counts = np.unique(self.y, return_counts=True)
        return {as_text(label): int(n) for label, n in zip(labels, counts, strict=True)}

    def groups(self, predictions: Predictions, order: np.ndarray) -> list[ErrorGroup]:
        """Return wrong predictions by label and prediction, the most frequent first."""
        pairs: dict[str, list[int]] = {}
        for i in order:
            title = f"{as_text(self.y[i])} predicted as {as_text(predictions.predicted[i])}"
            pairs.setdefault(title, []).append(int(i))
        return [ErrorGroup(*pair) for pair in sorted(pairs.items(), key=lambda pair: -len(pair[1]))]

    def matrix(self, predictions: Predictions) -> tuple[list[str], np.ndarray] | None:
        """Return labels and their confusion matrix, if it is not too large."""
        labels = np.unique(np.concatenate([self.y, predictions.predicted]))
        if len(labels) > _LARGEST_TABLE:
            return None
        matrix = confusion_matrix(self.y, predictions.predicted, labels=labels)
        return [as_text(label) for label in labels], matrix

    def bins(self, predictions: Predictions) -> list[CalibrationBin]:
        """Return how often predictions of some probability are right."""
        table, predicted = predictions.probabilities, predictions.predicted
        if table is None:
            return []
        own = table[np.arange(len(table)), np.searchsorted(self.classes, predicted)]
        return calibration_bins(own, predicted == self.y)

    def issues(self, predictions: Predictions) -> LabelIssues | None:
        """Return labels that are probably wrong; None without probabilities."""
        if predictions.probabilities is None:
            return None
        known = np.isin(self.classes, np.unique(self.y))
        table = predictions.probabilities[:, known]
        return find_label_issues(None, self.y, self.y, probabilities=table)


class LabelSetReport(TargetReport):
    """Several labels for each sample, as an indicator matrix; by default "label 0" and so on."""

    target: IndicatorTarget
    confusion: str = "Wrong labels"
    meaning: str = (
        "The samples with the most certain wrong label, which is the one that is explained. Parts "
        "in red speak for this label, parts in blue against it."
    )
    calibrated: str = "Of labels with a probability of 80 %, 80 % should be there."
    share: str = "share of labels"
    noun: str = "label"

    def __init__(self, y: np.ndarray, names: Sequence[str] = ()):
        super().__init__(y, names or [f"label {j}" for j in range(y.shape[1])])
        self.target = IndicatorTarget(y.shape[1])

    def check(self, cv: int) -> None:
        """Raise a ValueError if there are fewer than four samples."""
        check_folds(cv, self.target.encode(self.y), 0)

    def folds(
        self, groups: np.ndarray, cv: int, random_state: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return rows to train and to test on, stratified by the rarest label of each."""
        folds = min(cv, len(np.unique(groups)))
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=random_state)
        return splitter.split(np.empty((len(self.y), 0)), self._strata(folds), groups)

    def _strata(self, folds: int) -> np.ndarray:
        """Return one plus the column of the rarest label of each sample, 0 for no label."""
        counts = self.y.sum(0)
        rarest = np.where(self.y == 1, counts, len(self.y) + 1).argmin(1)
        strata = np.where(self.y.any(1), 1 + rarest, 0)
        values, sizes = np.unique(strata, return_counts=True)
        return np.where(np.isin(strata, values[sizes < folds]), values[sizes.argmax()], strata)

    def predict(self, model: Any, X: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Return an indicator matrix and the probability of each label."""
        has_odds = hasattr(model, "predict_proba")
        return model.predict(X), label_probabilities(model, X) if has_odds else None

    def _wrong(self, predictions: Predictions) -> np.ndarray:
        """Return how certain each wrong label is, 0 for right ones, ``(n_samples, n_labels)``."""
        wrong = (self.y != predictions.predicted).astype(float)
        if predictions.probabilities is None:
            return wrong
        return wrong * (np.abs(predictions.probabilities - 0.5) + 1e-9)

    def errors(self, predictions: Predictions) -> np.ndarray:
        """Return the positions of samples with wrong labels, the most certain first."""
        wrong = self._wrong(predictions)
        rows = np.flatnonzero(wrong.any(1))
        key = wrong.sum(1) if predictions.probabilities is None else wrong.max(1)
        return rows[np.argsort(-key[rows], kind="stable")]

    def scores(self, predictions: Predictions) -> list[Score]:
        """Return accuracy, F1, Hamming loss and log loss."""
        return label_set_scores(self.y, predictions.predicted, predictions.probabilities)

    def baseline(self) -> str:
        """Return the Hamming loss of the more frequent value of each label."""
        share = self.y.mean(0)
        loss = np.minimum(share, 1 - share).mean()
        return (
            f"Each sample has {self.y.sum(1).mean():.2f} labels on average. Always predicting the "
            f"more frequent value of each label would give a Hamming loss of {loss:.3f}."
        )

    def text(self, value: Any) -> str:
        """Return the names of the labels of a row."""
        return ", ".join(self.names[j] for j in np.flatnonzero(value)) or "no label"

    def explained(self, predictions: Predictions, rows: list[int]) -> list[Any]:
        """Return the most certain wrong label of each sample, as the models call it."""
        columns = self._wrong(predictions)[rows].argmax(1)
        classes: Any = getattr(predictions.models[0], "classes_", None)
        is_named = isinstance(classes, np.ndarray)  # and no list, of a model for each label
        return (classes[columns] if is_named else columns).tolist()

    def explanation(self, predictions: Predictions, i: int) -> str:
        """Return the label that is explained, with its probability."""
        j = int(self._wrong(predictions)[i].argmax())
        if predictions.probabilities is None:
            return self.names[j]
        return f"{self.names[j]} ({predictions.probabilities[i, j]:.0%})"

    def sizes(self) -> dict[str, int]:
        """Return the number of samples of each label."""
        return dict(zip(self.names, self.y.sum(0).astype(int).tolist(), strict=True))

    def groups(self, predictions: Predictions, order: np.ndarray) -> list[ErrorGroup]:
        """Return labels that are missed, and those that are predicted wrongly."""
        wrong, groups = self._wrong(predictions), []
        for j, name in enumerate(self.names):
            for present, what in ((0, "predicted, not labelled"), (1, "labelled, not predicted")):
                rows = np.flatnonzero((wrong[:, j] > 0) & (self.y[:, j] == present))
                rows = rows[np.argsort(-wrong[rows, j], kind="stable")]
                if len(rows):
                    groups.append(ErrorGroup(f"{name} {what}", rows.tolist()))
        return sorted(groups, key=lambda group: -group.count)

    def bins(self, predictions: Predictions) -> list[CalibrationBin]:
        """Return how often labels of some probability are there."""
        table = predictions.probabilities
        return [] if table is None else calibration_bins(table.ravel(), self.y.ravel() == 1)

    def issues(self, predictions: Predictions) -> LabelIssues | None:
        """Return labels that are probably missing or wrong; None without probabilities."""
        table = predictions.probabilities
        if table is None:
            return None
        rows, columns = [], []
        for j, p in enumerate(table.T):
            two = np.column_stack([1 - p, p])[:, np.unique(self.y[:, j]).astype(int)]
            own = find_label_issues(None, self.y, self.y[:, j], probabilities=two).indices
            rows += own.tolist()
            columns += [j] * len(own)
        return self._as_issues(np.array(rows, int), np.array(columns, int), table)

    def _as_issues(self, rows: np.ndarray, columns: np.ndarray, table: np.ndarray) -> LabelIssues:
        quality = np.where(self.y == 1, table, 1 - table)
        order = np.argsort(quality[rows, columns], kind="stable")
        rows, columns = rows[order], columns[order]
        texts = [[f"{prefix} {self.names[j]}" for prefix in ("without", "with")] for j in columns]
        given = self.y[rows, columns].astype(int)
        return LabelIssues(
            rows,
            np.array([pair[value] for pair, value in zip(texts, given, strict=True)]),
            np.array([pair[1 - value] for pair, value in zip(texts, given, strict=True)]),
            quality.min(1),
            table,
            np.array(self.names),
        )

    def table(self, predictions: Predictions) -> PageTable:
        """Return precision, recall and F1 of each label, and the area under their curve."""
        columns = precision_recall_fscore_support(
            self.y, predictions.predicted, zero_division=np.nan
        )[:3]
        header = ["label", "samples", "precision", "recall", "F1"]
        cells = [self.y.sum(0).astype(int), *columns]
        if predictions.probabilities is not None:
            header.append("average precision")
            cells.append(_average_precision(self.y, predictions.probabilities))
        rows = [
            [name, str(n), *map(_number, rest)]
            for name, n, *rest in zip(self.names, *cells, strict=True)
        ]
        return PageTable("Scores of each label", header, rows)


def _average_precision(y: np.ndarray, table: np.ndarray) -> list[float]:
    return [
        average_precision_score(own, p) if own.any() else float("nan")
        for own, p in zip(y.T, table.T, strict=True)
    ]


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"


class NumberReport(TargetReport):
    """One or several numbers for each sample; by default named "y", or "target 0" and so on."""

    meaning: str = (
        "The predictions with the largest error. Parts in red raise the prediction, parts in blue "
        "lower it."
    )

    target: NumericTarget

    def __init__(self, y: np.ndarray, names: Sequence[str] = ()):
        self.target = NumericTarget(y)
        several = [f"target {j}" for j in range(self.target.n_outputs)]
        super().__init__(y, names or (several if len(several) > 1 else ["y"]))

    def check(self, cv: int) -> None:
        """Raise a ValueError if there are fewer than four samples."""
        check_folds(cv, self.y, 0)

    def folds(
        self, groups: np.ndarray, cv: int, random_state: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return rows to train and to test on."""
        folds = GroupKFold(min(cv, len(np.unique(groups))), shuffle=True, random_state=random_state)
        return folds.split(np.empty((len(self.y), 0)), self.y, groups)

    def predict(self, model: Any, X: Any) -> tuple[np.ndarray, None]:
        """Return numbers in the shape of y."""
        return np.reshape(model.predict(X), (-1, *self.y.shape[1:])), None

    def _columns(self, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and predictions, ``(n_samples, n_targets)`` each."""
        return self.target.encode(self.y), self.target.encode(predictions.predicted)

    def _sizes_of_errors(self, predictions: Predictions) -> np.ndarray:
        """Return absolute errors; if there are several targets, in their standard deviations."""
        y, predicted = self._columns(predictions)
        return np.abs(y - predicted) / (self.target.scale if self.target.n_outputs > 1 else 1)

    def errors(self, predictions: Predictions) -> np.ndarray:
        """Return the positions of all samples, the largest error first."""
        return np.argsort(-self._sizes_of_errors(predictions).max(1), kind="stable")

    def scores(self, predictions: Predictions) -> list[Score]:
        """Return R² and mean errors."""
        return number_scores(self.y, predictions.predicted)

    def baseline(self) -> str:
        """Return the error of the median."""
        y = self.target.encode(self.y)
        error = np.abs(y - np.median(y, 0)).mean()
        return f"Always predicting the median would give a mean absolute error of {error:.4g}."

    def text(self, value: Any) -> str:
        """Return numbers with four digits."""
        return ", ".join(f"{number:.4g}" for number in np.atleast_1d(value))

    def explained(self, predictions: Predictions, rows: list[int]) -> list[Any] | None:
        """Return the target with the largest error of each sample."""
        return self._sizes_of_errors(predictions)[rows].argmax(1).tolist()

    def explanation(self, predictions: Predictions, i: int) -> str:
        """Return the name of that target, if there are several."""
        (j,) = self.explained(predictions, [i]) or [0]
        return self.names[j] if self.target.n_outputs > 1 else ""

    def table(self, predictions: Predictions) -> PageTable | None:
        """Return the scores of each of several targets."""
        if self.target.n_outputs == 1:
            return None
        rows = [
            [name, f"{r2_score(own, predicted):.3f}", f"{np.abs(own - predicted).mean():.4g}"]
            for name, own, predicted in self._by_target(predictions)
        ]
        return PageTable("Scores of each target", ["target", "R²", "mean absolute error"], rows)

    def _by_target(self, predictions: Predictions) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        y, predicted = self._columns(predictions)
        return zip(self.names, y.T, predicted.T, strict=True)

    def scatters(self, predictions: Predictions) -> list[Scatter]:
        """Return predictions against numbers, for each target."""
        some = np.random.default_rng(0).permutation(len(self.y))[:_POINTS]
        return [
            _scatter(name if self.target.n_outputs > 1 else "", own[some], made[some])
            for name, own, made in self._by_target(predictions)
        ]

    def residuals(self, predictions: Predictions) -> list[PageTable]:
        """Return the errors of parts of the range of y, for each target."""
        return [_residuals(name, own, made) for name, own, made in self._by_target(predictions)]


def _scatter(title: str, y: np.ndarray, predicted: np.ndarray) -> Scatter:
    both = np.concatenate([y, predicted])
    low, high = float(both.min()), float(both.max())
    scale = (high - low) or 1.0
    points = ((np.column_stack([y, predicted]) - low) / scale).tolist()
    ticks = [f"{value:.3g}" for value in (low, (low + high) / 2, high)]
    return Scatter(title, [(x, p) for x, p in points], ticks)


def _residuals(name: str, y: np.ndarray, predicted: np.ndarray) -> PageTable:
    edges = np.unique(np.quantile(y, np.linspace(0, 1, _FIFTHS + 1)))
    part = np.clip(np.searchsorted(edges, y, "right") - 1, 0, max(len(edges) - 2, 0))
    rows = []
    for k in np.unique(part):
        own, error = y[part == k], (predicted - y)[part == k]
        rows.append(
            [
                f"{own.min():.4g} to {own.max():.4g}",
                str(len(own)),
                f"{error.mean():+.3g}",
                f"{np.abs(error).mean():.3g}",
                f"{np.abs(error).max():.3g}",
            ]
        )
    header = [name, "samples", "mean error", "mean absolute error", "largest"]
    return PageTable("Prediction minus number, by fifths of the samples", header, rows)


def as_text(value: Any) -> str:
    """Return a label or a number as text."""
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)
