"""Write a page about data and a model."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import pickle
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.preprocessing import normalize
from sklearn.utils.validation import check_is_fitted

from .._compat.sklearn import safe_indexing
from ..data import Modality, TableSamples, check_columns, column_names, package_versions, take
from ..features import (
    NetworkStep,
    PretrainedFeatureExtractor,
    check_refit,
    find_network,
    is_frozen,
)
from ..selection import BlendEstimator, column_networks, columns_read
from .displays import previews_of
from .duplicates import NearDuplicates, near_duplicates_of
from .explaining import saliency, show_saliency
from .label_issues import LabelIssues
from .metrics import calibration_error
from .page import Case, ErrorGroup, ReportData, Shown, render, show
from .report_targets import Predictions, TargetReport, as_text, report_of_target

_GROUPS, _OF_GROUP = 8, 4  # kinds of wrong predictions that are shown, and samples of each
_TIMED = 8  # samples that are predicted to measure the time


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
) -> ReportData:
    """Write a page of HTML about data and a model, which needs no network.

    It shows the data (classes, unreadable samples, near duplicates), what the model consists of,
    scores with intervals, calibration, confusions, the worst errors with their saliency, labels
    that are probably wrong, costs, and how the model is used. For several labels it shows the
    scores of each; for numbers, predictions against numbers, and errors in parts of their range.

    Parameters
    ----------
    estimator : estimator of sktransfer, or a pipeline with one
        Or a search for one of these, or a threshold around one, of scikit-learn. Fitted or not; it
        is not changed.
    X : list, array, Series, DataFrame column or table of n_samples samples
        Unreadable ones are listed and left out, unless ``on_error`` of the estimator is "mean". Of
        a table, near duplicates are rows whose images and texts are nearly equal.
    y : array-like of shape (n_samples,) or (n_samples, n_columns)
        Labels, an indicator matrix of labels, or numbers. The columns of a DataFrame name labels
        and targets.
    path : str or Path
        The file to write.
    cv : int or None, default=5
        The number of folds. For each of them a clone of the estimator is fitted to the others, so
        that all scores are those of models which have not seen the samples. Near duplicates are in
        the same fold, unless they are more than half of it. None takes the fitted estimator as it
        is: X must be samples that it was not fitted on, and y have the columns of ``fit``, in the
        same order.
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
    ReportData
        What the page shows. Its attribute ``path`` is the file.

    Raises
    ------
    ImportError
        Without the libraries of the extra ``inspect``.
    ValueError
        If ``cv`` is None and the estimator is not fitted or was fitted to other columns of y, if
        ``cv`` is a number and a FrozenEstimator predicts, if it is a search with ``refit=False``,
        or if too few samples are readable.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from sklearn.datasets import load_digits
    >>> from sktransfer import TransferClassifier
    >>> from sktransfer.inspection import report
    >>> digits = load_digits()
    >>> X, y = digits.images, digits.target
    >>> model = TransferClassifier(strategy="features", image_size=64)
    >>> path = Path(tempfile.mkdtemp()) / "report.html"
    >>> made = report(model, X[:40] / 16, y[:40], path, cv=2, n_shown=2)
    >>> made.n_samples, path.stat().st_size > 10_000
    (40, True)
    """
    check_refit(estimator)
    if cv is not None and is_frozen(estimator):
        raise ValueError(
            f"cv={cv} fits clones of the estimator, and a FrozenEstimator stays as it was fitted, "
            "perhaps to these samples: give cv=None, and samples that it has not seen."
        )
    target = report_of_target(estimator, y)
    is_fitted = _is_fitted(estimator)
    if cv is None and not is_fitted:
        raise ValueError(f"cv=None needs a fitted estimator: {type(estimator).__name__} is not.")
    if cv is None:
        fitted = getattr(find_network(estimator).step, "target_", None)
        if fitted is not None:
            fitted.check_names(column_names(y), "y")
    unreadable, readable = _find_unreadable(find_network(estimator), X)
    if len(readable) < 2:
        raise ValueError(f"{len(readable)} samples are readable: at least 2 are needed.")
    if unreadable:
        X = safe_indexing(X, readable)
    target = target.take(readable)
    # Columns keep their names in a fit.
    learned = safe_indexing(y, readable) if column_names(y) and target.y.ndim == 2 else target.y
    if cv is not None:
        target.check(cv)

    with tempfile.TemporaryDirectory() as folder:  # features are kept there meanwhile
        unfitted = _with_memory(estimator, folder)
        model = estimator if is_fitted else clone(unfitted).fit(X, learned)
        network = find_network(model)
        samples = network.check(X)
        duplicates = near_duplicates_of(_features_of(network, samples, folder))
        if cv is None:
            target = target.knowing(model)
            predicted, table = target.predict(model, X)
            fold = np.zeros(len(target.y), int)
            predictions = Predictions(predicted, table, [model], fold, [], 0.0)
        else:
            groups = _groups_of(duplicates, len(target.y), cv)
            predictions = _cross_validate(unfitted, X, learned, target, groups, cv, random_state)

        shown = _ShownSamples(samples, readable, network, target, predictions)
        order = target.errors(predictions)
        bins = target.bins(predictions)
        labels, matrix = target.matrix(predictions) or ([], None)
        issues = target.issues(predictions)
        n_given = len(target.y) + len(unreadable)
        data = ReportData(
            path=Path(path),
            title=title or f"Report: {type(model).__name__} on {_names_of(network.step)}",
            noun=network.modality.noun,
            n_samples=len(target.y),
            n_folds=len(predictions.fit_seconds),
            sizes=target.sizes(),
            unreadable=unreadable,
            duplicates=dataclasses.replace(
                duplicates, pairs=readable[duplicates.pairs], n_samples=n_given
            ),
            duplicate_cases=shown.duplicates(duplicates, n_shown),
            choice=_describe_model(estimator, network),
            recommendation=recommendation,
            target=target,
            baseline=target.baseline(),
            scores=target.scores(predictions),
            table=target.table(predictions),
            scatters=target.scatters(predictions),
            residuals=target.residuals(predictions),
            calibration=bins,
            calibration_error=calibration_error(bins) if bins else float("nan"),
            matrix=matrix,
            labels=labels,
            confused=shown.groups(order),
            worst=shown.worst(order[:n_shown]),
            issues=None if issues is None else _in_X(issues, readable, n_given),
            issue_cases=[] if issues is None else shown.issues(issues, n_shown),
            costs=_measure_costs(model, network, samples, predictions),
            file=file,
        )
    today = datetime.date.today().isoformat()
    version = package_versions()["sktransfer"]
    page = render("report.html.jinja", report=data, today=today, version=version)
    data.path.write_text(page, encoding="utf-8")
    return data


def _is_fitted(estimator) -> bool:
    try:
        check_is_fitted(estimator)
    except NotFittedError:
        return False
    return True


def _find_unreadable(network: NetworkStep, X) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return name and cause of samples that cannot be opened, and the positions of the others."""
    if network.before is not None:  # its steps may not be fitted yet
        return [], np.arange(len(X))
    step = network.step
    read = columns_read(step, X) if isinstance(step, BlendEstimator) else {}
    columns: list[tuple[Modality, Sequence[Any]]]
    if not read:
        columns = [(network.modality, network.check(X))]
    elif step.on_error == "mean":
        return [], np.arange(len(X))
    else:
        kinds = {name: modality.name for name, modality in read.items()}
        table = check_columns(X, kinds, fills_missing=True)
        columns = [(read[name], samples) for name, samples in table.columns.items()]
    unreadable: dict[int, tuple[str, str]] = {}
    for modality, samples in columns:
        for i, sample in enumerate(samples):
            try:
                if sample is None:
                    raise ValueError("missing")
                modality.open(modality.read(sample))
            except Exception as error:  # decoders raise anything
                cause = str(error) or type(error).__name__
                unreadable.setdefault(i, (_name_of(sample, i, modality), cause))
    readable = [i for i in range(len(columns[0][1])) if i not in unreadable]
    return [unreadable[i] for i in sorted(unreadable)], np.array(readable, dtype=int)


