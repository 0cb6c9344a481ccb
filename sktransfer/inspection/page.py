"""A page of HTML about data and a model: what it shows, and how that is rendered."""

from __future__ import annotations

import base64
import dataclasses
import html
import io
from pathlib import Path
from typing import Any

import numpy as np

from .duplicates import NearDuplicates
from .label_issues import LabelIssues
from .metrics import CalibrationBin, Score

_FOLDER = Path(__file__).parent / "templates"
_QUALITY, _SIDE = 82, 256  # of pictures: JPEG quality, and the longer side in pixels


@dataclasses.dataclass(frozen=True)
class ReportData:
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
    target : TargetReport
        With titles and explanations of the sections.
    baseline : str
        What a constant prediction would give.
    scores : list of Score
    table : PageTable or None
        Scores of each of several labels or targets.
    scatters : list of Scatter
        Predictions against numbers, for each target; empty for labels.
    residuals : list of PageTable
        Errors in parts of the range of each target.
    calibration : list of CalibrationBin
        Empty without probabilities.
    calibration_error : float
    matrix : ndarray of shape (n_labels, n_labels) or None
        Rows are labels, columns predictions.
    labels : list of str
        Of the matrix.
    confused : list of ErrorGroup
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
    target: Any
    baseline: str
    scores: list[Score]
    table: PageTable | None
    scatters: list[Scatter]
    residuals: list[PageTable]
    calibration: list[CalibrationBin]
    calibration_error: float
    matrix: np.ndarray | None
    labels: list[str]
    confused: list[ErrorGroup]
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


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a page shows of a sample: a picture, a text with marked words, or both.

    Parameters
    ----------
    picture : str, default=""
        A data URI.
    words : list of (str, float), default=()
        Pieces of a text with values between -1 and 1.
    """

    picture: str = ""
    words: list[tuple[str, float]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Case:
    """A sample on the page.

    Parameters
    ----------
    name : str
        Its file, or its position.
    probability : float, default=nan
        Of the prediction.
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
class ErrorGroup:
    """Wrong predictions of one kind.

    Parameters
    ----------
    rows : list of int
        Positions of the samples, the worst first.
    cases : list of Case, default=()
        The samples that are shown.
    """

    title: str
    rows: list[int]
    cases: list[Case] = dataclasses.field(default_factory=list)

    @property
    def count(self) -> int:
        """The number of predictions."""
        return len(self.rows)


@dataclasses.dataclass(frozen=True)
class PageTable:
    """A table of a page. The first cell of each row is its header."""

    caption: str
    header: list[str]
    rows: list[list[str]]


@dataclasses.dataclass(frozen=True)
class Scatter:
    """Predictions against true numbers.

    Parameters
    ----------
    points : list of (float, float)
        Number and prediction, as shares of the range of the axes.
    ticks : list of str
        The lowest value of the axes, the middle and the highest.
    """

    title: str
    points: list[tuple[float, float]]
    ticks: list[str]


def show(preview: Any) -> Shown:
    """Return a picture (of Pillow or an array), a text, or a pair of both, for a page."""
    if isinstance(preview, str):
        return Shown(words=[(preview, 0.0)])
    picture, text = preview if isinstance(preview, tuple) else (preview, "")
    return Shown(picture_uri(picture), [(text, 0.0)] if text else [])


def picture_uri(picture: Any) -> str:
    """Return a small picture, of Pillow or an array, as a data URI."""
    from PIL import Image

    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def render(template: str, **values: Any) -> str:
    """Fill a template, by the name of its file; texts among the values are escaped."""
    try:
        import jinja2
    except ImportError:
        raise ImportError("Reports need jinja2: pip install 'sktransfer[inspect]'") from None
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = "{:.0%}".format
    environment.filters["number"] = "{:.3g}".format
    return environment.get_template(template).render(values)
