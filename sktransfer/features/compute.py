"""Compute the features of samples chunk by chunk, through the store."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone
from ..data import Modality, check_interrupt
from ..engines import Engine, keep_freed_memory
from .equal import FirstPositions
from .loader import Loader, count_needed_loaders
from .opened import Columns, n_bytes
from .opening import (
    Sample,
    SampleError,
    many_of,
    open_for,
    open_sample,
    read_ahead,
    unreadable_named,
)
from .output import Output
from .parts import Found, Part
from .passes import Pass, make_passes
from .progress import progress
from .recipe import Recipe
from .store import FeatureStore
from .tables import empty_table, stacked

__all__ = ["compute_features", "compute_inputs", "compute_outputs", "compute_several"]


def compute_outputs(
    samples: Sequence[Any],
    outputs: Sequence[Output],
    *,
    aside: Sequence[Output] = (),
    engine: str = "auto",
    precision: str = "float32",
    dtype: str = "float32",
    **settings: Any,
) -> list[np.ndarray]:
    """Compute what is read from networks for samples, those of equal samples once.

    Parameters
    ----------
    samples : sequence
        As returned by the method ``check`` of their modality.
    outputs : sequence of Output
        Their backbones have one modality.
    aside : sequence of Output, default=()
        Whole activations that go to the store as well, where samples are computed.
    engine, precision, dtype
        As for :func:`store_key`.
    **settings
        Of :func:`compute_several`.

    Returns
    -------
    list of ndarray of shape (n_samples, n_features)
    """
    recipes = [
        Recipe(
            output.backbone,
            (output.layer,),
            output.pooling,
            precision,
            dtype,
            tuple(other.layer for other in aside if i == 0),
            engine,
        )
        for i, output in enumerate(outputs)
    ]
    found = compute_several(samples, recipes, **settings)
    return [table[output.layer] for table, output in zip(found, outputs, strict=True)]


def compute_features(
    samples: Sequence[Any], recipe: Recipe, *, runner: Engine | None = None, **settings: Any
) -> dict[str, np.ndarray]:
    """Compute the features of samples, those of equal samples once.

    Parameters
    ----------
    samples : sequence
        As returned by the method ``check`` of their modality.
    recipe : Recipe
    runner : Engine, default=None
        Runs every sample, also those in the store, in place of the engine of the recipe.
    **settings
        Of :func:`compute_several`.

    Returns
    -------
    dict of str to ndarray of shape (n_samples, n_features)
        For each layer of the recipe, float32. Whole activations of texts differ in length: an
        array of objects, of shape ``(length, channels)`` each.

    Raises
    ------
    UnreadableSamplesError
        If samples cannot be read or preprocessed. It lists them.
    """
    return compute_several(samples, [recipe], runner=runner, **settings)[0]


def compute_several(
    samples: Sequence[Any],
    recipes: Sequence[Recipe],
    *,
    batch_size: int | str = "auto",
    device: str = "auto",
    store: FeatureStore | None = None,
    n_jobs: int | str | None = "auto",
    verbose: int = 0,
    runner: Engine | None = None,
    bad: dict[int, Exception] | None = None,
    then: Callable[..., Any] | None = None,
    in_memory: int | None = None,
) -> list[dict[str, np.ndarray]]:
    """Compute the features of samples by several recipes, such as for several input sizes.

    Each sample is read, digested and opened once. The recipes of one backbone are computed in one
    pass through its network, whatever their layers and poolings.

    Parameters
    ----------
    samples : sequence
        As returned by the method ``check`` of their modality.
    recipes : sequence of Recipe
        Their backbones have one modality.
    batch_size : int or "auto", default="auto"
    device : str, default="auto"
    store : FeatureStore, default=None
        Where features are looked up first and kept afterwards.
    n_jobs : int, "auto" or None, default="auto"
        Threads that read, open and preprocess samples while the network runs. "auto" is the number
        of cores that it does not use, at least one; None and 1 are none.
    verbose : int, default=0
        1 shows a progress bar.
    runner : Engine, default=None
        For a single recipe: as in :func:`compute_features`.
    bad : dict of int to Exception, default=None
        If given, causes are put into it by the position of each sample that cannot be read, and
        the features of these samples are NaN.
    then : callable, default=None
        Applied to the features of some samples, with their positions; its result is returned
        in place of the features, so that large activations need not be kept.
    in_memory : int, default=None
        Bytes of an output above which it is in a temporary file; None is 2 GiB.

    Returns
    -------
    list of dict of str to ndarray of shape (n_samples, n_features)
        The result of :func:`compute_features` for each recipe. Without features if no sample can
        be read.

    Raises
    ------
    UnreadableSamplesError
        If samples cannot be read or preprocessed, and ``bad`` is None. It lists them.
    """
    passes = make_passes(recipes, batch_size, device, runner, store)
    backbones = [one.backbone for one in passes]
    others = (store, runner, bad, then, in_memory, verbose or None)
    if len(samples) == len(passes) == 1 and all(given is None for given in others):
        found = _compute_one(samples, passes[0])
        return [{layer: found[i, layer] for layer in r.layers} for i, r in enumerate(recipes)]
    n_loaders = count_needed_loaders(n_jobs, device, backbones, len(samples))
    with Loader(n_loaders) as loader, keep_freed_memory():
        run = _Run(samples, passes, store, loader, bad)
        run.then, run.tables.in_memory = then, in_memory
        with unreadable_named(samples, lambda: run.n_done, backbones):
            for _ in _counted(run.parts(), len(samples), backbones[0], verbose):
                pass
    run.tables.clear(list(bad or ()))
    return [{layer: run.tables[i, layer] for layer in r.layers} for i, r in enumerate(recipes)]


def _compute_one(samples: Sequence[Any], one: Pass) -> dict[tuple[Any, ...], np.ndarray]:
    """Compute the features of a single sample; parts and threads take longer than a short text."""
    backbone, many = one.backbone, many_of(one.backbone)
    with unreadable_named(samples, lambda: 0, [backbone]), keep_freed_memory():
        try:
            content = backbone.modality.read(samples[0])
            opened = many([content]) if many else [(np.arange(1), [open_sample(content, backbone)])]
        except Exception as error:
            raise SampleError(0, error) from error
        return one.compute(opened)


def compute_inputs(
    samples: Sequence[Any], backbone: Backbone, n_jobs: int | str | None = "auto"
) -> np.ndarray:
    """Open and preprocess samples for the first stage of a network.

    Parameters
    ----------
    samples : sequence
    backbone : Backbone
    n_jobs : int, "auto" or None, default="auto"

    Returns
    -------
    ndarray of shape (n_samples, ...), float32
        In a temporary file if it is large. For texts, an array of objects: the ids of each text.

    Raises
    ------
    UnreadableSamplesError
        If samples cannot be read or preprocessed. It lists them.
    """
    if backbone.preprocess is None and isinstance(samples, np.ndarray):
        return samples
    tables = _Tables(len(samples))
    with Loader(count_needed_loaders(n_jobs, "cpu", [backbone], len(samples))) as loader:
        with unreadable_named(samples, lambda: 0, [backbone]):
            for part in read_ahead(samples, backbone.modality, True, loader):
                for places, tensors in _opened(part, backbone, loader):
                    ragged = backbone.modality.has_tokens
                    rows = stacked([tensor.numpy() for tensor in tensors], ragged)
                    tables.write([part[i][0].position for i in places], {"input": rows})
    return tables.by_output["input"]


def _opened(part: list[tuple], backbone: Backbone, loader: Loader) -> list[tuple]:
    for error in (key for _, key in part if isinstance(key, SampleError)):
        raise error
    samples, many = [sample for sample, _ in part], many_of(backbone)
    if many is not None:
        return many([sample.content for sample in samples])
    opened = loader.map(lambda sample: open_for(sample, [backbone]), samples, len(samples))
    rows = Columns(((([0]), tensors) for tensors in opened), {0: len(part)}, backbone.modality)
    return backbone.modality.group([*rows.columns[0]])


class _Tables:
    """One table for each output, with one row for each sample."""

    def __init__(self, n_samples: int):
        self.n_samples = n_samples
        self.in_memory: int | None = None
        self.by_output: dict[Any, np.ndarray] = {}

    def write(self, positions: Sequence[int], found: dict[Any, np.ndarray]) -> None:
        for output, rows in found.items():
            if output not in self.by_output:
                shape = (self.n_samples, *rows.shape[1:])
                self.by_output[output] = empty_table(shape, rows.dtype, self.in_memory)
            self.by_output[output][positions] = rows

    def repeat(self, sources: Sequence[int], positions: Sequence[int]) -> None:
        """Copy rows to the positions of equal samples."""
        for table in self.by_output.values():
            table[positions] = table[sources]

    def clear(self, positions: Sequence[int]) -> None:
        """Set rows to NaN."""
        for table in self.by_output.values():
            table[positions] = np.nan

    def __getitem__(self, output) -> np.ndarray:
        return self.by_output.get(output, np.empty((self.n_samples, 0), np.float32))


class _Run:
    """Computes features part by part, and of equal samples only those of the first.

    While a part passes through the networks, the next is read, looked up and opened.

    Parameters
    ----------
    samples : sequence
    passes : list of Pass
    store : FeatureStore or None
    loader : Loader
    bad : dict of int to Exception, or None
    """

    def __init__(
        self,
        samples: Sequence,
        passes: list[Pass],
        store: FeatureStore | None,
        loader: Loader,
        bad: dict[int, Exception] | None,
    ):
        self.samples, self.passes, self.store, self.loader = samples, passes, store, loader
        self.bad = bad
        self.then: Callable | None = None
        self.tables = _Tables(len(samples))
        self.first = FirstPositions(len(samples))
        self.n_done = 0

    def parts(self) -> Iterator[int]:
        """Compute the features of all samples, and yield the number of samples of each part."""
        modality: Modality = self.passes[0].backbone.modality
        together = any(many_of(one.backbone) for one in self.passes)
        ahead = 4 if together else max(1, modality.chunk_size // 2)
        by_value = self.store is None and not self.first.by_digest
        read = read_ahead(self.samples, modality, by_value, self.loader)
        tasks = self._tasks(read)
        opened = self.loader.map(_run, tasks, ahead, n_bytes=_n_bytes, at_once=_opens_nothing)
        for part, results in itertools.groupby(opened, operator.itemgetter(0)):
            self._complete(part, (result for _, result in results))
            self.n_done += part.n_samples
            yield part.n_samples

    def _tasks(self, read: Iterator[list[tuple]]) -> Iterator[tuple[Part, Callable]]:
        """Begin each part, and yield what is to be opened for it, at least one task a part."""
        for pairs in read:
            part, samples = self._begin(pairs)
            yield part, list  # nothing to open
            for task in part.openings(samples):
                yield part, task

    def _begin(self, pairs: list[tuple[Sample, Any]]) -> tuple[Part, list[Sample]]:
        """Find which samples are new, and look up their features."""
        for error in (key for _, key in pairs if isinstance(key, SampleError)):
            self._note(error)
        read = [pair for pair in pairs if not isinstance(pair[1], SampleError)]
        firsts = self.first.find([key for _, key in read], [s.position for s, _ in read])
        new: dict[bytes, Sample] = {}
        repeated: dict[int, int] = {}  # position: that of the first sample equal to it
        for (sample, key), first in zip(read, firsts, strict=True):
            if first == sample.position:
                new[key] = sample
            else:
                repeated[sample.position] = first
        samples = list(new.values())
        found = [Found(one, samples, list(new)) for one in self.passes]
        positions = [sample.position for sample in samples]
        return Part(positions, repeated, found, len(pairs)), samples

    def _note(self, error: SampleError) -> None:
        if self.bad is None:
            raise error
        self.bad[error.position] = error.cause

    def _complete(self, part: Part, results: Iterator) -> None:
        """Compute the missing features of a part, and put all into the tables."""
        next(results)  # of the task that every part has
        if self.bad is not None:
            part, results = self._readable(part, list(results), self.bad)
        if part.positions:
            found = part.features(results)
            if self.then is not None:
                found = {key: self.then(rows, part.positions) for key, rows in found.items()}
            self.tables.write(part.positions, found)
        if part.repeated:
            self.tables.repeat(list(part.repeated.values()), list(part.repeated))

    def _readable(self, part: Part, results: list, bad: dict) -> tuple[Part, Iterator]:
        """Leave out samples that cannot be opened, and note them and those equal to them."""
        errors = [result for result in results if isinstance(result, SampleError)]
        failed = {error.position: error.cause for error in errors}
        bad |= failed
        bad |= {i: bad[k] for i, k in part.repeated.items() if k in bad}
        opened = (result for result in results if not isinstance(result, SampleError))
        return part.without(failed) if failed else part, opened


def _run(task: tuple[Part, Callable]) -> tuple:
    return task[0], task[1]()


def _opens_nothing(task: tuple[Part, Callable]) -> bool:
    return task[1] is list


def _n_bytes(result: tuple) -> int:
    return n_bytes(result[1])


def _counted(
    parts: Iterator[int], n_samples: int, backbone: Backbone, verbose: int
) -> Iterator[int]:
    """Show a bar that advances by the number of samples of each part."""
    with progress(f"{backbone.name} features", n_samples, verbose) as advance:
        for part in parts:
            check_interrupt()
            advance(part)
            yield part
