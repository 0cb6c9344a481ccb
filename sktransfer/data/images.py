"""The modality of images: files, PIL images, arrays and tensors."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
from PIL import Image
from sklearn.utils import check_array

from .base import plain_array, short_name, unwrap_column
from .contents import is_encoded
from .modality import Modality, register_modality
from .parts import ImageParts
from .pixels import (
    digest,
    is_tensor,
    open_image,
    read_image,
    shorter_side,
    tensor_to_images,
)
from .sources import as_items, is_dataset, is_stored_array

__all__ = ["ImageModality", "as_samples", "check_image_shape"]


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
    takes_files = True

    def check(
        self,
        X: Any,
        *,
        image_shape: tuple[int, ...] | None = None,
        validate: Callable[..., Any] = check_array,
    ) -> list[Any]:
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

    def read(self, sample: Any) -> Any:
        return read_image(sample)

    def digest(self, sample: Any) -> bytes:
        return digest(sample)

    def open(self, sample: Any) -> np.ndarray:
        return open_image(sample)

    def example(self, shape: tuple[int, ...] | None = None) -> np.ndarray:
        height, width, n_channels = shape or (240, 320, 3)
        y, x, channel = np.ogrid[:height, :width, :n_channels]
        return ((3 * x + 5 * y) * (channel + 1) ^ (x * y // 64)).astype(np.uint8)

    def side(self, sample: Any) -> int | None:
        return shorter_side(sample)

    def for_transform(self, opened: np.ndarray) -> Image.Image:
        if opened.dtype != np.uint8:
            opened = (opened * 255).round().astype(np.uint8)
        return Image.fromarray(opened)

    def preview(self, sample: Any, side: int = 160) -> Image.Image:
        image = self.for_transform(self.open(self.read(sample)))
        image.thumbnail((side, side))
        return image

    def parts(self, sample: Any) -> ImageParts:
        return ImageParts(self.open(self.read(sample)))

    def make_noise(self, n: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 256, (n, *shape[1:], 3), dtype=np.uint8)


def check_image_shape(image_shape: Any) -> tuple[int, ...]:
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


def as_samples(X: Any, image_shape: tuple[int, ...] | None = None) -> list[Any]:
    """Convert a container of images to a list, without opening the images.

    Parameters
    ----------
    X : list, array, tensor, Series or DataFrame with one column, or dataset
        Paths, encoded images, PIL images, arrays ``(h, w)`` or ``(h, w, channels)``, tensors
        ``(channels, h, w)``; or one array of images of one size; or, with ``image_shape``,
        a table with one flattened image in each row. Datasets and arrays of other libraries
        need ``__len__`` and ``__getitem__``.
    image_shape : tuple of int, default=None
        ``(h, w)`` or ``(h, w, channels)`` of each row of a table.

    Returns
    -------
    list
        The images, unchanged; an :class:`Item` for each sample of a dataset.

    Raises
    ------
    ValueError, TypeError
        If X is a single image, is empty, or is neither a list of images nor an array with the
        shape of several images.
    """
    _refuse_single(X)
    X = _tensor_to_array(X) if is_tensor(X) else unwrap_column(X)
    if isinstance(X, np.ndarray):
        samples = _split_array(plain_array(X, "X"), image_shape)
    elif isinstance(X, list | tuple):
        samples = [_reshape(sample, image_shape) for sample in X]
    elif is_dataset(X):
        if is_stored_array(X):
            _check_shape(X)
        samples = as_items(X)
    elif hasattr(X, "__array__"):
        return as_samples(np.asarray(X), image_shape)
    else:
        raise _not_a_container(X)
    if not samples:
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    return samples


def _refuse_single(X) -> None:
    if isinstance(X, Image.Image):
        raise _single(X)
    if is_encoded(X):
        raise _instead_of_name(X) if isinstance(X, str | os.PathLike) else _single(X)


def _instead_of_name(X) -> TypeError:
    """Say how to list the images of a folder, a pattern or a table."""
    name = os.fspath(X)
    if os.path.isdir(os.path.expanduser(name)):
        how = "X, y = load_image_folder(folder)"
        return TypeError(f"X is a folder, {short_name(X)}: list its images with {how}.")
    if glob.has_magic(name) and not os.path.exists(name):
        return TypeError(f"X is a pattern, {short_name(X)}: give sorted(glob.glob(pattern)).")
    if name.lower().endswith((".csv", ".tsv", ".parquet", ".jsonl")):
        return TypeError(f"X is a table, {short_name(X)}: X, y = load_image_table(table).")
    return _single(X)


def _single(X) -> TypeError:
    return TypeError(f"X must be a list of images, got one image: {short_name(X)}. Pass [image].")


def _not_a_container(X) -> TypeError:
    message = f"X must be a list, an array or a column of images, got {type(X)}."
    if hasattr(X, "dataset") and hasattr(X, "batch_size"):
        message += " Of a loader give its dataset: X, y = from_dataset(loader.dataset)."
    elif hasattr(X, "__iter__"):
        message += " Collect its images: list(X)."
    return TypeError(message)


def _tensor_to_array(X) -> np.ndarray:
    if X.ndim == 3 and len(X) in (3, 4):  # probably (channels, h, w)
        raise TypeError(
            f"X is a tensor of shape {tuple(X.shape)}, which may be one image or {len(X)} "
            "greyscale images. Pass X[None] for one image, or X[:, None] for greyscale images."
        )
    return tensor_to_images(X) if X.ndim > 3 else X.detach().cpu().numpy()


def _split_array(X: np.ndarray, image_shape) -> list:
    if X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "OUS":  # a column of a table
        X = X[:, 0]
    if X.ndim == 1 and X.dtype.kind in "OUS":
        return [_reshape(sample, image_shape) for sample in X.tolist()]
    if X.ndim == 2 and image_shape is not None:
        return [_reshape(row, image_shape) for row in X]
    _check_shape(X)
    return list(X)


def _check_shape(X) -> None:
    """Refuse an array whose shape is not that of several images."""
    shape = tuple(X.shape)
    if len(shape) == 1 and X.dtype.kind in "OSU":
        return
    if len(shape) == 3 and shape[-1] in (3, 4):
        raise _single(X)
    if len(shape) == 3 or (len(shape) == 4 and shape[-1] in (1, 3, 4)):
        return
    first = len(shape) == 4 and shape[1] in (1, 3, 4)
    hint = " The channels are first: give X.transpose(0, 2, 3, 1)." if first else ""
    raise ValueError(
        f"X has the shape {shape} and the dtype {X.dtype}.{hint} Images have the shape (n, h, w) "
        "or (n, h, w, channels), or (n, channels, h, w) as a torch tensor. Flattened images need "
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


register_modality(ImageModality())
