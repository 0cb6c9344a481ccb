"""Exchange of objects and tensors between the processes of a training."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

__all__ = ["PATIENCE", "Link", "Packed", "ProcessLostError", "packed"]

# The others wait while the first process opens samples, or a callback works. A process that ends
# closes its connections, which is noticed at once.
PATIENCE = datetime.timedelta(days=30)

Packed = list[tuple[torch.Tensor, list[torch.Tensor]]]


class ProcessLostError(RuntimeError):
    """Raised if a process of a training has ended, or cannot be reached."""


class Link:
    """The place of this process in the default group of ``torch.distributed``.

    The first process leads: it sends to all others, and they send to it.

    Parameters
    ----------
    rank : int
        The number of this process; 0 leads.
    size : int
        Number of processes.
    """

    rank: int
    size: int

    def __init__(self, rank: int, size: int):
        self.rank, self.size = rank, size
        self._awaits = False  # whether others have replies, which an error may have left behind

    def scatter(self, messages: Sequence[Any] | None = None) -> Any:
        """Send a message to each other process, or receive one; each is to be replied to.

        Parameters
        ----------
        messages : sequence, default=None
            One for each other process; of the first process only.

        Returns
        -------
        object
            The message to this process.
        """
        if self._awaits:
            self.gather()
        found: list[Any] = [None]
        given = None if messages is None else [None, *messages]
        self._awaits = messages is not None
        self._run(dist.scatter_object_list, found, given, src=0)
        return found[0]

    def gather(self, reply: Any = None) -> list[Any]:
        """Send a reply to the first process, which gets those of the others."""
        replies = [None] * self.size if self.rank == 0 else None
        self._awaits = False
        self._run(dist.gather_object, reply, replies, dst=0)
        return [] if replies is None else replies[1:]

    @torch.no_grad()
    def broadcast(self, tensors: Packed) -> None:
        """Copy the tensors of the first process into those of the others."""
        for flat, group in tensors:
            self._run(dist.broadcast, flat, src=0)
            if self.rank:
                _write(flat, group)

    @torch.no_grad()
    def reduce(self, tensors: Packed) -> None:
        """Add the tensors of the other processes to those of the first."""
        for flat, group in tensors:
            self._run(dist.reduce, flat, dst=0)
            if not self.rank:
                _write(flat, group)

    def _run(self, collective, *args, **kwargs) -> None:
        try:
            collective(*args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:  # of gloo and NCCL, if a connection is closed
            raise ProcessLostError(
                f"A process of the training has ended, or does not answer: {error}"
            ) from error


@torch.no_grad()
def packed(tensors: Sequence[torch.Tensor]) -> Packed:
    """Copy tensors into one for each type, which is what :class:`Link` sends.

    This takes memory, so it is done before the others are told to wait for tensors.

    Parameters
    ----------
    tensors : sequence of Tensor

    Returns
    -------
    list of tuple
        A flat tensor and those that it consists of, for each type.
    """
    return [(torch.cat([t.reshape(-1) for t in group]), group) for group in _by_type(tensors)]


def _by_type(tensors: Sequence[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """Yield the tensors of each type, which can be sent as one."""
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        yield [tensor for tensor in tensors if tensor.dtype == dtype]


def _write(flat: torch.Tensor, tensors: Sequence[torch.Tensor]) -> None:
    parts = flat.split([tensor.numel() for tensor in tensors])
    for part, tensor in zip(parts, tensors, strict=True):
        tensor.copy_(part.view(tensor.shape))
