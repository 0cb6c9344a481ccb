"""The modality of images: files, PIL images, arrays and tensors."""

from __future__ import annotations

import dataclasses
import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral

import numpy as np
import xxhash
from PIL import ExifTags, Image, ImageFile, ImageOps
from sklearn.utils import check_array

from .base import (
    Modality,
    SampleView,
    _label,
    digest_array,
    plain_array,
    register_modality,
    unwrap_column,
)

__all__ = ["ImageModality", "as_samples", "digest", "open_image", "read_image"]

# Limit on the bytes of a file for each pixel of the limit on pixels: the size of a pixel of 16-bit
# RGBA without compression, the largest that Pillow reads.
_BYTES_PER_PIXEL = 8
_STRIP = 2**22  # pixels of an image that are converted at a time


class ImageModality(Modality):
    """Images: names of files, PIL images, arrays and tensors.

    Notes
    -----
    A small file can contain an image that fills the memory when it is decoded. An image with more
    pixels than ``PIL.Image.MAX_IMAGE_PIXELS`` (89 million by default; None for no limit) is
    refused. The limit is read for each image and compared with the header of the file, before the
    pixels are decoded. Pillow itself warns above the limit and refuses twice as many pixels. Files
    with more than eight bytes for each pixel of the limit, pipes and devices are not read.
    """

    name = "image"
    noun = "images"
    # Larger batches are not faster on a CPU.
    batch_size = 4
    takes_augment = True

    def check(self, X, *, image_shape=None, validate: Callable = check_array) -> list:
        if image_shape is None:
            return as_samples(X)
        shape = check_image_shape(image_shape)
        try:
            X = validate(X, dtype=None)
        except ValueError as error:
            raise ValueError(
                f"image_shape={shape} needs a table with one flattened image in each row: {error}"
            ) from error
        return as_samples(X, shape)

    def read(self, sample):
        return read_image(sample)

    def digest(self, sample) -> bytes:
        return digest(sample)

    def open(self, sample) -> np.ndarray:
        return open_image(sample)

    def for_transform(self, opened: np.ndarray) -> Image.Image:
        if opened.dtype != np.uint8:
            opened = (opened * 255).round().astype(np.uint8)
        return Image.fromarray(opened)

    def make_noise(self, n: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 256, (n, *shape[1:], 3), dtype=np.uint8)


@dataclasses.dataclass(frozen=True, repr=False)
class _ImageFile:
    """The content of an image file: the digest and the pixels come from the same bytes."""

    path: str | os.PathLike
    content: bytes

    @property
    def bytes_read(self) -> int:
        return len(self.content)

    def __fspath__(self) -> str:
        return os.fspath(self.path)


def check_image_shape(image_shape) -> tuple[int, ...]:
    """Check the parameter ``image_shape``.

    Parameters
    ----------
    image_shape : array-like of int
        ``(height, width)`` or ``(height, width, channels)`` of the images in a table.

    Returns
    -------
    tuple of int

    Raises
    ------
    ValueError
        If it has not two or three positive integers, or not 1, 3 or 4 channels.
    """
    shape = tuple(np.atleast_1d(np.asarray(image_shape, dtype=object)).tolist())
    whole = all(isinstance(n, Integral) and not isinstance(n, bool) for n in shape)
    fits = whole and len(shape) in (2, 3) and min(shape) > 0
    if not fits or (len(shape) == 3 and shape[2] not in (1, 3, 4)):
        raise ValueError(
            f"image_shape={image_shape!r}: give (height, width) or (height, width, channels) of "
            "the images in a table, in pixels, with 1, 3 or 4 channels."
        )
    return tuple(int(n) for n in shape)


def as_samples(X, image_shape: tuple[int, ...] | None = None) -> list:
    """Convert a container of images to a list, without opening the images.

    Parameters
    ----------
    X : list, array, tensor, Series or DataFrame with one column
        Paths, PIL images, arrays ``(h, w)`` or ``(h, w, channels)``, tensors
        ``(channels, h, w)``; or one array of images of one size; or, with ``image_shape``,
        a table with one flattened image in each row.
    image_shape : tuple of int, default=None
        ``(h, w)`` or ``(h, w, channels)`` of each row of a table.

    Returns
    -------
    list
        The images, unchanged.

    Raises
    ------
    ValueError, TypeError
        If X is a single image, is empty, or is neither a list of images nor an array with the
        shape of several images.
    """
    if isinstance(X, str | os.PathLike | Image.Image):
        raise _single(X)
    X = _tensor_to_array(X) if _is_tensor(X) else unwrap_column(X)
    if isinstance(X, np.ndarray):
        samples = _split_array(plain_array(X, "X"), image_shape)
    elif isinstance(X, Sequence):
        samples = [_reshape(sample, image_shape) for sample in X]
    else:
        raise TypeError(f"X must be a list, an array or a column of images, got {type(X)}.")
    if not samples:
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    return samples


