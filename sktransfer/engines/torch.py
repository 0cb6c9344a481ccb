"""Run stages with torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .base import Engine
from .casting import cast, has_bfloat16
from .fusion import prepare
from .pointwise import fuse_convolutions, is_supported

__all__ = ["TorchEngine"]


class TorchEngine(Engine):
    """Run stages with torch, batch norm folded and images channels-last in memory.

    In bfloat16 on a processor that is fast at it, weights are cast; a network that does not run so,
    or whose features then differ too much, and other devices use autocast.

    Parameters
    ----------
    stages, layers, pooling, **settings
        As for :class:`Engine`.
    """

    casts: bool
    prepared: list[nn.Module]
    fuses = True  # whether convolutions and activations are one operation on the CPU

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        layers: Sequence[str],
        pooling: str | Callable[..., Any] | tuple[Any, ...] = "avg",
        **settings: Any,
    ):
        super().__init__(stages, layers, pooling, **settings)
        # There is no batch norm to fold between tokens, and their networks look at masks.
        self._as_they_are = self.modality.has_tokens
        self.casts = self._is_low_on_cpu() and has_bfloat16()
        self.prepared = self._make()

    def _is_low_on_cpu(self) -> bool:
        return self.device.type == "cpu" and self.precision == "bfloat16"

    def _make(self) -> list[nn.Module]:
        """Return the modules that are run; without casting if they cannot be copied."""
        try:
            return [self._prepare(segment) for segment in self.segments]
        except Exception:  # copying runs methods of the user's modules, which may raise anything
            if not self.casts:
                raise
            self.casts = False
            return self._make()

    def _prepare(self, segment: nn.Sequential) -> nn.Module:
        as_is = self._as_they_are
        made: nn.Module = segment if as_is else prepare(segment, self.opaque)
        made = cast(made, self._dtype_of_weights) if self.casts else made
        if self.device.type != "cpu":
            return _on_device(made, self.device)
        exact = self.casts or self.precision == "float32"
        fuse = self.fuses and exact and not as_is and is_supported(self._dtype_of_weights)
        return fuse_convolutions(made, self._dtype_of_weights) if fuse else made

    @property
    def _dtype_of_weights(self) -> torch.dtype:
        return torch.bfloat16 if self.casts else torch.float32

    def prepare(self, batch: torch.Tensor) -> None:
        """Leave weights as they are, if the network does not run with cast ones."""
        if not self.casts:
            return
        try:
            self.forward(batch)
        except Exception:  # such as a constant of float32 in the network
            self.casts = False
            self.prepared = self._make()

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        dtype = torch.bfloat16 if self.casts else None
        return self.run_modules(self.prepared, batch, dtype)

    def modules(self) -> Iterable[nn.Module]:
        return [module for segment in self.prepared for module in segment.modules()]

    @property
    def needs_check(self) -> bool:
        return self.casts or (super().needs_check and not self._as_they_are)


def _on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Copy to an accelerator; the tensors that are shared with the backbone stay on the CPU."""
    return copy.deepcopy(module).to(device)
