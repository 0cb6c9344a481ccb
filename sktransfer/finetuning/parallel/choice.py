"""Which devices a training uses."""

from __future__ import annotations

import multiprocessing
import os
import threading
from typing import Any

import torch
import torch.distributed as dist

from ...engines import resolve_device

__all__ = [
    "check_devices",
    "check_launched",
    "choose_devices",
    "count_launched",
    "is_launched",
    "local_device",
    "needs_whole_batches",
    "own_group",
]

# Set while this process leads a group that the package has started.
own_group: threading.Event = threading.Event()


def choose_devices(devices: int | str | None, device: str) -> list[torch.device]:
    """Return the device of each process of a training; the first is that of this process.

    Parameters
    ----------
    devices : int, "all" or None
        The parameter of the estimator.
    device : str
        The parameter of the estimator.

    Returns
    -------
    list of torch.device

    Raises
    ------
    ValueError
        If there are not as many devices, or processes that a launcher has started.
    """
    first = resolve_device(device)
    if devices is None or devices == 1:
        return [first]
    if is_launched():
        return _launched(devices, first)
    n_there = _count(first)
    n = n_there if devices == "all" else int(devices)
    if n > n_there and first.type != "cpu":
        raise ValueError(f"devices={devices}: this machine has {n_there} of type {first.type!r}.")
    if n > 1 and first.index is not None:
        raise ValueError(f"devices={devices!r} and device={device!r}, which is one: give its type.")
    if n == 1 or first.type == "cpu":
        return [first] * n
    return [torch.device(first.type, i) for i in range(n)]


def check_devices(estimator: Any) -> None:
    """Check the parameter ``devices`` before anything is computed.

    Parameters
    ----------
    estimator : TrainingParameters

    Raises
    ------
    ValueError
        As :func:`choose_devices`, for batch normalization that is trained, and for a network that
        is compiled.
    """
    chosen = choose_devices(estimator.devices, estimator.device)
    if len(chosen) > 1 and estimator.train_batch_norm:
        raise ValueError(needs_whole_batches(len(chosen)))
    if len(chosen) > 1 and (estimator.net_params or {}).get("compile"):
        raise ValueError(f"devices={len(chosen)} cannot be combined with net_params['compile'].")


def needs_whole_batches(n_devices: int, what: str = "") -> str:
    """Return the message for modules that need whole batches.

    Parameters
    ----------
    n_devices : int
    what : str, default=""
        What training changes besides the weights, by default batch normalization that is trained.

    Returns
    -------
    str
    """
    what = what or "batch norm that is trained (train_batch_norm=True, or in the head)"
    return f"devices={n_devices} divides each batch, and {what} needs it whole: use devices=None."


def _count(device: torch.device) -> int:
    """Count the devices of a type. The cores of a machine are one."""
    return 1 if device.type == "cpu" else torch.get_device_module(device).device_count()


def is_launched() -> bool:
    """Tell whether a launcher, such as ``accelerate launch``, has started several processes."""
    return count_launched() > 1


def count_launched() -> int:
    """Count the processes that a launcher has started, this one included."""
    if own_group.is_set():
        return 1
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size()
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


def check_launched() -> None:
    """Check that this process is one that the launcher has started.

    Raises
    ------
    ValueError
        For a worker of joblib, which has the environment of the process that started it.
    """
    if multiprocessing.current_process().name.startswith("LokyProcess"):
        raise ValueError(
            "devices=: a worker of joblib takes no part in a training that a launcher has started. "
            "Use n_jobs=1 in the search, or devices=None."
        )


def _launched(devices: int | str, first: torch.device) -> list[torch.device]:
    check_launched()
    n = count_launched()
    if devices not in ("all", n):
        raise ValueError(f"devices={devices!r}: the launcher has started {n} processes.")
    return [local_device(first)] * n


def local_device(device: torch.device) -> torch.device:
    """Return the device of this one of the processes that a launcher has started.

    Parameters
    ----------
    device : torch.device

    Returns
    -------
    torch.device
    """
    if device.type == "cpu" or device.index is not None:
        return device
    return torch.device(device.type, int(os.environ.get("LOCAL_RANK", 0)))
