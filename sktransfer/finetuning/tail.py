"""The trained end of a network: the stages above the cut and the head."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbones import seeded
from ..engines import pool
from .distributed import ONE_PROCESS, Processes
from .parameters import select_parameters
from .rows import Table

__all__ = ["Pooling", "Tail", "copy_state", "learned_stages", "restrict_rows"]


class Pooling(nn.Module):
    """Pool activations, as the stage between the network and its head."""

    def __init__(self, square: bool, masked: bool):
        super().__init__()
        self.square = square
        self.masked = masked

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return pool(x, "avg", square=self.square, masked=self.masked)


class Tail(nn.Module):
    """Run the stages above the cut, the pooling and the head.

    Parameters
    ----------
    stages : dict of str to torch.nn.Module
        The stages to train, in order.
    head : torch.nn.Module
    square, masked : bool
        See :func:`sktransfer.engines.pool`.
    train_batch_norm : bool
        Whether batch norm in trained stages updates its statistics. If not, it stays in
        ``eval`` mode.
    precision : {"float32", "bfloat16"}
    part : {"all", "norm", "bias"}, default="all"
        Which parameters of the stages are trained; see :func:`select_parameters`.
    fixed : collection of str, default=None
        Names of parameters of the stages that are not trained. None is those without
        ``requires_grad``.

    Attributes
    ----------
    n_trainings : int
        Number of trainings, by which objects computed from earlier tensors are recognised.
    seed : int
        Seed of random numbers in training (dropout), increased by one for each batch.
    """

    body: nn.Sequential
    names: list[str]

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        head: nn.Module,
        *,
        square: bool,
        masked: bool,
        train_batch_norm: bool,
        precision: str,
        part: str = "all",
        fixed: Collection[str] | None = None,
    ):
        super().__init__()
        self.names = list(stages)
        self.masked = masked
        self.body = nn.Sequential(*stages.values(), Pooling(square, masked), head)
        self.train_batch_norm = train_batch_norm
        self.precision = precision
        self.part = part
        if fixed is None:
            named = self.body.named_parameters()
            fixed = [name for name, parameter in named if not parameter.requires_grad]
        self.fixed = frozenset(fixed)
        self.n_trainings = 0
        # A tensor, since a network would be compiled again for each new Python integer.
        self._seed = torch.zeros((), dtype=torch.int64)

    @property
    def seed(self) -> int:
        return int(self._seed)

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed.fill_(seed)

    def unfreeze(self) -> Tail:
        """Let the parameters that are trained have gradients, and no others."""
        select_parameters(self.body, self.part, self.fixed)
        return self

    @property
    def head(self) -> nn.Module:
        return self.body[-1]

    def train(self, mode: bool = True) -> Tail:
        super().train(mode)
        for name, parameter in self.body.named_parameters() if self.fixed else ():
            if name in self.fixed:  # callbacks that unfreeze stages do not know them
                parameter.requires_grad_(False)
        # Batch norm in the new head is always trained: it has no statistics yet.
        for stage in list(self.body)[:-1]:
            learns = self.train_batch_norm and _learns(stage)
            for module in filter(_keeps_statistics, stage.modules()):
                if not (learns and _learns(module)):
                    module.eval()
        return self

    def train_all(self) -> Tail:
        """Let all parameters have gradients but those that are fixed."""
        select_parameters(self.body, "all", self.fixed)
        return self

    @property
    def learns_statistics(self) -> bool:
        """Whether a batch norm is trained, which needs at least two rows in a batch."""
        where = self if self.train_batch_norm else self.body[-1]
        return any(map(_keeps_statistics, where.modules()))

    @property
    def is_encoder(self) -> bool:
        """Whether it computes vectors of tokens, however many: a user's may take one length."""
        first = self.body[0].modules() if self.names else ()
        return self.masked and any(hasattr(part, "takes_any_length") for part in first)

    def forward(
        self, x: torch.Tensor, weight: torch.Tensor | None = None
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Return the outputs, or outputs and weights if weights are given."""
        if x.is_floating_point():  # not ids of tokens
            x = x.to(self._like.dtype)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        low = self.precision != "float32"
        with torch.autocast(x.device.type, torch.bfloat16, enabled=low):
            output = self._run(x).float()
        return output if weight is None else (output, weight)

    @property
    def _like(self) -> torch.Tensor:
        return next(self.parameters())

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()  # a step that works in place would change the batch, which may be run again
        if not self.training:
            return self.body(x)
        seed = self.seed
        self._seed += 1
        with seeded(seed, x.device):
            return self.body(x)

    def as_stages(self, frozen: dict[str, nn.Module]) -> OrderedDict[str, nn.Module]:
        """Return the frozen stages and these, with the new pooling and head behind."""
        stages = OrderedDict(frozen)
        for name, stage in zip([*self.names, "new_pooling", "new_head"], self.body, strict=True):
            while name in stages:  # the network was grown before
                name += "_"
            stages[name] = stage
        return stages


def _learns(stage: nn.Module) -> bool:
    """Tell whether a stage is not frozen; one without parameters never is."""
    parameters = list(stage.parameters())
    return not parameters or any(parameter.requires_grad for parameter in parameters)


def _keeps_statistics(module: nn.Module) -> bool:
    """Tell whether a module looks at a batch as a whole in training, or adapts to it."""
    norms = nn.modules.batchnorm
    tracks = isinstance(module, norms._NormBase) and module.track_running_stats
    return isinstance(module, norms._BatchNorm) or tracks


def learned_stages(tail: Tail) -> list[int]:
    """Return the places in a tail's body of what has parameters, the head last."""
    return [i for i, stage in enumerate(tail.body) if next(stage.parameters(), None) is not None]


def copy_state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def restrict_rows(tail: Tail, rows: Table, processes: Processes = ONE_PROCESS) -> None:
    """Let a table of word vectors train only the rows that some training text uses, in place.

    Parameters
    ----------
    tail : Tail
    rows : Table
        The training texts.
    processes : Processes, default=ONE_PROCESS
        Those that share the texts.
    """
    if not rows.is_ragged or not hasattr(tail.body[0], "restricted"):
        return
    table: Any = tail.body[0]
    used = np.unique(np.concatenate([table.index.numpy(), *(row.ravel() for row in rows[:])]))
    used = np.unique(np.concatenate(processes.everyones(used)))
    tail.body[0] = table.restricted(used[used > 0])
    tail.unfreeze()
