"""Extract features of any number of samples into a folder of Parquet files."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import xxhash
from sklearn.base import clone
from sklearn.callback import with_callbacks
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted

from ...backbones import describe, modality_of
from ...data import UnreadableSamplesError
from ...data.types import PathLike
from ..base import shallow_copy
from ..extractor import PretrainedFeatureExtractor, learns_from_samples
from ..function import FeatureFunction
from ..poolings import is_learned, unlearned
from ..progress import progress
from ..recipe import Recipe
from .arrow import arrow
from .executors import pool_for
from .folder import Folder
from .parts import DIGEST, ROW, Block, Manifest, PartName, sketch_of
from .pieces import Reading
from .planning import Shard, plan
from .report import ExtractionReport, read_failures
from .runner import run_shards
from .sources import Source, open_source
from .task import Done, ShardTask

__all__ = ["blocks_of", "extract_to"]

_AHEAD = 64  # shards that are looked at to know a source again, if they differ from their parts
_AHEAD_OF_STREAM = 2  # the same for an iterator, whose rows stay in memory
_TRIED = 16  # first samples, to one of which an extractor is fitted


def extract_to(
    target: PathLike,
    extractor: PretrainedFeatureExtractor,
    *,
    source: Any,
    column: str | None = None,
    keep: str | Sequence[str] = (),
    shard_size: int = 4096,
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

    The rows of the source are divided into shards. Each shard is computed by one task, which
    writes one file, a part. A file is complete or does not exist. A call that was interrupted,
    or that lost a worker, is continued by the same call: parts that exist are not computed again,
    unless their rows have changed.

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
    shard_size : int, default=4096
        Rows of one task and one file.
    executor : concurrent.futures.Executor or dask.distributed.Client, default=None
        Where tasks run. None is this process.
    resources : dict of str to float, default=None
        With a Dask client, what a task needs of its worker, such as ``{"GPU": 1}``.
    retries : int, default=2
        How often a shard is tried again after another error than that of a sample, such as a lost
        worker or a full disk.
    on_error : {"record", "raise"}, default="record"
        What is done with samples that cannot be read: list them in the report and in files
        ``failed-*.parquet``, or raise an error at the first of them.
    retry_failed : bool, default=False
        Whether shards with samples that failed in an earlier call are computed again.
    replace : bool, default=False
        Whether parts that exist may be removed because the source has no such rows any more, or
        because none of them is of this source. Otherwise that is an error, and says what would be
        lost. Not needed where some rows have changed or rows were added.
    verify : bool, default=False
        Whether parts that exist are read wholly, and computed again if they are damaged.
    dtype : {"float32", "float16"}, default="float32"
        The type in which features are kept.
    verbose : int, default=0
        1 shows a progress bar. scikit-learn's callbacks of the extractor, as in
        ``extractor.set_callbacks(ProgressBar())``, are told of each shard.

    Returns
    -------
    ExtractionReport
        ``n_done``, ``n_failed`` and ``failed``, a table of rows, samples and causes.

    Raises
    ------
    ValueError
        If a parameter is wrong, the folder has features of another recipe, or features would be
        lost and ``replace`` is False.
    UnreadableSamplesError
        With ``on_error="raise"``.
    ExtractionError
        A ``RuntimeError``, if shards could not be computed after all retries.
    ImportError
        If pyarrow is not installed.

    See Also
    --------
    load_features : Read the features of a folder.
    iter_features : Read them part by part.

    Notes
    -----
    At most two tasks for each worker are in flight, so that the memory of the client does not grow
    with the number of rows. A worker loads the network once. Torch uses as many threads in a task
    as the Dask worker has; the workers of a process pool divide the cores of the machine.

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
    _check(shard_size=shard_size, retries=retries, on_error=on_error, dtype=dtype)
    keep = (keep,) if isinstance(keep, str) else tuple(keep)
    folder = Folder(target)
    found = open_source(source, Reading(column, keep, _modality(extractor)), folder)
    extractor = _fitted(extractor, found)
    manifest = _manifest(extractor, dtype, int(shard_size))
    _check_names(manifest, keep)
    task = ShardTask(FeatureFunction(extractor), folder, manifest, on_error)
    pool = pool_for(task, executor, resources)
    extraction = _Extraction(folder, manifest, found, retry_failed, replace, verify)
    folder.make()
    manifest.save(folder)
    return _reported(shallow_copy(extractor), extraction, pool, int(retries), verbose)


@with_callbacks
def _reported(
    extractor: PretrainedFeatureExtractor, extraction: _Extraction, pool, retries: int, verbose: int
) -> ExtractionReport:
    """Run an extraction, and tell the callbacks of the extractor of each shard."""
    root = extractor._init_callback_context("extract", max_subtasks=extraction.n_shards)
    root.call_on_fit_task_begin(estimator=extractor)

    def advance() -> None:
        task = root.subcontext(task_name="shard").call_on_fit_task_begin(estimator=extractor)
        task.call_on_fit_task_end(estimator=extractor)

    extraction.on_shard = advance
    report = extraction.run(pool, retries, verbose)
    root.call_on_fit_task_end(estimator=extractor)
    return report


class _Extraction:
    """One call: what is done, what is missing, and what is not needed any more.

    Parameters
    ----------
    folder : Folder
    manifest : Manifest
    source : Source
    retry_failed, replace, verify : bool
    """

    def __init__(
        self,
        folder: Folder,
        manifest: Manifest,
        source: Source,
        retry_failed: bool,
        replace: bool,
        verify: bool,
    ):
        self.folder, self.manifest, self.source = folder, manifest, source
        self.retry_failed, self.replace, self.verify = retry_failed, replace, verify
        self.found = {name for name in map(PartName.parse, folder.names()) if name}
        self.by_start: dict[int, list[PartName]] = {}
        for name in self.found:
            self.by_start.setdefault(name.start, []).append(name)
        self.n_rows = self.n_new = 0
        self.advance: Callable[[int], None] = lambda n: None
        self.on_shard: Callable[[], None] = lambda: None

    @property
    def n_shards(self) -> int | None:
        """Number of shards, None where the number of rows is not known."""
        n_rows = self.source.n_rows
        return None if n_rows is None else math.ceil(n_rows / self.manifest.shard_size)

    def run(self, pool, retries: int, verbose: int) -> ExtractionReport:
        n_rows = self.source.n_rows
        if n_rows is not None:
            self._check_gone(n_rows)
        with progress("features", n_rows, verbose) as self.advance:
            run_shards(self._missing(), pool, retries, self._report)
        self._check_gone(self.n_rows)
        for names in self.by_start.values():  # of rows that the source has no more
            self._remove(names)
        n_failed = read_failures(self.folder).num_rows
        n_done = self.n_rows - n_failed
        return ExtractionReport(self.folder.url, self.n_rows, n_done, n_failed, self.n_new)

    def _missing(self) -> Iterator[Shard]:
        """Yield the shards that are to be computed."""
        for shard in self._of_this_source(self._planned()):
            part = PartName("part", shard.start, shard.digest)
            again = self.retry_failed and part._replace(kind="failed") in self.found
            if part in self.found and not again and not self.verify:
                self._finish(shard)
            else:
                yield dataclasses.replace(shard, again=again, verify=self.verify)

    def _planned(self) -> Iterator[Shard]:
        for shard in plan(self.source, self.manifest.shard_size, self.manifest.key):
            self.n_rows += len(shard)
            yield shard

    def _of_this_source(self, shards: Iterator[Shard]) -> Iterator[Shard]:
        """Pass shards on, unless none of the parts that exist is of this source.

        Shards that no part is like wait for the first one that has such a part: rows that have
        changed are computed again, but another source must not remove all that was computed.
        """
        waiting: list[Shard] = []
        is_known = self.replace or not self.by_start
        most = min(len(self.by_start), _AHEAD_OF_STREAM if self.source.is_stream else _AHEAD)
        for shard in shards:
            if is_known or shard.start not in self.by_start:
                yield shard
            elif self._is_like_a_part(shard):
                is_known = True
                yield from [*waiting, shard]
                waiting = []
            else:
                waiting.append(shard)
                if len(waiting) == most:
                    break
        if waiting:
            raise ValueError(
                f"None of the parts in {self.folder.url!r} is of this source: "
                f"{_described(self.by_start)} would be replaced. Give another target, the source "
                "and the columns as before, or replace=True if that is meant."
            )

    def _is_like_a_part(self, shard: Shard) -> bool:
        """Tell whether a part has these rows, or at least one of those in the sketch."""
        names = self.by_start[shard.start]
        sketches = (sketch_of(self.folder, name) for name in names)
        return any(name.digest == shard.digest for name in names) or any(
            old == new
            for sketch in sketches
            for old, new in zip(sketch, shard.sketch, strict=False)
        )

    def _check_gone(self, n_rows: int) -> None:
        """Refuse a source without rows, or that ends before the parts do."""
        gone = {start: names for start, names in self.by_start.items() if start >= n_rows}
        if self.replace or (n_rows and not gone):
            return
        lost = f", and {_described(gone)} in {self.folder.url!r} would be lost" if gone else ""
        raise ValueError(
            f"source has {n_rows or 'no'} rows{lost}. Check it: a pattern may match no file."
            + (" Pass replace=True if that is meant." if gone else "")
        )

    def _report(self, shard: Shard, done: Done) -> None:
        self.n_new += done.n_rows
        self._finish(shard)

    def _finish(self, shard: Shard) -> None:
        """Remove the parts of the same rows as they were before."""
        names = self.by_start.pop(shard.start, [])
        self._remove([name for name in names if name.digest != shard.digest])
        self.advance(len(shard))
        self.on_shard()

    def _remove(self, names: list[PartName]) -> None:
        for name in names:
            self.folder.remove(str(name))


def _described(by_start: dict[int, list[PartName]]) -> str:
    """Describe parts for a message."""
    names = sorted(name for names in by_start.values() for name in names if name.kind == "part")
    n, first = len(names), names[0] if names else "no part"
    return f"the part '{first}'" if n == 1 else f"{n} parts, the first of them '{first}',"


def _check(*, shard_size, retries, on_error, dtype) -> None:
    for name, value, least in (("shard_size", shard_size, 1), ("retries", retries, 0)):
        whole = isinstance(value, Integral) and not isinstance(value, bool)
        if not whole or value < least:
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


def _fitted(extractor: PretrainedFeatureExtractor, source: Source) -> PretrainedFeatureExtractor:
    """Fit a copy to the first sample that can be read, unless the extractor is fitted."""
    try:
        check_is_fitted(extractor)
        return extractor
    except NotFittedError:
        _check_untrained(extractor)
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


def _check_untrained(extractor: PretrainedFeatureExtractor) -> None:
    if learns_from_samples(extractor):
        raise NotFittedError(
            f"{extractor!r} learns from samples: fit it to some, and pass the fitted extractor."
        )


def blocks_of(extractor: PretrainedFeatureExtractor, dtype: str) -> tuple[Block, ...]:
    """Describe the columns of features, each a layer, an input size and a pooling.

    Parameters
    ----------
    extractor : PretrainedFeatureExtractor
        Fitted.
    dtype : {"float32", "float16"}

    Returns
    -------
    tuple of Block

    Raises
    ------
    ValueError
        If the extractor was fitted to several columns of samples.
    """
    if len(extractor._column_names) > 1:
        raise ValueError(f"extractor: it is fitted to the columns {list(extractor._column_names)}.")
    found: dict[str, Block] = {}
    for (i, layer, pooling), width in zip(extractor._blocks, extractor._widths, strict=True):
        name = extractor._name_block(i, layer, pooling)
        name = name if name not in found else f"{name}_{len(found)}"
        recipe = extractor._recipe(
            (layer,), unlearned(pooling), dtype, backbone=extractor._sized[i]
        )
        learned = describe(extractor.token_weights_[pooling]) if is_learned(pooling) else ""
        key = _digest(recipe.key(layer) + learned)
        found[name] = Block(name, width, key, _whole(extractor, recipe))
    if extractor.n_components is None:
        return tuple(found.values())
    (pca,) = extractor.pca_
    key = repr([*found.values()]) + describe((pca.components_, pca.mean_))
    return (Block("pca", extractor._n_features_out, _digest(key)),)


def _whole(extractor: PretrainedFeatureExtractor, recipe: Recipe) -> tuple | None:
    """Return the key and the shape of whole activations, where the features are these."""
    backbone, (layer,) = recipe.backbone, recipe.layers
    if recipe.pooling != "flatten" or backbone.input_shape is None:
        return None
    shape = extractor._inspect(None, backbone)[layer].shape
    return _digest(dataclasses.replace(recipe, pooling="none").key(layer)), tuple(shape)


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def _manifest(extractor: PretrainedFeatureExtractor, dtype: str, shard_size: int) -> Manifest:
    blocks = blocks_of(extractor, dtype)
    key = _digest(repr((blocks, dtype)))
    return Manifest(key, blocks, dtype, shard_size, extractor.backbone_.name)


def _check_names(manifest: Manifest, keep: tuple[str, ...]) -> None:
    taken = {ROW, DIGEST, *(block.name for block in manifest.blocks)} & {*keep}
    if taken:
        raise ValueError(f"keep: {sorted(taken)} are names of columns of the result; rename them.")
