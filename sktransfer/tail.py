"""The end of a network that is trained: stages and head, what changed, and it as a backbone."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from .augment import seeded
from .backbones import Backbone
from .layers import pool, stages_of

__all__ = [
    "Tail",
    "TunedBackbone",
    "bare_tail",
    "changed_tensors",
    "copy_state",
    "learned_stages",
    "restored_tail",
]


class Pooling(nn.Module):
    """Pooling as the stage between a network and its head."""

    def __init__(self, square: bool, masked: bool):
        super().__init__()
        self.square = square
        self.masked = masked

    def forward(self, x):
        return pool(x, "avg", square=self.square, masked=self.masked)


class Tail(nn.Module):
    """The stages above the cut and the head.

    Parameters
    ----------
    stages : dict of str to torch.nn.Module
        Trained from here on.
    head : torch.nn.Module
    square, masked : bool
        See :func:`sktransfer.layers.pool`.
    train_batch_norm : bool
        Whether batch norm adapts its statistics, in stages that learn. If not, it stays in
        ``eval`` mode.
    precision : {"float32", "bfloat16"}

    Attributes
    ----------
    n_chunks : int
        Into how many parts a batch is divided where memory is short.
    seed : int
        Of what is drawn in training (dropout); each batch has the next one.
    """

    def __init__(
        self, stages, head, *, square: bool, masked: bool, train_batch_norm: bool, precision: str
    ):
        super().__init__()
        self.names = list(stages)
        self.masked = masked
        self.body = nn.Sequential(*stages.values(), Pooling(square, masked), head)
        self.train_batch_norm = train_batch_norm
        self.precision = precision
        self.n_chunks = 1
        # As a tensor: a network compiled for one seed would be compiled again for the next.
        self._seed = torch.zeros((), dtype=torch.int64)

    @property
    def seed(self) -> int:
        return int(self._seed)

    @seed.setter
    def seed(self, seed: int) -> None:
        self._seed.fill_(seed)

    @property
    def head(self) -> nn.Module:
        return self.body[-1]

    def train(self, mode: bool = True) -> Tail:
        super().train(mode)
        # A batch norm in the new head has no statistics yet that could be kept.
        for stage in self.body[:-1]:
            if self.train_batch_norm and _learns(stage):
                continue
            for module in filter(_keeps_statistics, stage.modules()):
                module.eval()
        return self

    @property
    def learns_statistics(self) -> bool:
        """Whether a batch norm adapts in training, which takes two rows at least."""
        where = self if self.train_batch_norm else self.body[-1]
        return any(map(_keeps_statistics, where.modules()))

    def forward(self, x: torch.Tensor, weight: torch.Tensor | None = None):
        """Return outputs; with weights, which pass by, outputs and weights for the loss."""
        if x.is_floating_point():  # ids of tokens stay what they are
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
        whole = self.n_chunks > 1 and self.training and self.learns_statistics
        chunks = [x] if whole else x.chunk(self.n_chunks)
        if not self.training:
            return torch.cat([self._through(chunk) for chunk in chunks])
        seeds = [self.seed + i for i in range(len(chunks))]
        self._seed += len(chunks)
        # Each chunk is run again when its gradients are wanted, so that only one chunk's
        # activations are alive at a time. The sums are those of the whole batch.
        run = self._draw if len(chunks) == 1 else self._draw_again
        return torch.cat([run(chunk, seed) for chunk, seed in zip(chunks, seeds, strict=True)])

    def _draw(self, x: torch.Tensor, seed: int) -> torch.Tensor:
        """Run the body in training, what it draws given by a seed."""
        with seeded(seed, x.device):
            return self._through(x)

    def _through(self, x: torch.Tensor) -> torch.Tensor:
        # A step that works in place would change the batch, which may be run again.
        return self.body(x.clone())

    def _draw_again(self, x: torch.Tensor, seed: int) -> torch.Tensor:
        kept = {"use_reentrant": False, "preserve_rng_state": False}  # the seed does that
        return checkpoint(self._draw, x, seed, **kept)

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


class TunedBackbone(Backbone):
    """A tuned network as a backbone. Its pickle holds what differs from where it came from.

    Parameters
    ----------
    origin : Backbone
    frozen : list of str
        The stages of the origin that were not trained.
    tail : Tail
        The others and the head; it belongs to this backbone from here on.
    classes : list of str or None
        Names of the outputs.
    label_rows : dict
        The row of the head for each label that was learned.
    """

    def __init__(self, origin: Backbone, frozen, tail: Tail, classes, label_rows: dict):
        stages = tail.as_stages({name: stages_of(origin)[name] for name in frozen})
        super().__init__(
            f"{origin.name}_tuned",
            nn.Sequential(OrderedDict((n.replace(".", "/"), s) for n, s in stages.items())),
            kind=origin.kind,
            preprocess=origin.preprocess,
            classes=classes,
            stages=stages,
            penultimate=list(stages)[-2],
        )
        self.origin, self.frozen, self.tail = origin, frozen, tail
        self.label_rows = label_rows

    def __reduce_ex__(self, protocol):
        bare = bare_tail(
            self.origin, self.tail.names, self.tail.train_batch_norm, self.tail.precision
        )
        settings = (self.tail.names, self.tail.train_batch_norm, self.tail.precision)
        parts = (settings, changed_tensors(bare, self.tail), self.tail.head)
        resized = None if self.preprocess is self.origin.preprocess else self.preprocess
        about = (self.classes, self.label_rows, resized)
        return _open_tuned, (self.origin, self.frozen, *parts, *about)


def _open_tuned(origin, frozen, settings, tensors, head, classes, label_rows, resized):
    """Make a tuned backbone again of what its pickle holds."""
    tail = restored_tail(bare_tail(origin, *settings), tensors, head)
    made = TunedBackbone(origin, frozen, tail, classes, label_rows)
    if resized is not None:
        made.preprocess = resized
    return made


def bare_tail(backbone: Backbone, names, train_batch_norm: bool, precision: str) -> Tail:
    """Return some stages of a backbone as a tail without a head, their tensors shared.

    Parameters
    ----------
    backbone : Backbone
    names : list of str
        The stages.
    train_batch_norm : bool
    precision : {"float32", "bfloat16"}

    Returns
    -------
    Tail
    """
    return Tail(
        {name: stages_of(backbone)[name] for name in names},
        nn.Identity(),
        square=backbone.input_shape is not None,
        masked=backbone.kind == "text",
        train_batch_norm=train_batch_norm,
        precision=precision,
    )


def changed_tensors(bare: Tail, tail: Tail) -> dict[str, np.ndarray]:
    """Return the tensors of a trained tail that are not, bit for bit, what they were.

    Parameters
    ----------
    bare : Tail
        Before training.
    tail : Tail

    Returns
    -------
    dict of str to ndarray
        The head is not among them. Of word vectors, the rows that changed and their ids.
    """
    original, tuned = bare.state_dict(), tail.state_dict()
    if hasattr(bare.body[0], "restricted"):
        tuned |= _changed_rows(bare.body[0], tail.body[0])
    return {
        name: tuned[name].numpy()
        for name, tensor in original.items()
        if not torch.equal(tuned[name], tensor)
    }


def _changed_rows(original, table) -> dict[str, torch.Tensor]:
    """Return the rows of a table of word vectors without those that are as in another."""
    before = original.restricted(table.index.numpy()).rows
    # What the other has of its own would be replaced, so it stays.
    keep = (table.rows != before).any(1) | torch.isin(table.index, original.index)
    return {"body.0.index": table.index[keep], "body.0.rows": table.rows.detach()[keep]}


def restored_tail(bare: Tail, tensors: dict[str, np.ndarray], head: nn.Module) -> Tail:
    """Make a trained tail again.

    Parameters
    ----------
    bare : Tail
    tensors : dict of str to ndarray
        What :func:`changed_tensors` gave.
    head : torch.nn.Module

    Returns
    -------
    Tail
    """
    tail = deepcopy(bare)
    tail.load_state_dict({k: torch.from_numpy(v) for k, v in tensors.items()}, strict=False)
    tail.body[-1] = head
    return tail
