"""Compute partitions here, in an executor or on a Dask cluster, and repeat those that fail."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import queue
import secrets
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..._compat.python import n_workers_of
from ...data import UnreadableSamplesError
from ...engines import keep_freed_memory, thread_budget
from ..function import FeatureFunction, drop_payload, keep_payload
from .folder import DIGEST, ROW, Folder, Manifest, PartitionName, arrow, is_whole, write_partition
from .plan import Partition

NO_WORKER_SECONDS = 30.0  # without a worker, after which a warning says so
SENT_ONCE = 2**14  # bytes of a pickled extractor from which on it is not sent with each partition
_MOST_FAILED = 8  # partitions, after which nothing more is tried
_MOST_LOST = 10  # workers in a second or two
_SHOWN = 200  # characters of a sample or a cause


class ExtractionError(RuntimeError):
    """Raised if partitions could not be computed for another reason than their samples.

    All other partitions are written, or will be by the next call.
    """


class Done(NamedTuple):
    """What was done for a partition: the rows that were tried, and those of them that failed."""

    n_rows: int
    n_failed: int


class Failed(NamedTuple):
    """An error, and the worker that it happened on."""

    error: Exception
    worker: str


class Pool(Protocol):
    """Where partitions are computed."""

    @property
    def window(self) -> int:
        """Partitions that may be submitted and not done."""

    def submit(self, partition: Partition, avoid: set[str]) -> Any:
        """Begin to compute a partition, on other workers than some if possible; return a future."""

    def missing_worker(self) -> str:
        """Say that no worker could compute a partition now; empty if one could."""

    def close(self, futures: Iterable[Any]) -> None:
        """Cancel what has not begun, and give back what the pool has taken."""


class _Attempt(NamedTuple):
    partition: Partition
    n_retries: int
    avoid: set[str]


def run_partitions(
    partitions: Iterator[Partition], pool: Pool, retries: int
) -> Generator[tuple[Partition, Done], None, None]:
    """Compute partitions with a bounded number in flight; yield them in the order of their end.

    They are taken only when there is room in the window of the pool. Those with nothing to do are
    passed on. A partition is tried again ``retries`` times after an error that is not one of its
    samples. ``UnreadableSamplesError`` of the first partition is raised; ``ExtractionError`` if
    partitions still fail after the retries. All other ones are computed first, unless many fail.
    """
    running: dict[Any, _Attempt] = {}  # by future
    done: queue.SimpleQueue = queue.SimpleQueue()
    failed: list[tuple[Partition, Exception]] = []

    def submit(attempt: _Attempt) -> None:
        future = pool.submit(attempt.partition, attempt.avoid)
        running[future] = attempt
        future.add_done_callback(done.put)

    more = True
    try:
        while more or running:
            while more and len(running) < pool.window:
                partition = next(partitions, None) if len(failed) < _MOST_FAILED else None
                more = partition is not None
                if partition is not None and partition.todo == "nothing":
                    yield partition, Done(0, 0)
                elif partition is not None:
                    submit(_Attempt(partition, 0, set()))
            if not running:
                break
            future = _next_done(done, pool)
            attempt = running.pop(future)
            result = _result_of(future)
            if isinstance(result, Done):
                yield attempt.partition, result
            elif attempt.n_retries < retries:
                avoid = attempt.avoid | ({result.worker} - {""})
                submit(_Attempt(attempt.partition, attempt.n_retries + 1, avoid))
            else:
                failed.append((attempt.partition, result.error))
    finally:
        pool.close(running)
    if failed:
        partition, error = failed[0]
        raise ExtractionError(
            f"{len(failed)} partitions could not be computed, the first one rows {partition.start} "
            f"to {partition.start + len(partition) - 1}: {error or type(error).__name__}. Call "
            "extract_to again when the cause is removed: it computes what is missing."
        ) from error


def _next_done(done: queue.SimpleQueue, pool: Pool) -> Any:
    """Wait for a partition, and warn once if there is no worker that could compute one.

    There is no limit: an adaptive cluster begins with no worker.
    """
    has_warned = False
    while True:
        try:
            return done.get(timeout=NO_WORKER_SECONDS)
        except queue.Empty:
            missing = "" if has_warned else pool.missing_worker()
        if missing:
            has_warned = True
            warnings.warn(
                f"{missing} extract_to waits until one starts, and continues then.", stacklevel=2
            )


def _result_of(future) -> Done | Failed:
    try:
        return future.result()
    except UnreadableSamplesError:
        raise
    except Exception as error:  # also of a worker that was lost
        return Failed(error, "")
    except BaseException as error:  # CancelledError of asyncio, if a scheduler lost the task
        if type(error).__name__ != "CancelledError":
            raise
        return Failed(RuntimeError("the task was cancelled"), "")


# -- one partition, on a worker --------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Work:
    """Compute the features of a partition and write its file: a function of the partition.

    Parameters
    ----------
    folder : Folder
        The target.
    on_error : {"record", "raise"}
        What is done with samples that cannot be computed.
    """

    function: FeatureFunction
    folder: Folder
    manifest: Manifest
    on_error: str

    def __call__(self, partition: Partition, n_threads: int | None = None) -> Done:
        """Compute a partition, unless its file exists, with a number of threads of torch.

        With ``on_error="raise"``, samples that cannot be computed are an error with rows of the
        source.
        """
        name = PartitionName("part", partition.start, partition.digest)
        if partition.todo != "again" and self._exists(name, partition.todo == "verify"):
            return Done(0, 0)
        with thread_budget(n_threads), keep_freed_memory():
            columns, failed = self._compute(partition)
        key, sketch = self.manifest.key, partition.sketch
        if failed:  # written first: a partition without its failures would look complete
            failures = _table_of_failures(failed)
            write_partition(self.folder, name.failures, failures, key=key, sketch=sketch)
        write_partition(self.folder, name, columns, key=key, sketch=sketch)
        if partition.todo != "compute" and not failed:
            self.folder.remove(str(name.failures))
        return Done(len(partition), len(failed))

    def _exists(self, name: PartitionName, verify: bool) -> bool:
        """Tell whether a file exists, which another client may have written, and is whole."""
        if not self.folder.holds(str(name)):
            return False
        names = [name, name.failures] if self.folder.holds(str(name.failures)) else [name]
        return not verify or all(is_whole(self.folder, each, self.manifest.key) for each in names)

    def _compute(self, partition: Partition) -> tuple[dict[str, Any], list[tuple]]:
        """Return the columns of the file by name, and row, sample and cause of the failures."""
        pa, shape = arrow(), (len(partition),)
        features = {
            column.name: np.empty((*shape, column.width), self.manifest.dtype)
            for column in self.manifest.columns
        }
        rows: list[int] = []
        digests: list[bytes] = []
        tables: list = []  # of kept columns
        failed: list[tuple] = []
        start = partition.start
        for samples, kept in partition.chunks(self.function.modality.chunk_size):
            computed = self.function.compute(samples)
            problems = [(start + i, sample, why) for i, sample, why in computed.failed]
            if problems and self.on_error == "raise":
                raise UnreadableSamplesError([(i, name_of(s), why) for i, s, why in problems])
            failed += problems
            first, last, left = len(rows), len(rows) + len(computed.positions), 0
            for column in self.manifest.columns:
                values = computed.features[:, left : left + column.width]
                with np.errstate(over="ignore"):
                    features[column.name][first:last] = values
                if not np.isfinite(features[column.name][first:last]).all():
                    raise FloatingPointError(
                        f"features {column.name!r} are too large for float16: use dtype='float32'"
                    )
                left += column.width
            rows += [start + i for i in computed.positions]
            digests += computed.digests
            if kept is not None:
                tables.append(kept.take(pa.array(computed.positions, "int64")))
            start += len(samples)
        columns = {ROW: pa.array(rows, "int64"), DIGEST: pa.array(digests, pa.binary(16))}
        if tables:
            table = pa.concat_tables(tables).combine_chunks()
            columns |= {name: table[name] for name in table.column_names}
        return columns | {name: values[: len(rows)] for name, values in features.items()}, failed


def _table_of_failures(failed: list[tuple]) -> dict[str, Any]:
    pa = arrow()
    causes = [_shorten(str(why) or type(why).__name__) for *_, why in failed]
    return {
        ROW: pa.array([row for row, *_ in failed], "int64"),
        "sample": pa.array([name_of(sample) for _, sample, _ in failed], "string"),
        "cause": pa.array(causes, "string"),
    }


def name_of(sample: Any) -> str:
    """Return a short name of a sample: its path or its beginning, else its type."""
    if isinstance(sample, dict):
        sample = sample.get("path") or type(sample)()
    if isinstance(sample, os.PathLike):
        sample = os.fspath(sample)
    return _shorten(sample if isinstance(sample, str) else type(sample).__name__)


def _shorten(text: str) -> str:
    return text[:_SHOWN].encode("utf-8", "replace").decode()


# -- where partitions are computed -----------------------------------------------------------------


def pool_for(work: Work, executor: Any, resources: Mapping[str, float] | None) -> Pool:
    """Make a pool for what a user gives as ``executor``."""
    is_dask = hasattr(executor, "scheduler_info")
    if resources is not None and not is_dask:
        raise ValueError(f"resources={resources!r} are those of the workers of a Dask cluster.")
    if is_dask:
        return DaskPool(work, executor, resources)
    if executor is None or isinstance(executor, concurrent.futures.Executor):
        return _LocalPool(work, executor)
    raise TypeError(
        f"executor={executor!r}: give None, a concurrent.futures.Executor or a "
        "dask.distributed.Client."
    )


class _LocalPool:
    """Computes each partition at once, or in an executor, whose workers share the cores."""

    def __init__(self, work: Work, executor: concurrent.futures.Executor | None):
        self.work, self.executor = work, executor
        self.window, self.n_threads = 1, None
        if executor is not None:
            n_cores = os.cpu_count() or 1
            n_workers = n_workers_of(executor) or n_cores
            self.window = 2 * n_workers
            if not isinstance(executor, concurrent.futures.ThreadPoolExecutor):
                self.n_threads = max(1, n_cores // n_workers)

    def submit(self, partition, avoid):
        if self.executor is not None:
            return self.executor.submit(self.work, partition, self.n_threads)
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(self.work(partition))
        except Exception as error:
            future.set_exception(error)
        return future

    def missing_worker(self):
        return ""

    def close(self, futures):
        for future in futures:
            future.cancel()


class DaskPool:
    """Computes partitions on the workers of a Dask cluster, by its client.

    A large network is sent to each worker once, also to those that start later: a plugin does that,
    and data that are scattered would be lost with their workers.
    """

    client: Any
    has_plugin: bool
    n_submitted: int
    name: str
    resources: Mapping[str, float]
    work: Work

    def __init__(self, work: Work, client: Any, resources: Mapping[str, float] | None):
        self.client, self.resources = client, resources or {}
        function = work.function
        # Of this run alone: two clients may use one network, and end at different times.
        self.work, self.name = work, f"sktransfer-{secrets.token_hex(8)}"
        self.has_plugin = function.payload is not None and len(function.payload) > SENT_ONCE
        if self.has_plugin:
            self.work = dataclasses.replace(work, function=function.light())
            plugin = _make_plugin(function.key, function.payload)
            _try_often(lambda: client.register_plugin(plugin, name=self.name))
        self.n_submitted = 0

    @property
    def window(self) -> int:
        return 2 * max(1, len(self.client.nthreads()))

    def submit(self, partition: Partition, avoid: set[str]) -> Any:
        self.n_submitted += 1
        others = sorted(set(self.client.nthreads()) - avoid) if avoid else None
        return self.client.submit(
            run_on_worker,
            self.work,
            partition,
            key=f"partition-{partition.start}-{self.name}-{self.n_submitted}",
            pure=False,
            workers=others or None,
            allow_other_workers=bool(others),
            resources=self.resources or None,
        )

    def missing_worker(self) -> str:
        workers: list[Any] = []
        with contextlib.suppress(OSError):  # the scheduler does not answer either
            workers = [*self.client.scheduler_info(n_workers=-1)["workers"].values()]
        if any(
            all(worker["resources"].get(name, 0) >= n for name, n in self.resources.items())
            for worker in workers
        ):
            return ""
        resources = f" with the resources {dict(self.resources)}" if self.resources else ""
        return f"The Dask cluster at {self.client.scheduler.address} has no worker{resources}."

    def close(self, futures: Iterable[Any]) -> None:
        self.client.cancel(list(futures))
        if self.has_plugin:
            with contextlib.suppress(OSError, ValueError):  # what is left does no harm
                _try_often(lambda: self.client.unregister_worker_plugin(self.name))


def run_on_worker(work: Work, partition: Partition) -> Done | Failed:
    """Compute a partition on a Dask worker with as many threads as the worker has."""
    from distributed import get_worker

    worker = get_worker()
    try:
        return work(partition, worker.state.nthreads)
    except UnreadableSamplesError:
        raise
    except Exception as error:  # as one of the same text that any process can load
        kind = OSError if isinstance(error, OSError) else RuntimeError
        return Failed(kind(f"{type(error).__name__}: {error}"), worker.address)


def _make_plugin(key: str, payload: bytes | None):
    from distributed.diagnostics.plugin import WorkerPlugin

    class Network(WorkerPlugin):
        """Keeps a network in each worker process."""

        def setup(self, worker):
            keep_payload(key, payload)

        def teardown(self, worker):
            drop_payload(key)

    return Network()


def _try_often(call: Callable) -> None:
    """Call a function that fails if a worker is lost meanwhile, until it does not."""
    for _ in range(_MOST_LOST):
        try:
            call()
            return
        except OSError as error:  # CommClosedError of distributed is one
            last = error
    raise last
