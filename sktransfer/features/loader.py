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

__all__ = ["Loader", "count_loaders", "count_needed_loaders"]

_FEW = 4  # samples for which no threads are started


def count_loaders(n_jobs: int | str | None, device: torch.device, n_samples: int) -> int:
    """Return the number of threads that load samples.

    Parameters
    ----------
    n_jobs : int, "auto" or None
        A negative number counts from the number of cores, as in joblib. "auto" is the number of
        cores that the network does not use: on a CPU those that torch has no threads for, at
        least a quarter; with an accelerator all but one. In a process or thread of joblib it is 1.
    device : torch.device
        Where the network runs.
    n_samples : int

    Returns
    -------
    int
        0 for none: samples are loaded in the calling thread when they are needed.
    """
    if n_jobs in (None, 1) or n_samples <= _FEW:
        return 0
    if isinstance(n_jobs, str):
        return _cores_left(device)
    n_jobs = n_jobs if n_jobs > 0 else max(1, joblib.cpu_count() + 1 + n_jobs)
    return min(n_jobs, n_samples)


def _cores_left(device: torch.device) -> int:
    if get_active_backend()[0].nesting_level:
        return 1  # other jobs use the other cores
    cores = joblib.cpu_count()
    left = cores - (torch.get_num_threads() if device.type == "cpu" else 1)
    return max(1, left, cores // 4)


def count_needed_loaders(
    n_jobs: int | str | None, device: str, backbones: Sequence[Backbone], n_samples: int
) -> int:
    """Count the threads that load samples; none if nothing is read, opened or preprocessed.

    Parameters
    ----------
    n_jobs, device, n_samples
        As for :func:`count_loaders`.
    backbones : sequence of Backbone
        Of one modality.

    Returns
    -------
    int
    """
    modality = backbones[0].modality
    opens = type(modality).open is not Modality.open or type(modality).read is not Modality.read
    if not opens and all(backbone.preprocess is None for backbone in backbones):
        return 0
    return count_loaders(n_jobs, resolve_device(device), n_samples)


class Loader:
    """Apply functions to items ahead of the use of the results, in threads.

    A context manager, at whose end tasks that were not begun are dropped. Threads suffice, because
    the libraries that decode and resize images release Python's lock meanwhile
    (``benchmarks/loading.py`` compares them with processes).

    Parameters
    ----------
    n_loaders : int
        Number of threads; with 0, items are processed in the calling thread when they are asked
        for.
    """

    def __init__(self, n_loaders: int):
        self._pool = None
        if n_loaders:
            self._pool = ThreadPoolExecutor(n_loaders, "loader", initializer=_use_one_core)

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(
        self,
        function: Callable[..., Any],
        items: Iterable[Any],
        ahead: int,
        *,
        n_bytes: Callable[..., Any] | None = None,
        most_bytes: int = 2**27,
        at_once: Callable[..., Any] | None = None,
    ) -> Iterator[Any]:
        """Yield the results of a function in the order of the items.

        Parameters
        ----------
        function : callable
            Of one item. What it raises is raised where its result is asked for.
        items : iterable
            Read in the calling thread.
        ahead : int
            Number of results computed and not yet asked for, at most.
        n_bytes : callable, default=None
            Returns the size of a result. The number of results is reduced such that together they
            have about ``most_bytes``, if all are as large as the last.
        most_bytes : int, default=2**27
        at_once : callable, default=None
            Tells which items are processed in the calling thread, as they take no time. Their
            results are yielded before further items are read, unless others come first.

        Yields
        ------
        object
        """
        if self._pool is None:
            yield from map(function, items)
            return
        waiting: deque[Future] = deque()
        for item in items:
            alone = at_once is not None and at_once(item)
            if alone and not waiting:
                yield function(item)
                continue
            waiting.append(_done(function(item)) if alone else self._pool.submit(function, item))
            while len(waiting) >= ahead:
                result = waiting.popleft().result()
                if n_bytes is not None:
                    ahead = min(ahead, max(1, most_bytes // max(1, n_bytes(result))))
                yield result
        while waiting:
            yield waiting.popleft().result()


def _done(result) -> Future:
    future: Future = Future()
    future.set_result(result)
    return future


@functools.cache
def _openmp() -> ThreadpoolController:
    return ThreadpoolController().select(user_api="openmp")


def _use_one_core() -> None:
    """Let operations of torch in this thread use one core; other threads are not changed."""
    torch.get_num_threads()  # torch sets the number for a thread when it is first asked for it
    _openmp().limit(limits=1)
