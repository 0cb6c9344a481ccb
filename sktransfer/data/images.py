"""Images: check a collection, open one image as RGB, compute its digest."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash
from PIL import Image, ImageOps

from .base import _label

__all__ = ["as_samples", "digest", "open_image"]


def as_samples(X, image_shape: tuple[int, ...] | None = None) -> list:
    """Bring images in any container into a list, without opening any.

    Parameters
    ----------
    X : list, array, tensor, Series or DataFrame with one column
        Paths, PIL images, arrays ``(h, w)`` or ``(h, w, channels)``, tensors
        ``(channels, h, w)``; or one array of images of one size; or, with ``image_shape``,
        a table with one flattened image a row.
    image_shape : tuple of int, default=None
        ``(h, w)`` or ``(h, w, channels)`` of each row of a table.

    Returns
    -------
    list
        One entry a sample, as it came.

    Raises
    ------
    ValueError, TypeError
        If X is a single sample, is empty or has a shape that is no list of images.
    """
    if isinstance(X, str | os.PathLike | Image.Image):
        raise TypeError(f"Expected a list of samples, got one sample: {_label(X)}. Put it in [ ].")
    if _is_tensor(X):
        if X.ndim == 3 and len(X) in (3, 4):  # (channels, h, w) as far as anyone can tell
            raise TypeError(
                f"A tensor {tuple(X.shape)} is one sample or {len(X)} grey ones: give a batch "
                "(n, channels, h, w), with [None] before one image or [:, None] for grey ones."
            )
        X = _tensor_to_images(X) if X.ndim > 3 else X.detach().cpu().numpy()
    elif hasattr(X, "columns") or hasattr(X, "to_numpy"):
        X = X.to_numpy()
    if isinstance(X, np.ndarray):
        samples = _split_array(X, image_shape)
    elif isinstance(X, Sequence):
        samples = [_reshape(sample, image_shape) for sample in X]
    else:
        raise TypeError(f"Expected a list, an array or a column of samples, got {type(X)}.")
    if not samples:
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    return samples


def _is_tensor(X) -> bool:
    return type(X).__module__.partition(".")[0] == "torch" and hasattr(X, "detach")


def _tensor_to_images(X) -> np.ndarray:
    """Move the channels of a tensor ``(…, channels, h, w)`` to the end, as arrays have them."""
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
        raise TypeError(f"Expected a list of samples, got one sample: {_label(X)}. Put it in [ ].")
    if X.ndim == 3 or (X.ndim == 4 and X.shape[-1] in (1, 3, 4)):
        return list(X)
    raise ValueError(
        f"An array of shape {X.shape} and dtype {X.dtype} is no list of images. Images are "
        "(n, h, w) or (n, h, w, channels), torch tensors (n, channels, h, w); flattened rows "
        "need image_shape=(h, w) or (h, w, channels); a table of paths must have one column."
    )


def _reshape(sample, image_shape):
    if image_shape is None or not isinstance(sample, np.ndarray) or sample.ndim != 1:
        return sample
    if sample.size != np.prod(image_shape):
        raise ValueError(
            f"A row of {sample.size} numbers is no image of image_shape={tuple(image_shape)} "
            f"({np.prod(image_shape)} numbers)."
        )
    return sample.reshape(image_shape)


def digest(sample, kind: str = "image") -> bytes:
    """Return 16 bytes that two samples share only if they are the same.

    xxh3 takes 6 µs for a 224 x 224 image where SHA-256 takes 84; it is no defence against
    someone who builds collisions on purpose, and a feature store needs none.

    Parameters
    ----------
    sample : str, Path, PIL image, array or tensor
        A file is told by its bytes, not by its name.
    kind : {"image", "text", "array"}, default="image"
        Of a text a str is the text itself, otherwise the path of a file.

    Returns
    -------
    bytes of length 16

    Raises
    ------
    OSError, TypeError
        If the file cannot be read, or the sample is nothing that has a digest.
    """
    if hasattr(sample, "view_digest"):
        return sample.view_digest()
    if kind == "text":
        return xxhash.xxh3_128_digest(b"text" + sample.encode("utf-8", "surrogatepass"))
    if isinstance(sample, str | os.PathLike):
        return xxhash.xxh3_128_digest(b"file" + Path(sample).read_bytes())
    if isinstance(sample, Image.Image):
        sample = _from_pil(sample)
    if _is_tensor(sample):
        sample = _tensor_to_images(sample)
    if not isinstance(sample, np.ndarray):
        raise TypeError(f"expected a path, an image or an array, got {type(sample).__name__}")
    state = xxhash.xxh3_128(f"{sample.dtype.str}{sample.shape}".encode())
    state.update(np.ascontiguousarray(sample).data)
    return state.digest()


def open_image(sample) -> np.ndarray:
    """Open one image in any form as RGB.

    Parameters
    ----------
    sample : str, Path, PIL image, array or tensor
        Grey images get three equal channels; transparent pixels lie over white; rotation
        stored in the file is applied; 16-bit images keep their range.

    Returns
    -------
    ndarray of shape (h, w, 3)
        uint8 in [0, 255], or float32 in [0, 1] for float and 16-bit samples.

    Raises
    ------
    ValueError, OSError, TypeError
        Saying why the sample is no image.
    """
    if hasattr(sample, "open_view"):
        return sample.open_view()
    if isinstance(sample, str | os.PathLike):
        with _open_file(Path(sample)) as image:
            return _from_pil(image)
    if isinstance(sample, Image.Image):
        return _from_pil(sample)
    if _is_tensor(sample):
        sample = _tensor_to_images(sample)
    if isinstance(sample, np.ndarray):
        return _from_array(sample)
    raise TypeError(f"expected a path, an image or an array, got {type(sample).__name__}")


def _open_file(path: Path) -> Image.Image:
    content = path.read_bytes()
    try:
        return Image.open(io.BytesIO(content))
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image ({len(content)} bytes)") from None


def _from_pil(image: Image.Image) -> np.ndarray:
    try:
        image = ImageOps.exif_transpose(image)
    except OSError as error:  # the pixels end before the image does
        raise ValueError(f"damaged image ({error})") from None
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_array(_deep(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return np.asarray(image.convert("RGB"))


def _deep(image: Image.Image) -> np.ndarray:
    """Read the modes of more than 8 bits. Pillow opens 16-bit files as 32-bit integers, too."""
    array = np.asarray(image)
    if array.dtype.kind == "f":
        return array
    return (array / 65535).astype(np.float32)


def _from_array(array: np.ndarray) -> np.ndarray:
    array = _to_range(array)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(f"an array of shape {array.shape} is no image (h, w) or (h, w, channels)")
    channels = array.shape[2]
    if channels == 1:
        return np.repeat(array, 3, axis=2)
    if channels == 4:
        return _over_white(array)
    if channels != 3:
        raise ValueError(f"{channels} channels; an image has 1, 3 or 4 (torch: channels first)")
    return array


def _over_white(array: np.ndarray) -> np.ndarray:
    top = 255 if array.dtype == np.uint8 else 1
    colour, alpha = array[..., :3].astype(np.float32), array[..., 3:].astype(np.float32) / top
    mixed = colour * alpha + top * (1 - alpha)
    return mixed.round().astype(np.uint8) if top == 255 else mixed


def _to_range(array: np.ndarray) -> np.ndarray:
    """Bring an array of any numeric type to uint8 in [0, 255] or float32 in [0, 1]."""
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == np.uint8:
        return array
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return (array / 65535).astype(np.float32)
    if array.dtype.kind not in "iuf":
        raise TypeError(f"an array of dtype {array.dtype} is no image")
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not np.isfinite([low, high]).all():
        raise ValueError("contains NaN or infinity")
    if array.dtype.kind != "f" and 0 <= low and high <= 255:
        return array.astype(np.uint8)
    if array.dtype.kind == "f" and 0 <= low and high <= 1:
        return array.astype(np.float32)
    raise ValueError(
        f"{array.dtype} values from {low:g} to {high:g}: give floats in [0, 1], or uint8. "
        f"Perhaps divide by {_divisor(high)}."
    )


def _divisor(high: float) -> int:
    return next((top for top in (16, 255, 4095) if high <= top), 65535)
