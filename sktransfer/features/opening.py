"""Read samples, open and preprocess them, and name those that cannot be read."""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from ..backbones import Backbone
from ..data import Modality, UnreadableSamplesError, forward_strides
from .loader import Loader

__all__ = [
    "Sample",
    "SampleError",
    "many_of",
    "open_for",
    "open_sample",
    "read_ahead",
    "unreadable_named",
]

_BLOCK = 8  # samples that one task reads
_BYTES_READ = 2**26  # bytes of files in one part, or one file


class Sample(NamedTuple):
    """A sample that was read into memory, and its position among all samples."""

    position: int
    content: object


class SampleError(Exception):
    """A sample could not be read or opened.

    Parameters
    ----------
    position : int
        Among all samples.
    cause : Exception
    """

    cause: Exception
    position: int

    def __init__(self, position: int, cause: Exception):
        super().__init__(position, cause)
        self.position, self.cause = position, cause


def read_ahead(
    samples: Sequence[Any], modality: Modality, by_value: bool, loader: Loader
) -> Iterator[list[tuple[Any, ...]]]:
    """Read samples into memory, and yield them in lists of limited size in samples and bytes.

    Parameters
    ----------
    samples : sequence
    modality : Modality
    by_value : bool
        Whether hashable samples are returned in place of digests.
    loader : Loader

    Yields
    ------
    list of (Sample, object)
        Samples, and their digests or a :class:`SampleError`.
    """
    blocks = (range(i, min(i + _BLOCK, len(samples))) for i in range(0, len(samples), _BLOCK))
    read = functools.partial(_read_block, samples, modality, by_value and modality.is_hashable)
    if type(modality).read is Modality.read:  # what is in memory is not handed to threads
        found: Iterator = map(read, blocks)
    else:
        ahead, in_memory = modality.chunk_size // _BLOCK, functools.partial(_in_memory, samples)
        found = loader.map(read, blocks, ahead, n_bytes=_block_bytes, at_once=in_memory)
    part, n_bytes = [], 0
    for pair in itertools.chain.from_iterable(found):
        part.append(pair)
        n_bytes += _bytes_read(pair)
        if len(part) == modality.chunk_size or n_bytes >= _BYTES_READ:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part


def _in_memory(samples: Sequence, positions: range) -> bool:
    """Tell whether samples are plain arrays, which take longer to hand over than to digest."""
    return all(type(samples[i]) is np.ndarray for i in positions)


def _read_block(
    samples: Sequence, modality: Modality, by_value: bool, positions: range
) -> list[tuple[Sample, object]]:
    return [_read(samples[i], i, modality, by_value) for i in positions]


def _read(sample, position: int, modality: Modality, by_value: bool) -> tuple[Sample, object]:
    try:
        content = modality.read(sample)
        return Sample(position, content), content if by_value else modality.digest(content)
    except Exception as error:
        return Sample(position, None), SampleError(position, error)


def _block_bytes(block: list[tuple]) -> int:
    return sum(map(_bytes_read, block))


def _bytes_read(pair: tuple[Sample, object]) -> int:
    return getattr(pair[0].content, "bytes_read", 0)


def open_sample(sample: Any, backbone: Backbone) -> torch.Tensor:
    """Open and preprocess one sample.

    Parameters
    ----------
    sample : object
    backbone : Backbone

    Returns
    -------
    Tensor
        Without a batch axis.
    """
    return _open_once(sample, [backbone])[0]


def _open_once(sample, backbones: Sequence[Backbone]) -> list[torch.Tensor]:
    """Open a sample once, and preprocess it for each backbone."""
    opened = backbones[0].modality.open(sample)
    return [
        torch.tensor(forward_strides(opened)) if b.preprocess is None else b.preprocess(opened)
        for b in backbones
    ]


def open_for(sample: Sample, backbones: Sequence[Backbone]) -> list[torch.Tensor] | SampleError:
    """Open a sample that was read once, and preprocess it for each backbone.

    Parameters
    ----------
    sample : Sample
    backbones : sequence of Backbone
        Of one modality.

    Returns
    -------
    list of Tensor, or SampleError
    """
    try:
        return _open_once(sample.content, backbones)
    except Exception as error:
        return SampleError(sample.position, error)


def many_of(backbone: Backbone) -> Callable[..., Any] | None:
    """Return the function that preprocesses samples together, such as texts, if there is one."""
    return getattr(backbone.preprocess, "many", None)


@contextlib.contextmanager
def unreadable_named(
    samples: Sequence[Any], start: Callable[[], int], backbones: Sequence[Backbone]
) -> Iterator[None]:
    """Replace the error of one sample by one that lists all unreadable samples from a position.

    Parameters
    ----------
    samples : sequence
    start : callable
        Returns the number of samples before which all could be opened.
    backbones : sequence of Backbone
    """
    try:
        yield
    except SampleError as error:
        problems = _problems(samples, start(), backbones, {error.position: error.cause})
        raise UnreadableSamplesError(problems) from error.cause


def _problems(samples: Sequence, start: int, backbones, known: dict) -> list[tuple]:
    """List the samples from a position on that cannot be opened, and those that failed before."""
    problems = []
    for i in range(start, len(samples)):
        error = known[i] if i in known else _error_of(samples[i], backbones)
        if error is not None:
            problems.append((i, samples[i], error))
    return problems


def _error_of(sample, backbones: Sequence[Backbone]) -> Exception | None:
    try:
        _open_once(sample, backbones)
    except Exception as error:
        return error
    return None
