"""Memory that a task frees stays with its process until the task ends."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
from collections.abc import Iterator

__all__ = ["keep_freed_memory"]

# Parameters of mallopt, and the defaults of the C library (malloc.h of glibc).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_DEFAULT = 128 * 1024
_LARGEST_TRIM, _LARGEST_MMAP = 10**9, 2**25

_lock = threading.Lock()
_n_active = 0


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in the process, and return it to the system afterwards.

    Dask starts its workers with ``MALLOC_TRIM_THRESHOLD_=65536``. Then the C library returns the
    output of each layer to the operating system and asks for it again, page by page, which takes
    twice as long as the computation itself. Where this variable is not set, or the C library is
    not glibc, nothing is changed.
    """
    global _n_active
    is_low = "MALLOC_TRIM_THRESHOLD_" in os.environ and _given("TRIM") < _LARGEST_TRIM
    library = _library() if is_low else None
    if library is None:
        yield
        return
    with _lock:  # tasks of several threads share the settings of the process
        _n_active += 1
        _set(library, _LARGEST_TRIM, _LARGEST_MMAP)
    try:
        yield
    finally:
        with _lock:
            _n_active -= 1
            if not _n_active:
                _set(library, _given("TRIM"), _given("MMAP"))
                library.malloc_trim(0)


def _library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def _set(library: ctypes.CDLL, trim: int, mmap: int) -> None:
    library.mallopt(_TRIM_THRESHOLD, trim)
    library.mallopt(_MMAP_THRESHOLD, mmap)


def _given(name: str) -> int:
    """Return the threshold that the process was started with."""
    try:
        return int(os.environ[f"MALLOC_{name}_THRESHOLD_"])
    except (KeyError, ValueError):
        return _DEFAULT
