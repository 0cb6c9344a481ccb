"""Random numbers of a part of a batch: those that its rows get in the whole batch."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["Share", "draws_of"]

# From a tensor and a probability; all numbers that they draw are factors of the tensor.
_DROPOUT = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    torch.dropout,
    torch.feature_dropout,
}
_FILL = {torch.Tensor.bernoulli_, torch.Tensor.uniform_, torch.Tensor.normal_}


class Share(NamedTuple):
    """The rows of a batch that a device has, from ``start`` to ``stop``, of ``total``."""

    start: int
    stop: int
    total: int


def draws_of(share: Share | None) -> Any:
    """Return a context in which dropout draws for the whole batch, and its rows take their share.

    Every device that has a part of a batch then draws what one device would, from the same seed.
    This holds for dropout and stochastic depth, in networks whose first dimension is that of the
    batch; what is drawn inside other functions, such as attention, is another draw of the same
    kind.

    Parameters
    ----------
    share : Share or None
        None changes nothing.
    """
    return contextlib.nullcontext() if share is None else _DrawsOfBatch(share)


class _DrawsOfBatch(TorchFunctionMode):
    def __init__(self, share: Share):
        super().__init__()
        self.share = share

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        n = self.share.stop - self.share.start
        first = args[0] if args else None
        divided = func in _DROPOUT or func in _FILL
        if not divided or not isinstance(first, torch.Tensor) or not first.ndim or len(first) % n:
            return func(*args, **kwargs)
        whole = self._whole(first)
        if func in _FILL:
            return first.copy_(self._own(func(whole, *args[1:], **kwargs), first))
        return first * self._own(func(whole.fill_(1), *args[1:], **kwargs), first)

    def _whole(self, part: torch.Tensor) -> torch.Tensor:
        """Return a tensor as the part would be in the whole batch; memory is filled in order."""
        n_rows = len(part) // (self.share.stop - self.share.start) * self.share.total
        is_last = part.ndim == 4 and not part.is_contiguous()
        is_last = is_last and part.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if is_last else torch.contiguous_format
        shape = (n_rows, *part.shape[1:])
        return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=order)

    def _own(self, whole: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
        each = len(part) // (self.share.stop - self.share.start)
        return whole[self.share.start * each : self.share.stop * each]