def _features_of(network: NetworkStep, samples: Any, memory: str) -> np.ndarray:
    """Return the features by which samples are compared, of the last layer of each network."""
    if not isinstance(samples, TableSamples):
        extractor = PretrainedFeatureExtractor(network.step.backbone_, memory=memory)
        return extractor.fit_transform(samples)
    parts = []
    for column, backbone in column_networks(network.step):
        extractor = PretrainedFeatureExtractor(
            backbone, memory=memory, on_error="nan", missing="nan"
        )
        features = np.nan_to_num(extractor.fit_transform(samples.columns[column]))
        parts.append(normalize(features))  # columns count alike
    return np.hstack(parts)


def _name_of(sample, position: int, modality: Modality) -> str:
    """Return folder and name of the file of a sample, or its position in X."""
    is_name = isinstance(sample, str) and modality.takes_files
    if is_name or isinstance(sample, os.PathLike):
        return "/".join(Path(sample).parts[-2:])
    return f"sample {position}"


# -- predictions by models that have not seen the samples ------------------------------------------


def _with_memory(estimator, folder: str | None, *, replace: bool = False) -> Any:
    """Return a clone that keeps features in a folder, unless it has a store of its own."""
    new = clone(estimator)
    step = find_network(new).step
    is_frozen = step is find_network(estimator).step  # by FrozenEstimator, which clones share
    if not is_frozen and (replace or step.memory is None):
        step.set_params(memory=folder)
    return new


