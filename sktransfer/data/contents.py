"""Read samples into memory: encoded images from files, bytes and URLs, and samples of datasets."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import errno
import glob
import io
import math
import os
import re
import stat
import threading
from collections.abc import Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote_to_bytes, urlsplit

import numpy as np
from numpy.lib import format as npy
from PIL import Image

from .limits import check_size, max_bytes, run_in_time

# At least two letters, because a single one is a drive of Windows.
_SCHEME = re.compile(r"(data:|[a-z][a-z0-9+.-]+://)", re.IGNORECASE)
# Ends the name of a file that is an image.
IMAGE_SUFFIX = re.compile(
    r"\.(?:jpe?g|jfif|png|webp|avif|heic|heif|tiff?|gif|bmp|ppm|pgm|jp2|npy)$", re.IGNORECASE
)
_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0)  # not on Windows
_READ_ONLY = os.O_RDONLY | getattr(os, "O_BINARY", 0) | _WITHOUT_WAITING
_REST = 2**16  # bytes read at a time of a file that has another size than it said
# Keys of the image in a sample that is a dictionary: of Hugging Face, and of WebDataset.
_IMAGE_KEYS = ("image", "img", "jpg", "jpeg", "png", "webp")
_POSITION = threading.Lock()  # two threads may read the same open file


@dataclasses.dataclass(frozen=True, repr=False)
class Encoded:
    """The content of an image file: the digest and the pixels come from the same bytes.

    Parameters
    ----------
    source : object, default=None
        The sample that was read.
    """

    content: bytes
    source: object = None

    @property
    def bytes_read(self) -> int:
        """Number of bytes of the file."""
        return len(self.content)


def has_scheme(name: str) -> bool:
    """Tell whether a name is a URL, such as ``https://…``, ``s3://…`` and ``data:…``."""
    return _SCHEME.match(name) is not None


def is_encoded(sample: object) -> bool:
    """Tell whether a sample is the name or the content of an image file."""
    return _reader_of(sample) is not None


def read_encoded(sample: Any) -> Encoded:
    """Read an encoded image into memory.

    It is the name of a file, or a URL; its content; a binary file that is open; an object with
    ``open``, such as members of archives and files of fsspec; or a dictionary with "bytes" or
    "path", as Hugging Face writes them. ``OSError``, ``ValueError`` or ``TypeError`` if it cannot
    be read, is not a regular file or is too large; ``ImportError`` if a URL needs a package that is
    not installed.
    """
    read = _reader_of(sample)
    if read is None:
        raise TypeError(f"{type(sample).__name__} is no encoded image")
    return Encoded(read(sample), sample)


def _reader_of(sample: Any) -> Callable[[Any], bytes] | None:
    """Return the function that reads a sample, or None if it is not an encoded image."""
    if isinstance(sample, str | os.PathLike):
        return _read_name
    # A vector of bytes is what np.fromfile gives, and what HDF5 stores.
    is_array = isinstance(sample, np.ndarray)
    if is_array and sample.ndim == 1 and sample.dtype == np.uint8:
        return _read_bytes
    if isinstance(sample, bytes | bytearray | memoryview):
        return _read_bytes
    if isinstance(sample, dict):
        is_empty = sample.get("bytes") is None and sample.get("path") is None
        return None if is_empty else _read_dict
    if hasattr(sample, "read"):
        return _read_open
    is_image = isinstance(sample, Image.Image) or hasattr(sample, "shape")
    return _open_and_read if hasattr(sample, "open") and not is_image else None


# -- names -----------------------------------------------------------------------------------------


def _read_name(name: str | os.PathLike) -> bytes:
    text = os.fspath(name)
    if not isinstance(text, str) or not has_scheme(text):
        return _read_file(os.path.expanduser(text))
    if text[:5].lower() == "data:":
        return _decode_data(text)
    return _read_file(_local(text)) if _is_local(text) else _fetch(text)


def _read_file(path: str | os.PathLike) -> bytes:
    try:
        file = os.open(path, _READ_ONLY)  # a file object takes half as long again
        try:
            status = os.fstat(file)
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            if not stat.S_ISREG(status.st_mode):
                raise ValueError("not a regular file, but a pipe or a device")
            check_size(status.st_size)
            content = os.read(file, status.st_size + 1)  # mostly all
            if len(content) == status.st_size:
                return content
            return b"".join([content, *iter(lambda: os.read(file, _REST), b"")])
        finally:
            os.close(file)
    except OSError as error:
        raise _with_hint(error, os.fsdecode(path)) from None


def open_locally(name: str | os.PathLike[str]) -> BufferedReader:
    """Open a binary file of this machine, without waiting if it is a pipe.

    In its name, ``~`` is the home folder, and ``file://`` is understood.
    """
    text = os.fspath(name)
    path = _local(text) if isinstance(text, str) and _is_local(text) else os.path.expanduser(text)
    return open(path, "rb", opener=_open_without_waiting)


def _open_without_waiting(path, flags: int) -> int:
    """Open a file without waiting, which a pipe does until something is written to it."""
    return os.open(path, flags | _WITHOUT_WAITING)