def _single(X) -> TypeError:
    return TypeError(f"X must be a list of images, got one image: {_label(X)}. Pass [image].")


def _tensor_to_array(X) -> np.ndarray:
    if X.ndim == 3 and len(X) in (3, 4):  # probably (channels, h, w)
        raise TypeError(
            f"X is a tensor of shape {tuple(X.shape)}, which may be one image or {len(X)} "
            "greyscale images. Pass X[None] for one image, or X[:, None] for greyscale images."
        )
    return _tensor_to_images(X) if X.ndim > 3 else X.detach().cpu().numpy()


def _is_tensor(X) -> bool:
    return type(X).__module__.partition(".")[0] == "torch" and hasattr(X, "detach")


def _tensor_to_images(X) -> np.ndarray:
    """Convert a tensor ``(…, channels, h, w)`` to an array ``(…, h, w, channels)``."""
    array = X.detach().cpu().numpy()
    return np.moveaxis(array, -3, -1) if array.ndim >= 3 else array


def _split_array(X: np.ndarray, image_shape) -> list:
    if X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "OUS":  # a column of a table
        X = X[:, 0]
    if X.ndim == 1 and X.dtype.kind in "OUS":
        return [_reshape(sample, image_shape) for sample in X.tolist()]
    if X.ndim == 2 and image_shape is not None:
        return [_reshape(row, image_shape) for row in X]
    if X.ndim == 3 and X.shape[-1] in (3, 4):
        raise _single(X)
    if X.ndim == 3 or (X.ndim == 4 and X.shape[-1] in (1, 3, 4)):
        return list(X)
    raise ValueError(
        f"X has the shape {X.shape} and the dtype {X.dtype}. Images have the shape (n, h, w) or "
        "(n, h, w, channels), or (n, channels, h, w) as a torch tensor. Flattened images need "
        "image_shape=(h, w) or (h, w, channels). A table of file names must have one column."
    )


def _reshape(sample, image_shape):
    if image_shape is None or not isinstance(sample, np.ndarray) or sample.ndim != 1:
        return sample
    if sample.size != np.prod(image_shape):
        raise ValueError(
            f"A row of X has {sample.size} values, but image_shape={tuple(image_shape)} needs "
            f"{np.prod(image_shape)}."
        )
    return sample.reshape(image_shape)


# -- files -----------------------------------------------------------------------------------------


def read_image(sample):
    """Read a sample into memory if it is the name of a file.

    Parameters
    ----------
    sample : str, Path, PIL image, array, tensor or SampleView

    Returns
    -------
    object
        An argument of :func:`digest` and :func:`open_image`. Other samples are returned unchanged.

    Raises
    ------
    OSError, ValueError
        If the file cannot be read, is not a regular file or is too large.
    """
    if isinstance(sample, SampleView):
        return sample.read()
    if isinstance(sample, _ImageFile) or not isinstance(sample, str | os.PathLike):
        return sample
    return _ImageFile(sample, _read_file(sample))


