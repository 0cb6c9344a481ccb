"""Extract features of any number of samples into a folder of Parquet files."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from ..._compat.sklearn import begin_fit, end_fit, with_callbacks
from ...backbones import describe, modality_of
from ...backbones.behavior import sketch
from ...data import UnreadableSamplesError, is_whole, progress
from ...data.types import PathLike
from ..base import shallow_copy
from ..extractor import PretrainedFeatureExtractor, learns_from_samples
from ..function import FeatureFunction
from ..output import Output, compute_fixed, layers_of, store_key
from .folder import (
    DIGEST,
    ROW,
    FeatureColumn,
    Folder,
    Manifest,
    PartitionName,
    arrow,
    read_failures,
    sketch_of,
)
from .plan import Partition, Reading, plan
from .run import Pool, Work, pool_for, run_partitions
from .sources import RowSource, open_source

_AHEAD = 64  # partitions that are looked at to know a source again, if they differ from the files
_AHEAD_OF_STREAM = 2  # the same for an iterator, whose rows stay in memory
_TRIED = 16  # first samples, to one of which an extractor is fitted


@dataclasses.dataclass(frozen=True)
class ExtractionReport:
    """What :func:`sktransfer.extract_to` has done.

    Parameters
    ----------
    target : str
        The folder of the features.
    n_rows : int
        Rows of the source.
    n_done : int
        Rows that have features now, whenever these were computed.
    n_failed : int
        Rows that have none.
    n_new : int
        Rows that this call has tried.
    """

    target: str
    n_rows: int
    n_done: int
    n_failed: int
    n_new: int

    @property
    def failed(self) -> Any:
        """A table (pyarrow) with the columns "row", "sample" and "cause", in order of the rows."""
        return read_failures(Folder(self.target))


def extract_to(
    target: PathLike,
    extractor: PretrainedFeatureExtractor,
    *,
    source: Any,
    column: str | None = None,
    keep: str | Sequence[str] = (),
    partition_size: int = 4096,
    executor: Any = None,
    resources: Mapping[str, float] | None = None,
    retries: int = 2,
    on_error: str = "record",
    retry_failed: bool = False,
    replace: bool = False,
    verify: bool = False,
    dtype: str = "float32",
    verbose: int = 0,
) -> ExtractionReport:
    """Compute the features of any number of samples, and write them to a folder of Parquet files.

    The rows of the source are divided into partitions. Each partition is computed by one worker,
    which writes one file. A file is complete or does not exist. A call that was interrupted, or
    that lost a worker, is continued by the same call: partitions that exist are not computed
    again, unless their rows have changed.

    Parameters
    ----------
    target : str or path-like
        A folder: a path, or a URL that fsspec knows, such as ``s3://bucket/features``. All workers
        must reach it.
    extractor : PretrainedFeatureExtractor
        It is fitted to a first sample unless it is fitted. With ``layer="auto"``,
        ``image_size="auto"``, ``n_components`` and the poolings "idf", "sif" and "zipf" it must be
        fitted before.
    source : str, path-like, table, list, array or iterator
        The samples: a Parquet or CSV file or several, as a folder, a pattern ``"part-*.parquet"``
        or ``"part-{000..127}.parquet"``; a folder of files; a zip or tar archive, or several; a
        table of pandas, polars or pyarrow; a list or an array of samples; an iterator of such lists
        or tables. Files may be at any location that fsspec knows.
    column : str, default=None
        The column of samples in a table. In tar archives, files with one name and several suffixes
        are one row, and a suffix is a column; without ``column`` each file is a row. None is the
        first of "image", "file_name", "path", "text" and the like. Relative names of files begin
        with the folder of the table.
    keep : str or list of str, default=()
        Columns that are kept beside the features. Files have the columns "path" and "folder", the
        name of the folder that they are in.
    partition_size : int, default=4096
        Rows of one partition.
    executor : concurrent.futures.Executor or dask.distributed.Client, default=None
        Where partitions are computed. None is this process.
    resources : dict of str to float, default=None
        With a Dask client, what a partition needs of its worker, such as ``{"GPU": 1}``.
    retries : int, default=2
        How often a partition is tried again after another error than that of a sample, such as a
        lost worker or a full disk.
    on_error : {"record", "raise"}, default="record"
        What is done with samples that cannot be read: list them in the report and in files
        ``failed-*.parquet``, or raise an error at the first of them.
    retry_failed : bool, default=False
        Whether partitions with samples that failed in an earlier call are computed again.
    replace : bool, default=False
        Whether partitions that exist may be removed because the source has no such rows any more,
        or because none of them is of this source. Otherwise that is an error, and says what would
        be lost. Not needed where some rows have changed or rows were added.
    verify : bool, default=False
        Whether partitions that exist are read wholly, and computed again if they are damaged.
    dtype : {"float32", "float16"}, default="float32"
        The type in which features are kept.
    verbose : int, default=0
        1 shows a progress bar. Callbacks of scikit-learn >= 1.9 that the extractor has, as in
        ``extractor.set_callbacks(ProgressBar())``, are told of each partition.

    Returns
    -------
    ExtractionReport
        ``n_done``, ``n_failed`` and ``failed``, a table of rows, samples and causes.

    Raises
    ------
    ValueError
        If a parameter is wrong, the folder has features of another recipe or of other code, or
        features would be lost and ``replace`` is False.
    UnreadableSamplesError
        With ``on_error="raise"``.
    ExtractionError
        A ``RuntimeError``, if partitions could not be computed after all retries.
    ImportError
        If pyarrow is not installed.

    See Also
    --------
    load_features : Read the features of a folder.
    iter_features : Read them partition by partition.

    Notes
    -----
    At most two partitions for each worker are in flight, so that the memory of the client does not
    grow with the number of rows. A worker loads the network once. Torch uses as many threads as the
    Dask worker has; the workers of a process pool divide the cores of the machine.

    Whether rows have changed is found without reading samples: by the values in a table, by size
    and time of a local file, and by the checksums in a zip archive. Parquet files with encoded
    images, and tar archives, count as a whole.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedFeatureExtractor, extract_to, load_features
    >>> folder, photos = tempfile.mkdtemp(), load_sample_images().images
    >>> report = extract_to(folder, PretrainedFeatureExtractor(), source=photos)
    >>> report.n_done, report.n_failed
    (2, 0)
    >>> X, table = load_features(folder)
    >>> X.shape
    (2, 1280)
    """
    arrow()
    _check(partition_size=partition_size, retries=retries, on_error=on_error, dtype=dtype)
    folder, keep = Folder(target), (keep,) if isinstance(keep, str) else tuple(keep)
    rows = open_source(source, Reading(column, keep, _modality(extractor)), folder)
    extractor = _fitted(extractor, rows)
    manifest = _manifest(extractor, dtype, int(partition_size), rows)
    taken = {ROW, DIGEST, *(each.name for each in manifest.columns)} & {*keep}
    if taken:
        raise ValueError(f"keep: {sorted(taken)} are names of columns of the result; rename them.")
    manifest.check(folder)
    existing = _Existing(folder, replace)
    if rows.n_rows is not None:
        existing.check_end(rows.n_rows)
    work = Work(FeatureFunction(extractor), folder, manifest, on_error)
    pool = pool_for(work, executor, resources)
    folder.make()
    manifest.save(folder)
    partitions = plan(rows.rows, rows.reading, manifest.partition_size, manifest.key)
    partitions = existing.of_this_source(partitions, _AHEAD_OF_STREAM if rows.is_stream else _AHEAD)
    partitions = existing.with_todo(partitions, retry_failed, verify)
    n_planned = None if rows.n_rows is None else math.ceil(rows.n_rows / manifest.partition_size)
    with progress("features", rows.n_rows, verbose) as advance:
        n_rows, n_new = _run(
            shallow_copy(extractor), partitions, pool, int(retries), existing, advance, n_planned
        )
    existing.check_end(n_rows)
    existing.remove_all()
    n_failed = read_failures(folder).num_rows
    return ExtractionReport(folder.url, n_rows, n_rows - n_failed, n_failed, n_new)


@with_callbacks
def _run(
    extractor: PretrainedFeatureExtractor,
    partitions: Iterator[Partition],
    pool: Pool,
    retries: int,
    existing: _Existing,
    advance: Any,
    n_planned: int | None,
) -> tuple[int, int]:
    """Compute the partitions, and tell the callbacks of the extractor of each; count the rows."""
    root = begin_fit(extractor, "extract", max_subtasks=n_planned)
    n_rows = n_new = 0
    with contextlib.closing(run_partitions(partitions, pool, retries)) as computed:
        for partition, done in computed:
            existing.remove_replaced(partition)
            n_rows += len(partition)
            n_new += done.n_rows
            advance(len(partition))
            step = root.subcontext(task_name="partition")
            step.call_on_fit_task_begin(estimator=extractor)
            step.call_on_fit_task_end(estimator=extractor)
    end_fit(extractor)
    return n_rows, n_new


class _Existing:
    """The files of a folder when a call begins.

    If ``replace``, files may be removed although no row of the source takes their place.
    """

    def __init__(self, folder: Folder, replace: bool):
        self.folder, self.replace = folder, replace
        self.names = {name for name in map(PartitionName.parse, folder.names()) if name}
        self.by_start: dict[int, list[PartitionName]] = {}  # those that may have to be removed
        for name in sorted(self.names):
            self.by_start.setdefault(name.start, []).append(name)

    def check_end(self, n_rows: int) -> None:
        """Refuse a source without rows, or that ends before the files do."""
        gone = {start: names for start, names in self.by_start.items() if start >= n_rows}
        if self.replace or (n_rows and not gone):
            return
        lost = f", and {_described(gone)} in {self.folder.url!r} would be lost" if gone else ""
        raise ValueError(
            f"source has {n_rows or 'no'} rows{lost}. Check it: a pattern may match no file."
            + (" Pass replace=True if that is meant." if gone else "")
        )

    def of_this_source(self, partitions: Iterator[Partition], ahead: int) -> Iterator[Partition]:
        """Pass partitions on, unless none of the files is of this source.

        Partitions that differ from their file in all rows that are compared wait for one that does
        not: rows that have changed are computed again, but another source must not remove all that
        was computed.
        """
        waiting: list[Partition] = []
        is_known = self.replace or not self.by_start
        most = min(len(self.by_start), ahead)
        for partition in partitions:
            if is_known or partition.start not in self.by_start:
                yield partition
            elif self._is_like_its_file(partition):
                is_known = True
                yield from [*waiting, partition]
                waiting = []
            else:
                waiting.append(partition)
                if len(waiting) == most:
                    break
        if waiting:
            raise ValueError(
                f"None of the partitions in {self.folder.url!r} is of this source: "
                f"{_described(self.by_start)} would be replaced. Give another target, the source "
                "and the columns as before, or replace=True if that is meant."
            )

    def _is_like_its_file(self, partition: Partition) -> bool:
        """Tell whether a file has these rows, or at least one of those in the sketch."""
        names = self.by_start[partition.start]
        if any(name.digest == partition.digest for name in names):
            return True
        sketches = [sketch_of(self.folder, name) for name in names]
        pairs = (zip(sketch, partition.sketch, strict=False) for sketch in sketches)
        return any(old == new for pair in pairs for old, new in pair)

    def with_todo(
        self, partitions: Iterator[Partition], retry_failed: bool, verify: bool
    ) -> Iterator[Partition]:
        """Say for each partition what is to be done."""
        for partition in partitions:
            name = PartitionName("part", partition.start, partition.digest)
            if name.failures in self.names and (retry_failed or name not in self.names):
                todo = "again"
            elif verify:
                todo = "verify"
            else:
                todo = "nothing" if name in self.names else "compute"
            yield dataclasses.replace(partition, todo=todo)

    def remove_replaced(self, partition: Partition) -> None:
        """Remove the files of the same rows as they were before."""
        for name in self.by_start.pop(partition.start, []):
            if name.digest != partition.digest:
                self.folder.remove(str(name))

    def remove_all(self) -> None:
        """Remove the files of rows that the source has no more."""
        for names in self.by_start.values():
            for name in names:
                self.folder.remove(str(name))


def _described(by_start: dict[int, list[PartitionName]]) -> str:
    """Describe files for a message."""
    names = [name for names in by_start.values() for name in names if name.kind == "part"]
    if len(names) == 1:
        return f"the partition '{names[0]}'"
    return f"{len(names)} partitions" + (f", the first of them '{min(names)}'," if names else "")


def _check(*, partition_size, retries, on_error, dtype) -> None:
    for name, value, least in (("partition_size", partition_size, 1), ("retries", retries, 0)):
        if not is_whole(value) or value < least:
            raise ValueError(f"{name}={value!r}: give an integer, at least {least}.")
    if on_error not in ("record", "raise"):
        raise ValueError(f"on_error={on_error!r}: give 'record' or 'raise'.")
    if dtype not in ("float32", "float16"):
        raise ValueError(f"dtype={dtype!r}: give 'float32' or 'float16'.")


def _modality(extractor):
    if not isinstance(extractor, PretrainedFeatureExtractor):
        raise TypeError(f"extractor={extractor!r}: give a PretrainedFeatureExtractor.")
    fitted = getattr(extractor, "backbone_", None)
    return modality_of(extractor.backbone) if fitted is None else fitted.modality


def _fitted(extractor: PretrainedFeatureExtractor, source: RowSource) -> PretrainedFeatureExtractor:
    """Fit a copy to the first sample that can be read, unless the extractor is fitted."""
    try:
        check_is_fitted(extractor)
        return extractor
    except NotFittedError:
        if learns_from_samples(extractor):
            raise NotFittedError(
                f"{extractor!r} learns from samples: fit it to some, and pass the fitted extractor."
            ) from None
    samples = source.first(_TRIED)
    if not samples:
        raise ValueError("source has no rows.")
    for i, sample in enumerate(samples):
        try:
            return clone(extractor).fit([sample])
        except UnreadableSamplesError:
            if i + 1 == len(samples):
                raise
    raise AssertionError


def _manifest(
    extractor: PretrainedFeatureExtractor, dtype: str, partition_size: int, source: RowSource
) -> Manifest:
    columns = columns_of(extractor, dtype)
    key = _digest(repr((columns, dtype)))
    backbone = extractor.backbone_
    return Manifest(
        key, columns, dtype, partition_size, backbone.name, _behavior(extractor, source)
    )


def _behavior(extractor: PretrainedFeatureExtractor, source: RowSource) -> tuple[str, ...]:
    """Describe what the network computes for a fixed sample, as code cannot be described wholly."""
    modality, like = extractor.backbone_.modality, None
    with contextlib.suppress(Exception):  # the first sample cannot be read, or there is none
        like = modality.read(source.first(1)[0])
    outputs = dict(enumerate(extractor.outputs_))
    sample, rows, again = compute_fixed(outputs, torch.device("cpu"), like=like)
    first, second = ([sketch(row) for row in some.values()] for some in (rows, again))
    if not np.allclose(first, second, rtol=1e-3):
        return ()  # it draws at random
    return (sample, *(row.tobytes().hex() for row in first))


def columns_of(extractor: PretrainedFeatureExtractor, dtype: str) -> tuple[FeatureColumn, ...]:
    """Describe the columns of features, each a layer, an input size and a pooling.

    A ``ValueError`` if the extractor was fitted to several columns of samples.
    """
    if len(extractor.columns_) > 1:
        raise ValueError(f"extractor: it is fitted to the columns {list(extractor.columns_)}.")
    settings = {"precision": extractor.precision, "dtype": dtype, "engine": extractor.engine}
    columns: dict[str, FeatureColumn] = {}
    for name, output in zip(extractor.output_names_, extractor.outputs_, strict=True):
        name = name if name not in columns else f"{name}_{len(columns)}"
        assert output.width is not None  # features of all samples have one width
        key = _digest(store_key(output, **settings))
        columns[name] = FeatureColumn(name, output.width, key, _whole(output, settings))
    if extractor.n_components is None:
        return tuple(columns.values())
    (pca,) = extractor.pca_
    key = repr([*columns.values()]) + describe((pca.components_, pca.mean_))
    return (FeatureColumn("pca", extractor.n_features_out_, _digest(key)),)


def _whole(output: Output, settings: dict[str, str]) -> tuple | None:
    """Return the key and the shape of whole activations, where the features are these."""
    if output.pooling != "flatten" or output.backbone.input_shape is None:
        return None
    shape = layers_of(output.backbone)[output.layer].shape
    whole = dataclasses.replace(output, pooling="none")
    return _digest(store_key(whole, **settings)), tuple(shape)


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())
