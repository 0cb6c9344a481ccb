"""A tuned network: the backbone it came from, the tensors that changed and its head."""

from __future__ import annotations

from collections import OrderedDict
from copy import deepcopy

import numpy as np
import torch
from torch import nn

from ..backbones import Backbone, stages_of
from .tail import Tail

__all__ = ["TunedBackbone", "bare_tail", "changed_tensors", "restored_tail"]


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
            modality=origin.modality,
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
        square=len(set((backbone.input_shape or (0, 1))[-2:])) == 1,
        masked=backbone.modality.has_tokens,
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