def _groups_of(duplicates: NearDuplicates, n_samples: int, cv: int) -> np.ndarray:
    """Return a group for each sample, so that near duplicates are in one fold."""
    groups = np.arange(n_samples)
    most = n_samples / (2 * cv)  # a larger group may be all samples of a class
    for group in duplicates.groups:
        if len(group) <= max(2, most):
            groups[group] = group[0]
    return groups


def _cross_validate(
    estimator, X, y, target: TargetReport, groups: np.ndarray, cv: int, random_state
) -> Predictions:
    n = len(target.y)
    predicted, fold = np.empty_like(target.y), np.zeros(n, int)
    table: np.ndarray | None = None
    models: list[Any] = []
    seconds, sizes = [], []
    for train, test in target.folds(groups, cv, random_state):
        start = time.perf_counter()
        model = clone(estimator).fit(safe_indexing(X, train), safe_indexing(y, train))
        seconds.append(time.perf_counter() - start)
        predicted[test], probabilities = target.predict(model, safe_indexing(X, test))
        if probabilities is not None:
            table = np.zeros((n, probabilities.shape[1])) if table is None else table
            table[test] = probabilities
        fold[test] = len(models)
        models.append(model)
        sizes.append(len(train))
    return Predictions(predicted, table, models, fold, seconds, float(np.mean(sizes)))


