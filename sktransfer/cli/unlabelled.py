"""Commands for samples without labels: predict, and extract features into a folder."""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .._printable import printable
from .labelled import naming_the_option, refuse_together

if TYPE_CHECKING:
    from ..data import UnreadableSamplesError
    from ..features import NetworkStep, PretrainedClassifier
    from ..features.partitions import ExtractionReport
    from .predicting import Prediction

_CHUNK = 64  # samples whose predictions are printed together
_PROGRESS_FROM = 32  # samples
_STDIN = "-"
_BACKBONE = "efficientnet_lite0"
_SHOWN = 10  # samples that failed

_Named = tuple[str, Any]  # a sample, or why there is none, with its name


def predict(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="PATH...",
            help="Images, and folders of them; - reads their names from standard input. For models "
            "of texts, text files with one text a line; - reads the texts. For models of several "
            "columns, tables that have them.",
        ),
    ],
    model: Annotated[
        Path | None, typer.Option("--model", "-m", help="A file that train wrote.")
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(
            help="Without --model: the network whose classes are predicted.",
            show_default=_BACKBONE,
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="The name of published weights, or a file.", show_default="default"),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="Number of classes for each sample.")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print a line of JSON each.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
) -> None:
    """Predict classes or numbers. Files that cannot be read are named, and the exit code is 1."""
    if as_json:
        refuse_together("--json", {"--csv": as_csv})
    if model is not None:
        networks = {"--backbone": backbone, "--weights": weights}
        refuse_together("--model", networks, "the file of a model has its network")
    from ..persistence import load
    from .output import note
    from .predicting import find_predictor

    if model is None:
        name = _BACKBONE if backbone is None else backbone
        estimator = _direct(name, "default" if weights is None else weights)
    else:
        estimator = load(model)
    network = find_predictor(estimator)
    network.step.set_params(verbose=0)  # no bar for each chunk of samples
    read: Callable[[str], Iterator[_Named]] = _lines if network.modality.has_tokens else _files
    if network.reads_table:
        read = functools.partial(_rows, network.step.column_kinds_)
    predictions = _Predictions(network)
    samples = (sample for path in paths for sample in predictions.read(read, path))
    if as_json:
        _write_json(predictions.of(samples), k)
    elif as_csv:
        _write_csv(predictions.of(samples))
    else:  # of all samples; lines of JSON and CSV are printed as they are predicted
        _write_table(predictions.of(_with_bar(list(samples))), k)
    if predictions.n_failed:
        note(f"{predictions.n_failed} of {predictions.n_seen} could not be read.")
        raise typer.Exit(1)


def _direct(backbone: str, weights: str) -> PretrainedClassifier:
    import numpy as np

    from ..features import PretrainedClassifier

    any_image = np.zeros((1, 8, 8, 3), np.uint8)  # fit checks its kind, and trains nothing
    return PretrainedClassifier(backbone, weights=weights).fit(any_image)


def _with_bar(samples: list[_Named]) -> Iterator[_Named]:
    """Return samples, and show how many of them were taken if there are many."""
    from ..data import progress

    with progress("predictions", len(samples), len(samples) > _PROGRESS_FROM) as advance:
        for sample in samples:
            yield sample
            advance(1)


def _files(path: str) -> Iterator[_Named]:
    """Return files, each its own name: a file, those in a folder, or those on standard input."""
    from ..data import list_files

    files: Iterable[str] = [path]
    if path == _STDIN:
        files = (line.rstrip("\n") for line in sys.stdin if line.strip())
    elif Path(path).is_dir():
        files = list_files(path)
        if not files:
            raise FileNotFoundError("a folder without files")
    for file in files:
        yield file, file


