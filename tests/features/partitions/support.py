"""Sources of samples and folders of features that several test files share."""

import io
import os
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from torch import nn

from sktransfer import PretrainedFeatureExtractor, load_backbone
from tests.support import Vectors, images, tiny_backbone

N = 11
LABELS = ["ant" if i % 3 else "bee" for i in range(N)]


def extractor(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def encoded(n: int = N, seed: int = 0) -> list[bytes]:
    """The contents of distinct image files."""
    return [encode(image) for image in images(n, seed=seed)]


def encode(image) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "png")
    return file.getvalue()


def write_files(folder: Path, n: int = N, seed: int = 0) -> list[str]:
    """Write images to a folder, and return their paths in order."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{i:04d}.png" for i in range(n)]
    for path, content in zip(paths, encoded(n, seed), strict=True):
        path.write_bytes(content)
    return list(map(str, paths))


def write_parquet(path: Path, samples: list, name: str = "image", **settings) -> str:
    table = {name: samples, "label": LABELS[: len(samples)], "id": list(range(len(samples)))}
    path.parent.mkdir(exist_ok=True)
    pq.write_table(pa.table(table), path, **settings)
    return str(path)


def write_zip(path: Path, contents: list[bytes]) -> str:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("__MACOSX/._x.png", b"")
        for i, content in enumerate(contents):
            archive.writestr(f"{LABELS[i]}/{i:04d}.png", content)
    return str(path)


def write_tar(path: Path, contents: list[bytes], first: int = 0, with_labels: bool = True) -> str:
    with tarfile.open(path, "w") as archive:
        for i, content in enumerate(contents, first):
            add(archive, f"{i:04d}.png", content)
            if with_labels:
                add(archive, f"{i:04d}.cls", LABELS[i].encode())
    return str(path)


def add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def contents(folder) -> dict[str, bytes]:
    """The files of a folder of features, by name."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


class Slow(Vectors):
    """A network that is too large to be sent with each task; it sleeps, and notes where it loads.

    Parameters
    ----------
    log : path-like, default=None
        A file to which each process that loads the network writes its number.
    seconds : float, default=0
        Time for each batch.
    """

    def __init__(self, log=None, seconds: float = 0.0):
        super().__init__()
        self.log, self.seconds = None if log is None else str(log), seconds

    def forward(self, x):
        time.sleep(self.seconds)
        return super().forward(x)

    def __setstate__(self, state):
        super().__setstate__(state)
        if self.log is not None:
            with open(self.log, "a") as file:
                print(os.getpid(), file=file)


class Threads(nn.Module):
    """A network whose output is the number of torch's threads."""

    def forward(self, x):
        return torch.full((len(x), 1), float(torch.get_num_threads()))


def slow_extractor(log=None, seconds: float = 0.0, **settings) -> PretrainedFeatureExtractor:
    settings = {"batch_size": 4} | settings
    return PretrainedFeatureExtractor(load_backbone(Slow(log, seconds)), **settings)


def vectors(n: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(n, 8)).astype(np.float32)


def start_cluster(folder, n_workers: int = 2, **settings):
    """Start worker processes with one thread each, and return a client."""
    from distributed import Client, LocalCluster

    cluster = LocalCluster(
        n_workers=n_workers,
        threads_per_worker=1,
        dashboard_address=None,
        local_directory=str(folder),
        **settings,
    )
    return Client(cluster, set_as_default=False)


def close(client) -> None:
    cluster = client.cluster
    client.close()
    cluster.close()
