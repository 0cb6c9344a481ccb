"""The part of a training that another process than the first does."""

from __future__ import annotations

import pickle
import traceback
from typing import Any, NamedTuple

import numpy as np
import torch

from ..drawing import Share
from ..tail import Tail
from .link import Link, Packed, ProcessLostError, packed

__all__ = ["END", "Failure", "Follower", "Message"]

END = "end"


class Message(NamedTuple):
    """What the first process asks another for: a method of :class:`Follower`."""

    action: str
    content: tuple[Any, ...] = ()


class Failure(NamedTuple):
    """The reply of a process in which something failed."""

    text: str
    is_out_of_memory: bool


class Follower:
    """Compute outputs and gradients for the rows that the first process sends.

    Parameters
    ----------
    link : Link
    device : torch.device
    """

    link: Link
    device: torch.device
    tail: Tail
    _parameters: list[torch.nn.Parameter]
    _learned: list[torch.nn.Parameter]
    _output: torch.Tensor | None = None

    def __init__(self, link: Link, device: torch.device):
        self.link, self.device = link, device

    def run(self) -> Any:
        """Do what the first process asks for, until it ends; return what it sends at the end."""
        while True:
            message = self.link.scatter()
            if message.action == END:
                return message.content[0]
            self.link.gather(self._reply(message))

    def _reply(self, message: Message) -> Any:
        try:
            return getattr(self, message.action)(*message.content)
        except ProcessLostError:
            raise
        except Exception as error:
            out_of_memory = isinstance(error, torch.OutOfMemoryError)
            return Failure("".join(traceback.format_exception_only(error)).strip(), out_of_memory)

    def start(self, payload: bytes) -> None:
        """Take the stages that are trained."""
        self.tail = pickle.loads(payload).to(self.device)
        self._parameters = list(self.tail.parameters())

    def forward(
        self,
        x: np.ndarray,
        share: Share,
        learned: list[int],
        sent: list[int],
        training: bool,
        seed: int,
        n_chunks: int,
    ) -> np.ndarray | None:
        """Take the present weights, and return the outputs for some rows.

        Parameters
        ----------
        x : ndarray of shape (n, ...)
        share : Share
            Which rows of the batch they are.
        learned : list of int
            Positions of the parameters that are trained.
        sent : list of int
            Positions of those whose present values follow.
        training : bool
        seed, n_chunks : int
            Of the stages in the first process.
        """
        for parameter in self._parameters:
            parameter.requires_grad_(False)
        self._learned = [self._parameters[i] for i in learned]
        for parameter in self._learned:
            parameter.requires_grad_(True)
        self.link.broadcast(_packed([self._parameters[i] for i in sent]))
        self._output = None
        tail = self.tail.train(training)
        tail.zero_grad(set_to_none=True)
        if not len(x):
            return None
        tail.seed, tail.n_chunks, tail.share = seed, n_chunks, share
        with torch.set_grad_enabled(training):
            self._output = tail(torch.from_numpy(x).to(self.device))
        return self._output.numpy(force=True)

    def backward(self, gradient: np.ndarray | None) -> list[bool]:
        """Compute gradients of the weights from those of the outputs; tell which there are."""
        if gradient is not None and self._output is not None:
            self._output.backward(torch.from_numpy(gradient).to(self.device))
            self._output = None
        return [parameter.grad is not None for parameter in self._learned]

    def gradients(self) -> None:
        """Add the gradients to those of the first process."""
        self.link.reduce(_packed([_gradient(parameter) for parameter in self._learned]))


def _packed(tensors: list[torch.Tensor]) -> Packed:
    try:
        return packed(tensors)
    except torch.OutOfMemoryError as error:  # the first process waits for tensors, not for a reply
        raise ProcessLostError(f"out of memory: {error}") from error


def _gradient(parameter: torch.nn.Parameter) -> torch.Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
