"""Run stages with torch.compile."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from .torch import TorchEngine

_LONGEST = 300  # characters of an error of torch in a message


class CompiledEngine(TorchEngine):
    """Run stages with torch, compiled by ``torch.compile`` once for each shape of samples.

    It is meant for networks of convolutions and many samples on a GPU, where it has not been run
    yet. Compiling takes up to some minutes, and needs Triton on a GPU and a C++ compiler on a CPU.
    All batches but those of one sample are filled up to one size, so that two forms are compiled
    for each shape.

    Parameters
    ----------
    stages, outputs, **settings
        As for :class:`Engine`.
    """

    runtime = "compile"
    falls_back = False
    fills_up = True
    fuses = False  # the compiler does
    backend = "inductor"  # of torch.compile

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        outputs: Mapping[Any, tuple[str, Any]],
        **settings: Any,
    ):
        super().__init__(stages, outputs, **settings)
        if self.modality.has_tokens:
            raise ValueError(
                f"engine='compile' cannot run backbone {self.name!r}: texts differ in length, and "
                "each length would be compiled. Use engine='torch'."
            )
        self.compiled: list[Any] = []  # modules

    def prepare(self, batch: torch.Tensor) -> None:
        if not self.compiled:
            super().prepare(batch)
            settings: dict = {"dynamic": False, "backend": self.backend}
            for module in self.prepared:
                # Hooks that measure activations are on other modules than those that are compiled.
                tensors = [*module.parameters(), *module.buffers()]
                twin = copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
                self.compiled.append(torch.compile(twin, **settings))
        try:
            self.forward(batch)
        except Exception as error:  # of any type, since it comes from compilers
            why = f"{type(error).__name__}: {error}"[:_LONGEST]
            raise ValueError(
                f"engine='compile' cannot run backbone {self.name!r} on {self.device}: it needs "
                "Triton on a GPU and a C++ compiler on a CPU, and a network that torch.compile "
                f"takes ({why}). Use engine='torch'."
            ) from error

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        dtype = torch.bfloat16 if self.casts else None
        return self.run_modules(self.compiled or self.prepared, batch, dtype)

    @property
    def reference(self) -> Sequence[nn.Module]:
        return self.segments if self.device.type == "cpu" else self.prepared

    def modules(self) -> Iterable[nn.Module]:
        return [module for segment in self.reference for module in segment.modules()]

    @property
    def needs_check(self) -> bool:
        return True

    def _run_filled(self, batch: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        return self(batch) if len(batch) == 1 else super()._run_filled(batch, size)
