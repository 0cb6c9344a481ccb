"""Preprocessing: convert an opened sample to the input of a network.

Images are resized, cropped and scaled with the results of torchvision and without its import, which
takes half as long as that of torch and scikit-learn.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import platform
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from ..data import Modality, forward_strides

_CROP_MODES = ("center", "squash", "border")
_THIN = 32  # times the shorter side


@dataclasses.dataclass(frozen=True)
class ImagePreprocessing:
    """Resize an image, crop its centre and scale each channel.

    The values are those that the weights of a network were trained with. With other values the
    same weights give worse features.

    Parameters
    ----------
    resize : int or (int, int)
        Size to which the image is resized, in pixels: the side of a square, or height and width.
        ``crop_mode`` says how an image of another aspect ratio is brought to it.
    crop : int or (int, int)
        Size that is cut out of the centre, in pixels: the side of a square, or height and width.
    mean, std : tuple of floats
        Each channel is scaled as ``(x - mean) / std``, with x in [0, 1]. There are as many as the
        network takes channels: three for images in RGB.
    interpolation : {"bilinear", "bicubic", "nearest"}, default="bilinear"
        How pixels are resampled, always with antialiasing.
    crop_mode : {"center", "squash", "border"}, default="center"
        "center" keeps the aspect ratio, and the image covers ``resize``. "squash" changes the
        aspect ratio to that of ``resize``. "border" keeps the aspect ratio, the image fits into
        ``resize``, and what is missing of ``crop`` is filled with ``mean``. The names are
        those of timm.

    Raises
    ------
    ValueError
        For an unknown ``crop_mode``, or if ``mean`` and ``std`` differ in length.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer import ImagePreprocessing
    >>> preprocess = ImagePreprocessing(72, 64, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    >>> preprocess(np.zeros((100, 80, 3), np.uint8)).shape
    torch.Size([3, 64, 64])
    """

    resize: int | tuple[int, int]
    crop: int | tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"
    crop_mode: str = "center"

    # How the first pixel of a crop is found, and whether Pillow resizes where sides are scaled by
    # different factors.
    _rounding: ClassVar[Callable[[float], int]] = round
    _by_pillow: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.crop_mode not in _CROP_MODES:
            raise ValueError(f"crop_mode={self.crop_mode!r}: one of {', '.join(_CROP_MODES)}")
        if len(self.mean) != len(self.std):
            raise ValueError(f"{len(self.mean)} means and {len(self.std)} standard deviations")

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """Turn an image ``(h, w, channels)``, uint8 or in [0, 1], into ``(channels, *crop)``."""
        return self.scaled(self.resized(image))

    def resized(self, image: np.ndarray) -> torch.Tensor:
        """Resize and crop an image.

        Parameters
        ----------
        image : ndarray of shape (h, w, channels)

        Returns
        -------
        Tensor of shape (channels, height, width) of the crop
            In the type of the image; of a uint8 image a quarter of the bytes of the scaled one.

        Raises
        ------
        ValueError
            If the image has another number of channels than ``mean``.
        """
        if image.shape[2] != len(self.mean):
            raise ValueError(_other_channels(image.shape, len(self.mean)))
        if self.crop_mode == "center":
            # What no crop reaches of a very long or high image goes: resized it might fill memory.
            longest = _THIN * min(image.shape[:2])
            top, left = (max(0, side - longest) // 2 for side in image.shape[:2])
            image = image[top : image.shape[0] - top, left : image.shape[1] - left]
        x = self._resize(image)  # (3, h, w)
        x = self._with_border(x) if self.crop_mode == "border" else x
        return center_crop(x, _pair(self.crop), type(self)._rounding)

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        """Bring bytes to [0, 1], subtract the mean and divide by the standard deviation.

        Parameters
        ----------
        x : Tensor of shape (channels, height, width) of the crop
            From :meth:`resized`.

        Returns
        -------
        Tensor of shape (channels, height, width) of the crop, float32
        """
        mean, std = (
            torch.tensor(values, dtype=torch.float32).view(-1, 1, 1)
            for values in (self.mean, self.std)
        )
        if x.dtype == torch.uint8:
            x = x.to(torch.float32).mul_(1 / 255)
        return x.to(torch.float32).sub(mean).div_(std)

    def _resize(self, image: np.ndarray) -> torch.Tensor:
        size = self._resized_size(*image.shape[:2])
        if self.crop_mode != "center" and image.dtype == np.uint8 and self._by_pillow:
            # Pillow chooses the order of its two passes by the sizes, torchvision does not: where
            # the sides are scaled by different factors, values differ by up to 30 of 255.
            return resize_by_pillow(image, size, self.interpolation)
        # The permuted view stays channels-last in memory: torchvision resizes such uint8
        # tensors without a copy, within a step or two of Pillow and several times faster.
        # Read-only arrays (memory maps, Pillow's) are copied: torch has no such tensors.
        image = forward_strides(image)
        image = np.require(image if image.strides[2] else image[..., :1], requirements=["C", "W"])
        x = torch.from_numpy(image).permute(2, 0, 1)  # (3, h, w), or (1, h, w) of a grey one
        return resize(x, size, self.interpolation).expand(len(self.mean), -1, -1)

    def _resized_size(self, height: int, width: int) -> list[int]:
        """Return the size to resize an image to; one number stands for the shorter side."""
        target = _pair(self.resize)
        if self.crop_mode == "squash":
            return list(target)
        if self.crop_mode == "center" and target[0] == target[1]:
            return [target[0]]
        ratios = height / target[0], width / target[1]
        ratio = max(ratios) if self.crop_mode == "border" else min(ratios)
        return [max(1, round(side / ratio)) for side in (height, width)]

    def _with_border(self, x: torch.Tensor) -> torch.Tensor:
        """Fill an image ``(channels, h, w)`` that is smaller than the crop with the mean."""
        missing = [max(0, c - n) for c, n in zip(_pair(self.crop), x.shape[1:], strict=True)]
        high, wide = missing
        fill = [float(round(255 * value)) for value in self.mean]
        fill = fill if x.dtype == torch.uint8 else [value / 255 for value in fill]
        before = [wide // 2, high // 2]
        from torchvision.transforms.v2 import functional as F

        return F.pad(x, [*before, wide - before[0], high - before[1]], fill=fill)

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
        sides = zip(_pair(self.resize), _pair(self.crop), strict=True)
        high, wide = (round(resize * image_size / crop) for resize, crop in sides)
        resize = high if high == wide else (high, wide)
        return dataclasses.replace(self, resize=resize, crop=image_size)

    def with_channels(self, mean: tuple[float, ...], std: tuple[float, ...]) -> ImagePreprocessing:
        """Return the same steps for images of another number of channels.

        Parameters
        ----------
        mean, std : tuple of floats
            One for each channel.

        Returns
        -------
        ImagePreprocessing
        """
        return dataclasses.replace(self, mean=mean, std=std)

    @property
    def resize_size(self) -> tuple[int, int]:
        """Height and width of ``resize``."""
        return _pair(self.resize)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one preprocessed image, ``(channels, height, width)``."""
        return (len(self.mean), *_pair(self.crop))


class ProcessorPreprocessing(ImagePreprocessing):
    """Resize, crop and scale as the image processors of transformers do.

    The parameters are those of :class:`ImagePreprocessing`. torchvision resizes in all modes, and
    the first pixel of a crop is rounded down: one pixel is 12 of 255 levels in the mean.
    """

    _rounding = math.floor
    _by_pillow = False


def _other_channels(shape: tuple[int, ...], n: int) -> str:
    hint = ""
    if shape[1:] == (n, 1):  # a row of an image that was given as X
        hint = "; of one image, give [image]"
    elif shape[0] == n:
        hint = "; the channels are first: give np.moveaxis(image, 0, -1)"
    return f"an image of shape {shape} has {shape[2]} instead of {n} channels{hint}"


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int | np.integer) else (size[0], size[1])


