"""Run stages with torch, prepared to be fast."""

from __future__ import annotations

import contextlib
import copy
import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import nn

from ..backbones import stages_of
from .base import Recipe, _empty_rows, _filled
from .fusion import _prepared
from .pooling import pool

__all__ = ["Engine"]

# A fresh memory page costs 2.5 µs, and the C library gives blocks over 32 MB back after each
# use. Activations that stay under this many bytes are not faulted in anew for each batch.
_BYTES = 20e6
_BYTES_GPU = 1e9


class Engine:
    """A network up to the last of some layers, prepared to run fast and not to be trained.

    Batch norm is folded into the convolution before it, activations overwrite their input,
    images lie channels-last in memory. The first sample goes through the plain stages too, and
    if the two disagree the plain ones are used, with a warning.

    Parameters
    ----------
    recipe : Recipe
    device : torch.device
    """

    def __init__(self, recipe: Recipe, device: torch.device):
        self.recipe = recipe
        self.device = device
        self._dtype = getattr(torch, recipe.dtype)
        stages = stages_of(recipe.backbone)
        names = list(stages)
        # In the order of the network; what follows the last one does not run at all.
        self.layers = sorted(set(recipe.layers), key=names.index)
        bounds = [0, *(names.index(layer) + 1 for layer in self.layers)]
        slices = [list(stages.values())[a:b] for a, b in itertools.pairwise(bounds)]
        self.plain = [nn.Sequential(*part) for part in slices]
        # There is no batch norm to fold between tokens, and their networks look at masks.
        self._modality = recipe.backbone.modality
        prepared = (lambda part, _: part) if self._modality.has_tokens else _prepared
        fast = [prepared(part, recipe.backbone.opaque) for part in self.plain]
        self.segments = [_on_device(part, device) for part in fast]
        self._fused = _fused_pooling(self.plain, recipe, device)
        self._divisor = 1  # of the size of batches, where the device's memory is short
        self._bytes: int | None = None  # of the largest activation of one sample
        self._widths: dict[str, int] = {}

    def run(self, tensors: Sequence[torch.Tensor], batch_size: int | str) -> dict[str, np.ndarray]:
        """Run samples in batches of one size and return each layer's features, as float32.

        A last batch that is too short is filled up with its last sample: a matrix product of
        another height takes another kernel, and its last bits would tell how many samples
        there were.

        Where a batch does not fit into the memory of a device, it and all that come later are
        half as large, with one warning.
        """
        size = self.batch_size(tensors[0]) if batch_size == "auto" else int(batch_size)
        parts, start = [], 0
        while start < len(tensors):
            fitting = max(1, size // self._divisor)
            batch = tensors[start : start + fitting]
            try:
                part = self(_filled(batch, fitting))
            except torch.OutOfMemoryError:
                if fitting == 1:
                    raise
                part = None
            if part is None:  # here, where the error holds the batch's tensors no longer
                self._halve(fitting)
                continue
            parts.append({layer: rows[: len(batch)] for layer, rows in part.items()})
            start += fitting
        return {layer: torch.cat([part[layer] for part in parts]).numpy() for layer in self.layers}

    def _halve(self, size: int) -> None:
        if self._divisor == 1:
            warnings.warn(
                f"Batches of {size} do not fit into the memory of {self.device}: smaller ones are "
                "used from here on. Give a smaller batch_size=, or make room on the device.",
                stacklevel=2,
            )
        self._divisor *= 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # pieces too small for what comes next

    def run_groups(self, groups: Sequence[tuple], batch_size: int | str) -> dict[str, np.ndarray]:
        """Run samples of several shapes, such as texts, those of one shape together.

        Parameters
        ----------
        groups : sequence of (ndarray of int, sequence of Tensor)
            Positions of the samples of one shape, and the samples.
        batch_size : int or "auto"

        Returns
        -------
        dict of str to ndarray
            For each layer a row for each position; an array of objects where rows differ in
            length.
        """
        n = sum(len(positions) for positions, _ in groups)
        tables: dict[str, np.ndarray] = {}
        for positions, tensors in groups:
            for layer, rows in self._run_group(tensors, batch_size).items():
                if layer not in tables:
                    tables[layer] = _empty_rows(n, rows)
                if tables[layer].dtype == object:
                    for position, row in zip(positions, rows, strict=True):
                        tables[layer][position] = row
                else:
                    tables[layer][positions] = rows
        return tables

    def _run_group(self, tensors, batch_size: int | str) -> dict[str, np.ndarray]:
        """Run samples of one shape. The way they take follows from it, and so from each alone."""
        if self._fused is not None:
            (layer,) = self.layers
            return {layer: self._kept(layer, self._fused(tensors)).numpy()}
        return self.run(tensors, batch_size)

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run a batch ``(n, …)`` and return each layer's features, on the CPU, as float32."""
        self._check_once(batch[:1])
        return self._run(self.segments, batch)

    @torch.inference_mode()
    def widths(self, probe: torch.Tensor) -> dict[str, int]:
        """Return the number of features of each layer, measured once on a probe batch."""
        self._check_once(probe)
        return self._widths

    @torch.inference_mode()
    def batch_size(self, sample: torch.Tensor) -> int:
        """Return how many samples to run at a time: as many as stay cheap in memory.

        It depends on shapes and the device alone, never on a timing, so that the same samples
        meet the same batches each time.
        """
        on_cpu = self.device.type == "cpu"
        most = self._modality.batch_limit(tuple(sample.shape), on_cpu)
        if self._modality.has_tokens:
            return most
        self._check_once(sample[None])
        return int(np.clip((_BYTES if on_cpu else _BYTES_GPU) // self._bytes, 1, most))

    def _run(self, segments: Sequence[nn.Module], batch: torch.Tensor) -> dict[str, torch.Tensor]:
        x = batch.to(self.device, non_blocking=True)
        square = x.ndim == 4 and x.shape[2] == x.shape[3]
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        features = {}
        with self._autocast():
            for layer, segment in zip(self.layers, segments, strict=True):
                x = segment(x)
                features[layer] = self._kept(layer, self._pooled(x, square))
        return features

    def _kept(self, layer: str, pooled: torch.Tensor) -> torch.Tensor:
        """Bring features to the CPU in the type in which they are kept."""
        # A copy, since the next stage may overwrite its input.
        kept = pooled.to("cpu", self._dtype, copy=True)
        if self._dtype == torch.float16 and not kept.isfinite().all():
            raise FloatingPointError(
                f"Activations of layer {layer!r} are too large for float16: use "
                "cache_dtype='float32'."
            )
        return kept

    def _pooled(self, x: torch.Tensor, square: bool) -> torch.Tensor:
        if self.recipe.pooling == "none":
            return x
        return pool(x, self.recipe.pooling, square=square, masked=self._modality.has_tokens)

    def _autocast(self):
        if self.recipe.precision == "float32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, getattr(torch, self.recipe.precision))

    def _check_once(self, probe: torch.Tensor) -> None:
        """Measure the activations and compare with the plain stages, on the first sample."""
        if self._bytes is not None:
            return
        # Copies, since a network may change its input, and the probe is a sample of the caller's.
        with _largest_activation(self.segments) as largest:
            fast = self._run(self.segments, probe.clone())
        self._widths = {layer: features.shape[-1] for layer, features in fast.items()}
        comparable = self.device.type == "cpu" and self.recipe.precision == "float32"
        comparable = comparable and not self._modality.has_tokens
        if comparable and not _agree(fast, self._run(self.plain, probe.clone())):
            warnings.warn(
                f"The fast form of backbone {self.recipe.backbone.name!r} does not give the same "
                "features as its stages; the stages themselves are used, which is slower.",
                stacklevel=2,
            )
            self.segments = self.plain
        self._bytes = max(1, largest[0] // len(probe))


def _fused_pooling(plain: list, recipe: Recipe, device: torch.device) -> Callable | None:
    """Return the function for stage and pooling in one that a single stage offers, or None."""
    stage = plain[0][0] if len(plain) == 1 and len(plain[0]) == 1 else None
    applies = recipe.precision == "float32" and device.type == "cpu"
    if not applies or not hasattr(stage, "fused_pooling"):
        return None
    return stage.fused_pooling(recipe.pooling)


def _agree(fast: dict, plain: dict, tolerance: float = 1e-4) -> bool:
    pairs = [(fast[layer].double(), plain[layer].double()) for layer in plain]
    return all((a - b).norm() <= tolerance * b.norm() + 1e-12 for a, b in pairs)


@contextlib.contextmanager
def _largest_activation(segments: Sequence[nn.Module]) -> Iterator[list[int]]:
    """Collect the size in bytes of the largest output of any module that is called meanwhile."""
    largest = [1]

    def note(module, args, output):
        if isinstance(output, torch.Tensor):
            largest[0] = max(largest[0], output.numel() * output.element_size())

    modules = [m for part in segments for m in part.modules()]
    modules = [m for m in modules if not isinstance(m, torch.jit.ScriptModule)]  # take no hooks
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


def _on_device(module: nn.Module, device: torch.device) -> nn.Module:
    """Put a copy on an accelerator; the tensors it shares with the backbone stay on the CPU."""
    return module if device.type == "cpu" else copy.deepcopy(module).to(device)
