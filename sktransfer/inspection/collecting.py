"""Collect what a page about data and a model shows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone, is_regressor
from sklearn.utils import _safe_indexing

from ..data import check_labels, check_numbers
from ..features import NetworkStep, PretrainedFeatureExtractor, find_network
from ..transferability.folds import check_folds
from .confusion import most_confused
from .duplicates import NearDuplicates, near_duplicates_of
from .evaluation import Evaluation, evaluate, is_fitted, predictions_of, with_memory
from .explaining import saliency
from .facts import Case, Confused, Report
from .label_issues import LabelIssues, find_label_issues
from .metrics import Bin, calibration_bins, calibration_error, class_scores, number_scores
from .page import Shown, show, show_saliency
from .previews import previews_of

__all__ = ["Collector"]

_PAIRS, _OF_PAIR = 8, 4  # pairs of labels that are shown, and samples of each
_TIMED = 8  # samples that are predicted to measure the time
_LARGEST_TABLE = 25  # classes of a confusion matrix that is shown


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

    def __init__(self, estimator, X, y, cv, folder: str, random_state, n_shown: int):
        y = check_numbers(y) if is_regressor(estimator) else check_labels(y)
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
        self.y, self.positions = y[readable], readable
        if cv is not None:
            numbers = is_regressor(estimator)
            check_folds(cv, self.y if numbers else np.unique(self.y, return_inverse=True)[1], 0)
        unfitted = with_memory(estimator, folder)
        is_ready = is_fitted(estimator)
        self.model = estimator if is_ready else clone(unfitted).fit(self.X, self.y)
        self.network = find_network(self.model)
        self.samples = self.network.check(self.X)
        self.duplicates = self._duplicates(folder)
        self.found = self._evaluate(unfitted, random_state)

    def _evaluate(self, estimator, random_state) -> Evaluation:
        if self.cv is None:
            return predictions_of(self.model, self.X, self.y)
        groups = np.arange(len(self.y))
        most = len(self.y) / (2 * self.cv)  # a larger group may be all samples of a class
        for group in self.duplicates.groups:
            if len(group) <= max(2, most):
                groups[group] = group[0]
        return evaluate(estimator, self.X, self.y, groups, self.cv, random_state)

    def _duplicates(self, folder: str) -> NearDuplicates:
        backbone = self.network.step.backbone_
        extractor = PretrainedFeatureExtractor(backbone, memory=folder)
        return near_duplicates_of(extractor.fit_transform(self.samples))

    def collect(self, path: Path, title, recommendation, file: str) -> Report:
        """Return what the page shows."""
        name = self.network.step.backbone_.name
        order = self._order_of_errors()
        return Report(
            path=path,
            title=title or f"Report: {type(self.model).__name__} on {name}",
            noun=self.network.modality.noun,
            n_samples=len(self.y),
            n_folds=len(self.found.fit_seconds),
            sizes=self._sizes(),
            unreadable=self.unreadable,
            duplicates=self._duplicates_in_X(),
            duplicate_cases=self._duplicate_cases(),
            choice=_choice(self.given, self.network),
            recommendation=recommendation,
            worst=self._worst(order[: self.n_shown]),
            costs=self._costs(),
            file=file,
            **(
                self._of_numbers()
                if self.found.classes is None
                else self._of_labels(order, self.found.classes)
            ),
        )

    def _of_numbers(self) -> dict:
        """Return the parts of the page on scores, for numbers."""
        scores = number_scores(self.y, self.found.predicted)
        empty: dict = {name: [] for name in ("calibration", "labels", "confused", "issue_cases")}
        none = {"matrix": None, "issues": None, "calibration_error": float("nan")}
        return {"scores": scores, **empty, **none}

    def _of_labels(self, order: np.ndarray, classes: np.ndarray) -> dict:
        """Return the parts of the page on scores, for labels."""
        found = self.found
        bins: list[Bin] = []
        issues = None
        if found.probabilities is not None:
            bins = calibration_bins(self.y, found.probabilities, classes)
            known = np.unique(self.y)
            columns = np.isin(classes, known)
            table = found.probabilities[:, columns]
            issues = find_label_issues(None, self.X, self.y, probabilities=table)
        labels = np.unique(np.concatenate([self.y, found.predicted]))
        rows: Any = [] if issues is None else issues.indices[: self.n_shown]
        return {
            "scores": class_scores(self.y, found.predicted, found.probabilities, classes),
            "calibration": bins,
            "calibration_error": calibration_error(bins) if bins else float("nan"),
            "matrix": self._matrix(labels) if len(labels) <= _LARGEST_TABLE else None,
            "labels": [str(label) for label in labels],
            "confused": self._confused(order),
            "issues": None if issues is None else self._issues_in_X(issues),
            "issue_cases": [] if issues is None else self._cases(rows, issues=issues),
        }

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

    def _cases(self, rows, issues: LabelIssues | None = None) -> list[Case]:
        shown = previews_of(self.samples, self.network.modality, rows)
        predicted, table = self.found.predicted, self.found.probabilities
        if issues is not None:
            predicted, table = issues.classes[issues.probabilities.argmax(1)], issues.probabilities
        return [
            Case(
                self._name(i),
                show(preview),
                _text(self.y[i]),
                _text(predicted[i]),
                float("nan") if table is None else float(table[i].max()),
            )
            for i, preview in zip(rows, shown, strict=True)
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

    def _order_of_errors(self) -> np.ndarray:
        """Return the positions of errors, the worst first."""
        found = self.found
        if found.classes is None:
            error = np.abs(self.y - found.predicted).reshape(len(self.y), -1).sum(1)
            return np.argsort(-error, kind="stable")
        return most_confused(self.y, found.predicted, found.probabilities, found.classes)

    def _worst(self, rows: np.ndarray) -> list[Case]:
        """Return samples with what speaks for their predictions, by the models that made them."""
        explained: dict[int, Shown] = {}
        for fold, model in enumerate(self.found.models):
            some = [i for i in rows if self.found.fold[i] == fold]
            explained |= self._explained(model, some) if some else {}
        return [
            dataclasses.replace(case, saliency=explained[i])
            for i, case in zip(rows, self._cases(rows), strict=True)
        ]

    def _explained(self, model, rows: list[int]) -> dict[int, Shown]:
        """Return the saliency of predictions of one model."""
        labels = self.found.predicted[rows]
        target = None if self.found.classes is None else labels.tolist()
        samples = [self.samples[i] for i in rows]
        found = saliency(find_network(model).on_samples(), samples, target=target)
        return {i: show_saliency(found, at) for at, i in enumerate(rows)}

    def _confused(self, order: np.ndarray) -> list[Confused]:
        pairs: dict[tuple[str, str], list[int]] = {}
        for i in order:
            pairs.setdefault((_text(self.y[i]), _text(self.found.predicted[i])), []).append(i)
        most = sorted(pairs.items(), key=lambda item: -len(item[1]))[:_PAIRS]
        return [Confused(*pair, len(rows), self._cases(rows[:_OF_PAIR])) for pair, rows in most]

    # -- numbers -----------------------------------------------------------------------------------

    def _sizes(self) -> dict[str, int]:
        if self.found.classes is None:
            return {}
        labels, counts = np.unique(self.y, return_counts=True)
        return {_text(label): int(n) for label, n in zip(labels, counts, strict=True)}

    def _matrix(self, labels: np.ndarray) -> np.ndarray:
        places = np.searchsorted(labels, self.y), np.searchsorted(labels, self.found.predicted)
        matrix = np.zeros((len(labels), len(labels)), int)
        np.add.at(matrix, places, 1)
        return matrix

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


def _text(value) -> str:
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    return str(value)


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
