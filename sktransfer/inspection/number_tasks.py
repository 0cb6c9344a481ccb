"""What a page shows of predictions of numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import r2_score
from sklearn.model_selection import GroupKFold

from ..transferability.folds import check_folds
from .metrics import Score, number_scores
from .tasks import Evaluation, Scatter, Table, Task

__all__ = ["NumberTask"]

_POINTS = 400  # of a figure
_PARTS = 5  # of the range of y


class NumberTask(Task):
    """One or several numbers for each sample.

    Parameters
    ----------
    y : ndarray of shape (n_samples,) or (n_samples, n_targets)
    names : sequence of str, default=()
        Of the targets; by default "y", or "target 0" and so on.
    """

    meaning: str = (
        "The predictions with the largest error. Parts in red raise the prediction, parts in blue "
        "lower it."
    )

    def __init__(self, y: np.ndarray, names: Sequence[str] = ()):
        self.n_targets = 1 if y.ndim == 1 else y.shape[1]
        several = [f"target {j}" for j in range(self.n_targets)]
        super().__init__(y, names or (several if self.n_targets > 1 else ["y"]))

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

    def _columns(self, found: Evaluation) -> tuple[np.ndarray, np.ndarray]:
        """Return numbers and predictions, ``(n_samples, n_targets)`` each."""
        n = len(self.y)
        return self.y.reshape(n, -1), found.predicted.reshape(n, -1)

    def _sizes_of_errors(self, found: Evaluation) -> np.ndarray:
        """Return absolute errors; if there are several targets, in their standard deviations."""
        y, predicted = self._columns(found)
        spread = y.std(0) if self.n_targets > 1 else np.ones(1)
        return np.abs(y - predicted) / np.where(spread > 0, spread, 1)

    def errors(self, found: Evaluation) -> np.ndarray:
        """Return the positions of all samples, the largest error first."""
        return np.argsort(-self._sizes_of_errors(found).max(1), kind="stable")

    def scores(self, found: Evaluation) -> list[Score]:
        """Return R² and mean errors."""
        return number_scores(self.y, found.predicted)

    def baseline(self) -> str:
        """Return the error of the median."""
        y = self.y.reshape(len(self.y), -1)
        error = np.abs(y - np.median(y, 0)).mean()
        return f"Always predicting the median would give a mean absolute error of {error:.4g}."

    def text(self, value: Any) -> str:
        """Return numbers with four digits."""
        return ", ".join(f"{one:.4g}" for one in np.atleast_1d(value))

    def explained(self, found: Evaluation, rows: list[int]) -> list[Any] | None:
        """Return the target with the largest error of each sample."""
        return self._sizes_of_errors(found)[rows].argmax(1).tolist()

    def explanation(self, found: Evaluation, i: int) -> str:
        """Return the name of that target, if there are several."""
        (j,) = self.explained(found, [i]) or [0]
        return self.names[j] if self.n_targets > 1 else ""

    def table(self, found: Evaluation) -> Table | None:
        """Return the scores of each of several targets."""
        if self.n_targets == 1:
            return None
        rows = [
            [name, f"{r2_score(own, made):.3f}", f"{np.abs(own - made).mean():.4g}"]
            for name, own, made in self._by_target(found)
        ]
        return Table("Scores of each target", ["target", "R²", "mean absolute error"], rows)

    def _by_target(self, found: Evaluation) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
        y, predicted = self._columns(found)
        return zip(self.names, y.T, predicted.T, strict=True)

    def scatters(self, found: Evaluation) -> list[Scatter]:
        """Return predictions against numbers, for each target."""
        some = np.random.default_rng(0).permutation(len(self.y))[:_POINTS]
        return [
            _scatter(name if self.n_targets > 1 else "", own[some], made[some])
            for name, own, made in self._by_target(found)
        ]

    def residuals(self, found: Evaluation) -> list[Table]:
        """Return the errors of parts of the range of y, for each target."""
        return [_residuals(name, own, made) for name, own, made in self._by_target(found)]


def _scatter(title: str, y: np.ndarray, predicted: np.ndarray) -> Scatter:
    both = np.concatenate([y, predicted])
    low, high = float(both.min()), float(both.max())
    scale = (high - low) or 1.0
    points = ((np.column_stack([y, predicted]) - low) / scale).tolist()
    ticks = [f"{value:.3g}" for value in (low, (low + high) / 2, high)]
    return Scatter(title, [(x, p) for x, p in points], ticks)


def _residuals(name: str, y: np.ndarray, predicted: np.ndarray) -> Table:
    edges = np.unique(np.quantile(y, np.linspace(0, 1, _PARTS + 1)))
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
    return Table("Prediction minus number, by fifths of the samples", header, rows)
