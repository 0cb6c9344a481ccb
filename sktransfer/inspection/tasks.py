"""What a page shows of predictions: an object for each kind of target. Here, one label a sample."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np
from sklearn.metrics import confusion_matrix
from sklearn.model_selection import StratifiedGroupKFold

from ..transferability.folds import check_folds
from .confusion import most_confused
from .label_issues import LabelIssues, find_label_issues
from .metrics import Bin, Score, calibration_bins, class_scores

__all__ = ["Evaluation", "Group", "LabelTask", "Scatter", "Table", "Task", "as_text"]

_LARGEST_TABLE = 25  # classes of a confusion matrix that is shown


@dataclasses.dataclass(frozen=True)
class Evaluation:
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


@dataclasses.dataclass(frozen=True)
class Group:
    """Wrong predictions of one kind.

    Parameters
    ----------
    title : str
    rows : list of int
        Positions of the samples, the worst first.
    """

    title: str
    rows: list[int]


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of a page. The first cell of each row is its header."""

    caption: str
    header: list[str]
    rows: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Predictions against true numbers.

    Parameters
    ----------
    title : str
    points : list of (float, float)
        Number and prediction, as shares of the range of the axes.
    ticks : list of str
        The lowest value of the axes, the middle and the highest.
    """

    title: str
    points: list[tuple[float, float]]
    ticks: list[str]


class Task(abc.ABC):
    """A target of a kind: how it is split and predicted, and what a page shows of it.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_columns)
    names : sequence of str, default=()
        Of the columns.

    Attributes
    ----------
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
    y: np.ndarray
    confusion: str = ""
    meaning: str = ""
    calibrated: str = ""
    share: str = "accuracy"
    noun: str = "class"

    def __init__(self, y: np.ndarray, names: Sequence[str] = ()):
        self.y, self.names = y, list(names)

    def take(self, rows: np.ndarray) -> Self:
        """Return the task of some samples."""
        return type(self)(self.y[rows], self.names)

    def knowing(self, model: Any) -> Task:
        """Return the task with the classes of a fitted model too."""
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
    def errors(self, found: Evaluation) -> np.ndarray:
        """Return the positions of errors, the worst first."""

    @abc.abstractmethod
    def scores(self, found: Evaluation) -> list[Score]:
        """Return scores with intervals."""

    @abc.abstractmethod
    def baseline(self) -> str:
        """Return a sentence on what a constant prediction would give."""

    def text(self, value: Any) -> str:
        """Return a row of y, or of predictions, as text."""
        return as_text(value)

    def sure(self, found: Evaluation, i: int) -> float:
        """Return the probability of a prediction; NaN where there is none."""
        return float("nan")

    def explained(self, found: Evaluation, rows: list[int]) -> list[Any] | None:
        """Return the target whose saliency is shown for each sample."""
        return None

    def explanation(self, found: Evaluation, i: int) -> str:
        """Return the name of that target, if a sample has several."""
        return ""

    def sizes(self) -> dict[str, int]:
        """Return the number of samples of each label."""
        return {}

    def groups(self, found: Evaluation, order: np.ndarray) -> list[Group]:
        """Return wrong predictions by their kind, the most frequent first."""
        return []

    def matrix(self, found: Evaluation) -> tuple[list[str], np.ndarray] | None:
        """Return labels and their confusion matrix, if it is not too large."""
        return None

    def bins(self, found: Evaluation) -> list[Bin]:
        """Return how often predictions of some probability are right."""
        return []

    def issues(self, found: Evaluation) -> LabelIssues | None:
        """Return labels that are probably wrong; None without probabilities."""
        return None

    def table(self, found: Evaluation) -> Table | None:
        """Return the scores of each column of y."""
        return None

    def scatters(self, found: Evaluation) -> list[Scatter]:
        """Return predictions against true numbers, for each column of y."""
        return []

    def residuals(self, found: Evaluation) -> list[Table]:
        """Return the errors of parts of the range of y, for each column of y."""
        return []


