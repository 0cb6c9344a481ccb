"""The base class of modalities, their registry, and the modality of numeric arrays."""

from __future__ import annotations

import abc
import reprlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.utils import InputTags, check_array

from .samples import digest_array, plain_array, unwrap_column

_BATCH_ON_ACCELERATOR = 256  # larger batches are not faster


class SampleView(abc.ABC):
    """A sample computed from another one, such as an augmented image."""

    @property
    @abc.abstractmethod
    def bytes_read(self) -> int:
        """Number of bytes that :meth:`read` has read from a file."""

    @abc.abstractmethod
    def read(self) -> SampleView:
        """Return the view with its sample read into memory."""

    @abc.abstractmethod
    def digest(self) -> bytes:
        """Return 16 bytes that are equal only for equal views."""

    @abc.abstractmethod
    def open(self) -> Any:
        """Return the input of the preprocessing."""


class Modality:
    """Definition of a type of samples: how to check X, and how to digest, open and group samples.

    A subclass sets ``name`` and defines :meth:`check` and :meth:`digest`. It defines :meth:`open`
    if the input of the preprocessing is not the sample itself. :func:`register_modality` registers
    an instance under its name. A modality has no state; its methods may be called in several
    threads.

    Attributes
    ----------
    name : str
        The name for ``load_backbone(module, modality=...)``.
    noun : str, default="samples"
        The plural noun for samples in messages.
    chunk_size : int, default=128
        Number of samples that are opened, computed and stored at a time.
    batch_size : int, default=64
        Largest batch on a CPU.
    has_tokens : bool, default=False
        Whether a preprocessed sample is a sequence of tokens. Then samples differ in length,
        zeros are padding, and pooling ignores positions that contain only zeros.
    is_hashable : bool, default=False
        Whether samples can be keys of a dictionary. Equal samples are then found without digests.
    takes_augment : bool, default=False
        Whether ``augment`` can be used: opened samples are images ``(height, width, channels)``.
    takes_files : bool, default=False
        Whether a string is the name of a file, and not a sample itself.
    usual_backbone : str, default=""
        The name of a network for such samples, for messages.

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
    takes_files: bool = False
    usual_backbone: str = ""

    def check(
        self,
        X: Any,
        *,
        image_shape: tuple[int, ...] | None = None,
        validate: Callable[..., Any] = check_array,
    ) -> Any:
        """Convert X to a list or an array of samples.

        Parameters
        ----------
        X : object
            The argument of ``fit`` or ``transform``.
        image_shape : tuple of int, default=None
            The parameter of the estimator.
        validate : callable, default=sklearn.utils.check_array
            Checks a numeric table. An estimator passes ``validate_data``, which also checks the
            number of features.

        Returns
        -------
        list or ndarray
            One entry for each sample.

        Raises
        ------
        ValueError, TypeError
            If X is not a list or an array of samples of this type.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no check.")

    def read(self, sample: Any) -> Any:
        """Read a sample into memory if it is the name of a file.

        Parameters
        ----------
        sample : object

        Returns
        -------
        object
            An argument of :meth:`digest` and :meth:`open`. The attribute ``bytes_read``, if there
            is one, is the number of bytes read. By default, the sample itself.
        """
        return sample

    def digest(self, sample: Any) -> bytes:
        """Return a digest of a sample: 16 bytes that are equal only for equal samples."""
        raise NotImplementedError(f"{type(self).__name__} defines no digest.")

    def open(self, sample: Any) -> Any:
        """Return the input of the preprocessing of a backbone; by default the sample itself."""
        return sample

    def side(self, sample: Any) -> int | None:
        """Return the shorter side of a sample in pixels, without decoding it.

        None by default, for samples without a size, and for those that cannot be read.
        """
        return None

    def example(self, shape: tuple[int, ...] | None = None) -> Any:
        """Return a sample that is always the same, to compare what code computes at two times.

        Its shape is that of an opened sample; None is the usual one. It is as :meth:`read` returns
        samples. By default None: there is no such sample.
        """
        return None

    def for_transform(self, opened: Any) -> Any:
        """Convert what :meth:`open` returns to the input of a transform given by a user.

        By default, it is not changed.
        """
        return opened

    def preview(self, sample: Any, side: int = 160) -> Any:
        """Return what shows a sample to a person: a small picture, or a line of text.

        A picture has ``side`` pixels at most. By default, the sample as Python writes it,
        shortened. A sample of an image and other things may be a pair of both. Any error means that
        the sample cannot be read.
        """
        return reprlib.repr(sample)

    def looks_like(self, cells: Sequence[Any]) -> bool:
        """Guess whether some cells of a column, none missing, are samples; by default False."""
        return False

    def parts(self, sample: Any) -> Parts | None:
        """Return the parts of a sample that can be left out one by one; by default it has none."""
        return None

    def group(self, tensors: Sequence[Any]) -> list[tuple[np.ndarray, Sequence[Any]]]:
        """Group preprocessed samples by shape: their positions, and the samples.

        A ``ValueError`` if samples without tokens differ in shape.
        """
        places: dict[tuple, list[int]] = {}
        for i, tensor in enumerate(tensors):
            places.setdefault(tuple(tensor.shape), []).append(i)
        if len(places) > 1 and not self.has_tokens:
            raise ValueError(
                f"The preprocessing returns tensors of different shapes, {sorted(places)[:3]}; a "
                "network needs one shape: for images, add a resize and a crop to it."
            )
        return [(np.array(rows), [tensors[i] for i in rows]) for rows in places.values()]

    def batch_limit(self, shape: tuple[int, ...], on_cpu: bool) -> int:
        """Return the largest batch for preprocessed samples of one shape."""
        return self.batch_size if on_cpu else _BATCH_ON_ACCELERATOR

    def make_noise(
        self, n: int, shape: tuple[int, ...], rng: np.random.Generator
    ) -> np.ndarray | None:
        """Return n preprocessed samples of noise, or None if the modality defines none."""
        return None

    def vectorizer(self) -> Any:
        """Return a transformer that makes features of samples without a network.

        It is not fitted, and returns rows of length 1, dense or sparse. None, the default, where
        there are no such features.
        """
        return None

    def set_tags(self, input_tags: InputTags, *, from_table: bool = False) -> None:
        """Set the tags of scikit-learn for the types of X, in place.

        ``from_table`` tells that X is a table with one flattened sample in each row.
        """
        input_tags.two_d_array = from_table
        input_tags.three_d_array = input_tags.string = not from_table

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


