"""Rows of samples that are computed when they are asked for, and not kept."""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..backbones import Backbone, ImagePreprocessing
from ..engines import resolve_device
from .loader import Loader, count_needed_loaders
from .opening import SampleError, many_of, open_sample, unreadable_named
from .recipe import Recipe
from .tables import stacked

__all__ = ["Stream"]


class Stream:
    """The inputs of a network, or activations at a layer, as rows that are computed when needed.

    It can be indexed like an array; nothing is kept but inputs, up to a number of bytes: for a
    preprocessing that resizes and then scales, what it has resized, in the type of the image.

    Parameters
    ----------
    samples : sequence
        With an attribute ``origin``, as views of other samples, errors name those: sample i is
        made from sample ``i % len(origin)``.
    source : Backbone or Recipe
        A backbone gives inputs of its first stage. A recipe gives activations at its only layer.
    device : str, default="auto"
    n_jobs : int, "auto" or None, default="auto"
        Threads that open and preprocess samples.
    keep_bytes : int, default=0
        Size of the inputs that are kept, at most: those of the first samples.
    """

    backbone: Backbone
    device: str
    n_jobs: int | str | None
    recipe: Recipe | None

    def __init__(
        self,
        samples: Sequence[Any],
        source: Backbone | Recipe,
        *,
        device: str = "auto",
        n_jobs: int | str | None = "auto",
        keep_bytes: int = 0,
    ):
        self.samples = samples
        self.recipe = source if isinstance(source, Recipe) else None
        self.backbone = source.backbone if isinstance(source, Recipe) else source
        self.device, self.n_jobs = device, n_jobs
        self._kept = _Kept(len(samples), keep_bytes)
        preprocess: Any = self.backbone.preprocess
        two_steps = type(preprocess) is ImagePreprocessing
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
        return next(self.batches([at]))

    def batches(self, batches: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the rows at some positions after another, loaded ahead.

        Parameters
        ----------
        batches : sequence of ndarray of int

        Yields
        ------
        ndarray of shape (n, ...)

        Raises
        ------
        UnreadableSamplesError
            If samples cannot be read or preprocessed. It lists them.
        """
        origin = getattr(self.samples, "origin", self.samples)
        sizes = [len(batch) for batch in batches]
        n_loaders = count_needed_loaders(self.n_jobs, self.device, [self.backbone], sum(sizes))
        ahead = 2 * max(sizes, default=0) + n_loaders
        with Loader(n_loaders) as loader, unreadable_named(origin, lambda: 0, [self.backbone]):
            positions = itertools.chain.from_iterable(batches)
            opened = loader.map(self._open, positions, ahead, n_bytes=_n_bytes)
            for size in sizes:
                yield self._rows([_checked(x, len(origin)) for x in itertools.islice(opened, size)])

    def _open(self, position: int) -> torch.Tensor | SampleError:
        try:
            return self._input(int(position))
        except Exception as error:
            return SampleError(int(position), error)

    def _input(self, position: int) -> torch.Tensor:
        kept = self._kept.get(position)
        if kept is None:
            sample = self.backbone.modality.read(self.samples[position])
            kept = self._kept.put(position, self._kept_form(sample))
        return kept if self._resize is None else self.backbone.preprocess.scaled(kept)

    def _kept_form(self, sample) -> torch.Tensor:
        if self._resize is not None:
            return self._resize(self.backbone.modality.open(sample))
        many = many_of(self.backbone)
        if many is None:
            return open_sample(sample, self.backbone)
        ((_, (tensor,)),) = many([sample])
        return tensor

    def _rows(self, tensors: list[torch.Tensor]) -> np.ndarray:
        if not tensors:
            return np.empty((0, *self.first.shape[1:]), self.dtype)
        modality = self.backbone.modality
        groups = modality.group(tensors)  # tells that a network needs one shape
        if self.recipe is not None:
            (layer,) = self.recipe.layers
            return self._engine.run_groups(groups)[layer]
        return stacked([tensor.numpy() for tensor in tensors], modality.has_tokens)

    @functools.cached_property
    def _engine(self):
        return self.recipe.engine(resolve_device(self.device))

    def forget(self) -> None:
        """Drop the inputs that are kept."""
        self._kept = _Kept(len(self), 0)


def _checked(opened: torch.Tensor | SampleError, n_origin: int) -> torch.Tensor:
    if isinstance(opened, SampleError):
        raise SampleError(opened.position % n_origin, opened.cause)
    return opened


def _n_bytes(opened: torch.Tensor | SampleError) -> int:
    return opened.nbytes if isinstance(opened, torch.Tensor) else 0


class _Kept:
    """Tensors of one shape and type, kept by position; those of the first positions that fit.

    Parameters
    ----------
    n : int
        Number of positions.
    n_bytes : int
    """

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
