"""The modality of images: files, PIL images, arrays and tensors, from X to pixels in RGB."""

from __future__ import annotations

import contextlib
import glob
import io
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import xxhash
from PIL import ExifTags, Image, ImageOps
from sklearn.utils import check_array

from .contents import (
    IMAGE_SUFFIX,
    Encoded,
    Item,
    Loaded,
    as_items,
    has_scheme,
    is_dataset,
    is_encoded,
    is_npy,
    is_stored_array,
    open_locally,
    read_encoded,
    read_npy,
)
from .limits import check_format, check_pixels, check_scans, open_listed
from .modality import Modality, Parts, SampleView, register_modality
from .samples import digest_array, is_whole, plain_array, short_name, unwrap_column

CHANNELS = (1, 3, 4)  # of an image that becomes RGB
_STRIP = 2**22  # pixels of an image that are converted at a time
# Values of images after the means and standard deviations of ImageNet: from -2.12 to 2.64.
_NORMALISED = 3
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the first bytes, also of BigTIFF
_ONE_CHANNEL = ("L", "F", "I")  # modes of Pillow
_MOST_PAGES = 512  # that may be channels
_CELLS = 8  # along each side of an image, of which each may be left out
_SOUND_CHANNELS, _SOUND_LENGTH = 8, 1000  # at most and at least, of an array that may be a sound
_SOUNDS = "sounds and the like need a network of your own: load_backbone(module, modality='array')"


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
    channels: tuple[int, ...] | None = CHANNELS  # that an image may have; None for any number
    usual_backbone = "efficientnet_lite0"

    def check(
        self,
        X: Any,
        *,
        image_shape: tuple[int, ...] | None = None,
        validate: Callable[..., Any] = check_array,
    ) -> list[Any]:
        if image_shape is None:
            return as_samples(X, channels=self.channels)
        shape = check_image_shape(image_shape, self.channels)
        try:
            X = validate(X, dtype=None)
        except ValueError as error:
            raise ValueError(
                f"image_shape={shape} needs a table with one flattened image in each row: {error}"
            ) from error
        return as_samples(X, shape, self.channels)

    def read(self, sample: Any) -> Any:
        """Read a sample into memory if it is an encoded image or one of a dataset.

        Others, which are PIL images, arrays, tensors or views, are returned unchanged. Errors are
        those of :func:`read_encoded`.
        """
        # The most frequent samples in memory; the other tests take longer than a digest.
        if type(sample) is Encoded or (type(sample) is np.ndarray and sample.ndim > 1):
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

    def in_memory(self, sample: Any) -> Any:
        """Read a sample, and return what it is: an image, an array, a file or a view."""
        sample = self.read(sample)
        return sample.sample if isinstance(sample, Loaded) else sample

    def digest(self, sample: Any) -> bytes:
        """Return 16 bytes that are equal only for equal images; of a file, its content decides."""
        sample = self.in_memory(sample)
        if isinstance(sample, SampleView):
            return sample.digest()
        if isinstance(sample, Encoded):
            state = xxhash.xxh3_128(b"file")
            state.update(sample.content)
            return state.digest()
        if isinstance(sample, Image.Image):
            return digest_array(self.pixels(sample))
        return digest_array(image_numbers(sample))

    def open(self, sample: Any) -> np.ndarray:
        """Convert one image, as :meth:`read` takes it, to RGB: ``(h, w, 3)``.

        It is uint8 in [0, 255], or float32 in [0, 1] for float and 16-bit samples. Greyscale images
        get three equal channels, transparent pixels are composed with a white background, the EXIF
        orientation is applied, and 16-bit images keep their range. ``ValueError``, ``OSError``,
        ``TypeError`` or ``MemoryError`` if the sample is not an image or cannot be read.
        """
        sample = self.in_memory(sample)
        if isinstance(sample, SampleView):
            return sample.open()
        if isinstance(sample, Encoded) and is_npy(sample.content):
            return _from_array(image_numbers(read_npy(sample.content)))
        if isinstance(sample, Encoded):
            _warn_of_pages(sample.content)
            return self.pixels(open_encoded(sample))  # without a name, to be freed early
        if isinstance(sample, Image.Image):
            _warn_of_other_pages(sample)
            return self.pixels(sample)
        return _from_array(image_numbers(sample))

    def pixels(self, image: Image.Image) -> np.ndarray:
        """Decode an image that Pillow has opened, and convert it as :meth:`open` does."""
        check_format(image)
        check_pixels(image)
        try:
            image.load()
            image = ImageOps.exif_transpose(image) if is_turned(image) else image
            if image.mode == "F" or image.mode.startswith("I"):
                array = np.asarray(image)  # 16-bit files may have 32-bit modes
                if array.dtype.kind != "f":
                    array = np.divide(array, 65535, dtype=np.float32)
                return _from_array(array)
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

    def example(self, shape: tuple[int, ...] | None = None) -> np.ndarray:
        height, width, n_channels = shape or (240, 320, 3)
        y, x, channel = np.ogrid[:height, :width, :n_channels]
        return ((3 * x + 5 * y) * (channel + 1) ^ (x * y // 64)).astype(np.uint8)

    def side(self, sample: Any) -> int | None:
        """Return the shorter side of an image in pixels, of an encoded one from its header.

        None for an image that cannot be read, for one of another machine, and for a view.
        """
        if isinstance(sample, Image.Image):
            return min(sample.size)
        if not is_encoded(sample):
            shape = getattr(sample, "shape", ())
            shape = shape[-2:] if is_tensor(sample) else shape[:2]
            return min(shape) if len(shape) == 2 else None
        if isinstance(sample, str) and has_scheme(sample) and sample[:5] not in ("file:", "data:"):
            return None
        try:
            is_name = isinstance(sample, str | os.PathLike) and not str(sample).startswith("data:")
            opened = open_locally(sample) if is_name else io.BytesIO(read_encoded(sample).content)
            with opened as file, open_listed(file) as image:
                return min(image.size)
        except Exception:  # it is named where it is opened
            return None

    def for_transform(self, opened: np.ndarray) -> Any:
        if opened.dtype != np.uint8:
            opened = (opened * 255).round().astype(np.uint8)
        return Image.fromarray(opened)

    def preview(self, sample: Any, side: int = 160) -> Image.Image:
        image = self.for_transform(self.open(self.read(sample)))
        image.thumbnail((side, side))
        return image

    def looks_like(self, cells: Sequence[Any]) -> bool:
        def is_image(cell: Any) -> bool:
            if isinstance(cell, str):
                return has_scheme(cell) or IMAGE_SUFFIX.search(cell) is not None
            is_pixels = getattr(cell, "ndim", 0) > 1 or isinstance(cell, Image.Image)
            return is_pixels or is_encoded(cell)

        return all(map(is_image, cells))

    def parts(self, sample: Any) -> ImageParts:
        return ImageParts(self.open(self.read(sample)))

    def make_noise(self, n: int, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
        return rng.integers(0, 256, (n, *shape[1:], shape[0]), dtype=np.uint8)


def check_image_shape(
    image_shape: Any, channels: tuple[int, ...] | None = CHANNELS
) -> tuple[int, ...]:
    """Check the parameter ``image_shape``: ``(height, width)`` or ``(height, width, channels)``.

    ``channels`` are the numbers of channels that are taken; None for any number.
    """
    shape = tuple(np.atleast_1d(np.asarray(image_shape, dtype=object)).tolist())
    fits = all(map(is_whole, shape)) and len(shape) in (2, 3) and min(shape) > 0
    if not fits or (len(shape) == 3 and channels and shape[2] not in channels):
        allowed = ", with 1, 3 or 4 channels" if channels else ""
        more = f" {_more_channels(shape[2])}." if fits else ""
        raise ValueError(
            f"image_shape={image_shape!r}: give (height, width) or (height, width, channels) of "
            f"the images in a table, in pixels{allowed}.{more}"
        )
    return tuple(int(n) for n in shape)


def as_samples(
    X: Any,
    image_shape: tuple[int, ...] | None = None,
    channels: tuple[int, ...] | None = CHANNELS,
) -> list[Any]:
    """Convert a container of images to a list, without opening the images.

    These are paths, encoded images, PIL images, arrays ``(h, w)`` or ``(h, w, channels)``, tensors
    ``(channels, h, w)``; or one array of images of one size; or, with ``image_shape``, a table with
    one flattened image in each row. Datasets and arrays of other libraries need ``__len__`` and
    ``__getitem__``; for each of their samples there is an :class:`Item`. ``channels`` are the
    numbers of channels that an image may have; None for any number.

    ``ValueError`` or ``TypeError`` if X is a single image, is empty, or is neither a list of images
    nor an array with the shape of several images.
    """
    if isinstance(X, Image.Image) or is_encoded(X):
        raise _single(X)
    if is_tensor(X):
        # probably (channels, h, w)
        if X.ndim == 3 and (channels is None or (len(X) in channels and len(X) > 1)):
            raise TypeError(
                f"X is a tensor of shape {tuple(X.shape)}, which may be one image or {len(X)} "
                "greyscale images. Pass X[None] for one image, or X[:, None] for greyscale images."
            )
        X = tensor_to_images(X) if X.ndim > 3 else X.detach().cpu().numpy()
    elif not isinstance(X, list | tuple):
        X = unwrap_column(X)
    if isinstance(X, list | tuple):
        samples = _reshaped(X, image_shape)
    elif isinstance(X, np.ndarray):
        X = plain_array(X, "X")
        if X.ndim == 2 and X.shape[1] == 1 and X.dtype.kind in "OUS":  # a column of a table
            X = X[:, 0]
        if X.ndim == 1 and X.dtype.kind in "OUS":
            samples = _reshaped(X.tolist(), image_shape)
        elif X.ndim == 2 and image_shape is not None:
            samples = _reshaped(X, image_shape)
        else:
            _check_shape(X, channels)
            samples = list(X)
    elif is_dataset(X):
        if is_stored_array(X):
            _check_shape(X, channels)
        samples = as_items(X)
    elif hasattr(X, "__array__"):
        return as_samples(np.asarray(X), image_shape, channels)
    else:
        message = f"X must be a list, an array or a column of images, got {type(X)}."
        if hasattr(X, "dataset") and hasattr(X, "batch_size"):
            message += " Of a loader give its dataset: X, y = from_dataset(loader.dataset)."
        elif hasattr(X, "__iter__"):
            message += " Collect its images: list(X)."
        raise TypeError(message)
    if not samples:
        raise ValueError("Found array with 0 sample(s) while a minimum of 1 is required.")
    return samples


def _single(X) -> TypeError:
    """Say what to give instead of one image, or of the name of a folder, a pattern or a table."""
    name = os.fspath(X) if isinstance(X, str | os.PathLike) else ""
    if os.path.isdir(os.path.expanduser(name)):
        how = "X, y = load_image_folder(folder)"
        return TypeError(f"X is a folder, {short_name(X)}: list its images with {how}.")
    if glob.has_magic(name) and not os.path.exists(name):
        return TypeError(f"X is a pattern, {short_name(X)}: give sorted(glob.glob(pattern)).")
    if name.lower().endswith((".csv", ".tsv", ".parquet", ".jsonl")):
        return TypeError(f"X is a table, {short_name(X)}: X, y = load_image_table(table).")
    return TypeError(f"X must be a list of images, got one image: {short_name(X)}. Pass [image].")


def _check_shape(X, channels) -> None:
    """Refuse an array whose shape is not that of several images."""
    shape = tuple(X.shape)
    if len(shape) == 1 and X.dtype.kind in "OSU":
        return
    if len(shape) == 3 and channels and shape[-1] in channels and shape[-1] > 1:
        raise _single(X)
    if len(shape) == 3 or (len(shape) == 4 and (channels is None or shape[-1] in channels)):
        return
    hint = ""
    if len(shape) == 4:
        n, first = min(shape[1], shape[-1]), shape[1] < shape[-1]
        hint = " The channels are first: give X.transpose(0, 2, 3, 1)." if first else ""
        hint += "" if n in CHANNELS else f" {_more_channels(n)}."
    raise ValueError(
        f"X has the shape {shape} and the dtype {X.dtype}.{hint} Images have the shape (n, h, w) "
        "or (n, h, w, channels), or (n, channels, h, w) as a torch tensor. Flattened images need "
        "image_shape=(h, w) or (h, w, channels). A table of file names must have one column."
        + (f" {_SOUNDS[0].upper()}{_SOUNDS[1:]}." if len(shape) == 2 else "")
    )


def _reshaped(samples: Any, image_shape: tuple[int, ...] | None) -> list:
    """List samples, vectors of numbers in the shape of images."""
    images = list(samples)
    if image_shape is None:
        return images
    for i, sample in enumerate(images):
        if isinstance(sample, np.ndarray) and sample.ndim == 1:
            if sample.size != np.prod(image_shape):
                raise ValueError(
                    f"A row of X has {sample.size} values, but image_shape={tuple(image_shape)} "
                    f"needs {np.prod(image_shape)}."
                )
            images[i] = sample.reshape(image_shape)
    return images


# -- tensors ---------------------------------------------------------------------------------------


def is_tensor(X: object) -> bool:
    """Tell whether X is a tensor of torch or of a subclass, without importing torch."""
    packages = (cls.__module__.partition(".")[0] for cls in type(X).__mro__)
    return hasattr(X, "detach") and "torch" in packages


def tensor_to_images(X: Any) -> np.ndarray:
    """Convert a tensor ``(…, channels, h, w)`` to an array ``(…, h, w, channels)``."""
    array = X.detach().cpu().numpy()
    return np.moveaxis(array, -3, -1) if array.ndim >= 3 else array


# -- files -----------------------------------------------------------------------------------------


def open_encoded(file: Encoded) -> Image.Image:
    """Read the header of an image, and refuse one with too many pixels or scans."""
    check_scans(file.content)
    try:
        return open_listed(io.BytesIO(file.content))
    except Image.UnidentifiedImageError:
        n_bytes = len(file.content)
        is_name = n_bytes < 200 and os.path.splitext(file.content)[1][1:].isalnum()
        hint = "; give names of files as str, not as bytes" if is_name else ""
        raise ValueError(f"not an image ({n_bytes} bytes){hint}") from None


def check_header(name: str | os.PathLike[str]) -> None:
    """Check that a file of this machine begins as an image, without decoding it."""
    try:
        with open_locally(name) as file:
            if is_npy(file.peek(8)[:8]):
                return
            with open_listed(file):
                pass
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image ({os.path.getsize(name)} bytes)") from None


def image_numbers(sample: Any) -> np.ndarray:
    """Return the values of an array or a tensor."""
    if is_tensor(sample):
        sample = tensor_to_images(sample)
    if sample is None or (isinstance(sample, float) and sample != sample):
        raise TypeError("a missing image: leave it out, or set missing= of the extractor")
    if not isinstance(sample, np.ndarray):
        is_row = isinstance(sample, dict)
        hint = "; of rows that are dictionaries: X, y = from_dataset(rows)" if is_row else ""
        kind = type(sample).__name__
        raise TypeError(f"expected a path, an image or an array, got {kind}{hint}")
    if sample.dtype.kind not in "biuf":
        raise TypeError(f"an array of dtype {sample.dtype} is not an image")
    return plain_array(sample)


# -- pixels ----------------------------------------------------------------------------------------


def is_turned(image: Image.Image) -> bool:
    """Tell whether the EXIF data of an image say that it is turned or mirrored."""
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


def _from_array(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[..., None]
    check_channels(array)
    array = to_range(array)
    channels = array.shape[2]
    if channels == 1 and array.dtype == np.float32:
        return np.broadcast_to(array, (*array.shape[:2], 3))  # no copies of large images
    if channels == 1:
        return np.repeat(array, 3, axis=2)
    return _over_white(array) if channels == 4 else array


def _over_white(array: np.ndarray) -> np.ndarray:
    """Compose an array ``(h, w, 4)`` with a white background, in strips."""
    result = np.empty((*array.shape[:2], 3), array.dtype)
    top = 255 if array.dtype == np.uint8 else 1
    for rows in _strips(*array.shape[:2]):
        strip = array[rows].astype(np.float32)
        colour, alpha = strip[..., :3], strip[..., 3:] / top
        mixed = colour * alpha + top * (1 - alpha)
        result[rows] = mixed.round() if top == 255 else mixed
    return result


# -- values and channels ---------------------------------------------------------------------------


def to_range(array: np.ndarray) -> np.ndarray:
    """Convert an array of any numeric type to uint8 in [0, 255] or float32 in [0, 1].

    A ``ValueError`` if values are not finite, or not in the range of their type.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.divide(array, 65535, dtype=np.float32)
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not np.isfinite([low, high]).all():
        raise ValueError("contains NaN or infinity")
    if array.dtype.kind != "f" and 0 <= low and high <= 255:
        warn_of_mask(low, high)
        return array.astype(np.uint8, copy=False)
    if array.dtype.kind == "f" and 0 <= low and high <= 1:
        return array.astype(np.float32, copy=False)
    # What sounds need, for an array that has the shape of one with some channels.
    short, long = min(array.shape[:2], default=0), max(array.shape[:2], default=0)
    is_likely = short <= _SOUND_CHANNELS and long >= _SOUND_LENGTH and array.shape[2:] in ((), (1,))
    sound_hint = f" Or, for an array of shape {array.shape[:2]}: {_SOUNDS}." if is_likely else ""
    raise ValueError(
        f"{array.dtype} values from {low:g} to {high:g}: give floats in [0, 1], or uint8. "
        f"{_hint(low, high)}{sound_hint}"
    )


def warn_of_mask(low: float, high: float) -> None:
    """Warn if the least and the greatest value of an image with 8 bits are 0 and 1."""
    if (low, high) == (0, 1):
        warnings.warn(
            "An image of integers has the values 0 and 1 only, which are both black: 255 is white. "
            "Give a mask as bool, mask.astype(bool).",
            stacklevel=2,
        )


def _warn_of_pages(content: bytes) -> None:
    """Warn if a file is a TIFF whose pages, of one channel and one size, may be channels.

    Pages in colour, in black and white, or of several sizes are those of a document.
    """
    if not content.startswith(_TIFF):
        return
    n = _count_pages(content)
    if n > 1:
        line = f'backbone=load_backbone("efficientnet_lite0", channels={n})'
        line = "arrays, np.dstack(pages)" if n == 3 else line
        warnings.warn(
            f"A TIFF file has {n} pages of one channel, of which the first is read. If they are "
            f"the channels of an image, give {line}.",
            stacklevel=2,
        )


def _warn_of_other_pages(image: Image.Image) -> None:
    """Warn of the pages of a TIFF that Pillow has opened, unless another than the first is chosen.

    The file is read again, since an image that goes through its pages loses what was changed in it.
    """
    if image.format == "TIFF" and getattr(image, "is_animated", False) and image.tell() == 0:
        # A file that is open until the image is loaded, or its name.
        file: Any = getattr(image, "fp", None) or getattr(image, "filename", None)
        with contextlib.suppress(OSError, TypeError, ValueError):  # it is closed, or elsewhere
            _warn_of_pages(read_encoded(file).content)


def _count_pages(content: bytes) -> int:
    """Count the pages of a TIFF file if all have one channel and one size; 0 if not."""
    n = 0
    try:
        with open_listed(io.BytesIO(content)) as image:
            first = image.mode, image.size
            if first[0] not in _ONE_CHANNEL and not first[0].startswith("I;"):  # 16 bits
                return 0
            while (image.mode, image.size) == first and n < _MOST_PAGES:
                n += 1
                image.seek(n)
    except EOFError:  # behind the last page
        return n
    except Exception:  # a damaged file: it is named where it is read
        return 0
    return 0


def _hint(low: float, high: float) -> str:
    """Say which conversion probably brings values into [0, 1]."""
    if -1 <= low < 0 and high <= 1:
        return "Perhaps the range is [-1, 1]: give (image + 1) / 2."
    if -_NORMALISED <= low < 0 and high <= _NORMALISED:
        return (
            "Perhaps the means and standard deviations of ImageNet were applied: give images "
            "before this step, which is part of the network's preprocessing."
        )
    if low < 0:
        return (
            "Scale all images by the same two numbers, for example from 0 to 1 with "
            f"np.clip((image - ({low:g})) / {high - low:g}, 0, 1)."
        )
    divisor = next((top for top in (16, 255, 4095) if high <= top), 65535)
    return f"Perhaps divide by {divisor}."


def check_channels(array: np.ndarray) -> None:
    """Refuse an array that is not an image ``(h, w, channels)`` with 1, 3 or 4 channels."""
    if array.ndim != 3 or 0 in array.shape:
        hint = f"; {_SOUNDS}" if array.ndim < 2 else ""
        raise ValueError(
            f"an array of shape {array.shape} is not an image (h, w) or (h, w, channels){hint}"
        )
    if array.shape[2] in CHANNELS:
        return
    n, first = min(array.shape[0], array.shape[2]), array.shape[0] < array.shape[2]
    hint = "; the channels are first: give np.moveaxis(image, 0, -1)" if first else ""
    more = "" if n in CHANNELS else f". {_more_channels(n)}"
    raise ValueError(
        f"{array.shape[2]} channels{hint}; an image has 1, 3 or 4. Tensors have the channels "
        f"first, arrays have them last{more}"
    )


def _more_channels(n: int) -> str:
    return (
        f"If these are images of {n} channels, give a network for them: "
        f'backbone=load_backbone("efficientnet_lite0", channels={n})'
    )


# -- parts -----------------------------------------------------------------------------------------


class ImageParts(Parts):
    """The cells of a grid over an image. A cell that is left out has the mean colour."""

    shown: Any
    shape: tuple[int, ...]

    def __init__(self, image: np.ndarray):
        self.image = self.shown = image
        self.shape = tuple(min(_CELLS, side) for side in image.shape[:2])

    def keep(self, kept: np.ndarray) -> np.ndarray:
        rows, columns = (
            np.arange(side) * cells // side
            for side, cells in zip(self.image.shape[:2], self.shape, strict=True)
        )
        colour = self.image.mean((0, 1)).astype(self.image.dtype)
        return np.where(kept[np.ix_(rows, columns)][..., None], self.image, colour)


register_modality(ImageModality())