def _lines(path: str) -> Iterator[_Named]:
    """Return the texts in a file or on standard input, one a line, each its own name."""

    def texts(file: Iterable[str]) -> Iterator[_Named]:
        for line in file:
            text = line.rstrip("\n")
            yield text, text

    if path == _STDIN:
        yield from texts(sys.stdin)
        return
    if Path(path).is_dir():
        raise IsADirectoryError("a folder, and the model reads files of texts")
    with open(path, encoding="utf-8") as file:
        if file.seekable():  # a file is read to its end before its first line is predicted
            for _ in file:
                pass
            file.seek(0)
        yield from texts(file)


def _rows(kinds: dict[Any, str], path: str) -> Iterator[_Named]:
    """Return the rows of a table, each with the name of the file and its position from 0 on."""
    from ..data import CATEGORY, NUMBER, get_modality, image_cells, number_error, open_columns

    frame, folder = open_columns(path, kinds)
    numbers = [name for name, kind in kinds.items() if kind == NUMBER]
    for name, kind in kinds.items():
        if kind not in (NUMBER, CATEGORY) and get_modality(kind).takes_files:
            frame = frame.assign(**{name: image_cells(frame[name], folder)})
    for i, row in enumerate(frame[list(kinds)].to_dict("records")):
        errors = {name: number_error(row[name]) for name in numbers}
        why = "; ".join(f"{name}: {error}" for name, error in errors.items() if error)
        yield f"{path}:{i}", ValueError(why) if why else row


class _Predictions:
    """The predictions of an estimator, a chunk of samples after the other.

    Samples, files and folders that cannot be read are named on standard error and counted in
    ``n_failed``.
    """

    def __init__(self, network: NetworkStep):
        self.network = network
        self.n_seen = self.n_failed = 0

    def read(self, read: Callable[[str], Iterator[_Named]], path: str) -> Iterator[_Named]:
        """Return the samples of a path with their names; before an error, those before it."""
        try:
            for name, sample in read(path):
                if isinstance(sample, ValueError):
                    self._refuse(printable(name), sample)
                else:
                    yield name, sample
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            if isinstance(error, UnicodeDecodeError):
                why = "not a text in UTF-8"
            self._refuse("standard input" if path == _STDIN else printable(path), why)

    def _refuse(self, name: str, why: object) -> None:
        from .output import note

        note(f"{name}: {why}")
        self.n_seen += 1
        self.n_failed += 1

    def of(self, samples: Iterator[_Named]) -> Iterator[tuple[str, Prediction]]:
        """Return the name of each sample with its prediction."""
        while chunk := list(islice(samples, _CHUNK)):
            self.n_seen += len(chunk)
            yield from self._chunk(chunk)

    def _chunk(self, chunk: list[_Named]) -> Iterable[tuple[str, Prediction]]:
        from ..data import UnreadableSamplesError
        from .predicting import predict_samples

        while chunk:
            try:
                names, samples = zip(*chunk, strict=True)
                return zip(names, predict_samples(self.network, list(samples)), strict=True)
            except UnreadableSamplesError as error:
                chunk = self._without(chunk, error)
        return ()

    def _without(self, chunk: list[_Named], error: UnreadableSamplesError) -> list[_Named]:
        from .output import note

        bad = {position for position, *_ in error.problems}
        for position, _, why in error.problems:
            column = f"{error.name}: " if error.name else ""
            note(f"{printable(chunk[position][0])}: {column}{naming_the_option(why)}")
        self.n_failed += len(bad)
        return [sample for i, sample in enumerate(chunk) if i not in bad]


def _write_json(predictions: Iterable[tuple[str, Prediction]], k: int) -> None:
    from .output import print_json

    for sample, predicted in predictions:
        line: dict = {"sample": sample, "prediction": predicted.value}
        if predicted.probabilities is not None:
            shown = predicted.probabilities if predicted.is_list else predicted.ranked(k)
            line["probabilities"] = {str(name): round(p, 6) for name, p in shown if p is not None}
        print_json(line)


def _write_csv(predictions: Iterable[tuple[str, Prediction]]) -> None:
    from .output import print_csv

    print_csv(("sample", "prediction", "probability"))
    for sample, predicted in predictions:
        name, probability = predicted.ranked(1)[0]
        print_csv((sample, name, "" if probability is None else round(probability, 6)))


