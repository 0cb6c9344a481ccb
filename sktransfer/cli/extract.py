"""The command that extracts features into a folder, on this machine or on a cluster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Annotated

import typer

from ..features import PretrainedFeatureExtractor
from ..features.partitions import ExtractionError, ExtractionReport, extract_to

__all__ = ["extract"]

_SHOWN = 10  # samples that failed


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
    extractor = PretrainedFeatureExtractor(
        backbone,
        weights=weights,
        layer=layer or None,
        pooling=pooling,
        image_size=image_size,
        device=device,
    )
    with _executor(scheduler, workers) as executor:
        report = _extract(
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
    _print(report)


def _extract(*args, **settings) -> ExtractionReport:
    try:
        return extract_to(*args, **settings)
    except ExtractionError as error:
        raise OSError(str(error)) from error


@contextlib.contextmanager
def _executor(scheduler: str | None, workers: int) -> Iterator:
    """Connect to a scheduler, start processes, or use this process."""
    if scheduler is not None:
        with _client(scheduler) as client:
            yield client
    elif workers > 1:
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
    print(f"{report.n_done:,} of {report.n_rows:,} rows, {report.n_new:,} of them tried now")
    for row in report.failed.slice(0, _SHOWN).to_pylist():
        print(f"row {row['row']}, {row['sample']}: {row['cause']}")
    if report.n_failed > _SHOWN:
        print(f"and {report.n_failed - _SHOWN} more; see failed-*.parquet in {report.target}")