def _is_local(url: str) -> bool:
    return url[:7].lower() == "file://"


def _local(url: str) -> str:
    """Return the path of a URL with the scheme ``file``."""
    from urllib.request import url2pathname  # imports an HTTP client

    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ValueError(f"file://{parts.netloc} is another machine; file:///… is this one")
    return os.path.expanduser(url2pathname(url.partition("://")[2].removeprefix(parts.netloc)))


def _with_hint(error: OSError, path: str) -> OSError:
    """Say what to do if the name is a folder, or is no name but a text."""
    if isinstance(error, IsADirectoryError) or os.path.isdir(path):
        hint = "Is a directory; load_image_folder(folder) lists its images and labels"
    elif glob.has_magic(path):
        hint = "no such file; is it a pattern? sorted(glob.glob(pattern)) lists files"
    elif " " in path.strip() and not Path(path[-20:]).suffix:
        hint = "no such file; is it a text? Texts need a network for texts: backbone='e5_small'"
    else:
        return error
    return type(error)(error.errno, hint)


def _decode_data(uri: str) -> bytes:
    """Decode a data URI (RFC 2397)."""
    head, comma, body = uri.partition(",")
    if not comma:
        raise ValueError("a data URI has a comma before its content: data:image/png;base64,…")
    content = unquote_to_bytes(body)
    try:
        return base64.b64decode(content) if head.endswith(";base64") else content
    except binascii.Error as error:
        raise ValueError(f"a data URI that is not base64 ({error})") from None


# -- other machines --------------------------------------------------------------------------------


def _fetch(url: str) -> bytes:
    """Read a URL through fsspec."""
    try:
        import fsspec

        system, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise ImportError(
            f"{url.partition(':')[0]}:// needs packages: pip install 'sktransfer[remote]' ({error})"
        ) from None
    # A stream takes one request, and needs no server that sends parts of files.
    settings = {"block_size": 0} if url.lower().startswith("http") else {}
    return run_in_time(lambda: _read_all(system.open(path, "rb", **settings)))


def _read_all(file) -> bytes:
    with file:
        return _limited(file)


# -- contents --------------------------------------------------------------------------------------


def _limited(file) -> bytes:
    """Read a file to its end, or to one byte more than allowed.

    A file from another machine returns what has arrived, and less than was asked for.
    """
    limit, n_bytes = max_bytes(), 0
    contents = []
    while content := file.read() if limit is None else file.read(limit + 1 - n_bytes):
        if isinstance(content, str):
            raise TypeError("the file is open for text: open it with mode='rb'")
        if not isinstance(content, bytes | bytearray | memoryview):
            raise TypeError("its read() returns no bytes")
        n_bytes += len(content)
        check_size(n_bytes)
        contents.append(content)
    return b"".join(contents)


def _read_bytes(sample) -> bytes:
    check_size(memoryview(sample).nbytes)
    return bytes(sample)


def _read_open(file) -> bytes:
    """Read an open file from its start, as Pillow does, and leave it where it was."""
    file = getattr(file, "file", file)  # an upload of Starlette
    with _POSITION:
        try:
            before = file.tell()
            file.seek(0)
        except (AttributeError, OSError):
            raise ValueError(
                "a stream, which can be read only once: give its content, file.read()"
            ) from None
        content = _limited(file)
        file.seek(before)
    return content


def _read_dict(sample: dict) -> bytes:
    content = sample.get("bytes")
    return read_encoded(sample["path"] if content is None else content).content


def _open_and_read(sample) -> bytes:
    """Read a member of an archive, a path of another library or an OpenFile of fsspec."""
    is_openfile = hasattr(sample, "__enter__")
    return run_in_time(lambda: _read_all(sample.open() if is_openfile else sample.open("rb")))


def is_npy(content: bytes) -> bool:
    """Tell whether a file begins as an array that NumPy saved."""
    return content.startswith(b"\x93NUMPY")


def read_npy(content: bytes) -> np.ndarray:
    """Read an array of numbers that NumPy saved, without running code in it."""
    file = io.BytesIO(content)
    try:
        version = npy.read_magic(file)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, _, dtype = read(file)
        needed = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or needed > len(content) - file.tell():
            raise ValueError("it holds objects, or fewer numbers than its header says")
        file.seek(0)
        return npy.read_array(file, allow_pickle=False)
    except MemoryError:
        raise
    except Exception as error:  # a damaged header can raise anything
        raise ValueError(f"not an array of numbers in a .npy file ({error})") from None


# -- samples of datasets ---------------------------------------------------------------------------


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

    The sample is an image, a tuple that begins with it, or a dictionary that contains it. Without a
    key, it is the first of a tuple, or under one of the usual names of a dictionary.
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

    An array that is stored or computed in chunks is read chunk by chunk, and the last chunk is
    kept.
    """
    source = _Chunks(X) if is_stored_array(X) else X
    return [Item(source, i, key) for i in range(_length(X))]


class _Chunks:
    """Rows of an array that is stored or computed in chunks; the last chunk stays in memory."""

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
