"""Divide samples into batches that fit into memory, and run these one after another."""

from __future__ import annotations

import abc
import itertools
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch

from ..data import Modality
from .rows import as_batch, empty_rows, fill_rows

__all__ = ["Batching"]

# A batch of short vectors costs next to nothing. Filled up to one size, it gives each vector the
# same bits in every batch, as scikit-learn's checks of estimators on tables expect.
_BYTES_FILLED_UP = 2**18


class Batching(abc.ABC):
    """Base of :class:`Engine`: make batches, and smaller ones if the memory of a device is short.

    A subclass runs a batch when it is called, and measures the activations of a sample in
    ``_inspect``.
    """

    fills_up = False  # whether batches of several samples all have one size

    layers: list[str]
    outputs: dict[str, list[tuple[Any, ...]]]
    device: torch.device
    modality: Modality
    _fused: Callable[..., Any] | None  # for a single stage and its pooling
    _largest_batch: int | None = None  # where the device's memory is short

    @abc.abstractmethod
    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run a batch."""

    @abc.abstractmethod
    def batch_size(self, sample: torch.Tensor) -> int:
        """Return how many samples to run at a time."""

    @abc.abstractmethod
    def _inspect(self, probe: torch.Tensor) -> int:
        """Return the bytes of the largest activation of a sample."""

    @abc.abstractmethod
    def _as_features(self, layer: str, pooled: torch.Tensor) -> torch.Tensor:
        """Bring features to the CPU in the type in which they are returned."""

    def run(
        self, tensors: Iterable[torch.Tensor] | torch.Tensor, batch_size: int | str = "auto"
    ) -> dict[Any, np.ndarray]:
        """Run samples of one shape in batches.

        Where a batch does not fit into the memory of a device, it and all that come later are
        half as large, with one warning.

        Parameters
        ----------
        tensors : iterable of Tensor or Tensor of shape (n, ...)
            At least one. They are taken when a batch needs them.
        batch_size : int or "auto", default="auto"

        Returns
        -------
        dict of str to ndarray of shape (n, n_features)
        """
        source = iter(tensors)
        waiting = list(itertools.islice(source, 1))
        size = self.batch_size(waiting[0]) if batch_size == "auto" else int(batch_size)
        fills_up = (batch_size == "auto" and self._is_cheap(waiting[0], size)) or self.fills_up
        parts = []
        while waiting:
            most = min(size, self._largest_batch or size)
            waiting += itertools.islice(source, min(sys.maxsize, max(0, most - len(waiting))))
            samples = waiting[:most]
            try:
                batch = as_batch(samples, self.device)
                part = self._run_filled(batch, most) if fills_up else self(batch)
            except torch.OutOfMemoryError:
                if len(samples) == 1:
                    raise
                part = None
            if part is None:  # outside the handler, whose error refers to the batch's tensors
                self._halve(len(samples))
                continue
            parts.append(part)
            waiting = waiting[most:] or list(itertools.islice(source, 1))
        return {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}

    def _is_cheap(self, sample: torch.Tensor, size: int) -> bool:
        """Tell whether a batch of ``size`` vectors costs about as much as one vector."""
        if sample.ndim != 1 or self.device.type != "cpu" or self.modality.has_tokens:
            return False
        with torch.inference_mode():
            return self._inspect(sample[None]) * size <= _BYTES_FILLED_UP

    def _run_filled(self, batch: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        """Run a batch filled up to ``size`` with its last sample."""
        n = len(batch)
        filled = torch.cat([batch, batch[-1:].expand(size - n, *batch.shape[1:])])
        return {key: rows[:n] for key, rows in self(filled).items()}

    def _halve(self, size: int) -> None:
        if self._largest_batch is None:
            warnings.warn(
                f"Batches of {size} do not fit into the memory of {self.device}: smaller ones are "
                "used from here on. Give a smaller batch_size=, or make room on the device.",
                stacklevel=2,
            )
        self._largest_batch = size // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # blocks of other sizes than the next batches need

    def run_groups(
        self, groups: Sequence[tuple[Any, ...]], batch_size: int | str = "auto"
    ) -> dict[Any, np.ndarray]:
        """Run samples of several shapes, such as texts, those of one shape together.

        Parameters
        ----------
        groups : sequence of (ndarray of int, sequence of Tensor)
            Positions of the samples of one shape, and the samples.
        batch_size : int or "auto", default="auto"

        Returns
        -------
        dict of str to ndarray
            For each layer a row for each position; an array of objects where rows differ in
            length.
        """
        n = sum(len(positions) for positions, _ in groups)
        tables: dict[Any, np.ndarray] = {}
        for positions, tensors in groups:
            for layer, rows in self._run_group(tensors, batch_size).items():
                if layer not in tables:
                    tables[layer] = empty_rows(n, rows, ragged=self.modality.has_tokens)
                fill_rows(tables[layer], positions, rows)
        return tables

    def _run_group(self, tensors, batch_size: int | str) -> dict[str, np.ndarray]:
        if self._fused is None:
            return self.run(tensors, batch_size)
        (layer,) = self.layers
        ((key, _),) = self.outputs[layer]
        return {key: self._as_features(layer, self._fused(as_batch(tensors))).numpy()}