@dataclasses.dataclass(frozen=True)
class TransformPreprocessing:
    """Apply a transform given by a user.

    Parameters
    ----------
    transform : callable
        Takes what :meth:`sktransfer.data.Modality.for_transform` gives: for images an RGB
        ``PIL.Image.Image``, as torchvision's and timm's transforms do. Returns a tensor without a
        batch axis: for images ``(channels, height, width)``, for texts ids of tokens. An empty
        sequence of ids becomes one id of padding, 0.
    """

    transform: Callable[..., Any]
    modality: Modality

    def __call__(self, opened: Any) -> torch.Tensor:
        made = forward_strides(self.transform(self.modality.for_transform(opened)))
        if not self.modality.has_tokens:
            return torch.as_tensor(made, dtype=torch.float32)
        ids = torch.as_tensor(made)
        # A text without tokens is padding; torch.tensor([]) would have the type float32.
        return ids if ids.shape != (0,) else torch.zeros(1, dtype=torch.int64)


def usual_modality(preprocess: Callable[..., Any] | None) -> str:
    """Name the modality of the samples that a preprocessing takes, where the user does not."""
    if isinstance(preprocess, ImagePreprocessing) and len(preprocess.mean) != 3:
        return "multichannel"
    return "array" if preprocess is None else "image"


