"""Tables of results: in memory, or in a temporary file where they are large."""

from __future__ import annotations

import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np

_IN_MEMORY = 2**31  # bytes of one table; larger ones go to disk
_AT_ONCE = 2**20  # bytes written at a time
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


def empty_table(
    shape: tuple[int, ...], dtype: np.dtype, in_memory: int | None = None
) -> np.ndarray:
    """Return an array to be filled, in memory or, above 2 GiB, in a file without a name.

    The space on disk is reserved at once: a write to a mapped file on a full disk would kill the
    process.

    Parameters
    ----------
    shape : tuple of int
    dtype : numpy.dtype
    in_memory : int, default=None
        Bytes above which the array is in a file; None is 2 GiB.

    Returns
    -------
    ndarray
        Its values are undefined.

    Raises
    ------
    OSError
        If the disk of temporary files has no room for it.
    """
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    limit = _IN_MEMORY if in_memory is None else in_memory
    if n_bytes <= limit or dtype.hasobject:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(buffering=0) as file:
        _reserve(file, n_bytes)
        mapped = mmap.mmap(file.fileno(), n_bytes)
    # Not np.memmap: joblib would send the name of its file to other processes, and it has none.
    return np.ndarray(shape, dtype, mapped)


def _reserve(file, n_bytes: int) -> None:
    try:
        _allocate(file, n_bytes)
    except OSError as error:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        raise OSError(
            error.errno,
            f"{_megabytes(n_bytes)} of temporary disk space are needed, and {folder} has "
            f"{_megabytes(free)} free ({error.strerror}): make room there, set TMPDIR to another "
            "folder, or compute fewer samples at a time.",
        ) from error


def _allocate(file, n_bytes: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except AttributeError:  # not on macOS and Windows
        _write_zeros(file, n_bytes)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _write_zeros(file, n_bytes)


def _write_zeros(file, n_bytes: int) -> None:
    zeros = memoryview(bytes(_AT_ONCE))
    written = 0
    while written < n_bytes:
        written += file.write(zeros[: n_bytes - written])
    os.fsync(file.fileno())  # some file systems find room only now


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"


def stacked(values: list[Any], ragged: bool) -> np.ndarray:
    """Make one array of rows.

    Parameters
    ----------
    values : list of array-like
    ragged : bool
        Whether rows differ in length; then it is an array of objects.
    """
    if not ragged:
        return np.stack(values)
    table = np.empty(len(values), object)
    for i, value in enumerate(values):
        table[i] = value
    return table


def check_outputs(outputs: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
    """Check that a network gives every sample numbers, and return them.

    Parameters
    ----------
    outputs : ndarray of shape (n_samples, n_outputs)
        Minus infinity, the logarithm of a probability of 0, is accepted.
    positions : ndarray of int, default=None
        Positions of the samples, for the message.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)

    Raises
    ------
    ValueError
        If some are NaN or infinite.
    """
    wrong = np.flatnonzero((np.isnan(outputs) | np.isposinf(outputs)).any(axis=1))
    if len(wrong):
        at = wrong[0] if positions is None else positions[wrong[0]]
        raise ValueError(
            f"The network gives NaN or infinity for {len(wrong)} of {len(outputs)} samples, the "
            f"first of them sample {at}. Look for unusual values in these samples, leave them out, "
            "or use precision='float32'."
        )
    return outputs


class OutputTables:
    """A table for each output, with a row for each sample.

    Parameters
    ----------
    n_samples : int
    n_outputs : int
    in_memory : int, default=None
        As for :func:`empty_table`.
    """

    n_samples: int
    in_memory: int | None

    def __init__(self, n_samples: int, n_outputs: int, in_memory: int | None = None):
        self.n_samples, self.in_memory = n_samples, in_memory
        self.tables: list[np.ndarray | None] = [None] * n_outputs

    def write(self, i: int, positions: Sequence[int], rows: np.ndarray) -> None:
        """Write rows of an output."""
        table = self.tables[i]
        if table is None:
            shape = self.n_samples, *rows.shape[1:]
            self.tables[i] = table = empty_table(shape, rows.dtype, self.in_memory)
        table[positions] = rows

    def copy(self, repeated: dict[int, int]) -> None:
        """Copy rows to the positions of equal samples."""
        for table in self.tables:
            if repeated and table is not None:
                table[[*repeated]] = table[[*repeated.values()]]

    def finish(self, without: list[int]) -> list[np.ndarray]:
        """Return the tables, with NaN for some samples."""
        for table in self.tables:
            if without and table is not None:
                table[without] = np.nan
        nothing = np.empty((self.n_samples, 0), np.float32)
        return [nothing if table is None else table for table in self.tables]
