"""Write a page about data and a model."""

from __future__ import annotations

import datetime
import os
import tempfile
from pathlib import Path
from typing import Any

from ..data import package_versions
from .collecting import Collector
from .facts import Report
from .page import render

__all__ = ["report"]


def report(
    estimator: Any,
    X: Any,
    y: Any,
    path: str | os.PathLike[str],
    *,
    cv: int | None = 5,
    n_shown: int = 8,
    recommendation: Any = None,
    title: str | None = None,
    file: str = "model.skt",
    random_state: Any = 0,
) -> Report:
    """Write a page of HTML about data and a model, which needs no network.

    It shows the data (classes, unreadable samples, near duplicates), what the model consists of,
    scores with intervals, calibration, confusions, the worst errors with their saliency, labels
    that are probably wrong, costs, and how the model is used. For several labels it shows the
    scores of each; for numbers, predictions against numbers, and errors in parts of their range.

    Parameters
    ----------
    estimator : estimator of sktransfer, or a pipeline with one
        Fitted or not; it is not changed.
    X : list, array, Series or DataFrame column of n_samples samples
        Unreadable ones are listed and left out.
    y : array-like of shape (n_samples,) or (n_samples, n_columns)
        Labels, an indicator matrix of labels, or numbers. The columns of a DataFrame name labels
        and targets.
    path : str or Path
        The file to write.
    cv : int or None, default=5
        The number of folds. For each of them a clone of the estimator is fitted to the others, so
        that all scores are those of models which have not seen the samples. Near duplicates are in
        the same fold, unless they are more than half of it. None takes the fitted estimator as it
        is: X must be samples that it was not fitted on.
    n_shown : int, default=8
        The number of samples in each list.
    recommendation : Recommendation, default=None
        Of :func:`~sktransfer.recommend_strategy`, to be shown.
    title : str, default=None
        None is made from the name of the network.
    file : str, default="model.skt"
        The file in which the model is saved, for the instructions on the page.
    random_state : int or None, default=0
        For the folds.

    Returns
    -------
    Report
        What the page shows. Its attribute ``path`` is the file.

    Raises
    ------
    ImportError
        Without the libraries of the extra ``inspect``.
    ValueError
        If ``cv`` is None and the estimator is not fitted, or if too few samples are readable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import TransferClassifier
    >>> from sktransfer.inspection import report
    >>> X, y = load_digits(return_X_y=True)
    >>> model = TransferClassifier(strategy="features", image_size=64, image_shape=(8, 8))
    >>> path = Path(tempfile.mkdtemp()) / "report.html"
    >>> made = report(model, X[:40] / 16, y[:40], path, cv=2, n_shown=2)
    >>> made.n_samples, path.stat().st_size > 10_000
    (40, True)
    """
    with tempfile.TemporaryDirectory() as folder:
        task = Collector(estimator, X, y, cv, folder, random_state, n_shown)
        made = task.collect(Path(path), title, recommendation, file)
    today = datetime.date.today().isoformat()
    page = render(
        "report.html.jinja", report=made, today=today, version=package_versions()["sktransfer"]
    )
    Path(path).write_text(page, encoding="utf-8")
    return made