def _read_file(path: str | os.PathLike) -> bytes:
    limit = Image.MAX_IMAGE_PIXELS
    with open(path, "rb", opener=_open_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file, but a pipe or a device")
        if limit is not None and status.st_size > limit * _BYTES_PER_PIXEL:
            raise ValueError(
                f"{status.st_size} bytes are more than an image of {limit} pixels takes; "
                "PIL.Image.MAX_IMAGE_PIXELS sets that limit"
            )
        return file.read()


def _open_without_waiting(path, flags: int) -> int:
    """Open a file without waiting, which a pipe does until something is written to it."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _open_file(file: _ImageFile) -> Image.Image:
    """Read the header of an image, and refuse one with too many pixels."""
    try:
        image = Image.open(io.BytesIO(file.content))
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image ({len(file.content)} bytes)") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(_too_many_pixels(str(error))) from error
    return image


def _check_pixels(image: Image.Image) -> None:
    """Refuse an image from a file with more pixels than the limit, before they are decoded."""
    limit, (width, height) = Image.MAX_IMAGE_PIXELS, image.size
    if limit is not None and width * height > limit and isinstance(image, ImageFile.ImageFile):
        raise ValueError(_too_many_pixels(f"{width} x {height} pixels, the limit is {limit}"))


def _too_many_pixels(found: str) -> str:
    return (
        f"too many pixels to decode ({found.rstrip('.')}). Where you trust the file, raise "
        "PIL.Image.MAX_IMAGE_PIXELS."
    )


# -- digest ----------------------------------------------------------------------------------------


def digest(sample) -> bytes:
    """Return a digest of an image: 16 bytes that are equal only for equal images.

    Parameters
    ----------
    sample : str, Path, PIL image, array, tensor or SampleView
        The digest of a file depends on its content, not on its name.

    Returns
    -------
    bytes of length 16

    Raises
    ------
    OSError, ValueError, TypeError
        If the file cannot be read, or the sample has another type.
    """
    if isinstance(sample, SampleView):
        return sample.digest()
    sample = read_image(sample)
    if isinstance(sample, _ImageFile):
        state = xxhash.xxh3_128(b"file")
        state.update(sample.content)
        return state.digest()
    if isinstance(sample, Image.Image):
        return digest_array(_from_pil(sample))
    return digest_array(_numbers(sample))


def _numbers(sample) -> np.ndarray:
    """Return the values of an array or a tensor."""
    if _is_tensor(sample):
        sample = _tensor_to_images(sample)
    if not isinstance(sample, np.ndarray):
        raise TypeError(f"expected a path, an image or an array, got {type(sample).__name__}")
    if sample.dtype.kind not in "biuf":
        raise TypeError(f"an array of dtype {sample.dtype} is not an image")
    return plain_array(sample)


# -- pixels ----------------------------------------------------------------------------------------


def open_image(sample) -> np.ndarray:
    """Convert one image to RGB.

    Parameters
    ----------
    sample : str, Path, PIL image, array, tensor or SampleView
        Greyscale images get three equal channels, transparent pixels are composed with a white
        background, the EXIF orientation is applied, and 16-bit images keep their range.

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
    sample = read_image(sample)
    if isinstance(sample, _ImageFile):
        return _from_pil(_open_file(sample))  # without a name, so that it can be freed early
    if isinstance(sample, Image.Image):
        return _from_pil(sample)
    return _from_array(_numbers(sample))


def _from_pil(image: Image.Image) -> np.ndarray:
    _check_pixels(image)
    try:
        image = _upright(image)
        if image.mode == "F" or image.mode.startswith("I"):
            return _from_array(_deep(image))
        return _rgb(image)
    except OSError as error:  # such as an incomplete file
        raise ValueError(f"damaged image ({error})") from None
    except MemoryError as error:
        width, height = image.size
        raise MemoryError(f"not enough memory to decode {width} x {height} pixels") from error


def _upright(image: Image.Image) -> Image.Image:
    """Decode an image and apply its EXIF orientation."""
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    return ImageOps.exif_transpose(image) if turned else image


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
    array = _to_range(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"an array of shape {array.shape} is not an image (h, w) or (h, w, channels)"
        )
    channels = array.shape[2]
    if channels == 1 and array.dtype == np.float32:
        return np.broadcast_to(array, (*array.shape[:2], 3))  # no copies of large images
    if channels == 1:
        return np.repeat(array, 3, axis=2)
    if channels == 4:
        return _over_white(array)
    if channels != 3:
        raise ValueError(
            f"{channels} channels; an image has 1, 3 or 4. Tensors have the channels first, arrays "
            "have them last"
        )
    return array


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


def _to_range(array: np.ndarray) -> np.ndarray:
    """Convert an array of any numeric type to uint8 in [0, 255] or float32 in [0, 1]."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.divide(array, 65535, dtype=np.float32)
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not np.isfinite([low, high]).all():
        raise ValueError("contains NaN or infinity")
    if array.dtype.kind != "f" and 0 <= low and high <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and 0 <= low and high <= 1:
        return array.astype(np.float32, copy=False)
    raise ValueError(
        f"{array.dtype} values from {low:g} to {high:g}: give floats in [0, 1], or uint8. "
        f"Perhaps divide by {_divisor(high)}."
    )


def _divisor(high: float) -> int:
    return next((top for top in (16, 255, 4095) if high <= top), 65535)


register_modality(ImageModality())
