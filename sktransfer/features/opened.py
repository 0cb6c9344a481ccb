"""Opened samples, taken from a loader when an engine asks for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from ..data import Modality
from .opening import SampleError

__all__ = ["Columns", "n_bytes"]


def n_bytes(opened: list[Any] | SampleError) -> int:
    """Return the number of bytes of the tensors of a sample."""
    tensors = opened if isinstance(opened, list) else []
    return sum(x.nbytes for x in tensors if isinstance(x, torch.Tensor))


class Columns:
    """Distribute opened samples to the networks that need them.

    Parameters
    ----------
    rows : iterator of (list of int, list of Tensor or SampleError)
        For each sample the numbers of the networks that need it, and a tensor for each. An error
        is raised when its sample is taken.
    lengths : dict of int to int
        Number of samples for each network.
    modality : Modality
    """

    columns: dict[int, _Column]
    modality: Modality
    rows: Iterator[tuple[list[int], list[torch.Tensor] | SampleError]]

    def __init__(
        self,
        rows: Iterator[tuple[list[int], list[torch.Tensor] | SampleError]],
        lengths: dict[int, int],
        modality: Modality,
    ):
        self.rows, self.modality = rows, modality
        self.columns = {k: _Column(self, length) for k, length in lengths.items()}

    def groups(self, k: int) -> list[tuple[np.ndarray, Sequence[torch.Tensor]]]:
        """Return the samples for a network in groups of one shape, with their positions.

        Samples without tokens have one shape, and are opened when they are asked for.
        """
        column = self.columns[k]
        if self.modality.has_tokens:
            return self.modality.group(list(column))
        return [(np.arange(len(column)), column)]

    def pull(self) -> None:
        """Take the next sample and give it to the networks that need it."""
        users, opened = next(self.rows)
        if isinstance(opened, SampleError):
            raise opened
        for k, tensor in zip(users, opened, strict=True):
            self.columns[k].append(tensor)


class _Column(Sequence[torch.Tensor]):
    """Samples for one network. Those before the last slice asked for are dropped.

    Parameters
    ----------
    source : Columns
    length : int
    """

    def __init__(self, source: Columns, length: int):
        self.source, self.length = source, length
        self.tensors: deque[torch.Tensor] = deque()
        self.n_dropped = 0

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, at):
        if isinstance(at, slice):
            start, stop, _ = at.indices(self.length)
            self._drop(start)
            return [self[i] for i in range(start, stop)]
        if at >= self.length:
            raise IndexError(at)
        while at >= self.n_dropped + len(self.tensors):
            self.source.pull()
        return self.tensors[at - self.n_dropped]

    def append(self, tensor: torch.Tensor) -> None:
        first = self.tensors[0] if self.tensors else tensor
        if tensor.shape != first.shape and not self.source.modality.has_tokens:
            self.source.modality.group([first, tensor])  # tells that a network needs one shape
        self.tensors.append(tensor)

    def _drop(self, start: int) -> None:
        while self.n_dropped < start and self.tensors:
            self.tensors.popleft()
            self.n_dropped += 1
