"""Run tasks with a bounded number in flight, and repeat those that fail."""

from __future__ import annotations

import queue
import warnings
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ...data import UnreadableSamplesError
from .executors import Failed, Pool
from .planning import Shard
from .task import Done

__all__ = ["NO_WORKER_SECONDS", "ExtractionError", "run_shards"]

NO_WORKER_SECONDS = 30.0  # without a worker, after which a warning says so
_MOST_FAILED = 8  # shards, after which nothing more is tried


class ExtractionError(RuntimeError):
    """Raised if shards could not be computed for another reason than their samples.

    All other shards are written, or will be by the next call.
    """


class _Attempt(NamedTuple):
    shard: Shard
    n_retries: int
    avoid: set[str]


def run_shards(
    shards: Iterator[Shard], pool: Pool, retries: int, report: Callable[[Shard, Done], None]
) -> None:
    """Compute shards.

    Parameters
    ----------
    shards : iterator of Shard
        Taken only when there is room in the window of the pool.
    pool : Pool
    retries : int
        How often a shard is tried again after an error that is not one of its samples.
    report : callable
        Called with each shard that is done.

    Raises
    ------
    UnreadableSamplesError
        That of the first task that raises it.
    ExtractionError
        If shards still fail after the retries. All other ones are computed first, unless many fail.
    """
    run = _Run(pool, retries, report)
    try:
        run.all(shards)
    finally:
        pool.close(run.running)
    if run.failed:
        shard, error = run.failed[0]
        raise ExtractionError(
            f"{len(run.failed)} shards could not be computed, the first one rows {shard.start} to "
            f"{shard.start + len(shard) - 1}: {error or type(error).__name__}. Call extract_to "
            "again when the cause is removed: it computes what is missing."
        ) from error


class _Run:
    def __init__(self, pool: Pool, retries: int, report: Callable[[Shard, Done], None]):
        self.pool, self.retries, self.report = pool, retries, report
        self.running: dict = {}  # attempts by future
        self.done: queue.SimpleQueue = queue.SimpleQueue()
        self.failed: list[tuple[Shard, Exception]] = []
        self.has_warned = False

    def all(self, shards: Iterator[Shard]) -> None:
        more = True
        while more or self.running:
            while more and len(self.running) < self.pool.window:
                shard = next(shards, None) if len(self.failed) < _MOST_FAILED else None
                more = shard is not None
                if shard is not None:
                    self.submit(_Attempt(shard, 0, set()))
            if self.running:
                self.take(self.next_done())

    def submit(self, attempt: _Attempt) -> None:
        future = self.pool.submit(attempt.shard, attempt.avoid)
        self.running[future] = attempt
        future.add_done_callback(self.done.put)

    def next_done(self):
        """Wait for a task, and warn once if there is no worker that could run one.

        There is no limit: an adaptive cluster begins with no worker.
        """
        while True:
            try:
                return self.done.get(timeout=NO_WORKER_SECONDS)
            except queue.Empty:
                if self.pool.has_workers() or self.has_warned:
                    continue
            self.has_warned = True
            warnings.warn(
                f"{self.pool.no_worker} extract_to waits until one starts, and continues then.",
                stacklevel=2,
            )

    def take(self, future) -> None:
        """Report a task that is done, or submit it again."""
        attempt = self.running.pop(future)
        try:
            result = future.result()
        except UnreadableSamplesError:
            raise
        except Exception as error:  # also of a worker that was lost
            result = Failed(error, "")
        except BaseException as error:  # CancelledError of asyncio, if a scheduler lost the task
            if type(error).__name__ != "CancelledError":
                raise
            result = Failed(RuntimeError("the task was cancelled"), "")
        if not isinstance(result, Failed):
            self.report(attempt.shard, result)
        elif attempt.n_retries < self.retries:
            avoid = attempt.avoid | ({result.worker} - {""})
            self.submit(_Attempt(attempt.shard, attempt.n_retries + 1, avoid))
        else:
            self.failed.append((attempt.shard, result.error))
