"""The part of a training on several devices that the first process does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from typing import Any

import numpy as np
import torch

from ...features import code_pickler
from ..drawing import Share
from ..tail import Tail
from .choice import needs_whole_batches
from .follower import Failure, Message
from .link import Link, packed

__all__ = ["Replicas"]


class Replicas:
    """Copies of the stages that are trained, in other processes.

    Each batch is divided among them and this process. The loss is computed here, of all outputs,
    so that it is that of the whole batch whatever it is; gradients of the outputs are sent back,
    and those of the weights are added up here, where the optimizer is. The others have no state
    but the weights. Those that are trained, and those that have changed since, are sent with each
    batch: callbacks may change and freeze them.

    Parameters
    ----------
    link : Link
    tail : Tail
    """

    link: Link
    tail: Tail

    def __init__(self, link: Link, tail: Tail):
        self.link, self.tail = link, tail
        self._has_sent = False  # whether they compute gradients
        self._versions = [_version(parameter) for parameter in tail.parameters()]
        on_cpu = all(parameter.device.type == "cpu" for parameter in tail.parameters())
        payload = code_pickler().dumps(tail if on_cpu else deepcopy(tail).cpu())
        self._ask("start", [(payload,)] * (link.size - 1))
        self._replies()

    def infer(self, forward: Callable[..., Any], x: Any) -> Any:
        """Run a batch, divided among the processes.

        Parameters
        ----------
        forward : callable
            Runs rows here.
        x : Tensor, or dict with "x" and perhaps "weight"
            The batch.

        Returns
        -------
        Tensor, or tuple of Tensor
            What ``forward`` returns for the whole batch.
        """
        given = dict(x) if isinstance(x, Mapping) else {"x": x}
        outputs = self._outputs(forward, given["x"])
        return (outputs, given["weight"].to(outputs.device)) if "weight" in given else outputs

    def _outputs(self, forward: Callable, x: torch.Tensor) -> torch.Tensor:
        own, *others = x.tensor_split(self.link.size)
        self._sizes = [len(part) for part in others]
        shares = _shares([len(own), *self._sizes])
        tail = self.tail
        learned = [i for i, p in enumerate(tail.parameters()) if p.requires_grad]
        sent = self._news()
        about = (learned, sent, tail.training, tail.seed, tail.n_chunks)
        parameters = [*tail.parameters()]
        weights = packed([parameters[i] for i in sent])
        rows = [part.numpy(force=True) for part in others]
        self._ask("forward", [(*each, *about) for each in zip(rows, shares[1:], strict=True)])
        self.link.broadcast(weights)
        tail.share = shares[0]
        output = self._without_statistics(forward, own)
        found = [torch.from_numpy(part) for part in self._replies() if part is not None]
        if not found:
            return output
        theirs = torch.cat(found).to(output.device)
        if torch.is_grad_enabled():
            theirs = _Theirs.apply(torch.zeros((), requires_grad=True), theirs, self)
        return torch.cat([output, theirs])

    def _news(self) -> list[int]:
        """Return the positions of the parameters that the others need."""
        before, parameters = self._versions, [*self.tail.parameters()]
        self._versions = [_version(parameter) for parameter in parameters]
        return [
            i
            for i, (parameter, was) in enumerate(zip(parameters, before, strict=True))
            if parameter.requires_grad or self._versions[i] != was
        ]

    def _without_statistics(self, forward: Callable, x: torch.Tensor) -> torch.Tensor:
        """Run own rows; buffers that change would be others in each process."""
        before = {name: _version(buffer) for name, buffer in self.tail.named_buffers()}
        output = forward({"x": x})
        for name, buffer in self.tail.named_buffers():
            if before.get(name) != _version(buffer):
                raise ValueError(needs_whole_batches(self.link.size, f"the buffer {name!r}"))
        return output

    def _learned(self) -> list[torch.nn.Parameter]:
        return [parameter for parameter in self.tail.parameters() if parameter.requires_grad]

    def send_gradient(self, gradient: torch.Tensor) -> None:
        """Let the others compute gradients from that of their outputs.

        Parameters
        ----------
        gradient : Tensor of shape (n_rows, n_outputs)
            Of the rows that the others have, one process after another.
        """
        parts = gradient.split(self._sizes)
        sent = [part.numpy(force=True) if len(part) else None for part in parts]
        self._ask("backward", [(part,) for part in sent])
        self._has_sent = True

    def add_gradients(self) -> None:
        """Add the gradients of the others, which :meth:`send_gradient` has asked for."""
        if not self._has_sent:
            return
        self._has_sent = False
        present = [any(each) for each in zip(*self._replies(), strict=True)]
        learned = self._learned()
        sums = [torch.zeros_like(p) if p.grad is None else p.grad for p in learned]
        gradients = packed(sums)
        self._ask("gradients", [()] * len(self._sizes))
        self.link.reduce(gradients)
        self._replies()
        for parameter, total, is_present in zip(learned, sums, present, strict=True):
            if is_present:  # without a gradient, an optimizer leaves a parameter as it is
                parameter.grad = total

    def _ask(self, action: str, contents: Iterable[tuple]) -> None:
        """Send what each of the others is to do; they reply."""
        self._has_sent = False
        self.link.scatter([Message(action, content) for content in contents])

    def _replies(self) -> list:
        replies = self.link.gather()
        for number, reply in enumerate(replies, start=1):
            if isinstance(reply, Failure):
                kind = torch.OutOfMemoryError if reply.is_out_of_memory else RuntimeError
                raise kind(f"devices=: process {number} of the training failed: {reply.text}")
        return replies


def _version(tensor: torch.Tensor) -> tuple[int, int]:
    """Return what changes if a tensor is written or replaced."""
    return tensor.data_ptr(), tensor._version


def _shares(sizes: list[int]) -> list[Share]:
    """Return the places of consecutive parts in their batch."""
    stops = np.cumsum(sizes).tolist()
    return [Share(stop - size, stop, stops[-1]) for size, stop in zip(sizes, stops, strict=True)]


class _Theirs(torch.autograd.Function):
    """The outputs that other processes have computed; their gradient is sent back."""

    @staticmethod
    def forward(ctx, anchor, outputs, replicas):
        ctx.replicas = replicas
        return outputs.clone()

    @staticmethod
    def backward(ctx, gradient):
        ctx.replicas.send_gradient(gradient)
        return torch.zeros(()), None, None
