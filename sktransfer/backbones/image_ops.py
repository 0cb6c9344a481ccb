"""Resize, crop and scale images, with the results of torchvision and without its import.

The import of torchvision takes half as long as that of torch and scikit-learn.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

__all__ = ["center_crop", "resize", "resize_by_pillow", "scale"]

_SMOOTH = ("bilinear", "bicubic")  # antialiased
_MODES = (*_SMOOTH, "nearest")


def resize(x: torch.Tensor, size: Sequence[int], mode: str) -> torch.Tensor:
    """Resize an image as ``torchvision.transforms.v2.functional.resize`` does.

    Parameters
    ----------
    x : Tensor of shape (channels, height, width), uint8 or float32
    size : sequence of int
        Height and width, or the shorter side.
    mode : {"bilinear", "bicubic", "nearest"}
        With antialiasing, except for "nearest". Other modes of torchvision are accepted.

    Returns
    -------
    Tensor of shape (channels, height, width)
    """
    if mode not in _MODES:
        return _by_torchvision(x, size, mode)
    target = _target(x.shape[1:], size)
    if target == tuple(x.shape[1:]):
        return x
    batch = _channels_last(x[None])
    as_float = mode == "bilinear" and x.dtype == torch.uint8 and not _has_fast_bytes()
    batch = batch.float() if as_float else batch
    smooth = mode in _SMOOTH
    corners = False if smooth else None
    made = F.interpolate(batch, target, mode=mode, align_corners=corners, antialias=smooth)[0]
    return made.round_().to(torch.uint8) if as_float else made


def _target(shape: Sequence[int], size: Sequence[int]) -> tuple[int, int]:
    height, width = shape
    if len(size) == 2:
        return size[0], size[1]
    longer = int(size[0] * max(height, width) / min(height, width))
    return (longer, size[0]) if width <= height else (size[0], longer)


def _channels_last(batch: torch.Tensor) -> torch.Tensor:
    """Give a batch of one the strides with which torch keeps its memory format."""
    strides = batch.stride()
    is_last = batch.is_contiguous(memory_format=torch.channels_last)
    if not is_last or batch.numel() == strides[0]:
        return batch
    return batch.as_strided(batch.shape, (batch.numel(), *strides[1:]))


@functools.cache
def _has_fast_bytes() -> bool:
    """Tell whether torch resizes bytes linearly without converting them, as torchvision asks."""
    fast = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return fast or platform.machine() in ("aarch64", "arm64")


def _by_torchvision(x: torch.Tensor, size: Sequence[int], mode: str) -> torch.Tensor:
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional

    interpolation = InterpolationMode(mode)
    return functional.resize(x, list(size), interpolation=interpolation, antialias=True)


def resize_by_pillow(image: np.ndarray, size: Sequence[int], mode: str) -> torch.Tensor:
    """Resize an image as Pillow does.

    Parameters
    ----------
    image : ndarray of shape (height, width, 3), uint8
    size, mode
        As in :func:`resize`.

    Returns
    -------
    Tensor of shape (3, height, width), uint8
    """
    high, wide = _target(image.shape[:2], size)
    resized = Image.fromarray(image).resize((wide, high), Image.Resampling[mode.upper()])
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1)


def center_crop(x: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Cut out the centre, filled up with zeros where the image is smaller.

    Parameters
    ----------
    x : Tensor of shape (channels, height, width)
    size : (int, int)
        Height and width.

    Returns
    -------
    Tensor of shape (channels, *size)
    """
    missing = [max(0, side - now) for side, now in zip(size, x.shape[1:], strict=True)]
    if any(missing):
        (high, wide) = missing
        x = F.pad(x, [wide // 2, (wide + 1) // 2, high // 2, (high + 1) // 2])
    top, left = (round((now - side) / 2) for side, now in zip(size, x.shape[1:], strict=True))
    return x[:, top : top + size[0], left : left + size[1]]


def scale(x: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Bring bytes to [0, 1], subtract the mean and divide by the standard deviation.

    Parameters
    ----------
    x : Tensor of shape (3, height, width), uint8 or float32
    mean, std : sequence of 3 floats

    Returns
    -------
    Tensor of shape (3, height, width), float32
    """
    if x.dtype == torch.uint8:
        x = x.to(torch.float32).mul_(1 / 255)
    return x.to(torch.float32).sub(_column(mean)).div_(_column(std))


def _column(values: Sequence[float]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
