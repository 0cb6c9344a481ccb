"""Where tasks run: in this process, in an executor of Python, or on a Dask cluster."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol

from ...data import UnreadableSamplesError
from ..function import drop_payload, keep_payload
from .planning import Shard
from .task import Done, ShardTask

__all__ = ["Failed", "Pool", "pool_for"]

_MOST_LOST = 10  # workers in a second or two
_SMALL = 2**14  # bytes of a pickled extractor that are sent with each task


class Failed(NamedTuple):
    """An error of a task, and the worker that it happened on."""

    error: Exception
    worker: str


class Pool(Protocol):
    """Runs tasks.

    Attributes
    ----------
    window : int
        Tasks that may be submitted and not done.
    no_worker : str
        What a warning says if there is no worker.
    """

    no_worker: str

    @property
    def window(self) -> int: ...

    def submit(self, shard: Shard, avoid: set[str]) -> Any:
        """Begin to compute a shard, on other workers than some if possible; return a future."""

    def has_workers(self) -> bool:
        """Tell whether any worker could run a task now."""

    def close(self, futures: Iterable[Any]) -> None:
        """Cancel what has not begun, and give back what the pool has taken."""


class _HerePool:
    """Runs each task at once in this process."""

    window = 1
    no_worker = ""

    def __init__(self, task: ShardTask):
        self.task = task

    def submit(self, shard, avoid):
        future: concurrent.futures.Future = concurrent.futures.Future()
        try:
            future.set_result(self.task(shard))
        except Exception as error:
            future.set_exception(error)
        return future

    def has_workers(self):
        return True

    def close(self, futures):
        pass


class _ExecutorPool:
    """Runs tasks in an executor; the workers share the cores of this machine."""

    no_worker = ""

    def __init__(self, task: ShardTask, executor: concurrent.futures.Executor):
        self.task, self.executor = task, executor
        n_workers = getattr(executor, "_max_workers", None) or os.cpu_count() or 1
        self.window = 2 * n_workers
        threads = isinstance(executor, concurrent.futures.ThreadPoolExecutor)
        self.n_threads = None if threads else max(1, (os.cpu_count() or 1) // n_workers)

    def submit(self, shard, avoid):
        return self.executor.submit(self.task, shard, self.n_threads)

    def has_workers(self):
        return True

    def close(self, futures):
        for future in futures:
            future.cancel()


class _DaskPool:
    """Runs tasks on the workers of a Dask cluster.

    A large network is sent to each worker once, also to those that start later: a plugin does
    that, and data that are scattered would be lost with their workers.
    """

    def __init__(self, task: ShardTask, client, resources: Mapping[str, float] | None):
        self.client, self.resources = client, resources
        function = task.function
        # Of this run alone: two clients may use one network, and end at different times.
        self.task, self.name = task, f"sktransfer-{secrets.token_hex(8)}"
        self.has_plugin = function.payload is not None and len(function.payload) > _SMALL
        if self.has_plugin:
            self.task = dataclasses.replace(task, function=function.light())
            plugin = _make_plugin(function.key, function.payload)
            _try_often(lambda: client.register_plugin(plugin, name=self.name))
        self.n_submitted = 0

    @property
    def no_worker(self) -> str:
        resources = f" with the resources {dict(self.resources)}" if self.resources else ""
        return f"The Dask cluster at {self.client.scheduler.address} has no worker{resources}."

    def has_workers(self):
        try:
            workers = self.client.scheduler_info(n_workers=-1)["workers"].values()
        except OSError:  # the scheduler does not answer either
            return False
        return any(
            all(worker["resources"].get(name, 0) >= n for name, n in (self.resources or {}).items())
            for worker in workers
        )

    @property
    def window(self) -> int:
        return 2 * max(1, len(self.client.nthreads()))

    def submit(self, shard, avoid):
        self.n_submitted += 1
        others = sorted(set(self.client.nthreads()) - avoid) if avoid else None
        return self.client.submit(
            run_on_worker,
            self.task,
            shard,
            key=f"shard-{shard.start}-{self.name}-{self.n_submitted}",
            pure=False,
            workers=others or None,
            allow_other_workers=bool(others),
            resources=self.resources,
        )

    def close(self, futures):
        self.client.cancel(list(futures))
        if self.has_plugin:
            with contextlib.suppress(OSError, ValueError):  # what is left does no harm
                _try_often(lambda: self.client.unregister_worker_plugin(self.name))


def _try_often(call: Callable) -> None:
    """Call a function that fails if a worker is lost meanwhile, until it does not."""
    for _ in range(_MOST_LOST):
        try:
            call()
            return
        except OSError as error:  # CommClosedError of distributed is one
            last = error
    raise last


def _make_plugin(key: str, payload: bytes | None):
    from distributed.diagnostics.plugin import WorkerPlugin

    class Network(WorkerPlugin):
        """Keeps a network in each worker process."""

        def setup(self, worker):
            keep_payload(key, payload)

        def teardown(self, worker):
            drop_payload(key)

    return Network()


def run_on_worker(task: ShardTask, shard: Shard) -> Done | Failed:
    """Compute a shard on a Dask worker with as many threads as the worker has.

    Parameters
    ----------
    task : ShardTask
    shard : Shard

    Returns
    -------
    Done or Failed
    """
    from distributed import get_worker

    worker = get_worker()
    try:
        return task(shard, worker.state.nthreads)
    except UnreadableSamplesError:
        raise
    except Exception as error:
        return Failed(_picklable(error), worker.address)


def _picklable(error: Exception) -> Exception:
    """Return an error of the same text that any process can load."""
    kind = OSError if isinstance(error, OSError) else RuntimeError
    return kind(f"{type(error).__name__}: {error}")


def pool_for(task: ShardTask, executor: Any, resources: Mapping[str, float] | None) -> Pool:
    """Make a pool for what a user gives as ``executor``.

    Parameters
    ----------
    task : ShardTask
    executor : None, concurrent.futures.Executor or dask.distributed.Client
    resources : dict or None

    Returns
    -------
    Pool

    Raises
    ------
    TypeError
        If it is none of these.
    """
    is_dask = hasattr(executor, "scheduler_info")
    if resources is not None and not is_dask:
        raise ValueError(f"resources={resources!r} are those of the workers of a Dask cluster.")
    if executor is None:
        return _HerePool(task)
    if is_dask:
        return _DaskPool(task, executor, resources)
    if isinstance(executor, concurrent.futures.Executor):
        return _ExecutorPool(task, executor)
    raise TypeError(
        f"executor={executor!r}: give None, a concurrent.futures.Executor or a "
        "dask.distributed.Client."
    )