class LabelTask(Task):
    """One label for each sample.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    names : sequence of str, default=()
    classes : ndarray of shape (n_classes,), default=None
        All labels; None are those of y.
    """

    classes: np.ndarray
    confusion: str = "Confusion"
    meaning: str = (
        "The wrong predictions with the highest probability. Parts in red speak for the wrong "
        "prediction, parts in blue against it."
    )
    calibrated: str = "Of predictions with a probability of 80 %, 80 % should be right."

    def __init__(self, y: np.ndarray, names: Sequence[str] = (), classes: np.ndarray | None = None):
        super().__init__(y, names)
        self.classes = np.unique(y) if classes is None else classes

    def knowing(self, model: Any) -> LabelTask:
        """Return the task with the classes of a fitted model too."""
        labels = np.unique(np.concatenate([model.classes_, np.unique(self.y)]))
        return LabelTask(self.y, self.names, labels)

    def check(self, cv: int) -> None:
        """Raise a ValueError if there are too few samples for the folds."""
        check_folds(cv, np.unique(self.y, return_inverse=True)[1], 0)

    def folds(
        self, groups: np.ndarray, cv: int, random_state: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Return rows to train and to test on, stratified."""
        codes, counts = np.unique(self.y, return_inverse=True, return_counts=True)[1:]
        folds = min(cv, len(np.unique(groups)), int(counts.max()))
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=random_state)
        return splitter.split(np.empty((len(codes), 0)), codes, groups)

    def predict(self, model: Any, X: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """Return labels and probabilities of all classes."""
        if not hasattr(model, "predict_proba"):
            return model.predict(X), None
        own = model.predict_proba(X)
        table = np.zeros((len(own), len(self.classes)))
        table[:, np.searchsorted(self.classes, model.classes_)] = own
        return self.classes[table.argmax(1)], table

    def errors(self, found: Evaluation) -> np.ndarray:
        """Return the positions of wrong predictions, the most certain first."""
        return most_confused(self.y, found.predicted, found.probabilities, self.classes)

    def scores(self, found: Evaluation) -> list[Score]:
        """Return accuracies, F1 and log loss."""
        return class_scores(self.y, found.predicted, found.probabilities, self.classes)

    def baseline(self) -> str:
        """Return the accuracy of the largest class."""
        share = max(self.sizes().values()) / len(self.y)
        return f"Always predicting the largest class would give an accuracy of {share:.3f}."

    def sure(self, found: Evaluation, i: int) -> float:
        """Return the probability of a prediction; NaN where there is none."""
        table = found.probabilities
        return float("nan") if table is None else float(table[i].max())

    def explained(self, found: Evaluation, rows: list[int]) -> list[Any]:
        """Return the predicted labels."""
        return found.predicted[rows].tolist()

    def sizes(self) -> dict[str, int]:
        """Return the number of samples of each label."""
        labels, counts = np.unique(self.y, return_counts=True)
        return {as_text(label): int(n) for label, n in zip(labels, counts, strict=True)}

    def groups(self, found: Evaluation, order: np.ndarray) -> list[Group]:
        """Return wrong predictions by label and prediction, the most frequent first."""
        pairs: dict[str, list[int]] = {}
        for i in order:
            title = f"{as_text(self.y[i])} predicted as {as_text(found.predicted[i])}"
            pairs.setdefault(title, []).append(int(i))
        return [Group(*pair) for pair in sorted(pairs.items(), key=lambda pair: -len(pair[1]))]

    def matrix(self, found: Evaluation) -> tuple[list[str], np.ndarray] | None:
        """Return labels and their confusion matrix, if it is not too large."""
        labels = np.unique(np.concatenate([self.y, found.predicted]))
        if len(labels) > _LARGEST_TABLE:
            return None
        matrix = confusion_matrix(self.y, found.predicted, labels=labels)
        return [as_text(label) for label in labels], matrix

    def bins(self, found: Evaluation) -> list[Bin]:
        """Return how often predictions of some probability are right."""
        table = found.probabilities
        return [] if table is None else calibration_bins(self.y, table, self.classes)

    def issues(self, found: Evaluation) -> LabelIssues | None:
        """Return labels that are probably wrong; None without probabilities."""
        if found.probabilities is None:
            return None
        known = np.isin(self.classes, np.unique(self.y))
        return find_label_issues(None, self.y, self.y, probabilities=found.probabilities[:, known])


def as_text(value: Any) -> str:
    """Return a label or a number as text."""
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)
