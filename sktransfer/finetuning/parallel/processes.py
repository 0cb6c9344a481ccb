"""Start the processes of a training on several devices of one machine."""

from __future__ import annotations

import concurrent.futures
import contextlib
import datetime
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist

from ...engines import thread_budget
from ..tail import Tail
from .choice import is_launched, needs_whole_batches, own_group
from .follower import END, Follower, Message
from .launched import launched_link
from .leader import Replicas
from .link import PATIENCE, Link, ProcessLostError

__all__ = ["replicas_on"]

_HOST = "127.0.0.1"
_POLL = 0.05  # seconds
_IDLE = 10  # seconds after which a process ends whose first process was killed
_TO_END = 5  # seconds for a process that failed, to tell why
_CONNECTING = datetime.timedelta(seconds=30)  # to a process that may have been killed
_READY = "ready"
_ONE_GROUP = threading.Lock()  # a process belongs to one group at a time
_holder: int | None = None  # the thread that has it


@contextlib.contextmanager
def replicas_on(devices: Sequence[torch.device], tail: Tail) -> Iterator[Replicas | None]:
    """Start a process for each device but the first, and end them afterwards.

    Processes that a launcher has started are used instead.

    Parameters
    ----------
    devices : sequence of torch.device
        That of this process is the first.
    tail : Tail
        The stages that are trained.

    Yields
    ------
    Replicas or None
        None for one device.

    Raises
    ------
    ValueError
        If batch norm is trained.
    ProcessLostError
        A ``RuntimeError``, if a process cannot be started or ends too soon.
    """
    if len(devices) > 1 and tail.learns_statistics:
        raise ValueError(needs_whole_batches(len(devices)))
    if len(devices) == 1:
        yield None
    elif is_launched():
        yield Replicas(launched_link(), tail)
    else:
        _check_free()
        with _one_group(), _budget(devices) as n_threads, _started(devices, n_threads) as link:
            yield Replicas(link, tail)
            link.scatter([Message(END, (None,))] * (link.size - 1))


@contextlib.contextmanager
def _one_group() -> Iterator[None]:
    """Wait until no other thread trains on several devices."""
    global _holder
    with _ONE_GROUP:
        _holder = threading.get_ident()
        own_group.set()
        try:
            yield
        finally:
            own_group.clear()
            _holder = None


@contextlib.contextmanager
def _budget(devices: Sequence[torch.device]) -> Iterator[int]:
    """Divide the threads of this process among all, which share the cores of the machine."""
    n_threads = max(1, torch.get_num_threads() // len(devices))
    with thread_budget(n_threads if devices[0].type == "cpu" else None):
        yield n_threads


@contextlib.contextmanager
def _started(devices: Sequence[torch.device], n_threads: int) -> Iterator[Link]:
    # Unlike those of multiprocessing, processes of loky do not run the user's script again.
    from joblib.externals.loky import ProcessPoolExecutor

    n = len(devices)
    store = dist.TCPStore(_HOST, 0, is_master=True, wait_for_workers=False)
    executor = ProcessPoolExecutor(n - 1, timeout=_IDLE)
    has_ended = False
    try:
        futures = [
            executor.submit(_follow, store.port, rank, n, str(devices[rank]), n_threads)
            for rank in range(1, n)
        ]
        _await(store, futures)
        with _group(store, 0, n, devices[0]), _explained(futures):
            yield Link(0, n)
        has_ended = True
    finally:
        executor.shutdown(wait=True, kill_workers=not has_ended)


def _check_free() -> None:
    if not dist.is_available():
        raise ValueError("devices=: this version of torch has no torch.distributed.")
    if multiprocessing.current_process().daemon:
        raise ValueError(
            "devices=: a worker process, such as one of Dask or of multiprocessing, cannot start "
            "others. Use devices=None there."
        )
    if _holder == threading.get_ident():
        raise ValueError(
            "devices=: this fit was called within another one on several devices, for example by "
            "a callback. Use devices=None for it."
        )
    if dist.is_initialized() and not own_group.is_set():
        raise ValueError(
            "devices=: this process belongs to a group of torch.distributed. Leave it first, or "
            "start the script by a launcher, such as accelerate launch."
        )


@contextlib.contextmanager
def _explained(futures: list) -> Iterator[None]:
    """Say why a process has ended."""
    try:
        yield
    except ProcessLostError as error:
        concurrent.futures.wait(futures, _TO_END, concurrent.futures.FIRST_EXCEPTION)
        found = [future.exception() for future in futures if future.done()]
        lines = [line for each in found if each is not None for line in str(each).splitlines()]
        codes = next((line for line in lines if "exit code" in line), "")
        raise ProcessLostError(
            f"devices={len(futures) + 1}: a process of the training has ended, and the others were "
            f"stopped. It may have been killed because memory is short. {codes}"
        ) from error


def _await(store: dist.TCPStore, futures: list) -> None:
    """Wait until all processes are there."""
    while store.add(_READY, 0) < len(futures):
        for future in futures:
            if future.done() and (error := future.exception()) is not None:
                raise ProcessLostError(
                    f"devices=: a process of the training could not be started: {error}"
                ) from error
        time.sleep(_POLL)


def _follow(port: int, rank: int, size: int, device: str, n_threads: int) -> None:
    """Do the part of another process."""
    torch.set_num_threads(n_threads)
    store = dist.TCPStore(_HOST, port, is_master=False, timeout=_CONNECTING)
    store.add(_READY, 1)
    with _group(store, rank, size, torch.device(device)):
        Follower(Link(rank, size), torch.device(device)).run()


@contextlib.contextmanager
def _group(store: dist.TCPStore, rank: int, size: int, device: torch.device) -> Iterator[None]:
    # With CUDA, objects are exchanged by gloo and tensors by NCCL.
    backend = "gloo" if device.type == "cpu" else None
    current = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with current:
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        try:
            yield
        finally:
            dist.destroy_process_group()