def as_preprocessing(
    preprocess: Callable[..., Any] | None, modality: Modality
) -> Callable[..., Any] | None:
    """Return the preprocessing for a transform given by a user.

    A preprocessing, such as that of another backbone, is returned as it is.
    """
    if preprocess is None or hasattr(preprocess, "many"):
        return preprocess
    if isinstance(preprocess, ImagePreprocessing | TransformPreprocessing):
        return preprocess
    return TransformPreprocessing(preprocess, modality)


_SMOOTH = ("bilinear", "bicubic")  # antialiased
_MODES = (*_SMOOTH, "nearest")


def resize(x: torch.Tensor, size: Sequence[int], mode: str) -> torch.Tensor:
    """Resize an image as ``torchvision.transforms.v2.functional.resize`` does.

    It is ``(channels, height, width)``, uint8 or float32; ``size`` is the height and width, or the
    shorter side. All modes but "nearest" are with antialiasing; other modes of torchvision are
    accepted.
    """
    if mode not in _MODES:
        from torchvision.transforms import InterpolationMode
        from torchvision.transforms.v2 import functional

        interpolation = InterpolationMode(mode)
        return functional.resize(x, list(size), interpolation=interpolation, antialias=True)
    target = _target(x.shape[1:], size)
    if target == tuple(x.shape[1:]):
        return x
    batch = x[None]
    strides, n = batch.stride(), batch.numel()
    if batch.is_contiguous(memory_format=torch.channels_last) and n != strides[0]:
        # The strides with which torch keeps its memory format, also of a batch of one.
        batch = batch.as_strided(batch.shape, (n, *strides[1:]))
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


@functools.cache
def _has_fast_bytes() -> bool:
    """Tell whether torch resizes bytes linearly without converting them, as torchvision asks."""
    fast = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")
    return fast or platform.machine() in ("aarch64", "arm64")


def resize_by_pillow(image: np.ndarray, size: Sequence[int], mode: str) -> torch.Tensor:
    """Resize an image ``(h, w, channels)``, uint8, as Pillow does; channels are first then."""
    high, wide = _target(image.shape[:2], size)
    # Pillow has images of a few numbers of channels only.
    parts = [image] if image.shape[2] == 3 else list(np.moveaxis(image, 2, 0))
    resampling = Image.Resampling[mode.upper()]
    images = [Image.fromarray(part).resize((wide, high), resampling) for part in parts]
    return torch.from_numpy(np.dstack([np.asarray(image) for image in images])).permute(2, 0, 1)


def center_crop(
    x: torch.Tensor, size: tuple[int, int], rounding: Callable[[float], int] = round
) -> torch.Tensor:
    """Cut out the centre, filled up with zeros where the image ``(channels, h, w)`` is smaller.

    ``rounding`` is that of the first row and column.
    """
    missing = [max(0, side - now) for side, now in zip(size, x.shape[1:], strict=True)]
    if any(missing):
        (high, wide) = missing
        x = F.pad(x, [wide // 2, (wide + 1) // 2, high // 2, (high + 1) // 2])
    top, left = (rounding((now - side) / 2) for side, now in zip(size, x.shape[1:], strict=True))
    return x[:, top : top + size[0], left : left + size[1]]
