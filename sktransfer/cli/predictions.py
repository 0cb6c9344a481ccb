"""The command predict."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ..data import UnreadableSamplesError, list_files
from ..features import PretrainedClassifier, find_network, progress
from ..persistence import load
from .output import note, print_rows

__all__ = ["predict"]

_CHUNK = 64  # samples whose predictions are printed together
_PROGRESS_FROM = 32  # samples
_STDIN = "-"


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Images, and folders of them; - reads their names from standard input. For models "
            "of texts, text files with one text a line; - reads the texts.",
        ),
    ],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A file that train wrote.")
    ] = None,
    backbone: Annotated[
        str, typer.Option(help="Without --model: the network whose classes are predicted.")
    ] = "efficientnet_lite0",
    weights: Annotated[
        str, typer.Option(help="The name of published weights, or a file.")
    ] = "default",
    k: Annotated[int, typer.Option("-k", min=1, help="Number of classes for each sample.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON each.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Predict classes or numbers. Files that cannot be read are named, and the exit code is 1."""
    estimator = _direct(backbone, weights) if model is None else _quiet(load(model))
    read = _lines if find_network(estimator).modality.has_tokens else _files
    write = _write_json if as_json else _write_csv if as_csv else _write_table
    predictions = _Predictions(estimator, k)
    samples = _all_samples(paths, read)
    if write is _write_table:  # of all samples; lines are printed as they are found
        samples = _with_bar(list(samples))
    write(predictions.of(samples))
    if predictions.n_failed:
        note(f"{predictions.n_failed} of {predictions.n_seen} could not be read.")
        raise typer.Exit(1)


def _direct(backbone: str, weights: str) -> PretrainedClassifier:
    any_image = np.zeros((1, 8, 8, 3), np.uint8)  # fit checks its kind, and trains nothing
    return PretrainedClassifier(backbone, weights=weights).fit(any_image)


def _quiet(estimator: Any) -> Any:
    """Return an estimator that draws no bar for each chunk of samples."""
    find_network(estimator).step.set_params(verbose=0)
    return estimator


def _with_bar(samples: list[str]) -> Iterator[str]:
    """Return samples, and show how many of them were taken if there are many."""
    with progress("predictions", len(samples), len(samples) > _PROGRESS_FROM) as advance:
        for sample in samples:
            yield sample
            advance(1)


def _all_samples(paths: list[str], read) -> Iterator[str]:
    for path in paths:
        yield from read(path)


def _files(path: str) -> Iterator[str]:
    """Return names of files: the name itself, those in a folder, or those on standard input."""
    if path == _STDIN:
        yield from (line.rstrip("\n") for line in sys.stdin if line.strip())
    elif Path(path).is_dir():
        yield from list_files(path)
    else:
        yield path


def _lines(path: str) -> Iterator[str]:
    """Return the texts in a file or on standard input, one a line."""
    if path == _STDIN:
        yield from (line.rstrip("\n") for line in sys.stdin)
        return
    with open(path, encoding="utf-8") as file:
        yield from (line.rstrip("\n") for line in file)


class _Predictions:
    """The predictions of an estimator, a chunk of samples after the other.

    Samples that cannot be read are named on standard error and counted in ``n_failed``.
    """

    def __init__(self, estimator, k: int):
        self.estimator = estimator
        self.k = k
        self.n_seen = self.n_failed = 0

    def of(self, samples: Iterator[str]) -> Iterator[tuple[str, list[tuple]]]:
        """Return each sample with its classes and probabilities, the most probable first."""
        while chunk := list(islice(samples, _CHUNK)):
            self.n_seen += len(chunk)
            yield from self._chunk(chunk)

    def _chunk(self, chunk: list[str]) -> Iterable[tuple[str, list[tuple]]]:
        while chunk:
            try:
                return zip(chunk, self._predict(chunk), strict=True)
            except UnreadableSamplesError as error:
                chunk = self._without(chunk, error)
        return ()

    def _without(self, chunk: list[str], error: UnreadableSamplesError) -> list[str]:
        bad = {position for position, *_ in error.problems}
        for position, _, why in error.problems:
            note(f"{chunk[position]}: {why}")
        self.n_failed += len(bad)
        return [sample for i, sample in enumerate(chunk) if i not in bad]

    def _predict(self, chunk: list[str]) -> list[list[tuple]]:
        if not hasattr(self.estimator, "predict_proba"):
            return [[(value, None)] for value in self.estimator.predict(chunk).tolist()]
        probabilities = self.estimator.predict_proba(chunk)
        order = np.argsort(-probabilities, axis=1, kind="stable")[:, : self.k]
        names = np.asarray(self.estimator.classes_)[order].tolist()
        values = np.take_along_axis(probabilities, order, axis=1).tolist()
        return [list(zip(*row, strict=True)) for row in zip(names, values, strict=True)]


def _write_json(predictions: Iterable[tuple[str, list[tuple]]]) -> None:
    for sample, found in predictions:
        line: dict = {"sample": sample, "prediction": found[0][0]}
        if found[0][1] is not None:
            line["probabilities"] = {str(name): round(p, 6) for name, p in found}
        print(json.dumps(line, ensure_ascii=False), flush=True)


def _write_csv(predictions: Iterable[tuple[str, list[tuple]]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(("sample", "prediction", "probability"))
    for sample, found in predictions:
        name, probability = found[0]
        writer.writerow((sample, name, "" if probability is None else round(probability, 6)))
        sys.stdout.flush()


def _write_table(predictions: Iterable[tuple[str, list[tuple]]]) -> None:
    rows = [
        (sample, name, "" if p is None else f"{p:.1%}")
        for sample, found in predictions
        for name, p in found
    ]
    print_rows(("sample", "prediction", "probability"), rows, right=(2,), grouped=True)
