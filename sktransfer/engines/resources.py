"""Devices, threads and memory of the process in which stages run.

Memory that is freed stays with the process, so that the next batch does not fault it in anew. glibc
gives blocks of more than 128 kB back to the operating system when they are freed, and each page of
the next block costs 2.5 µs. :func:`raise_thresholds` serves plain processes,
:func:`keep_freed_memory` those whose environment fixes the thresholds, such as Dask's workers.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import sys
import threading
from collections.abc import Iterator

import torch

# Parameters of mallopt, and the defaults of the C library (malloc.h of glibc).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_DEFAULT = 128 * 1024
_LARGEST_TRIM, _LARGEST_MMAP = 10**9, 2**25

# The largest block, in bytes, that glibc's dynamic thresholds follow is one of less than 32 MiB.
_LARGEST_FOLLOWED = 31 * 2**20

_lock = threading.Lock()
_n_active = 0


def resolve_device(device: str) -> torch.device:
    """Find the device that is meant, and check that it is on this machine.

    Parameters
    ----------
    device : str
        "auto" or a name that ``torch.device`` takes. "auto" is the current accelerator, or the
        CPU where there is none.

    Raises
    ------
    ValueError
        If the named device is not on this machine.
    """
    if device == "auto":
        is_there = torch.accelerator.is_available()  # 2.6 has no check_available=True
        found = torch.accelerator.current_accelerator() if is_there else None
        return found or torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved).cpu()
    except (RuntimeError, AssertionError) as error:  # also for "meta", which holds no data
        why = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used on this machine: {why}") from None
    return resolved


def fewer_rows(most_rows: int, n_rows: int) -> int:
    """Return half as many rows for the next batches, after a device's memory was short.

    Parameters
    ----------
    most_rows : int
        Most rows of a batch so far.
    n_rows : int
        Rows of the batch that did not fit.
    """
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # blocks of other sizes than the next batches need
    return math.ceil(min(most_rows, n_rows) / 2)


@contextlib.contextmanager
def thread_budget(n_threads: int | None) -> Iterator[None]:
    """Let torch use a number of threads, and put the number back afterwards.

    Parameters
    ----------
    n_threads : int or None
        None changes nothing.
    """
    before = torch.get_num_threads()
    if n_threads is not None and n_threads != before:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@functools.cache
def raise_thresholds() -> None:
    """Free one block of 31 MiB, after which glibc keeps freed blocks of up to that size.

    glibc's threshold for giving blocks back grows to the size of the largest block below 32 MiB
    that was freed, and that for trimming the heap to twice this size (mallopt(3),
    ``M_MMAP_THRESHOLD``). The block is never written to, so it takes no memory. This is done once
    in a process. No setting is changed: ``mallopt`` would end the dynamic thresholds for good, and
    where the environment sets them, nothing happens. With other C libraries, nothing is done.
    """
    try:
        uses_glibc = os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (AttributeError, ValueError):  # Windows; a C library that does not know the name
        return
    if uses_glibc:
        torch.empty(_LARGEST_FOLLOWED, dtype=torch.uint8)


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
