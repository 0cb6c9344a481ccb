"""Preprocessing: from an opened sample to the tensor that the weights expect."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from ..data import Modality

__all__ = ["ImagePreprocessing", "TransformPreprocessing", "as_preprocessing"]


@dataclasses.dataclass(frozen=True)
class ImagePreprocessing:
    """Resize the shorter side, crop the centre, scale each channel.

    The values are those that a network's weights were trained with; with others
    the same weights are a worse network.

    Parameters
    ----------
    resize : int
        Length of the shorter side after resizing, in pixels.
    crop : int
        Side of the square that is cut out of the centre, in pixels.
    mean, std : tuple of 3 floats
        Each channel is scaled as ``(x - mean) / std``, with x in [0, 1].
    interpolation : {"bilinear", "bicubic", "nearest"}, default="bilinear"
        How pixels are resampled, always with antialiasing.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """Turn one image ``(h, w, 3)``, uint8 or float in [0, 1], into ``(3, crop, crop)``."""
        # The permuted view stays channels-last in memory: torchvision resizes such uint8
        # tensors without a copy, within a step or two of Pillow and several times faster.
        # Read-only arrays (memory maps, Pillow's) are copied: torch has no such tensors.
        image = np.require(_middle(image), requirements=["C", "W"])
        x = torch.from_numpy(image).permute(2, 0, 1)  # (3, h, w)
        mode = InterpolationMode(self.interpolation)
        x = F.resize(x, [self.resize], interpolation=mode, antialias=True)
        x = F.center_crop(x, [self.crop, self.crop])
        x = F.to_dtype(x, torch.float32, scale=True)
        return F.normalize(x, self.mean, self.std)

    def with_size(self, image_size: int) -> ImagePreprocessing:
        """Return the same steps for another crop, the resize keeping its proportion to it.

        Parameters
        ----------
        image_size : int
            Side of the square, in pixels.

        Returns
        -------
        ImagePreprocessing
        """
        resize = round(self.resize * image_size / self.crop)
        return dataclasses.replace(self, resize=resize, crop=image_size)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (3, self.crop, self.crop)


_THIN = 32  # times the shorter side


def _middle(image: np.ndarray) -> np.ndarray:
    """Cut what no crop reaches off a very long or high image: resized it might fill the memory."""
    height, width = image.shape[:2]
    longest = _THIN * min(height, width)
    top, left = (max(0, side - longest) // 2 for side in (height, width))
    return image[top : height - top, left : width - left]


@dataclasses.dataclass(frozen=True)
class TransformPreprocessing:
    """A user's own transform of one sample.

    Parameters
    ----------
    transform : callable
        Takes what :meth:`sktransfer.data.Modality.for_transform` gives: for images an RGB
        ``PIL.Image.Image``, as torchvision's and timm's transforms do. Returns a tensor without a
        batch axis: for images ``(channels, height, width)``, for texts ids of tokens.
    modality : Modality
    """

    transform: Callable
    modality: Modality

    def __call__(self, opened) -> torch.Tensor:
        made = self.transform(self.modality.for_transform(opened))
        return torch.as_tensor(made, dtype=None if self.modality.has_tokens else torch.float32)


def as_preprocessing(preprocess: Callable | None, modality: Modality) -> Callable | None:
    """Make a preprocessing of what a user gives.

    Parameters
    ----------
    preprocess : callable or None
        One with ``input_shape`` or ``many`` is a preprocessing already, such as those of other
        backbones.
    modality : Modality

    Returns
    -------
    callable or None
    """
    if preprocess is None or hasattr(preprocess, "input_shape") or hasattr(preprocess, "many"):
        return preprocess
    return TransformPreprocessing(preprocess, modality)
