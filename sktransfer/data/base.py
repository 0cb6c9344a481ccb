"""Modalities and what they share: containers of samples, errors that name samples, digests."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable, Sequence

import numpy as np
import xxhash
from sklearn.utils import check_array

__all__ = [
    "Modality",
    "SampleView",
    "UnreadableSamplesError",
    "digest_array",
    "get_modality",
    "named_among",
    "plain_array",
    "register_modality",
    "take",
    "unwrap_column",
]

_SHOWN = 10  # unreadable samples named in one error
_BATCH_ON_ACCELERATOR = 256  # a larger batch is no faster


class UnreadableSamplesError(ValueError):
    """Some samples could not be read; the message names each, up to ten, and why.

    Parameters
    ----------
    problems : list of (int, object, Exception)
        Position, sample and cause of each.
    """

    def __init__(self, problems: list[tuple[int, object, Exception]]):
        self.problems = problems
        lines = [
            f"sample {i}, {_label(sample)}: {_reason(why)}" for i, sample, why in problems[:_SHOWN]
        ]
        if len(problems) > _SHOWN:
            lines.append(f"and at least {len(problems) - _SHOWN} more")
        head = "1 sample" if len(problems) == 1 else f"{len(problems)} samples"
        super().__init__("\n  ".join([f"{head} could not be read:", *lines]))

    def __reduce__(self):
        return type(self), (self.problems,)

    def among(self, rows) -> UnreadableSamplesError:
        """Return the same error with the positions that samples had before some were taken.

        Parameters
        ----------
        rows : sequence of int
            Which were taken.

        Returns
        -------
        UnreadableSamplesError
        """
        return type(self)([(int(rows[i]), sample, why) for i, sample, why in self.problems])


def _label(sample) -> str:
    if isinstance(sample, str | os.PathLike):
        return repr(os.fspath(sample))
    shape = getattr(sample, "shape", getattr(sample, "size", ""))
    return f"{type(sample).__name__} {tuple(shape) if shape != '' else ''}".strip()


def _reason(why: Exception) -> str:
    return str(why) or type(why).__name__


class SampleView(abc.ABC):
    """A sample derived from another, such as an augmented image."""

    @property
    @abc.abstractmethod
    def bytes_read(self) -> int:
        """Bytes of the file that :meth:`read` has brought into memory; 0 before."""

    @abc.abstractmethod
    def read(self) -> SampleView:
        """Return the view with its sample read into memory."""

    @abc.abstractmethod
    def digest(self) -> bytes:
        """Return 16 bytes that two views share only if they are the same."""

    @abc.abstractmethod
    def open(self):
        """Return what the preprocessing takes."""


class Modality:
    """What one raw sample is: how to check X, and how to digest, open and group samples.

    A subclass sets ``name`` and defines :meth:`check`, :meth:`digest` and, where a sample is not
    yet what a preprocessing takes, :meth:`open`. :func:`register_modality` makes it known by its
    name. A modality has no state, and its methods may be called from several threads.

    Attributes
    ----------
    name : str
        What ``load_backbone(module, modality=...)`` and cache keys call it.
    noun : str
        What messages call several samples.
    chunk_size : int
        Samples that are opened, computed and stored at a time.
    batch_size : int
        The most samples that a CPU runs at a time; more are no faster.
    has_tokens : bool
        Whether a preprocessed sample is a sequence of tokens. Then samples differ in length,
        zeros are padding, and pooling skips positions that hold only zeros.
    is_hashable : bool
        Whether samples can be keys of a dictionary, so that equal ones are found without a digest.
    takes_augment : bool
        Whether ``augment`` applies: opened samples are images ``(height, width, 3)``.

    Examples
    --------
    >>> import numpy as np
    >>> from sktransfer.data import Modality, digest_array, register_modality
    >>> class Sound(Modality):
    ...     name = "sound"
    ...     noun = "clips"
    ...
    ...     def check(self, X, *, image_shape=None, validate=None):
    ...         return [np.asarray(clip, np.float32) for clip in X]
    ...
    ...     def digest(self, sample):
    ...         return digest_array(sample)
    >>> register_modality(Sound()).name
    'sound'
    """

    name: str
    noun: str = "samples"
    chunk_size: int = 128
    batch_size: int = 64
    has_tokens: bool = False
    is_hashable: bool = False
    takes_augment: bool = False

    def check(self, X, *, image_shape=None, validate: Callable = check_array):
        """Bring X into a list or an array of samples, and refuse what is no list of samples.

        Parameters
        ----------
        X : object
            As a user passes it.
        image_shape : tuple of int, default=None
            The estimator's parameter of this name.
        validate : callable, default=sklearn.utils.check_array
            Checks a table of numbers. An estimator passes its own, which counts features too.

        Returns
        -------
        list or ndarray
            One entry for each sample.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no check.")

    def read(self, sample):
        """Return the sample with the content of its file in memory, so that it is read once.

        Parameters
        ----------
        sample : object

        Returns
        -------
        object
            What :meth:`digest` and :meth:`open` take; a large one has an attribute
            ``bytes_read``.
        """
        return sample

    def digest(self, sample) -> bytes:
        """Return 16 bytes that two samples share only if they are the same.

        Parameters
        ----------
        sample : object

        Returns
        -------
        bytes of length 16
        """
        raise NotImplementedError(f"{type(self).__name__} defines no digest.")

    def open(self, sample):
        """Return what the preprocessing of a backbone takes.

        Parameters
        ----------
        sample : object

        Returns
        -------
        object
            By default the sample itself.
        """
        return sample

    def for_transform(self, opened):
        """Return what a user's own transform takes, given an opened sample.

        Parameters
        ----------
        opened : object
            From :meth:`open`.

        Returns
        -------
        object
            By default the opened sample itself.
        """
        return opened

    def group(self, tensors: Sequence) -> list[tuple[np.ndarray, Sequence]]:
        """Group preprocessed samples of one shape, which can run as one batch.

        Parameters
        ----------
        tensors : sequence of Tensor
            Preprocessed samples.

        Returns
        -------
        list of (ndarray of int, sequence of Tensor)
            Positions of the samples of one shape, and these.

        Raises
        ------
        ValueError
            If samples without tokens differ in shape.
        """
        places: dict[tuple, list[int]] = {}
        for i, tensor in enumerate(tensors):
            places.setdefault(tuple(tensor.shape), []).append(i)
        if len(places) > 1 and not self.has_tokens:
            raise ValueError(
                f"The preprocessing returns tensors of different shapes, {sorted(places)[:3]}; a "
                "network needs one shape: add a resize and a crop to it."
            )
        return [(np.array(rows), [tensors[i] for i in rows]) for rows in places.values()]

    def batch_limit(self, shape: tuple[int, ...], on_cpu: bool) -> int:
        """Return how many samples of a shape to run at a time at most.

        Parameters
        ----------
        shape : tuple of int
            Of one preprocessed sample.
        on_cpu : bool

        Returns
        -------
        int
        """
        return self.batch_size if on_cpu else _BATCH_ON_ACCELERATOR

    def make_noise(self, n: int, shape: tuple[int, ...], rng: np.random.Generator):
        """Return samples of noise, or None where there is no such thing.

        Parameters
        ----------
        n : int
        shape : tuple of int
            Of one preprocessed sample.
        rng : numpy.random.Generator

        Returns
        -------
        ndarray of n samples, or None
        """
        return None

    def set_tags(self, input_tags, *, from_table: bool = False) -> None:
        """Set scikit-learn's tags of what X may be.

        Parameters
        ----------
        input_tags : sklearn.utils.InputTags
            Changed in place.
        from_table : bool, default=False
            Whether X is a table with one flattened sample a row.
        """
        input_tags.two_d_array = from_table
        input_tags.three_d_array = input_tags.string = not from_table

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


