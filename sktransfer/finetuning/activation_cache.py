"""Activations at the cut between frozen and trained stages: computed once, or when needed."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone, LayerInfo
from ..features import FeatureStore, Output, Stream, compute_inputs, compute_outputs

_FEW = 16  # samples whose computation is timed
_SECONDS = 0.5  # after which fewer are
_BYTES_TIMED = 2**25  # written to disk and read again
_FREE = 1.1  # times the size of a table that must be free on the disk


@dataclasses.dataclass
class ActivationCache:
    """Compute activations at the cache.

    Parameters
    ----------
    backbone : Backbone
    output : Output or None
        Of the last frozen stage; None if none is frozen.
    how : dict
        engine and precision of the frozen stages.
    max_bytes : int
        Size of activations, or of inputs, that are kept in memory.
    device : str
    store : FeatureStore or None
    n_jobs : int, "auto" or None
    verbose : int
    where : {"memory", "disk", "nowhere"}, default="memory"
        Where activations are during a training. "nowhere": they are computed in each epoch.
    """

    backbone: Backbone
    output: Output | None
    how: dict[str, str]
    max_bytes: int
    device: str
    store: FeatureStore | None
    n_jobs: int | str | None
    verbose: int
    where: str = "memory"

    def stream(self, samples: Sequence[Any], keep_bytes: int = 0) -> Stream:
        """Return activations that are computed when they are asked for."""
        source = self.output or self.backbone
        run: dict[str, Any] = {"device": self.device, "n_jobs": self.n_jobs, **self.how}
        return Stream(samples, source, keep_bytes=keep_bytes, **run)

    def rows(self, samples: Sequence[Any], *, keep: bool = True) -> np.ndarray | Stream:
        """Return the activations of samples; inputs of images are a stream.

        Parameters
        ----------
        samples : sequence
        keep : bool, default=True
            Whether a stream keeps inputs.
        """
        if self.output is None and self._is_streamed(samples):
            return self.stream(samples, keep_bytes=self.max_bytes if keep else 0)
        if self.output is None:
            return compute_inputs(samples, self.backbone, self.n_jobs)
        if self.where == "nowhere":
            return self.stream(samples)
        in_memory = 0 if self.where == "disk" else None
        return self._computed(samples, self.output, in_memory=in_memory)

    def map(self, samples: Sequence[Any], then: Callable[..., Any]) -> np.ndarray:
        """Apply a function to the activations of samples, without keeping them.

        Parameters
        ----------
        samples : sequence
        then : callable
            Takes activations and the positions of their samples.
        """
        if self.output is None:
            return then(self.rows(samples, keep=False), None)
        return self._computed(samples, self.output, then=then)

    def _computed(self, samples: Sequence, output: Output, **settings) -> np.ndarray:
        how: dict[str, Any] = {"n_jobs": self.n_jobs, "verbose": self.verbose, **self.how}
        return compute_outputs(
            samples, [output], device=self.device, store=self.store, **how, **settings
        )[0]

    def _is_streamed(self, samples) -> bool:
        """Tell whether inputs are opened when they are asked for. Ids of texts are small."""
        in_memory = self.backbone.preprocess is None and isinstance(samples, np.ndarray)
        return not in_memory and not self.backbone.modality.has_tokens

    # -- where to keep them --------------------------------------------------------------------

    def place(
        self, samples: Sequence[Any], layers: dict[str, LayerInfo], n_tables: int, n_passes: int
    ) -> dict[str, Any]:
        """Decide where the activations of a training are kept.

        If they take more than ``max_bytes``, a timing of some samples decides.

        Parameters
        ----------
        samples : sequence
        layers : dict of str to LayerInfo
        n_tables : int
            How many activations there are of each sample, because of augmented views.
        n_passes : int
            How often each is used.

        Returns
        -------
        dict
            "place" is ``where``, "nbytes" their size, and "seconds" those that were expected for
            "disk" and "nowhere" if a timing decided.
        """
        n_bytes = n_tables * len(samples) * self._row_bytes(samples, layers)
        seconds: dict[str, float] = {}
        if n_bytes <= self.max_bytes or (self.output is None and not self._is_streamed(samples)):
            self.where = "memory"
        elif self.output is None:
            self.where = "nowhere"
        elif shutil.disk_usage(tempfile.gettempdir()).free < _FREE * n_bytes:
            self.where = "nowhere"
        else:
            seconds = self._expected(samples, n_bytes, n_tables, n_passes)
            self.where = min(seconds, key=seconds.__getitem__)
            if self.verbose:
                where = {"disk": "kept in a temporary file", "nowhere": "computed in each epoch"}
                times = ", ".join(f"{where[k]} {t:.3g} s" for k, t in seconds.items())
                print(
                    f"Activations at the cut take {n_bytes / 1e9:.3g} GB, more than "
                    f"max_cache_bytes={self.max_bytes}; they are {where[self.where]} (expected: "
                    f"{times})."
                )
        return {"place": self.where, "nbytes": n_bytes, "seconds": seconds}

    def _row_bytes(self, samples: Sequence, layers: dict[str, LayerInfo]) -> int:
        if self.output is None:
            return int(np.prod(self.backbone.input_shape or (0,)))  # of bytes, before scaling
        info, item = layers[self.output.layer], np.dtype(np.float32).itemsize
        if self.output.pooling != "none":
            return info.width * item
        if self.backbone.modality.has_tokens:
            few = _few(samples, _FEW)
            ids = compute_inputs(few, self.backbone, None)
            return int(np.mean([len(row) for row in ids]) * info.width * item)
        return int(np.prod(info.shape)) * item

    def _expected(
        self, samples: Sequence, n_bytes: int, n_tables: int, n_passes: int
    ) -> dict[str, float]:
        """Time the computation of some activations and their way to disk and back."""
        self.stream(_few(samples, 1))[:]  # prepares the network
        rows, compute = _timed(lambda: self.stream(_few(samples, 2))[:])
        if compute < _SECONDS:
            few = _few(samples, _FEW)
            rows, compute = _timed(lambda: self.stream(few)[:])
        each, n = compute / len(rows), n_tables * len(samples)
        write, read = seconds_on_disk(sum(row.nbytes for row in rows) // len(rows))
        return {
            "disk": n * each + n_bytes * (write + n_passes * read),
            "nowhere": n_passes * n * each,
        }


def _few(samples: Sequence, n: int) -> list:
    n = min(n, len(samples))
    return [samples[i] for i in np.linspace(0, len(samples) - 1, n).astype(int)]


def _timed(function: Callable) -> tuple:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def seconds_on_disk(row_bytes: int) -> tuple[float, float]:
    """Time the disk of temporary files.

    Parameters
    ----------
    row_bytes : int
        Size of what is read at a time.

    Returns
    -------
    write, read : float
        Seconds for a byte. Where the system cannot be told to forget what it has written, the
        second is that of its memory.
    """
    row_bytes = min(max(1, row_bytes), _BYTES_TIMED)
    n_rows = max(1, _BYTES_TIMED // row_bytes)
    row = np.random.default_rng(0).bytes(row_bytes)
    with tempfile.TemporaryFile(buffering=0) as file:

        def write() -> None:
            for _ in range(n_rows):
                file.write(row)
            os.fsync(file.fileno())

        def read() -> None:
            for i in np.random.default_rng(0).permutation(n_rows):
                file.seek(int(i) * row_bytes)
                file.read(row_bytes)

        _, written = _timed(write)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        _, seconds_read = _timed(read)
    return written / (n_rows * row_bytes), seconds_read / (n_rows * row_bytes)
