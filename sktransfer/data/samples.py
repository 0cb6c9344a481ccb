"""Functions of samples of every modality, and the error for unreadable samples."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from typing import Any, TypeGuard, TypeVar

import numpy as np
import xxhash

from .contents import Item

_SHOWN = 10  # unreadable samples named in one error
# Characters of a message, so that it can be read; of a cause, and of the name of a file in it.
_LONGEST, _LONGEST_REASON, _LONGEST_NAME = 500, 250, 80
_Checked = TypeVar("_Checked")


class UnreadableSamplesError(ValueError):
    """Raised if samples cannot be read.

    The message, of up to 500 characters, lists the first of them with the causes.

    Parameters
    ----------
    problems : list of (int, object, Exception)
        Position, sample and cause of each.
    name : str, default=""
        The argument that holds the samples, where it is not X.
    """

    def __init__(self, problems: list[tuple[int, object, Exception]], name: str = ""):
        self.problems = problems
        self.name = name
        head = "1 sample" if len(problems) == 1 else f"{len(problems)} samples"
        head += f" of {name}" if name else ""
        super().__init__("\n  ".join([f"{head} could not be read:", *_lines(problems)]))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems, self.name)

    def among(self, rows: Sequence[int] | np.ndarray, name: str = "") -> UnreadableSamplesError:
        """Return the error with positions in the list from which the samples were selected.

        Parameters
        ----------
        rows : sequence of int
            Positions of the selected samples in that list.
        name : str, default=""
            The argument that the list is, where it is not X.

        Returns
        -------
        UnreadableSamplesError
        """
        problems = [(int(rows[i]), sample, why) for i, sample, why in self.problems]
        return type(self)(problems, name or self.name)


class MissingSampleError(ValueError):
    """Raised for a cell of a table that is missing, and that a network reading ``noun`` would read.

    ``remedy`` is how the user asks for the mean in its place: by a parameter, or by an option of a
    command.
    """

    noun: str
    remedy: str

    def __init__(self, noun: str, remedy: str = "give on_error='mean'"):
        super().__init__(noun, remedy)
        self.noun, self.remedy = noun, remedy

    def __str__(self) -> str:
        return (
            f"missing: leave the row out, or {self.remedy}, which takes the mean of the "
            f"{self.noun} of fit"
        )


def _lines(problems: list[tuple]) -> list[str]:
    """Describe the first problems, as many as a message of limited length takes."""
    lines: list[str] = []
    length = _LONGEST - 100  # for the first line and the last
    for i, sample, why in problems[:_SHOWN]:
        reason = str(why) or type(why).__name__
        if isinstance(why, OSError) and why.filename is not None:  # which stands before it
            reason = f"[Errno {why.errno}] {why.strerror}"
        line = f"sample {i}, {short_name(sample)}: {shorten(reason, _LONGEST_REASON)}"
        length -= len(line) + 3
        if lines and length < 0:
            break
        lines.append(line)
    if len(problems) > len(lines):
        lines.append(f"and at least {len(problems) - len(lines)} more")
    return lines


def shorten(text: str, longest: int) -> str:
    """Replace the middle of a long text by an ellipsis."""
    if len(text) <= longest:
        return text
    end = (longest - 1) // 2
    return text[: longest - 1 - end] + "…" + text[-end:]


def short_name(sample: Any) -> str:
    """Describe a sample in a message: the name of its file, or its type and size."""
    if isinstance(sample, str | os.PathLike):
        return repr(shorten(os.fspath(sample), _LONGEST_NAME))
    if isinstance(sample, bytes | bytearray):
        return f"{type(sample).__name__} ({len(sample)})"
    if isinstance(sample, dict) and isinstance(sample.get("path"), str):
        return short_name(sample["path"])
    if isinstance(sample, Item):
        return repr(sample)
    shape = getattr(sample, "shape", getattr(sample, "size", ""))
    return f"{type(sample).__name__} {tuple(shape) if np.ndim(shape) == 1 else ''}".strip()


def unwrap_column(X: Any) -> Any:
    """Convert the single column of a table, or an array of another library.

    That is series and tables of pandas and polars, arrays and tables of pyarrow. Other objects are
    returned unchanged. A ``ValueError`` if a table of pyarrow has not one column.
    """
    if hasattr(X, "combine_chunks") and hasattr(X, "num_chunks"):  # pyarrow's chunked arrays
        X = X.combine_chunks()
    if hasattr(X, "to_numpy_ndarray"):  # pyarrow's arrays of tensors
        return X.to_numpy_ndarray()
    if hasattr(X, "to_pylist"):  # pyarrow: to_numpy refuses strings
        if not hasattr(X, "columns"):
            return X.to_pylist()
        if X.num_columns != 1:
            raise ValueError(f"X must have one column of samples, got {X.column_names}.")
        return unwrap_column(X.column(0))
    return X.to_numpy() if hasattr(X, "columns") or hasattr(X, "to_numpy") else X


def is_lazy(X: object) -> TypeGuard[Any]:
    """Tell whether X is a collection of Dask."""
    return type(X).__module__.partition(".")[0] in ("dask", "dask_expr")


def plain_array(array: np.ndarray, name: str = "the array") -> np.ndarray:
    """Convert an instance of a subclass of ndarray, such as ``np.matrix``, to an ndarray.

    A masked array with masked values is a ``ValueError`` about ``name``.
    """
    if type(array) is np.ndarray:
        return array
    if np.ma.is_masked(array):
        raise ValueError(f"{name} has masked values: replace them first with filled(value)")
    return np.asarray(array)


def forward_strides(array: Any) -> Any:
    """Copy an array with a negative stride, such as ``X[::-1]``, of which torch makes no tensor.

    Everything else is returned unchanged. ``np.ascontiguousarray`` returns an array unchanged if
    its reversed axis has the length 1.
    """
    is_reversed = isinstance(array, np.ndarray) and min(array.strides, default=0) < 0
    return array.copy() if is_reversed else array


def is_whole(value: object) -> bool:
    """Tell whether a value is a whole number, and no boolean, which Python counts among them."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def digest_array(array: np.ndarray) -> bytes:
    """Return a digest of the type, shape and values of an array.

    The hash is xxh3, which takes 3 µs for an image of 224 x 224 pixels; SHA-256 takes 71 µs. It is
    not secure against intended collisions, which a feature store does not need.
    """
    state = xxhash.xxh3_128(f"{array.dtype.str}{array.shape}".encode())
    # Of a view: numpy keeps what it tells about its memory, 0.1 kB, as long as an array exists.
    state.update(np.ascontiguousarray(array).reshape(-1).data)
    return state.digest()


