"""What a page shows of predictions of several labels for each sample."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, precision_recall_fscore_support
from sklearn.model_selection import StratifiedGroupKFold

from ..transferability.folds import check_folds
from .label_issues import LabelIssues, find_label_issues
from .metrics import Bin, Score, bins_of, label_set_scores
from .scores import label_probabilities
from .tasks import Evaluation, Group, Table, Task

__all__ = ["LabelSetTask"]


class LabelSetTask(Task):
    """Several labels for each sample, as an indicator matrix.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_labels)
    names : sequence of str, default=()
        Of the labels; by default "label 0" and so on.
    """

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

    def check(self, cv: int) -> None:
        """Raise a ValueError if there are fewer than four samples."""
        check_folds(cv, self.y.astype(float), 0)

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

    def _wrong(self, found: Evaluation) -> np.ndarray:
        """Return how certain each wrong label is, 0 for right ones, ``(n_samples, n_labels)``."""
        wrong = (self.y != found.predicted).astype(float)
        if found.probabilities is None:
            return wrong
        return wrong * (np.abs(found.probabilities - 0.5) + 1e-9)

    def errors(self, found: Evaluation) -> np.ndarray:
        """Return the positions of samples with wrong labels, the most certain first."""
        wrong = self._wrong(found)
        rows = np.flatnonzero(wrong.any(1))
        key = wrong.sum(1) if found.probabilities is None else wrong.max(1)
        return rows[np.argsort(-key[rows], kind="stable")]

    def scores(self, found: Evaluation) -> list[Score]:
        """Return accuracy, F1, Hamming loss and log loss."""
        return label_set_scores(self.y, found.predicted, found.probabilities)

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

    def explained(self, found: Evaluation, rows: list[int]) -> list[Any]:
        """Return the most certain wrong label of each sample."""
        return self._wrong(found)[rows].argmax(1).tolist()

    def explanation(self, found: Evaluation, i: int) -> str:
        """Return the label that is explained, with its probability."""
        (j,) = self.explained(found, [i])
        if found.probabilities is None:
            return self.names[j]
        return f"{self.names[j]} ({found.probabilities[i, j]:.0%})"

    def sizes(self) -> dict[str, int]:
        """Return the number of samples of each label."""
        return dict(zip(self.names, self.y.sum(0).astype(int).tolist(), strict=True))

    def groups(self, found: Evaluation, order: np.ndarray) -> list[Group]:
        """Return labels that are missed, and those that are predicted wrongly."""
        wrong, made = self._wrong(found), []
        for j, name in enumerate(self.names):
            for present, what in ((0, "predicted, not labelled"), (1, "labelled, not predicted")):
                rows = np.flatnonzero((wrong[:, j] > 0) & (self.y[:, j] == present))
                rows = rows[np.argsort(-wrong[rows, j], kind="stable")]
                made.append(Group(f"{name} {what}", rows.tolist()))
        return sorted((one for one in made if one.rows), key=lambda one: -len(one.rows))

    def bins(self, found: Evaluation) -> list[Bin]:
        """Return how often labels of some probability are there."""
        table = found.probabilities
        return [] if table is None else bins_of(table.ravel(), self.y.ravel() == 1)

    def issues(self, found: Evaluation) -> LabelIssues | None:
        """Return labels that are probably missing or wrong; None without probabilities."""
        table = found.probabilities
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

    def table(self, found: Evaluation) -> Table:
        """Return precision, recall and F1 of each label, and the area under their curve."""
        columns = precision_recall_fscore_support(self.y, found.predicted, zero_division=np.nan)[:3]
        header = ["label", "samples", "precision", "recall", "F1"]
        cells = [self.y.sum(0).astype(int), *columns]
        if found.probabilities is not None:
            header.append("average precision")
            cells.append(_average_precision(self.y, found.probabilities))
        rows = [
            [name, str(n), *map(_number, rest)]
            for name, n, *rest in zip(self.names, *cells, strict=True)
        ]
        return Table("Scores of each label", header, rows)


def _average_precision(y: np.ndarray, table: np.ndarray) -> list[float]:
    return [
        average_precision_score(own, p) if own.any() else float("nan")
        for own, p in zip(y.T, table.T, strict=True)
    ]


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.3f}"
