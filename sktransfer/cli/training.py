"""The commands train and evaluate."""

from __future__ import annotations

import dataclasses
import json
import math
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from sklearn.base import is_regressor
from sklearn.metrics import mean_absolute_error, precision_recall_fscore_support
from sklearn.model_selection import train_test_split

from ..data import find_task
from ..persistence import load, save
from ..selection import TransferClassifier, TransferRegressor
from .output import note, print_rows
from .sources import Columns, Source, read_source

__all__ = ["evaluate", "train"]

_HELD_OUT = 0.2  # of the samples, where the source has no test samples of its own
_FEWEST = 10  # samples from which some are held out

Source_ = Annotated[
    Path,
    typer.Argument(
        metavar="SOURCE",
        help="A folder with a sub-folder for each class, or a CSV, TSV, Parquet or JSONL file.",
    ),
]
Image = Annotated[str | None, typer.Option(help="The column of image files in a table.")]
Text = Annotated[str | None, typer.Option(help="The column of texts in a table.")]
Label = Annotated[str | None, typer.Option(help="The column of labels in a table.")]


def train(
    source: Source_,
    output: Annotated[Path, typer.Option("-o", "--output", help="The file of the model.")],
    strategy: Annotated[str, typer.Option(help="A strategy of TransferClassifier.")] = "auto",
    backbone: Annotated[str | None, typer.Option(help="The pretrained network.")] = None,
    time_budget: Annotated[
        float | None, typer.Option(min=0, help="Seconds that may be used to train the network too.")
    ] = None,
    image: Image = None,
    text: Text = None,
    label: Label = None,
    task: Annotated[
        str, typer.Option(help="classification, regression, or auto: by the labels.")
    ] = "auto",
    random_state: Annotated[int, typer.Option(help="Seed.")] = 0,
) -> None:
    """Train a model on labelled images or texts, and report its accuracy on held-out samples."""
    start = time.perf_counter()
    _check_output(output)
    samples = read_source(source, Columns(image, text, label))
    backbone = backbone or ("efficientnet_lite0" if text is None else "e5_small")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as memory:
        common = {"memory": memory, "random_state": random_state, "verbose": 1}
        make = _MODEL_FOR[find_task(samples.y, task)]
        model = make(backbone, strategy, time_budget, common)
        split = _hold_out(samples, random_state)
        if split.X_test is not None and split.y_test is not None:
            note(f"Training on {len(split.X)} samples, {len(split.X_test)} are held out.")
            predicted = model.fit(split.X, split.y).predict(split.X_test)
            print(_score(model, split.y_test, predicted), flush=True)
        if split.X_test is None or split.X_test is not samples.X_test:
            note(f"Training on all {len(samples.X)} samples.")
            model.fit(samples.X, samples.y)
    _print_choice(model)
    save(model.set_params(verbose=0), output)
    seconds = time.perf_counter() - start
    print(f"saved {output} ({output.stat().st_size / 1e6:.1f} MB) after {seconds:.0f} s")


def _check_output(path: Path) -> None:
    """Refuse a place where nothing can be written before the work begins."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise ValueError(f"--output {path}: give a file in a folder that exists.")


def _classifier(backbone: str, strategy: str, time_budget: float | None, settings: dict):
    return TransferClassifier(backbone, strategy=strategy, time_budget=time_budget, **settings)


def _regressor(backbone: str, strategy: str, time_budget: float | None, settings: dict):
    if time_budget is not None or strategy != "auto":
        raise ValueError("--time-budget and --strategy are for classes: these labels are numbers.")
    return TransferRegressor(backbone, **settings)


_MODEL_FOR = {"classification": _classifier, "regression": _regressor}


def _hold_out(samples: Source, seed: int) -> Source:
    """Return the samples for training and for testing."""
    if samples.X_test is not None or len(samples.X) < _FEWEST:
        return samples
    counts = np.unique(samples.y, return_counts=True)[1]
    n_test = round(_HELD_OUT * len(samples.X))
    can_stratify = counts.min() > 1 and len(counts) <= n_test and counts.sum() > 2 * len(counts)
    rows = train_test_split(
        np.arange(len(samples.X)),
        test_size=n_test,
        random_state=seed,
        stratify=samples.y if can_stratify else None,
    )
    first, second = rows
    return Source(
        [samples.X[i] for i in first],
        samples.y[first],
        [samples.X[i] for i in second],
        samples.y[second],
    )


@dataclasses.dataclass
class Score:
    """How good a model is on test samples: accuracy, or the mean absolute error of numbers."""

    name: str
    value: float
    error: float
    n: int

    def __str__(self) -> str:
        return f"{self.name} {self.value:.3f} ± {self.error:.3f} on {self.n} held-out samples"


def _score(model, y: np.ndarray, predicted: np.ndarray) -> Score:
    """Return the score with its standard error."""
    if is_regressor(model):
        spread = np.std(np.abs(y - predicted)) / math.sqrt(len(y))
        return Score("mean absolute error", mean_absolute_error(y, predicted), spread, len(y))
    accuracy = float(np.mean(np.asarray(y) == predicted))
    return Score("accuracy", accuracy, math.sqrt(accuracy * (1 - accuracy) / len(y)), len(y))


def _print_choice(model) -> None:
    """Say what the model consists of."""
    members = getattr(model, "members_", None)
    if members is None:
        print(f"strategy {getattr(model, 'strategy_', '')}")
        return
    pairs = sorted(zip(model.weights_, members, strict=True), reverse=True)
    print("the weighted mean of")
    print_rows(
        ("weight", "member"), [(f"{weight:.2f}", name) for weight, name in pairs], right=(0,)
    )


def evaluate(
    model: Annotated[Path, typer.Argument(help="A file that train or sktransfer.save wrote.")],
    source: Source_,
    image: Image = None,
    text: Text = None,
    label: Label = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Report the accuracy of a model on other labelled samples: of splits, those for testing."""
    estimator = load(model)
    samples = read_source(source, Columns(image, text, label), training=False)
    predicted = estimator.predict(samples.X)
    score = _score(estimator, samples.y, predicted)
    if as_json:
        print(json.dumps(dataclasses.asdict(score)))
        return
    print(score)
    if not is_regressor(estimator):
        _print_classes(samples.y, predicted)


def _print_classes(y: np.ndarray, predicted: np.ndarray) -> None:
    names = sorted(set(y.tolist()) | set(predicted.tolist()), key=str)
    precision, recall, _, counts = precision_recall_fscore_support(
        y, predicted, labels=names, zero_division=0
    )
    rows = [
        (name, n, f"{r:.3f}", f"{p:.3f}")
        for name, n, r, p in zip(names, counts, recall, precision, strict=True)
    ]
    print_rows(("class", "samples", "recall", "precision"), rows, right=(1, 2, 3))
