"""Run stages with torch."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
from torch import nn

from .base import Engine
from .fusion import prepare
from .pointwise import is_supported

__all__ = ["TorchEngine"]


class TorchEngine(Engine):
    """Run stages with torch, batch norm folded and images channels-last in memory.

    Parameters
    ----------
    stages, layers, pooling, **settings
        As for :class:`Engine`.
    """

    def __init__(self, stages, layers, pooling="avg", **settings):
        super().__init__(stages, layers, pooling, **settings)
        # There is no batch norm to fold between tokens, and their networks look at masks.
        self._as_they_are = self.modality.has_tokens
        fast = self.segments if self._as_they_are else [self._prepare(s) for s in self.segments]
        self.prepared = [_on_device(segment, self.device) for segment in fast]

    def _prepare(self, segment: nn.Sequential) -> nn.Module:
        exact = self.device.type == "cpu" and self.precision == "float32"
        return prepare(segment, self.opaque, fuse=exact and is_supported())

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        return self.run_modules(self.prepared, batch)

    def modules(self) -> Iterable[nn.Module]:
        return [module for segment in self.prepared for module in segment.modules()]

    @property
    def needs_check(self) -> bool:
        return super().needs_check and not self._as_they_are


def _on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Put a copy on an accelerator; the tensors it shares with the backbone stay on the CPU."""
    return module if device.type == "cpu" else copy.deepcopy(module).to(device)
