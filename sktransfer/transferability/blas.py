"""One thread for the linear algebra of small matrices."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import scipy.linalg.blas  # noqa: F401  (loads its library, so that it is found)
from threadpoolctl import ThreadpoolController

__all__ = ["one_thread_if_small", "small_in_one_thread"]

# Numbers of the largest matrix, such as 1600 rows of 1280 features. Above, threads can pay.
_SMALL = 2**21

_Function = TypeVar("_Function", bound=Callable[..., Any])
_limiting = threading.RLock()  # held by the thread that has set the number


@contextlib.contextmanager
def one_thread_if_small(*arrays: Any) -> Iterator[None]:
    """Let BLAS use one thread meanwhile if arrays are small.

    The threads of OpenBLAS wait for each other in every operation. Where another process uses one
    of the cores, each operation waits until all threads have had their turn: five folds of a probe
    on 400 samples take a hundred times as long as with one thread. The number of threads belongs to
    the process. It is set back at the end of the block; while one thread of Python is in such a
    block, others leave the number as it is.

    Parameters
    ----------
    *arrays : array, sparse matrix, or dict of those
        Up to two million numbers each are small. Other objects do not count.
    """
    is_large = max(map(_size, arrays), default=0) > _SMALL
    if is_large or not _limiting.acquire(blocking=False):
        yield
        return
    try:
        with _libraries().limit(limits=1):
            yield
    finally:
        _limiting.release()


def small_in_one_thread(function: _Function) -> _Function:
    """Decorate a function, so that BLAS uses one thread if its arguments are small.

    Parameters
    ----------
    function : callable

    Returns
    -------
    callable
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        with one_thread_if_small(*args, *kwargs.values()):
            return function(*args, **kwargs)

    return cast(_Function, run)


@functools.cache
def _libraries() -> ThreadpoolController:
    """Find the libraries once, which takes longer than a small operation."""
    return ThreadpoolController().select(user_api="blas")


def _size(array: Any) -> int:
    """Count the numbers of an array, or of the largest in a dictionary; 0 for other objects."""
    if isinstance(array, dict):
        return max(map(_size, array.values()), default=0)
    size = getattr(array, "size", 0)
    return size if isinstance(size, int) else 0
