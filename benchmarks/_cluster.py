"""Functions that the benchmarks of clusters share: samples, networks, processes and memory."""

from __future__ import annotations

import contextlib
import io
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from sktransfer import PretrainedFeatureExtractor, load_backbone

HERE = Path(__file__).parent


def write_jpegs(folder: Path, n: int, size: int = 256, seed: int = 0) -> list[str]:
    """Write distinct generated photographs: smooth colours with some noise."""
    rng = np.random.default_rng(seed)
    ramp = np.add.outer(np.linspace(0, 1, size), np.linspace(0, 1, size))[..., None] / 2
    noises = rng.integers(0, 60, (16, size, size, 3))
    paths = []
    for i in range(n):
        image = (ramp * rng.uniform(0.2, 1, 3) * 195 + noises[i % 16]).astype(np.uint8)
        paths.append(str(folder / f"{i:07d}.jpg"))
        Image.fromarray(image).save(paths[-1], quality=85)
    return paths


class Free(nn.Module):
    """A network that costs nothing."""

    def forward(self, x):
        return x + 0.0


class Sleeping(nn.Module):
    """A network that takes a time for each batch, and nothing of the processor."""

    def __init__(self, seconds: float = 0.0):
        super().__init__()
        self.seconds = seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return torch.tanh(x)


def extractor_of(module: nn.Module, **settings) -> PretrainedFeatureExtractor:
    return PretrainedFeatureExtractor(load_backbone(module), **settings)


@contextlib.contextmanager
def cluster(n_workers: int, **settings) -> Iterator:
    """Start worker processes with one thread each, and yield a client.

    They are forked from a process that has imported the package, so that a worker that is killed
    is replaced soon.
    """
    import dask
    from distributed import Client, LocalCluster
    from distributed.utils import get_mp_context

    dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
    get_mp_context().set_forkserver_preload(["distributed", "_cluster"])
    settings = {"threads_per_worker": 1, "dashboard_address": None} | settings
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalCluster(n_workers=n_workers, local_directory=folder, **settings) as local,
        Client(local, set_as_default=False) as client,
    ):
        client.wait_for_workers(n_workers)
        yield client


@contextlib.contextmanager
def many_workers(n: int, n_processes: int = 2) -> Iterator:
    """Start a scheduler here and single-thread workers in few processes; yield a client."""
    from distributed import Client, LocalCluster

    command = "import _cluster; _cluster.host({address!r}, {n})"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    environment["DASK_LOGGING__DISTRIBUTED"] = "warning"
    sizes = [len(part) for part in np.array_split(np.arange(n), n_processes) if len(part)]
    with (
        LocalCluster(n_workers=0, dashboard_address=None) as local,
        Client(local, set_as_default=False) as client,
    ):
        address = local.scheduler_address
        hosts = [
            subprocess.Popen(
                [sys.executable, "-c", command.format(address=address, n=size)], env=environment
            )
            for size in sizes
        ]
        try:
            client.wait_for_workers(n, timeout=600)
            yield client
        finally:
            for process in hosts:
                process.terminate()
                process.wait()


def host(address: str, n: int) -> None:
    """Run workers of a scheduler in this process, until it is terminated."""
    import asyncio

    from distributed import Worker

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            settings = {"nthreads": 1, "memory_limit": None, "local_directory": folder}
            workers = [Worker(address, **settings) for _ in range(n)]
            await asyncio.gather(*workers)
            await asyncio.gather(*(worker.finished() for worker in workers))

    asyncio.run(run())


def peak_memory() -> int:
    """Return the peak of the resident memory of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))


def cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system


def encoded(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "jpeg")
    return file.getvalue()
