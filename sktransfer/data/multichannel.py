"""The modality of images with any number of channels, such as those of satellites and microscopes.

Nothing is converted to RGB: a network of five channels takes images of five channels, and of four
the last one is no transparency.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageOps, ImageSequence

from .contents import Encoded, is_npy, read_npy
from .images import (
    ImageModality,
    ImageParts,
    image_numbers,
    is_turned,
    open_encoded,
    to_range,
)
from .limits import check_format, check_pixels
from .modality import SampleView, register_modality


class MultichannelModality(ImageModality):
    """Images of any number of channels: arrays, tensors, ``.npy`` files and files of images.

    Notes
    -----
    An array has the shape ``(h, w, channels)``, or ``(h, w)`` for one channel, a tensor
    ``(channels, h, w)``. Of a TIFF file with several pages of one channel, each page is a channel.
    Values are scaled as those of other images: uint8 and uint16 from their whole range, floats are
    in [0, 1]. The limits for files of :class:`ImageModality` hold here; all channels count.
    """

    name = "multichannel"
    channels: tuple[int, ...] | None = None

    def open(self, sample: Any) -> np.ndarray:
        sample = self.in_memory(sample)
        if isinstance(sample, SampleView):
            return sample.open()
        if isinstance(sample, Encoded):
            content = sample.content
            sample = read_npy(content) if is_npy(content) else open_encoded(sample)
        array = self.pixels(sample) if isinstance(sample, Image.Image) else image_numbers(sample)
        array = array[..., None] if array.ndim == 2 else array
        if array.ndim != 3 or 0 in array.shape:
            raise ValueError(
                f"an array of shape {array.shape} is not an image (h, w) or (h, w, channels)"
            )
        return to_range(array)

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Return the channels of an image as Pillow reads them, or its pages if it has several."""
        check_format(image)
        n_pages = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
        check_pixels(image, n_pages)
        try:
            if n_pages > 1:
                pages = [_plain(np.asarray(page)) for page in ImageSequence.Iterator(image)]
                return np.concatenate([page.reshape(*page.shape[:2], -1) for page in pages], axis=2)
            image = ImageOps.exif_transpose(image) if is_turned(image) else image
            if image.mode in ("P", "PA"):  # the numbers are those of colors
                image = image.convert("RGBA" if image.has_transparency_data else "RGB")
            return _plain(np.asarray(image))
        except (MemoryError, Warning):
            raise
        except Exception as error:  # an incomplete file, or any error that a decoder has for others
            raise ValueError(f"damaged image, or pages of different sizes ({error})") from None

    def for_transform(self, opened: np.ndarray) -> np.ndarray:
        return opened

    def preview(self, sample: Any, side: int = 160) -> Image.Image:
        image = Image.fromarray(_visible(self.open(self.read(sample))))
        image.thumbnail((side, side))
        return image

    def parts(self, sample: Any) -> ImageParts:
        parts = super().parts(sample)
        parts.shown = _visible(parts.image)
        return parts


def _plain(pixels: np.ndarray) -> np.ndarray:
    """Return 16-bit pixels, for which Pillow has 32-bit modes, in their type."""
    is_wide = pixels.dtype == np.int32 and pixels.size and pixels.min() >= 0
    return pixels.astype(np.uint16) if is_wide and pixels.max() < 2**16 else pixels


def _visible(image: np.ndarray) -> np.ndarray:
    """Return the first three channels, or the first one, as a picture in uint8."""
    image = image if image.dtype == np.uint8 else (image * 255).round().astype(np.uint8)
    return image[..., :3] if image.shape[2] > 2 else image[..., :1].repeat(3, axis=2)


register_modality(MultichannelModality())