# -- samples on the page ---------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _ShownSamples:
    """Samples of which some are shown.

    Parameters
    ----------
    samples : sequence
    positions : ndarray of int
        Of the samples in X.
    """

    samples: Any
    positions: np.ndarray
    network: NetworkStep
    target: TargetReport
    predictions: Predictions

    def cases(self, rows: Sequence[int] | np.ndarray) -> list[Case]:
        """Return samples with their labels and predictions."""
        previews = previews_of(self.samples, self.network.modality, rows)
        text = self.target.text
        return [
            Case(
                _name_of(self.samples[i], self.positions[i], self.network.modality),
                show(preview),
                text(self.target.y[i]),
                text(self.predictions.predicted[i]),
                self.target.sure(self.predictions, i),
            )
            for i, preview in zip(rows, previews, strict=True)
        ]

    def duplicates(self, duplicates: NearDuplicates, n: int) -> list[tuple[float, Case, Case]]:
        """Return the most similar pairs."""
        cases = [self.cases(pair) for pair in duplicates.pairs[:n]]
        cosines = duplicates.similarity[:n].tolist()
        return [(cosine, a, b) for cosine, (a, b) in zip(cosines, cases, strict=True)]

    def groups(self, order: np.ndarray) -> list[ErrorGroup]:
        """Return the most frequent kinds of wrong predictions, with some samples of each."""
        return [
            dataclasses.replace(group, cases=self.cases(group.rows[:_OF_GROUP]))
            for group in self.target.groups(self.predictions, order)[:_GROUPS]
        ]

    def worst(self, rows: np.ndarray) -> list[Case]:
        """Return samples with what speaks for their predictions, by the models that made them."""
        explained: dict[int, Shown] = {}
        for fold, model in enumerate(self.predictions.models):
            own = [i for i in rows if self.predictions.fold[i] == fold]
            if own:
                maps = saliency(
                    find_network(model).on_samples(),
                    take(self.samples, own),
                    target=self.target.explained(self.predictions, own),
                )
                explained |= {i: show_saliency(maps, at) for at, i in enumerate(own)}
        what = [self.target.explanation(self.predictions, i) for i in rows]
        return [
            dataclasses.replace(case, saliency=explained[i], explained=text)
            for i, text, case in zip(rows, what, self.cases(rows), strict=True)
        ]

    def issues(self, issues: LabelIssues, n: int) -> list[Case]:
        """Return the most suspicious labels, with what they rather are."""
        cases = self.cases(issues.indices[:n])
        triples = zip(cases, issues.given[:n], issues.suggested[:n], strict=True)
        return [
            dataclasses.replace(case, label=as_text(given), predicted=as_text(suggested))
            for case, given, suggested in triples
        ]


def _in_X(issues: LabelIssues, readable: np.ndarray, n: int) -> LabelIssues:
    """Return label issues with positions in X, unreadable samples included."""
    quality, table = np.full(n, np.nan), np.full((n, len(issues.classes)), np.nan)
    quality[readable], table[readable] = issues.quality, issues.probabilities
    indices = readable[issues.indices]
    return dataclasses.replace(issues, indices=indices, quality=quality, probabilities=table)


# -- the model -------------------------------------------------------------------------------------


def _describe_model(estimator, network: NetworkStep) -> dict[str, Any]:
    step = network.step
    shape = step.backbone_.input_shape
    members, weights = getattr(step, "members_", None) or [], getattr(step, "weights_", None)
    return {
        "estimator": repr(_with_memory(estimator, None, replace=True)),
        "backbone": _names_of(step),
        "input": "" if shape is None else " × ".join(map(str, shape[1:])),
        "strategy": getattr(step, "strategy_", ""),
        "members": (
            [] if weights is None else list(zip(members, map(float, weights), strict=True))
        ),
    }


def _names_of(step: Any) -> str:
    return ", ".join(backbone.name for backbone in _networks_of(step))


def _networks_of(step: Any) -> list[Any]:
    """Return the pretrained networks of an estimator: one, or several of a blend."""
    return getattr(step, "backbones_", [step.backbone_])


def _measure_costs(
    model, network: NetworkStep, samples, predictions: Predictions
) -> dict[str, str]:
    on_samples, few = network.on_samples(), samples[:_TIMED]
    on_samples.predict(few)  # prepares the network
    start = time.perf_counter()
    on_samples.predict(few)
    each = (time.perf_counter() - start) / len(few)
    modules = [backbone.module for backbone in _networks_of(network.step)]
    n_weights = sum(p.numel() for module in modules for p in module.parameters())
    costs = {}
    if predictions.fit_seconds:
        seconds = np.mean(predictions.fit_seconds)
        name = f"time of a fit to {predictions.n_train:.0f} samples"
        costs[name] = f"{seconds:.3g} s, with features from the store"
    costs["time of a prediction"] = f"{1000 * each:.3g} ms a sample"
    costs["weights of the network"] = f"{n_weights / 1e6:.3g} million"
    with contextlib.suppress(Exception):  # a function of the user's may have no pickle
        costs["size of a pickle"] = f"{len(pickle.dumps(model)) / 1e6:.3g} MB"
    return costs