_MODALITIES: dict[str, Modality] = {}


def register_modality(modality: Modality) -> Modality:
    """Register a modality under its name, in place of another one of this name, and return it.

    A ``TypeError`` if it is not an instance of :class:`Modality` or has no name.
    """
    if not isinstance(modality, Modality) or not isinstance(getattr(modality, "name", None), str):
        raise TypeError(f"modality: an instance of Modality with a name, got {modality!r}")
    _MODALITIES[modality.name] = modality
    return modality


def get_modality(modality: str | Modality) -> Modality:
    """Return the modality with a name, or a modality unchanged; ValueError for another name."""
    if isinstance(modality, Modality):
        return modality
    if modality not in _MODALITIES:
        raise ValueError(
            f"modality={modality!r} is not known: {sorted(_MODALITIES)} are. Register your own "
            "with sktransfer.data.register_modality."
        )
    return _MODALITIES[modality]


# -- parts -----------------------------------------------------------------------------------------


class Parts(abc.ABC):
    """The parts of one sample.

    Attributes
    ----------
    shape : tuple of int
        How the parts are arranged: ``(n_words,)``, or ``(rows, columns)`` of cells of an image.
    shown : object
        What the parts belong to, to be shown: the text, or the image.
    spans : list of (int, int) or None
        Where each word of a text begins and ends.
    """

    shape: tuple[int, ...]
    shown: Any
    spans: list[tuple[int, int]] | None = None

    @abc.abstractmethod
    def keep(self, kept: np.ndarray) -> Any:
        """Return the sample without the parts for which ``kept``, of this shape, is False."""


# -- arrays ----------------------------------------------------------------------------------------


class ArrayModality(Modality):
    """Numeric arrays of any shape, which are the input of a network as float32."""

    name = "array"
    noun = "arrays"

    def check(
        self,
        X: Any,
        *,
        image_shape: tuple[int, ...] | None = None,
        validate: Callable[..., Any] = check_array,
    ) -> np.ndarray:
        if hasattr(X, "detach"):  # a tensor
            X = X.detach().cpu().numpy()
        if np.ma.isMaskedArray(X):
            X = plain_array(X, "X")
        return validate(_unpacked(X), dtype=np.float32, allow_nd=True)

    def digest(self, sample: np.ndarray) -> bytes:
        return digest_array(sample)

    def example(self, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
        if shape is None:
            return None
        return np.cos(1.7 * np.arange(np.prod(shape))).astype(np.float32).reshape(shape)

    def parts(self, sample: np.ndarray) -> NumberParts:
        return NumberParts(np.asarray(self.read(sample), np.float32))

    def set_tags(self, input_tags: InputTags, *, from_table: bool = False) -> None:
        input_tags.two_d_array = True
        input_tags.three_d_array = input_tags.string = False


def _unpacked(X: Any) -> Any:
    """Stack the cells of one column of arrays; everything else is returned unchanged."""
    is_one = not hasattr(X, "columns") or len(X.columns) == 1
    is_column = is_one and (hasattr(X, "to_numpy") or hasattr(X, "to_pylist"))
    cells = unwrap_column(X) if is_column else X
    if isinstance(cells, np.ndarray) and cells.dtype == object:
        cells = cells[:, 0] if cells.ndim == 2 and cells.shape[1] == 1 else cells
    elif not isinstance(cells, list):
        return X
    if not len(cells) or not all(isinstance(c, np.ndarray | list | tuple) for c in cells):
        return X
    shapes = [np.shape(np.asarray(cell, object)) for cell in cells]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise ValueError(
                f"the arrays have different shapes: {shapes[0]} in row 0, {shape} in row {i}"
            )
    return np.stack([np.asarray(cell) for cell in cells])


class NumberParts(Parts):
    """The numbers of an array. A number that is left out is 0."""

    shown: Any
    shape: tuple[int, ...]

    def __init__(self, sample: np.ndarray):
        self.sample = self.shown = sample
        self.shape = sample.shape

    def keep(self, kept: np.ndarray) -> np.ndarray:
        return np.where(kept, self.sample, 0).astype(self.sample.dtype)


register_modality(ArrayModality())
