"""What every engine shares: the recipe, the device, batches and groups by shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..backbones import Backbone, describe

__all__ = ["Recipe", "group_by_shape", "resolve_device"]


def resolve_device(device: str) -> torch.device:
    """Turn "auto" into the device there is; anything else must be there.

    Parameters
    ----------
    device : str
        "auto" or a name that ``torch.device`` takes. "auto" is the current accelerator, or the
        CPU where there is none.

    Returns
    -------
    torch.device

    Raises
    ------
    ValueError
        If the named device is not on this machine.
    """
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used on this machine: {why}") from None
    return found


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides a sample's features, except the sample.

    Parameters
    ----------
    backbone : Backbone
    layers : tuple of str
        Where to cut, in any order.
    pooling : str, callable, tuple or None, default=None
        See :func:`sktransfer.engines.pool`; "none" keeps whole activations.
    precision : {"float32", "bfloat16"}, default="float32"
        What the network computes in.
    dtype : {"float32", "float16"}, default="float32"
        What the result is kept in.
    """

    backbone: Backbone
    layers: tuple[str, ...]
    pooling: str | Callable | tuple | None = None
    precision: str = "float32"
    dtype: str = "float32"

    def key(self, layer: str) -> str:
        """Describe all that decides the features of one layer, for the store."""
        backbone = self.backbone
        settings = (describe(self.pooling), self.precision, self.dtype, describe(backbone.modality))
        preprocess = describe(backbone.preprocess)
        return "|".join(("v2", backbone.fingerprint, layer, *settings, preprocess))


def _filled(batch: Sequence[torch.Tensor] | torch.Tensor, size: int) -> torch.Tensor:
    """Make one tensor of some samples, repeating the last one up to the size of a batch."""
    if isinstance(batch, torch.Tensor):
        missing = size - len(batch)
        return (
            torch.cat([batch, batch[-1:].expand(missing, *batch.shape[1:])]) if missing else batch
        )
    batch = list(batch)
    return torch.stack(batch + batch[-1:] * (size - len(batch)))


def group_by_shape(tensors: Sequence[torch.Tensor]) -> list[tuple[np.ndarray, list]]:
    """Group samples of one shape, as :meth:`Engine.run_groups` takes them."""
    places: dict[tuple, list[int]] = {}
    for i, tensor in enumerate(tensors):
        places.setdefault(tuple(tensor.shape), []).append(i)
    return [(np.array(group), [tensors[i] for i in group]) for group in places.values()]


def _empty_rows(n: int, rows: np.ndarray) -> np.ndarray:
    ragged = rows.ndim > 2  # positions of tokens, which differ in number
    return np.empty(n, object) if ragged else np.empty((n, rows.shape[1]), rows.dtype)
