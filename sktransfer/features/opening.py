"""Read samples, open and preprocess them, and name those that cannot be read."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from sklearn.utils.parallel import Parallel, delayed

from ..backbones import Backbone
from ..data import Modality, UnreadableSamplesError

__all__ = [
    "Sample",
    "SampleErrors",
    "digests_of",
    "open_for",
    "open_sample",
    "read",
    "unreadable_named",
]

_BYTES_READ = 2**26  # bytes of files in memory at a time, or one file


class Sample(NamedTuple):
    """A sample that was read into memory, and its position among all samples."""

    position: int
    content: object


class SampleErrors(Exception):
    """Some samples could not be read or opened.

    Parameters
    ----------
    problems : dict of int to Exception
        The cause, by the position of the sample.
    """

    def __init__(self, problems: dict[int, Exception]):
        super().__init__(problems)
        self.problems = problems


def read(
    samples: Sequence, positions: range, modality: Modality, bad: dict | None = None
) -> Iterator[list[Sample]]:
    """Read samples into memory, and yield them in lists of limited size in bytes.

    Parameters
    ----------
    samples : sequence
    positions : range
        May end after the last sample.
    modality : Modality
    bad : dict of int to Exception, default=None
        If given, causes are put into it where a sample cannot be read, and it is left out.

    Yields
    ------
    list of Sample
    """
    part, n_bytes = [], 0
    for position in positions[: len(samples) - positions.start]:
        content = _attempt(modality.read, samples[position])
        if isinstance(content, _Failure):
            _note(bad, position, content.cause)
            continue
        part.append(Sample(position, content))
        n_bytes += getattr(content, "bytes_read", 0)
        if n_bytes >= _BYTES_READ:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part


def _note(bad: dict | None, position: int, cause: Exception) -> None:
    if bad is None:
        raise SampleErrors({position: cause}) from cause
    bad[position] = cause


class _Failure(NamedTuple):
    cause: Exception


def _attempt(function: Callable, *args):
    """Call a function, and return its error as a value."""
    try:
        return function(*args)
    except Exception as error:
        return _Failure(error)


def _without_failures(samples: Sequence[Sample], results: list) -> list:
    """Return results, one for each sample; one error has the causes of all failures."""
    pairs = zip(samples, results, strict=True)
    problems = {s.position: r.cause for s, r in pairs if isinstance(r, _Failure)}
    if problems:
        raise SampleErrors(problems)
    return results


def digests_of(samples: Sequence[Sample], modality: Modality) -> list[bytes]:
    """Return a digest of each sample that was read."""
    found = [_attempt(modality.digest, sample.content) for sample in samples]
    return _without_failures(samples, found)


def open_sample(sample, backbone: Backbone) -> torch.Tensor:
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
        torch.tensor(opened) if backbone.preprocess is None else backbone.preprocess(opened)
        for backbone in backbones
    ]


def open_for(
    samples: list[Sample],
    backbones: Sequence[Backbone],
    wanted: Sequence[Sequence[int]],
    n_jobs: int | None = None,
) -> list[list]:
    """Open each sample once, and preprocess it for each backbone that needs it.

    Parameters
    ----------
    samples : list of Sample
    backbones : sequence of Backbone
        Of one modality.
    wanted : sequence of sequences of int
        For each backbone, the positions in ``samples`` that it needs, ascending.
    n_jobs : int, default=None
        Number of threads.

    Returns
    -------
    list of lists of (ndarray of int, sequence of Tensor)
        For each backbone, the preprocessed samples of each shape, and their positions among those
        that it needs.
    """
    single = [k for k, backbone in enumerate(backbones) if _many(backbone) is None]
    opened = _open_single(samples, backbones, {k: wanted[k] for k in single}, n_jobs)
    return [
        backbone.modality.group(opened[k])
        if k in opened
        else _many(backbone)([samples[i].content for i in wanted[k]])
        for k, backbone in enumerate(backbones)
    ]


def _many(backbone: Backbone):
    """Return the function that preprocesses samples together, such as texts, if there is one."""
    return getattr(backbone.preprocess, "many", None)


def _open_single(
    samples: list[Sample], backbones: Sequence[Backbone], wanted: dict, n_jobs: int | None
) -> dict[int, list[torch.Tensor]]:
    """Preprocess samples one by one: for each key of ``wanted`` those at its positions."""
    users: dict[int, list[int]] = {}  # position of a sample: the backbones that need it
    for k, places in wanted.items():
        for i in places:
            users.setdefault(i, []).append(k)
    tasks = [(samples[i], [backbones[k] for k in users[i]]) for i in sorted(users)]
    opened: dict[int, list[torch.Tensor]] = {k: [] for k in wanted}
    for i, tensors in zip(sorted(users), _open_all(tasks, n_jobs), strict=True):
        for k, tensor in zip(users[i], tensors, strict=True):
            opened[k].append(tensor)
    return opened


def _open_all(tasks: list[tuple], n_jobs: int | None) -> list[list[torch.Tensor]]:
    samples = [sample for sample, _ in tasks]
    if n_jobs in (None, 1) or not tasks:
        return _without_failures(samples, [_open(*task) for task in tasks])
    # A positive number of threads may exceed that of the samples.
    n_jobs = min(n_jobs, len(tasks)) if n_jobs > 0 else n_jobs
    opened = Parallel(n_jobs, prefer="threads")(delayed(_open)(*task) for task in tasks)
    return _without_failures(samples, list(opened))


def _open(sample: Sample, backbones: Sequence[Backbone]) -> list[torch.Tensor] | _Failure:
    return _attempt(_open_once, sample.content, backbones)


@contextlib.contextmanager
def unreadable_named(samples: Sequence, start: int, backbones: Sequence[Backbone]):
    """Replace the error of one sample by one that lists all unreadable samples from a position.

    Parameters
    ----------
    samples : sequence
    start : int
    backbones : sequence of Backbone
    """
    try:
        yield
    except SampleErrors as error:
        first = next(iter(error.problems.values()))
        problems = _problems(samples, start, backbones, error.problems)
        raise UnreadableSamplesError(problems) from first


def _problems(samples: Sequence, start: int, backbones, known: dict) -> list[tuple]:
    """List the samples from a position on that cannot be opened, and those that failed before."""
    problems = []
    for i in range(start, len(samples)):
        if i in known:
            problems.append((i, samples[i], known[i]))
        elif isinstance(result := _attempt(_open_once, samples[i], backbones), _Failure):
            problems.append((i, samples[i], result.cause))
    return problems
