"""Load samples ahead of their use, in threads."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import joblib
import torch
from joblib.parallel import get_active_backend
from threadpoolctl import ThreadpoolController

from ..backbones import Backbone
from ..data import Modality
from ..engines import resolve_device

_FEW = 4  # samples for which no threads are started
_MOST_BYTES = 2**27  # of results that wait


def count_loaders(n_jobs: int | str | None, device: torch.device, n_samples: int) -> int:
    """Return the number of threads that load samples; 0 for none.

    Without threads, samples are loaded in the calling thread when they are needed. A negative
    number counts from the number of cores, as in joblib. "auto" is the number of cores that the
    network does not use: on a CPU those that torch has no threads for, at least a quarter; with an
    accelerator all but one. In a process or thread of joblib it is 1.
    """
    if n_jobs in (None, 1) or n_samples <= _FEW:
        return 0
    cores = joblib.cpu_count()
    if not isinstance(n_jobs, str):
        return min(n_jobs if n_jobs > 0 else max(1, cores + 1 + n_jobs), n_samples)
    if get_active_backend()[0].nesting_level:
        return 1  # other jobs use the other cores
    left = cores - (torch.get_num_threads() if device.type == "cpu" else 1)
    return max(1, left, cores // 4)


def count_needed_loaders(
    n_jobs: int | str | None, device: str, backbones: Sequence[Backbone], n_samples: int
) -> int:
    """Count the threads that load samples; none if nothing is read, opened or preprocessed."""
    modality = backbones[0].modality
    opens = type(modality).open is not Modality.open or type(modality).read is not Modality.read
    if not opens and all(backbone.preprocess is None for backbone in backbones):
        return 0
    return count_loaders(n_jobs, resolve_device(device), n_samples)


class Loader:
    """Apply functions to items ahead of the use of the results, in threads.

    A context manager, at whose end tasks that were not begun are dropped. Threads suffice, because
    the libraries that decode and resize images release Python's lock meanwhile
    (``benchmarks/loading.py`` compares them with processes). With 0 threads, items are processed in
    the calling thread when they are asked for.
    """

    def __init__(self, n_loaders: int):
        self.pool: ThreadPoolExecutor | None = None
        if n_loaders:
            self.pool = ThreadPoolExecutor(n_loaders, "loader", initializer=_use_one_core)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        if self.pool is not None:
            self.pool.shutdown(cancel_futures=True)

    def map(
        self,
        function: Callable[..., Any],
        items: Iterable[Any],
        ahead: int,
        *,
        n_bytes: Callable[..., Any] | None = None,
        at_once: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """Yield the results of a function in the order of the items.

        Items are read in the calling thread. What the function raises is raised where its result is
        asked for. ``ahead`` results, at most, are computed and not yet asked for. This number is
        reduced such that together they have about 128 MiB, if all are as large as the last, by
        ``n_bytes`` of a result. Items of which ``at_once`` is true, as they take no time, are
        processed in the calling thread; their results are yielded before further items are read,
        unless others come first.
        """
        queue = LoaderQueue(self, ahead, n_bytes)
        for item in items:
            if at_once is None or not at_once(item):
                queue.add(function, item)
            elif len(queue):
                queue.add_result(function(item))
            else:
                yield function(item)
            while len(queue) >= queue.ahead:
                yield from queue.results(1)
        yield from queue.results(len(queue))


class LoaderQueue:
    """Calls of functions, of which a limited number runs ahead of the use of the results.

    Without threads, a call runs when its result is taken. ``ahead`` and ``n_bytes`` are as for
    :meth:`Loader.map`.
    """

    ahead: int

    def __init__(self, loader: Loader, ahead: int, n_bytes: Callable[..., Any] | None):
        self._pool, self._n_bytes = loader.pool, n_bytes
        self.ahead = ahead if loader.pool is not None else 1
        self._begun: deque[Future] = deque()
        self._calls: deque[tuple[Callable[..., Any], tuple[Any, ...]]] = deque()

    def __len__(self) -> int:
        return len(self._begun) + len(self._calls)

    def add(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Add a call."""
        self._calls.append((function, arguments))
        self._begin()

    def add_result(self, result: Any) -> None:
        """Add the result of a call that has ended. No call may wait for its turn."""
        future: Future = Future()
        future.set_result(result)
        self._begun.append(future)

    def results(self, n: int) -> Iterator[Any]:
        """Yield the next n results, and begin further calls meanwhile."""
        for _ in range(n):
            if self._pool is None:
                function, arguments = self._calls.popleft()
                yield function(*arguments)
                continue
            self._begin()
            result = self._begun.popleft().result()
            if self._n_bytes is not None:
                most = _MOST_BYTES // max(1, self._n_bytes(result))
                self.ahead = min(self.ahead, max(1, most))
            yield result

    def _begin(self) -> None:
        while self._pool is not None and self._calls and len(self._begun) < self.ahead:
            function, arguments = self._calls.popleft()
            self._begun.append(self._pool.submit(function, *arguments))


@functools.cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


def _use_one_core() -> None:
    """Let operations of torch in this thread use one core; other threads are not changed."""
    torch.get_num_threads()  # torch sets the number for a thread when it is first asked for it
    _openmp().limit(limits=1)