_MODALITIES: dict[str, Modality] = {}


def register_modality(modality: Modality) -> Modality:
    """Make a modality known by its name.

    Parameters
    ----------
    modality : Modality
        One of the same name is replaced.

    Returns
    -------
    Modality
        The same.

    Raises
    ------
    TypeError
        If it is no instance of :class:`Modality` or has no name.
    """
    if not isinstance(modality, Modality) or not isinstance(getattr(modality, "name", None), str):
        raise TypeError(f"modality: an instance of Modality with a name, got {modality!r}")
    _MODALITIES[modality.name] = modality
    return modality


def get_modality(modality: str | Modality) -> Modality:
    """Find a modality by its name.

    Parameters
    ----------
    modality : str or Modality
        A modality is returned as it is.

    Returns
    -------
    Modality

    Raises
    ------
    ValueError
        If no modality of that name is registered.
    """
    if isinstance(modality, Modality):
        return modality
    if modality not in _MODALITIES:
        raise ValueError(
            f"modality={modality!r} is not known: {sorted(_MODALITIES)} are. Register your own "
            "with sktransfer.data.register_modality."
        )
    return _MODALITIES[modality]


def unwrap_column(X):
    """Take the one column of a table, or an array of another library, out of its container.

    Parameters
    ----------
    X : object
        Series and tables of pandas and polars, arrays and tables of pyarrow; anything else is
        returned as it is.

    Returns
    -------
    object
        An ndarray or a list where X was one of these.
    """
    if hasattr(X, "to_numpy_ndarray"):  # pyarrow's arrays of tensors
        return X.to_numpy_ndarray()
    if hasattr(X, "to_pylist"):  # pyarrow: to_numpy refuses strings
        if not hasattr(X, "columns"):
            return X.to_pylist()
        if X.num_columns != 1:
            raise ValueError(f"X must have one column of samples, got {X.column_names}.")
        return X.column(0).to_pylist()
    return X.to_numpy() if hasattr(X, "columns") or hasattr(X, "to_numpy") else X


def plain_array(array: np.ndarray) -> np.ndarray:
    """Return the ndarray behind an instance of a subclass, such as ``np.matrix``.

    Parameters
    ----------
    array : ndarray

    Returns
    -------
    ndarray

    Raises
    ------
    ValueError
        If values of a masked array are masked.
    """
    if np.ma.is_masked(array):
        raise ValueError("a masked array with masked values: fill them first, with filled(value)")
    return np.asarray(array)


def digest_array(array: np.ndarray) -> bytes:
    """Hash type, shape and numbers of an array.

    xxh3 takes 6 µs for a 224 x 224 image where SHA-256 takes 84; it is no defence against
    someone who builds collisions on purpose, and a feature store needs none.

    Parameters
    ----------
    array : ndarray

    Returns
    -------
    bytes of length 16
    """
    state = xxhash.xxh3_128(f"{array.dtype.str}{array.shape}".encode())
    state.update(np.ascontiguousarray(array).data)
    return state.digest()


@contextlib.contextmanager
def named_among(rows):
    """Let an error about samples that were taken name them by their positions among all.

    Parameters
    ----------
    rows : sequence of int
        Which were taken.
    """
    try:
        yield
    except UnreadableSamplesError as error:
        raise error.among(rows) from error.__cause__


def take(samples: Sequence, rows) -> Sequence:
    """Choose samples by position.

    Parameters
    ----------
    samples : ndarray or list
    rows : array-like of int

    Returns
    -------
    ndarray or list
        The same type.
    """
    if isinstance(samples, np.ndarray):
        return samples[rows]
    return [samples[i] for i in rows]
