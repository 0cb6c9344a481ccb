"""Read image files, compute digests of images, and convert images to RGB."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import xxhash
from PIL import ExifTags, Image, ImageOps

from .base import digest_array, plain_array
from .contents import Encoded, has_scheme, is_encoded, open_locally, read_encoded
from .limits import check_format, check_pixels, check_scans, open_listed, too_many_pixels
from .modality import SampleView
from .ranges import check_channels, to_range, warn_of_mask
from .sources import Item, Loaded

__all__ = [
    "check_header",
    "digest",
    "is_tensor",
    "open_image",
    "read_image",
    "shorter_side",
    "tensor_to_images",
]

_STRIP = 2**22  # pixels of an image that are converted at a time


def is_tensor(X: object) -> bool:
    """Tell whether X is a tensor of torch or of a subclass, without importing torch."""
    packages = (cls.__module__.partition(".")[0] for cls in type(X).__mro__)
    return hasattr(X, "detach") and "torch" in packages


def tensor_to_images(X: Any) -> np.ndarray:
    """Convert a tensor ``(…, channels, h, w)`` to an array ``(…, h, w, channels)``."""
    array = X.detach().cpu().numpy()
    return np.moveaxis(array, -3, -1) if array.ndim >= 3 else array


# -- files -----------------------------------------------------------------------------------------


def read_image(sample: Any) -> Any:
    """Read a sample into memory if it is an encoded image or one of a dataset.

    Parameters
    ----------
    sample : object
        A PIL image, an array, a tensor, an encoded image (:func:`read_encoded`), an item of a
        dataset or a view.

    Returns
    -------
    object
        An argument of :func:`digest` and :func:`open_image`. Other samples are returned unchanged.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, is not a regular file or is too large.
    """
    if _is_read(sample):
        return sample
    if isinstance(sample, str):
        return read_encoded(sample)
    if isinstance(sample, SampleView):
        return sample.read()
    if isinstance(sample, Item):
        sample = sample.load()
    if isinstance(sample, Loaded):
        return read_encoded(sample.sample) if is_encoded(sample.sample) else sample
    return read_encoded(sample) if is_encoded(sample) else sample


def _in_memory(sample):
    """Read a sample into memory, and return what it is: an image, an array or a file."""
    sample = read_image(sample)
    return sample.sample if isinstance(sample, Loaded) else sample


def _open_file(file: Encoded) -> Image.Image:
    """Read the header of an image, and refuse one with too many pixels or scans."""
    check_scans(file.content)
    try:
        image = open_listed(io.BytesIO(file.content))
    except Image.UnidentifiedImageError:
        raise ValueError(_not_an_image(file.content)) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many_pixels(str(error)) from error
    return image


def _not_an_image(content: bytes) -> str:
    is_name = len(content) < 200 and os.path.splitext(content)[1][1:].isalnum()
    hint = "; give names of files as str, not as bytes" if is_name else ""
    return f"not an image ({len(content)} bytes){hint}"


def check_header(name: str | os.PathLike[str]) -> None:
    """Check that a file of this machine begins as an image, without decoding it.

    Parameters
    ----------
    name : str or path-like

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is not an image of a format that is read.
    """
    try:
        with open_locally(name) as file, open_listed(file):
            pass
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image ({os.path.getsize(name)} bytes)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise too_many_pixels(str(error)) from error


def shorter_side(sample: Any) -> int | None:
    """Return the shorter side of an image in pixels, of an encoded one from its header.

    Parameters
    ----------
    sample : object
        As :func:`read_image` takes it.

    Returns
    -------
    int or None
        None for an image that cannot be read, for one of another machine, and for a view.
    """
    if is_encoded(sample):
        return _encoded_side(sample)
    if isinstance(sample, Image.Image):
        return min(sample.size)
    shape = getattr(sample, "shape", ())
    shape = shape[-2:] if is_tensor(sample) else shape[:2]
    return min(shape) if len(shape) == 2 else None


def _encoded_side(sample) -> int | None:
    if isinstance(sample, str) and has_scheme(sample) and sample[:5] not in ("file:", "data:"):
        return None
    try:
        is_name = isinstance(sample, str | os.PathLike) and not str(sample).startswith("data:")
        opened = open_locally(sample) if is_name else io.BytesIO(read_encoded(sample).content)
        with opened as file, open_listed(file) as image:
            return min(image.size)
    except Exception:  # it is named where it is opened
        return None


def _is_read(sample) -> bool:
    """Recognise the most frequent samples in memory; the other tests take longer than a digest."""
    return type(sample) is Encoded or (type(sample) is np.ndarray and sample.ndim > 1)


# -- digest ----------------------------------------------------------------------------------------


def digest(sample: Any) -> bytes:
    """Return a digest of an image: 16 bytes that are equal only for equal images.

    Parameters
    ----------
    sample : object
        As :func:`read_image` takes it. The digest of a file depends on its content alone.

    Returns
    -------
    bytes of length 16

    Raises
    ------
    OSError, ValueError, TypeError
        If the file cannot be read, or the sample has another type.
    """
    if not _is_read(sample):
        if isinstance(sample, SampleView):
            return sample.digest()
        sample = _in_memory(sample)
    if isinstance(sample, Encoded):
        state = xxhash.xxh3_128(b"file")
        state.update(sample.content)
        return state.digest()
    if isinstance(sample, Image.Image):
        return digest_array(_from_pil(sample))
    return digest_array(_numbers(sample))


def _numbers(sample) -> np.ndarray:
    """Return the values of an array or a tensor."""
    if type(sample) is not np.ndarray:
        sample = _as_array(sample)
    if sample.dtype.kind not in "biuf":
        raise TypeError(f"an array of dtype {sample.dtype} is not an image")
    return plain_array(sample)


def _as_array(sample) -> np.ndarray:
    if is_tensor(sample):
        sample = tensor_to_images(sample)
    if sample is None or (isinstance(sample, float) and sample != sample):
        raise TypeError("a missing image: leave it out, or set missing= of the extractor")
    if not isinstance(sample, np.ndarray):
        raise TypeError(f"expected a path, an image or an array, got {type(sample).__name__}")
    return sample


# -- pixels ----------------------------------------------------------------------------------------


def open_image(sample: Any) -> np.ndarray:
    """Convert one image to RGB.

    Parameters
    ----------
    sample : object
        As :func:`read_image` takes it. Greyscale images get three equal channels, transparent
        pixels are composed with a white background, the EXIF orientation is applied, and 16-bit
        images keep their range.

    Returns
    -------
    ndarray of shape (h, w, 3)
        uint8 in [0, 255], or float32 in [0, 1] for float and 16-bit samples.

    Raises
    ------
    ValueError, OSError, TypeError, MemoryError
        If the sample is not an image or cannot be read.
    """
    if isinstance(sample, SampleView):
        return sample.open()
    sample = _in_memory(sample)
    if isinstance(sample, Encoded):
        return _from_pil(_open_file(sample))  # without a name, so that it can be freed early
    if isinstance(sample, Image.Image):
        return _from_pil(sample)
    return _from_array(_numbers(sample))


def _from_pil(image: Image.Image) -> np.ndarray:
    check_format(image)
    check_pixels(image)
    try:
        image = _upright(image)
        if image.mode == "F" or image.mode.startswith("I"):
            return _from_array(_deep(image))
        if image.mode == "L":
            warn_of_mask(*image.getextrema())
        return _rgb(image)
    except MemoryError as error:
        width, height = image.size
        raise MemoryError(f"not enough memory to decode {width} x {height} pixels") from error
    except (ValueError, Warning):
        raise
    except Exception as error:  # an incomplete file, or any error that a decoder has for others
        raise ValueError(f"damaged image ({error})") from None


def _upright(image: Image.Image) -> Image.Image:
    """Decode an image and apply its EXIF orientation."""
    image.load()
    return ImageOps.exif_transpose(image) if _is_turned(image) else image


def _is_turned(image: Image.Image) -> bool:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    except Exception:  # the pixels of an image with damaged EXIF data are sound
        return False


def _rgb(image: Image.Image) -> np.ndarray:
    """Convert an image to RGB, in strips if it is large, which avoids further large copies."""
    width, height = image.size
    if width * height <= _STRIP:
        return np.asarray(_strip_to_rgb(image))
    result = np.empty((height, width, 3), np.uint8)
    for rows in _strips(height, width):
        strip = image.crop((0, rows.start, width, rows.stop))
        result[rows] = np.asarray(_strip_to_rgb(strip))
    return result


def _strips(height: int, width: int) -> Iterator[slice]:
    """Yield slices of rows."""
    n_rows = max(1, _STRIP // max(1, width))
    for top in range(0, height, n_rows):
        yield slice(top, min(top + n_rows, height))


def _strip_to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "La":  # Pillow converts this mode only to LA
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _deep(image: Image.Image) -> np.ndarray:
    """Return the values of modes with more than 8 bits. 16-bit files may have 32-bit modes."""
    array = np.asarray(image)
    return array if array.dtype.kind == "f" else np.divide(array, 65535, dtype=np.float32)


def _from_array(array: np.ndarray) -> np.ndarray:
    array = to_range(array)
    if array.ndim == 2:
        array = array[..., None]
    check_channels(array)
    channels = array.shape[2]
    if channels == 1 and array.dtype == np.float32:
        return np.broadcast_to(array, (*array.shape[:2], 3))  # no copies of large images
    if channels == 1:
        return np.repeat(array, 3, axis=2)
    return _over_white(array) if channels == 4 else array


def _over_white(array: np.ndarray) -> np.ndarray:
    """Compose an array ``(h, w, 4)`` with a white background."""
    result = np.empty((*array.shape[:2], 3), array.dtype)
    for rows in _strips(*array.shape[:2]):
        result[rows] = _strip_over_white(array[rows])
    return result


def _strip_over_white(array: np.ndarray) -> np.ndarray:
    top = 255 if array.dtype == np.uint8 else 1
    colour, alpha = array[..., :3].astype(np.float32), array[..., 3:].astype(np.float32) / top
    mixed = colour * alpha + top * (1 - alpha)
    return mixed.round().astype(np.uint8) if top == 255 else mixed
