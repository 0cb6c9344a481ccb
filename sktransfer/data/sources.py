"""Open the samples of datasets and of arrays on disk one by one."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

__all__ = ["Item", "Loaded", "as_items", "image_of", "is_dataset", "is_stored_array"]

# Keys of the image in a sample that is a dictionary: of Hugging Face, and of WebDataset.
_IMAGE_KEYS = ("image", "img", "jpg", "jpeg", "png", "webp")


class Loaded(NamedTuple):
    """A sample of a dataset in memory.

    Parameters
    ----------
    sample : object
        An image as users may give it.
    bytes_read : int
        Its size.
    """

    sample: object
    bytes_read: int


class Item:
    """A sample of a dataset that is not opened yet.

    Parameters
    ----------
    dataset : object
        With ``__getitem__``.
    index : int
    key : str, int or None, default=None
        Of the image among the parts of a sample. None for the first part of a tuple, and for the
        usual keys of dictionaries.
    """

    dataset: Any
    index: int
    key: str | int | None
    __slots__ = ("dataset", "index", "key")

    def __init__(self, dataset: Any, index: int, key: str | int | None = None):
        self.dataset, self.index, self.key = dataset, index, key

    def load(self) -> Loaded:
        """Open the sample, and take the image out of it."""
        sample = image_of(self.dataset[self.index], self.key)
        return Loaded(sample, _size(sample))

    def __repr__(self) -> str:
        return f"item {self.index} of {type(self.dataset).__name__}"


def image_of(item: Any, key: str | int | None = None) -> Any:
    """Return the image in a sample of a dataset.

    Parameters
    ----------
    item : object
        An image, a tuple that begins with it, or a dictionary that contains it.
    key : str, int or None, default=None
        Of the image; None takes the first of a tuple, and the usual names in a dictionary.

    Returns
    -------
    object
    """
    if hasattr(item, "as_py"):  # a scalar of pyarrow
        item = item.as_py()
    if key is not None:
        return item[key]
    if isinstance(item, tuple | list) and item:
        return item[0]
    names = [name for name in _IMAGE_KEYS if isinstance(item, Mapping) and name in item]
    return item[names[0]] if names else item


def _size(sample) -> int:
    """Return the bytes of an image in memory."""
    if hasattr(sample, "nbytes"):  # arrays, tensors, memoryviews
        return int(sample.nbytes)
    if hasattr(sample, "getbands"):  # of Pillow
        return sample.width * sample.height * len(sample.getbands())
    return len(sample) if isinstance(sample, bytes | bytearray) else 0


def is_dataset(X: object) -> bool:
    """Tell whether X has samples that can be opened one by one, and is no mapping."""
    has_length = hasattr(X, "__len__") or hasattr(X, "shape")  # arrays of zarr have no len()
    return has_length and hasattr(X, "__getitem__") and not isinstance(X, Mapping | str)


def _length(X) -> int:
    return int(X.shape[0]) if is_stored_array(X) else len(X)


def is_stored_array(X: object) -> bool:
    """Tell whether X is an array of another library, such as h5py, zarr and dask."""
    return is_dataset(X) and hasattr(X, "shape") and hasattr(X, "dtype")


def as_items(X: Any, key: str | int | None = None) -> list[Item]:
    """List the samples of a dataset without opening them.

    Parameters
    ----------
    X : object
        With ``__len__`` or ``shape``, and ``__getitem__``. An array that is stored or computed in
        chunks is read chunk by chunk, and the last chunk is kept.
    key : str, int or None, default=None
        As in :class:`Item`.

    Returns
    -------
    list of Item
    """
    source = _Chunks(X) if is_stored_array(X) else X
    return [Item(source, i, key) for i in range(_length(X))]


class _Chunks:
    """Rows of an array that is stored or computed in chunks; the last chunk stays in memory.

    Parameters
    ----------
    array : object
        Of h5py, zarr, dask and others.
    """

    def __init__(self, array):
        self.array = array
        self.ends = _ends_of_chunks(array)
        self.lock = threading.Lock()
        self.start, self.rows = 0, None

    def __getitem__(self, i: int):
        if self.ends is None:
            return np.asarray(self.array[i])[()]
        with self.lock:
            if self.rows is None or not self.start <= i < self.start + len(self.rows):
                k = int(np.searchsorted(self.ends, i, side="right"))
                self.start = int(self.ends[k - 1]) if k else 0
                self.rows = np.asarray(self.array[self.start : int(self.ends[k])])
            return self.rows[i - self.start]

    def __reduce__(self):
        return type(self), (self.array,)


def _ends_of_chunks(array) -> np.ndarray | None:
    """Return the row after each chunk, or None if rows can be read one by one."""
    chunks = getattr(array, "chunks", None)
    if not chunks:
        return None
    first, n = chunks[0], _length(array)
    if isinstance(first, tuple):  # dask
        return np.cumsum(first)
    return np.minimum(np.arange(first, n + first, first), n)
