"""Random numbers of a part of a batch: those that its rows get in the whole batch."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
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
_MAKE = {torch.rand, torch.randn}  # from a shape


class Share(NamedTuple):
    """The rows of a batch that a device has, from ``start`` to ``stop``, of ``total``."""

    start: int
    stop: int
    total: int


def draws_of(share: Share | None) -> Any:
    """Return a context in which dropout draws for the whole batch, and its rows take their share.

    Every device that has a part of a batch then draws what one device would, from the same seed.
    This holds for dropout and stochastic depth, in networks whose first dimension is that of the
    batch. What is drawn inside other functions, such as attention, or with a probability for each
    row, is another draw of the same kind, and the same one on each device.

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
        if func in _MAKE and self._each(_shape(args)):
            return self._made(func, _shape(args), kwargs)
        is_tensor = [isinstance(arg, torch.Tensor) for arg in [*args, *kwargs.values()]]
        # A probability for each row is known for the rows here only.
        if func not in _DROPOUT | _FILL or sum(is_tensor) != 1 or not self._each(args[0].shape):
            return func(*args, **kwargs)
        first, whole = args[0], self._whole(args[0])
        if func in _FILL:
            return first.copy_(self._own(func(whole, *args[1:], **kwargs), len(first)))
        return first * self._own(func(whole.fill_(1), *args[1:], **kwargs), len(first))

    def _each(self, shape: Sequence[int]) -> int:
        """Return how many rows of a tensor are of one row of the batch; 0 if none are."""
        each, rest = divmod(shape[0] if len(shape) else 0, self.share.stop - self.share.start)
        return 0 if rest else each

    def _made(self, func, shape: Sequence[int], kwargs: dict) -> torch.Tensor:
        n_rows = self._each(shape) * self.share.total
        return self._own(func(n_rows, *shape[1:], **kwargs), shape[0])

    def _whole(self, part: torch.Tensor) -> torch.Tensor:
        """Return a tensor as the part would be in the whole batch; memory is filled in order."""
        n_rows = self._each(part.shape) * self.share.total
        is_last = part.ndim == 4 and not part.is_contiguous()
        is_last = is_last and part.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if is_last else torch.contiguous_format
        shape = (n_rows, *part.shape[1:])
        return torch.empty(shape, dtype=part.dtype, device=part.device, memory_format=order)

    def _own(self, whole: torch.Tensor, n_rows: int) -> torch.Tensor:
        each = n_rows // (self.share.stop - self.share.start)
        return whole[self.share.start * each : self.share.stop * each]


def _shape(args: tuple) -> tuple[int, ...]:
    """Return the shape from the arguments of a function such as ``torch.rand``."""
    given = args[0] if len(args) == 1 and not isinstance(args[0], int) else args
    return tuple(given)
