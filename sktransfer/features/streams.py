"""Compute the inputs of a network, or activations of frozen stages, when they are needed."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..backbones import Backbone, ImagePreprocessing, ProcessorPreprocessing
from ..engines import resolve_device
from .blocks import stacked
from .compute import Loader, SampleError, count_loaders, unreadable_samples
from .output import Output, engine_for_outputs


class Stream:
    """The inputs of a network, or activations at a layer, as rows that are computed when needed.

    It can be indexed like an array; nothing is kept but inputs, up to a number of bytes: for a
    preprocessing that resizes and then scales, what it has resized, in the type of the image.

    Parameters
    ----------
    samples : sequence
        With an attribute ``origin``, as views of other samples, errors name those: sample i is
        made from sample ``i % len(origin)``.
    source : Backbone or Output
        A backbone gives inputs of its first stage.
    engine, precision
        Of an output; as for :func:`compute_outputs`.
    n_jobs : int, "auto" or None, default="auto"
        Threads that open and preprocess samples.
    keep_bytes : int, default=0
        Size of the inputs that are kept, at most: those of the first samples.
    """

    backbone: Backbone
    device: str
    n_jobs: int | str | None
    output: Output | None

    def __init__(
        self,
        samples: Sequence[Any],
        source: Backbone | Output,
        *,
        device: str = "auto",
        engine: str = "auto",
        precision: str = "float32",
        n_jobs: int | str | None = "auto",
        keep_bytes: int = 0,
    ):
        self.samples = samples
        self.output = source if isinstance(source, Output) else None
        self.backbone = source.backbone if isinstance(source, Output) else source
        self.device, self.n_jobs = device, n_jobs
        self._how = {"engine": engine, "precision": precision}
        self._kept = _Kept(len(samples), keep_bytes)
        preprocess: Any = self.backbone.preprocess
        two_steps = type(preprocess) in (ImagePreprocessing, ProcessorPreprocessing)
        self._resize = preprocess.resized if two_steps else None

    def __len__(self) -> int:
        return len(self.samples)

    @functools.cached_property
    def first(self) -> np.ndarray:
        """The first row, as an array of one row."""
        return self[np.zeros(1, np.int64)]

    @property
    def dtype(self) -> np.dtype:
        return self.first.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.first.shape[1:])

    def __getitem__(self, at: Any) -> np.ndarray:
        at = np.arange(*at.indices(len(self))) if isinstance(at, slice) else np.asarray(at)
        # To its end: where a garbage collector closes a generator, interrupts are dropped.
        (rows,) = self.batches([at])
        return rows

    def batches(self, batches: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the rows at some positions after another, loaded ahead.

        Samples that cannot be read or preprocessed are an error that lists them.
        """
        origin = getattr(self.samples, "origin", self.samples)
        sizes = [len(batch) for batch in batches]
        device = resolve_device(self.device)
        n_loaders = count_loaders(self.n_jobs, device, [self.backbone], sum(sizes))
        ahead = 2 * max(sizes, default=0) + n_loaders
        with Loader(n_loaders) as loader:
            positions = itertools.chain.from_iterable(batches)
            opened = loader.map(self._open, positions, ahead, n_bytes=_n_bytes)
            for size in sizes:
                tensors = list(itertools.islice(opened, size))
                for error in (x for x in tensors if isinstance(x, SampleError)):
                    named = SampleError(error.position % len(origin), error.cause)
                    raise unreadable_samples(origin, 0, [self.backbone], named) from error.cause
                yield self._rows(tensors)

    def _open(self, position: int) -> torch.Tensor | SampleError:
        try:
            return self._input(int(position))
        except Exception as error:
            return SampleError(int(position), error)

    def _input(self, position: int) -> torch.Tensor:
        kept = self._kept.get(position)
        if kept is None:
            sample = self.backbone.modality.read(self.samples[position])
            opened = self.backbone.modality.open(sample)
            resize = self._resize or self.backbone.preprocessed
            kept = self._kept.put(position, resize(opened))
        return kept if self._resize is None else self.backbone.preprocess.scaled(kept)

    def _rows(self, tensors: list[torch.Tensor]) -> np.ndarray:
        if not tensors:
            return np.empty((0, *self.first.shape[1:]), self.dtype)
        modality = self.backbone.modality
        groups = modality.group(tensors)  # tells that a network needs one shape
        if self.output is not None:
            return self._engine.run_groups(groups)[0]
        return stacked([tensor.numpy() for tensor in tensors], modality.has_tokens)

    @functools.cached_property
    def _engine(self):
        device = resolve_device(self.device)
        return engine_for_outputs([self.output], device=device, **self._how)

    def forget(self) -> None:
        """Drop the inputs that are kept."""
        self._kept = _Kept(len(self), 0)


def _n_bytes(opened: torch.Tensor | SampleError) -> int:
    return opened.nbytes if isinstance(opened, torch.Tensor) else 0


class _Kept:
    """Tensors of one shape and type, kept by position; those of the first positions that fit."""

    def __init__(self, n: int, n_bytes: int):
        self.n, self.n_bytes = n, n_bytes
        self.table: torch.Tensor | None = None
        self.is_kept = np.zeros(n, bool)
        self._lock = threading.Lock()

    def get(self, position: int) -> torch.Tensor | None:
        if self.table is None or not self.is_kept[position]:
            return None
        return self.table[position]

    def put(self, position: int, tensor: torch.Tensor) -> torch.Tensor:
        """Keep a tensor if it fits, and return it."""
        table = self._table_for(tensor)
        same = (tensor.shape, tensor.dtype) == (table.shape[1:], table.dtype)
        if position < len(table) and same:
            table[position] = tensor
            self.is_kept[position] = True
        return tensor

    def _table_for(self, tensor: torch.Tensor) -> torch.Tensor:
        with self._lock:
            if self.table is None:
                # Its memory is taken page by page, when rows are written.
                n_rows = min(self.n, self.n_bytes // max(1, tensor.nbytes))
                self.table = torch.empty((n_rows, *tensor.shape), dtype=tensor.dtype)
            return self.table


def compute_inputs(
    samples: Sequence[Any], backbone: Backbone, n_jobs: int | str | None = "auto"
) -> np.ndarray:
    """Open and preprocess samples whose inputs are small, such as texts, all at once.

    Of texts, an array of objects: the ids of each text. An error lists samples that are unreadable.
    """
    modality, many = backbone.modality, getattr(backbone.preprocess, "many", None)
    if backbone.preprocess is None and isinstance(samples, np.ndarray):
        return samples
    if many is None:
        return Stream(samples, backbone, device="cpu", n_jobs=n_jobs)[:]
    rows = np.empty(len(samples), object)
    for start in range(0, len(samples), modality.chunk_size):
        contents = [modality.read(text) for text in samples[start : start + modality.chunk_size]]
        for places, group in many(contents):
            for place, ids in zip(places, group, strict=True):
                rows[start + place] = ids.numpy()
    return rows
