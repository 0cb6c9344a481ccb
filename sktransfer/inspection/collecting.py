"""Collect what a page about data and a model shows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone, is_regressor
from sklearn.utils import _safe_indexing
from sklearn.utils.multiclass import type_of_target

from ..data import check_labels, check_numbers, check_target
from ..features import NetworkStep, PretrainedFeatureExtractor, find_network
from .duplicates import NearDuplicates, near_duplicates_of
from .evaluation import evaluate, is_fitted, predictions_of, with_memory
from .explaining import saliency
from .facts import Case, Confused, Report
from .label_issues import LabelIssues
from .label_sets import LabelSetTask
from .metrics import calibration_error
from .number_tasks import NumberTask
from .page import Shown, show, show_saliency
from .previews import previews_of
from .tasks import Evaluation, LabelTask, Task, as_text

__all__ = ["Collector", "task_of"]

_GROUPS, _OF_GROUP = 8, 4  # kinds of wrong predictions that are shown, and samples of each
_TIMED = 8  # samples that are predicted to measure the time


class Collector:
    """Collects what a page shows.

    Parameters
    ----------
    estimator, X, y, cv, random_state
        Of :func:`report`.
    folder : str
        Where features are kept meanwhile.
    n_shown : int
    """

    cv: int | None
    duplicates: NearDuplicates
    found: Evaluation
    given: str
    model: Any
    n_shown: int
    network: NetworkStep
    positions: np.ndarray
    samples: Any
    task: Task
    unreadable: list[tuple[str, str]]
    y: np.ndarray

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        cv: int | None,
        folder: str,
        random_state: Any,
        n_shown: int,
    ):
        task = task_of(estimator, y)
        if cv is None and not is_fitted(estimator):
            raise ValueError(
                f"cv=None needs a fitted estimator: {type(estimator).__name__} is not."
            )
        self.n_shown, self.cv = n_shown, cv
        self.given = repr(with_memory(estimator, None, replace=True))
        self.unreadable, readable = _unreadable(find_network(estimator), X)
        if len(readable) < 2:
            raise ValueError(f"{len(readable)} samples are readable: at least 2 are needed.")
        self.X = X if not self.unreadable else _safe_indexing(X, readable)
        self.task, self.positions = task.take(readable), readable
        self.y = self.task.y
        if cv is not None:
            self.task.check(cv)
        unfitted = with_memory(estimator, folder)
        is_ready = is_fitted(estimator)
        self.model = estimator if is_ready else clone(unfitted).fit(self.X, self.y)
        self.network = find_network(self.model)
        self.samples = self.network.check(self.X)
        self.duplicates = self._duplicates(folder)
        self.found = self._evaluate(unfitted, random_state)

    def _evaluate(self, estimator, random_state) -> Evaluation:
        if self.cv is None:
            self.task = self.task.knowing(self.model)
            return predictions_of(self.model, self.X, self.task)
        groups = np.arange(len(self.y))
        most = len(self.y) / (2 * self.cv)  # a larger group may be all samples of a class
        for group in self.duplicates.groups:
            if len(group) <= max(2, most):
                groups[group] = group[0]
        return evaluate(estimator, self.X, self.task, groups, self.cv, random_state)

    def _duplicates(self, folder: str) -> NearDuplicates:
        backbone = self.network.step.backbone_
        extractor = PretrainedFeatureExtractor(backbone, memory=folder)
        return near_duplicates_of(extractor.fit_transform(self.samples))

    def collect(self, path: Path, title: str | None, recommendation: Any, file: str) -> Report:
        """Return what the page shows."""
        name = self.network.step.backbone_.name
        order = self.task.errors(self.found)
        return Report(
            path=path,
            title=title or f"Report: {type(self.model).__name__} on {name}",
            noun=self.network.modality.noun,
            n_samples=len(self.y),
            n_folds=len(self.found.fit_seconds),
            sizes=self.task.sizes(),
            unreadable=self.unreadable,
            duplicates=self._duplicates_in_X(),
            duplicate_cases=self._duplicate_cases(),
            choice=_choice(self.given, self.network),
            recommendation=recommendation,
            confused=self._confused(order),
            worst=self._worst(order[: self.n_shown]),
            costs=self._costs(),
            file=file,
            **self._scores(),
            **self._issues(),
        )

    def _scores(self) -> dict[str, Any]:
        """Return the parts of the page with numbers about predictions."""
        task, found = self.task, self.found
        bins = task.bins(found)
        labels, matrix = task.matrix(found) or ([], None)
        return {
            "task": task,
            "baseline": task.baseline(),
            "scores": task.scores(found),
            "table": task.table(found),
            "scatters": task.scatters(found),
            "residuals": task.residuals(found),
            "calibration": bins,
            "calibration_error": calibration_error(bins) if bins else float("nan"),
            "labels": labels,
            "matrix": matrix,
        }

    def _issues(self) -> dict[str, Any]:
        """Return the part of the page on labels that are probably wrong."""
        issues = self.task.issues(self.found)
        if issues is None:
            return {"issues": None, "issue_cases": []}
        return {"issues": self._issues_in_X(issues), "issue_cases": self._issue_cases(issues)}

    def _duplicates_in_X(self) -> NearDuplicates:
        """Return the near duplicates with positions in X, unreadable samples included."""
        n = len(self.y) + len(self.unreadable)
        pairs = self.positions[self.duplicates.pairs]
        return NearDuplicates(pairs, self.duplicates.similarity, n)

    def _issues_in_X(self, issues: LabelIssues) -> LabelIssues:
        """Return label issues with positions in X, unreadable samples included."""
        n = len(self.y) + len(self.unreadable)
        quality, table = np.full(n, np.nan), np.full((n, len(issues.classes)), np.nan)
        quality[self.positions] = issues.quality
        table[self.positions] = issues.probabilities
        return dataclasses.replace(
            issues,
            indices=self.positions[issues.indices],
            quality=quality,
            probabilities=table,
        )

    # -- samples -----------------------------------------------------------------------------------

    def _cases(self, rows: Sequence[int] | np.ndarray) -> list[Case]:
        """Return samples with their labels and predictions."""
        shown = previews_of(self.samples, self.network.modality, rows)
        text = self.task.text
        return [
            Case(
                self._name(i),
                show(preview),
                text(self.y[i]),
                text(self.found.predicted[i]),
                self.task.sure(self.found, i),
            )
            for i, preview in zip(rows, shown, strict=True)
        ]

    def _issue_cases(self, issues: LabelIssues) -> list[Case]:
        """Return the most suspicious labels, with what they rather are."""
        some = slice(self.n_shown)
        given, suggested = issues.given[some], issues.suggested[some]
        return [
            dataclasses.replace(case, label=as_text(own), predicted=as_text(other))
            for case, own, other in zip(
                self._cases(issues.indices[some]), given, suggested, strict=True
            )
        ]

    def _name(self, i: int) -> str:
        """Return the name of the file of a sample, or its position in X."""
        return _name(self.samples[i], self.positions[i], self.network)

    def _duplicate_cases(self) -> list[tuple[float, Case, Case]]:
        found = self.duplicates
        some = list(zip(found.pairs, found.similarity, strict=True))[: self.n_shown]
        cases = [self._cases(pair) for pair, _ in some]
        return [
            (float(cosine), first, second)
            for (_, cosine), (first, second) in zip(some, cases, strict=True)
        ]

    def _worst(self, rows: np.ndarray) -> list[Case]:
        """Return samples with what speaks for their predictions, by the models that made them."""
        explained: dict[int, Shown] = {}
        for fold, model in enumerate(self.found.models):
            some = [i for i in rows if self.found.fold[i] == fold]
            explained |= self._explained(model, some) if some else {}
        return [
            dataclasses.replace(
                case, saliency=explained[i], explained=self.task.explanation(self.found, i)
            )
            for i, case in zip(rows, self._cases(rows), strict=True)
        ]

    def _explained(self, model, rows: list[int]) -> dict[int, Shown]:
        """Return the saliency of predictions of one model."""
        target = self.task.explained(self.found, rows)
        samples = [self.samples[i] for i in rows]
        found = saliency(find_network(model).on_samples(), samples, target=target)
        return {i: show_saliency(found, at) for at, i in enumerate(rows)}

    def _confused(self, order: np.ndarray) -> list[Confused]:
        return [
            Confused(group.title, len(group.rows), self._cases(group.rows[:_OF_GROUP]))
            for group in self.task.groups(self.found, order)[:_GROUPS]
        ]

    # -- numbers -----------------------------------------------------------------------------------

    def _costs(self) -> dict[str, str]:
        model, few = self.network.on_samples(), self.samples[:_TIMED]
        model.predict(few)  # prepares the network
        start = time.perf_counter()
        model.predict(few)
        each = (time.perf_counter() - start) / len(few)
        module = self.network.step.backbone_.module
        n_weights = sum(p.numel() for p in module.parameters())
        costs = {
            "time of a prediction": f"{1000 * each:.3g} ms a sample",
            "weights of the network": f"{n_weights / 1e6:.3g} million",
        }
        with contextlib.suppress(Exception):  # a function of the user's may have no pickle
            costs["size of a pickle"] = f"{len(pickle.dumps(self.model)) / 1e6:.3g} MB"
        if not self.found.fit_seconds:
            return costs
        seconds, n = np.mean(self.found.fit_seconds), self.found.n_train
        fit = {
            f"time of a fit to {n:.0f} samples": f"{seconds:.3g} s, with features from the store"
        }
        return fit | costs


def task_of(estimator: Any, y: Any) -> Task:
    """Return the target of an estimator, checked.

    Parameters
    ----------
    estimator : estimator
    y : array-like of shape (n_samples,) or (n_samples, n_columns)
        Numbers for a regressor, labels or an indicator matrix otherwise. The columns of a table
        have names.

    Returns
    -------
    Task

    Raises
    ------
    ValueError
        If y is no such target.
    """
    names = [str(name) for name in getattr(y, "columns", ())]
    if is_regressor(estimator):
        return NumberTask(check_numbers(y), names)
    values = check_target(y)
    if type_of_target(values).startswith("multilabel"):
        return LabelSetTask(values.astype(int), names)
    return LabelTask(check_labels(y))


def _unreadable(network: NetworkStep, X) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Return name and cause of samples that cannot be opened, and the positions of the others."""
    if network.before is not None:  # its steps may not be fitted yet
        return [], np.arange(len(X))
    samples, wrong, readable = network.check(X), [], []
    for i, sample in enumerate(samples):
        try:
            network.modality.open(network.modality.read(sample))
            readable.append(i)
        except Exception as error:  # decoders raise anything
            wrong.append((_name(sample, i, network), str(error) or type(error).__name__))
    return wrong, np.array(readable, dtype=int)


def _name(sample, position: int, network: NetworkStep) -> str:
    """Return folder and name of the file of a sample, or its position in X."""
    is_text = isinstance(sample, str) and network.modality.takes_files
    if is_text or isinstance(sample, os.PathLike):
        return "/".join(Path(sample).parts[-2:])
    return f"sample {position}"


def _choice(given: str, network: NetworkStep) -> dict[str, Any]:
    """Describe what a model consists of."""
    step = network.step
    found: dict[str, Any] = {"estimator": given, "backbone": step.backbone_.name}
    shape = step.backbone_.input_shape
    found["input"] = "" if shape is None else " × ".join(map(str, shape[1:]))
    found["strategy"] = getattr(step, "strategy_", "")
    members = getattr(step, "members_", None) or []
    weights = getattr(step, "weights_", None)
    found["members"] = (
        [] if weights is None else list(zip(members, map(float, weights), strict=True))
    )
    return found
