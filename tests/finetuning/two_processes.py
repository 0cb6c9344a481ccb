"""Fit in two processes, as a launcher starts them, and tell what each has become."""

import multiprocessing
import os
import pickle
import socket
import traceback
from pathlib import Path

import torch

N = 2


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def fit_in_two(function, folder: Path, *args, timeout: float = 120) -> list:
    """Call a function in two processes; return from each its result, an exception or None.

    None is a process that was killed, or has not ended in time.
    """
    context, port = multiprocessing.get_context("forkserver"), free_port()
    # Imported once, before the processes are forked.
    context.set_forkserver_preload(["torch", "skorch", "accelerate", function.__module__])
    processes = [
        context.Process(target=_run, args=(rank, port, folder, function, *args))
        for rank in range(N)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout)
        process.kill()
        process.join()
    paths = [folder / f"{rank}.pickle" for rank in range(N)]
    return [pickle.loads(path.read_bytes()) if path.exists() else None for path in paths]


def _run(rank: int, port: int, folder: Path, function, *args) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(N),
        "LOCAL_WORLD_SIZE": str(N),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    try:
        result = function(*args)
    except Exception as error:
        traceback.print_exc()
        result = type(error)(str(error))
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(result))