@contextlib.contextmanager
def named_among(rows: Sequence[int] | np.ndarray, name: str = "") -> Iterator[None]:
    """Change the positions in an error about selected samples to those among all samples.

    ``name`` is the argument that all samples are, where it is not X.
    """
    try:
        yield
    except UnreadableSamplesError as error:
        raise error.among(rows, name) from error.__cause__


def naming(name: str, check: Callable[..., _Checked], *args: Any, **settings: Any) -> _Checked:
    """Call a check of scikit-learn whose errors do not say which parameter they are about.

    A ``ValueError`` or an ``UnreadableSamplesError`` has the name.
    """
    try:
        return check(*args, **settings)
    except UnreadableSamplesError as error:
        raise UnreadableSamplesError(error.problems, name) from error
    except (ValueError, TypeError) as error:
        raise ValueError(f"{name}: {error}") from error


def take(samples: Any, rows: Any) -> Sequence[Any]:
    """Select samples by position.

    Parameters
    ----------
    samples : ndarray, list or TableSamples
    rows : array-like of int

    Returns
    -------
    ndarray, list or TableSamples
        Of the same type as ``samples``.
    """
    if isinstance(samples, np.ndarray):
        return samples[rows]
    if hasattr(samples, "of_rows"):
        return samples.of_rows(rows)
    return [samples[i] for i in rows]