def _write_table(predictions: Iterable[tuple[str, Prediction]], k: int) -> None:
    from .output import print_rows

    rows = [
        (sample, name, "" if p is None else f"{p:.1%}")
        for sample, predicted in predictions
        for name, p in predicted.ranked(k)
    ]
    print_rows(("sample", "prediction", "probability"), rows, right=(2,), grouped=True)


# -- features of any number of samples ------------------------------------------------------------


def extract(
    source: Annotated[
        str,
        typer.Argument(
            help="A Parquet or CSV file, a folder, a zip or tar archive, or a pattern of files."
        ),
    ],
    target: Annotated[str, typer.Argument(help="The folder of the features, or its URL.")],
    backbone: Annotated[str, typer.Option(help="The name of a backbone.")] = "efficientnet_lite0",
    weights: Annotated[
        str, typer.Option(help="The name of published weights, or a file.")
    ] = "default",
    layer: Annotated[
        list[str] | None, typer.Option(help="A layer; may be given several times.")
    ] = None,
    pooling: Annotated[str, typer.Option(help="avg, max, flatten, grid or cls.")] = "avg",
    image_size: Annotated[int | None, typer.Option(help="Side of the input, in pixels.")] = None,
    column: Annotated[str | None, typer.Option(help="The column of samples.")] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="A column to keep; may be given several times.")
    ] = None,
    partition_size: Annotated[int, typer.Option(min=1, help="Rows of one file.")] = 4096,
    dtype: Annotated[str, typer.Option(help="float32 or float16.")] = "float32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    scheduler: Annotated[
        str | None, typer.Option(help="The address of a Dask scheduler: tcp://host:8786.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes of this machine.")] = 1,
    retries: Annotated[int, typer.Option(min=0, help="Retries of a partition.")] = 2,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Try samples again that failed before.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Remove features that the source has no more.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read all files, and repair damaged ones.")
    ] = False,
) -> None:
    """Extract the features of any number of samples into a folder of Parquet files."""
    from ..features import PretrainedFeatureExtractor
    from ..features.partitions import ExtractionError, extract_to

    extractor = PretrainedFeatureExtractor(
        backbone,
        weights=weights,
        layer=layer or None,
        pooling=pooling,
        image_size=image_size,
        device=device,
    )
    with _executor(scheduler, workers) as executor:
        try:
            report = extract_to(
                target,
                extractor,
                source=source,
                column=column,
                keep=keep or (),
                partition_size=partition_size,
                dtype=dtype,
                executor=executor,
                retries=retries,
                retry_failed=retry_failed,
                replace=replace,
                verify=verify,
                verbose=1,
            )
        except ExtractionError as error:
            raise OSError(str(error)) from error
    _print(report)


@contextlib.contextmanager
def _executor(scheduler: str | None, workers: int) -> Iterator:
    """Connect to a scheduler, start processes, or use this process."""
    if scheduler is not None:
        with _client(scheduler) as client:
            yield client
    elif workers > 1:
        from concurrent.futures import ProcessPoolExecutor
        from multiprocessing import get_context

        # A fork of a process with threads, as torch has, can wait for a lock for ever.
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            yield pool
    else:
        yield None


def _client(address: str):
    try:
        from distributed import Client
    except ImportError:
        raise ImportError("--scheduler requires Dask: pip install 'sktransfer[dask]'") from None
    return Client(address, set_as_default=False)


def _print(report: ExtractionReport) -> None:
    from .output import print_lines

    print_lines(f"{report.n_done:,} of {report.n_rows:,} rows, {report.n_new:,} of them tried now")
    for row in report.failed.slice(0, _SHOWN).to_pylist():
        print_lines(f"row {row['row']}, {row['sample']}: {row['cause']}")
    if report.n_failed > _SHOWN:
        print_lines(f"and {report.n_failed - _SHOWN} more; see failed-*.parquet in {report.target}")
