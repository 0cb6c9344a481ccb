"""What a page about data and a model shows."""

from __future__ import annotations

import dataclasses
import html
from pathlib import Path
from typing import Any

import numpy as np

from .duplicates import NearDuplicates
from .label_issues import LabelIssues
from .metrics import Bin, Score
from .page import Shown
from .tasks import Scatter, Table, Task

__all__ = ["Case", "Confused", "Report"]


@dataclasses.dataclass(frozen=True)
class Case:
    """A sample on the page.

    Parameters
    ----------
    name : str
        Its file, or its position.
    shown : Shown
    label, predicted : str, default=""
    probability : float, default=nan
        Of the prediction.
    saliency : Shown or None, default=None
    explained : str, default=""
        The label or number that the saliency is about, if a sample has several.
    """

    name: str
    shown: Shown
    label: str = ""
    predicted: str = ""
    probability: float = float("nan")
    saliency: Shown | None = None
    explained: str = ""


@dataclasses.dataclass(frozen=True)
class Confused:
    """Wrong predictions of one kind, with samples."""

    title: str
    count: int
    cases: list[Case]


@dataclasses.dataclass(frozen=True)
class Report:
    """What a page shows.

    Parameters
    ----------
    path : Path
        The file.
    title : str
    noun : str
        What samples are, such as "images".
    n_samples : int
        Readable ones.
    n_folds : int
        0 if the samples were predicted by the estimator as it is.
    sizes : dict of str to int
        Samples of each label; empty for numbers.
    unreadable : list of (str, str)
        Name and cause.
    duplicates : NearDuplicates
        With positions in X, like the label issues.
    duplicate_cases : list of (float, Case, Case)
        The most similar pairs with their similarity.
    choice : dict
        Texts about the estimator, and the members of a blend.
    recommendation : Recommendation or None
    task : Task
        With titles and explanations of the sections.
    baseline : str
        What a constant prediction would give.
    scores : list of Score
    table : Table or None
        Scores of each of several labels or targets.
    scatters : list of Scatter
        Predictions against numbers, for each target; empty for labels.
    residuals : list of Table
        Errors in parts of the range of each target.
    calibration : list of Bin
        Empty without probabilities.
    calibration_error : float
    matrix : ndarray of shape (n_labels, n_labels) or None
        Rows are labels, columns predictions.
    labels : list of str
        Of the matrix.
    confused : list of Confused
    worst : list of Case
    issues : LabelIssues or None
    issue_cases : list of Case
    costs : dict of str to str
    file : str
        The name of the file of the model, for the instructions.
    """

    path: Path
    title: str
    noun: str
    n_samples: int
    n_folds: int
    sizes: dict[str, int]
    unreadable: list[tuple[str, str]]
    duplicates: NearDuplicates
    duplicate_cases: list[tuple[float, Case, Case]]
    choice: dict[str, Any]
    recommendation: Any
    task: Task
    baseline: str
    scores: list[Score]
    table: Table | None
    scatters: list[Scatter]
    residuals: list[Table]
    calibration: list[Bin]
    calibration_error: float
    matrix: np.ndarray | None
    labels: list[str]
    confused: list[Confused]
    worst: list[Case]
    issues: LabelIssues | None
    issue_cases: list[Case]
    costs: dict[str, str]
    file: str

    def _repr_html_(self) -> str:
        """Return the page in a frame, for notebooks."""
        page = html.escape(self.path.read_text(encoding="utf-8"))
        style = "width: 100%; height: 40rem; border: 1px solid #888"
        title = html.escape(self.title)
        return f'<iframe title="{title}" style="{style}" srcdoc="{page}"></iframe>'
