"""Compute the features of samples chunk by chunk, through the store."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed

from ..backbones import Backbone
from ..data import Modality, UnreadableSamplesError
from ..engines import Engine, resolve_device
from .recipe import Recipe
from .store import FeatureStore
from .tables import empty_table

__all__ = ["compute_features", "compute_inputs", "open_sample"]

_BYTES_READ = 2**26  # bytes of files in memory at a time, or one file


def compute_features(
    samples: Sequence,
    recipe: Recipe,
    *,
    batch_size: int | str = "auto",
    device: str = "auto",
    store: FeatureStore | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
    runner: Engine | None = None,
) -> dict[str, np.ndarray]:
    """Compute the features of samples, those of equal samples once.

    Parameters
    ----------
    samples : sequence
        As returned by the method ``check`` of their modality.
    recipe : Recipe
    batch_size : int or "auto", default="auto"
    device : str, default="auto"
    store : FeatureStore, default=None
        Where features are looked up first and kept afterwards.
    n_jobs : int, default=None
        Threads that open and preprocess samples.
    verbose : int, default=0
        1 shows a progress bar.
    runner : Engine, default=None
        Runs every sample, also those in the store, in place of the engine of the recipe.

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
    backbone, size = recipe.backbone, recipe.backbone.modality.chunk_size
    run = _Run(len(samples), _Source(recipe, batch_size, device, n_jobs, runner), store)
    for start in _progress(range(0, len(samples), size), recipe, verbose):
        with _unreadable_named(samples, start, backbone):
            for part in _read(samples, range(start, start + size), backbone.modality):
                run.add(part)
    return {layer: run.tables.by_layer[layer] for layer in recipe.layers}


def compute_inputs(samples: Sequence, backbone: Backbone, n_jobs: int | None = None) -> np.ndarray:
    """Open and preprocess samples for the first stage of a network.

    Parameters
    ----------
    samples : sequence
    backbone : Backbone
    n_jobs : int, default=None

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
    tables, modality = _Tables(len(samples)), backbone.modality
    source = _Source(Recipe(backbone, ()), "auto", "cpu", n_jobs)
    for start in range(0, len(samples), modality.chunk_size):
        with _unreadable_named(samples, start, backbone):
            for part in _read(samples, range(start, start + modality.chunk_size), modality):
                for places, tensors in source.groups(part):
                    rows = _stacked([tensor.numpy() for tensor in tensors], modality.has_tokens)
                    tables.write([part[i].position for i in places], {"input": rows})
    return tables.by_layer["input"]


class _Tables:
    """One table for each layer, with one row for each sample."""

    def __init__(self, n_samples: int):
        self.n_samples = n_samples
        self.by_layer: dict[str, np.ndarray] = {}

    def write(self, positions: Sequence[int], found: dict[str, np.ndarray]) -> None:
        for layer, rows in found.items():
            if layer not in self.by_layer:
                self.by_layer[layer] = empty_table((self.n_samples, *rows.shape[1:]), rows.dtype)
            self.by_layer[layer][positions] = rows

    def repeat(self, sources: Sequence[int], positions: Sequence[int]) -> None:
        """Copy rows to the positions of equal samples."""
        for table in self.by_layer.values():
            table[positions] = table[sources]


class _Sample(NamedTuple):
    """A sample that was read into memory, and its position among all samples."""

    position: int
    content: object


class _SampleError(Exception):
    """A sample could not be read or opened. joblib replaces ``__cause__`` by a traceback."""

    def __init__(self, position: int, cause: Exception):
        super().__init__(position, cause)
        self.position, self.cause = position, cause


def _read(samples: Sequence, positions: range, modality: Modality) -> Iterator[list[_Sample]]:
    """Read samples into memory, and yield them in lists of limited size in bytes."""
    part, n_bytes = [], 0
    for position in positions[: len(samples) - positions.start]:
        try:
            content = modality.read(samples[position])
        except Exception as error:
            raise _SampleError(position, error) from error
        part.append(_Sample(position, content))
        n_bytes += getattr(content, "bytes_read", 0)
        if n_bytes >= _BYTES_READ:
            yield part
            part, n_bytes = [], 0
    if part:
        yield part


class _Run:
    """Computes features part by part, and of equal samples only those of the first.

    Parameters
    ----------
    n_samples : int
    source : _Source
    store : FeatureStore or None
    """

    def __init__(self, n_samples: int, source: _Source, store: FeatureStore | None):
        self.source, self.store = source, store
        self.tables = _Tables(n_samples)
        self.first: dict[object, int] = {}  # by digest

    def add(self, samples: list[_Sample]) -> None:
        """Compute the features of some samples and put them into the tables."""
        new: dict[bytes, _Sample] = {}
        repeated: dict[int, int] = {}  # position: that of the first sample equal to it
        for sample, digest in zip(samples, self._digests(samples), strict=True):
            first = self.first.setdefault(digest, sample.position)
            if first == sample.position:
                new[digest] = sample
            else:
                repeated[sample.position] = first
        if new:
            found = _through_store(list(new.values()), list(new), self.source, self.store)
            self.tables.write([sample.position for sample in new.values()], found)
        if repeated:
            self.tables.repeat(list(repeated.values()), list(repeated))

    def _digests(self, samples: list[_Sample]) -> list:
        """Return a digest of each sample; without a store, hashable samples themselves."""
        modality = self.source.recipe.backbone.modality
        if modality.is_hashable and self.store is None:
            return [sample.content for sample in samples]
        return [_digest(sample, modality) for sample in samples]


def _digest(sample: _Sample, modality: Modality) -> bytes:
    try:
        return modality.digest(sample.content)
    except Exception as error:
        raise _SampleError(sample.position, error) from error


def _through_store(
    samples: list[_Sample], digests: list[bytes], source: _Source, store: FeatureStore | None
) -> dict[str, np.ndarray]:
    """Look up features in the store, compute the missing ones and store them."""
    recipe = source.recipe
    if store is None:
        new = source.compute(samples)
        return {layer: new[layer] for layer in recipe.layers}
    found: dict[str, list] = {
        layer: store.get(recipe.key(layer), digests) for layer in recipe.layers
    }
    columns = zip(*found.values(), strict=True)
    runs_all = source.runner is not None
    missing = [i for i, row in enumerate(columns) if runs_all or any(v is None for v in row)]
    if missing:
        new = source.compute([samples[i] for i in missing])
        for key in ((layer, "none") for layer in recipe.whole):
            store.try_put_aside(recipe.key(key), [digests[i] for i in missing], new[key])
        for layer, rows in found.items():
            absent = [j for j, i in enumerate(missing) if rows[i] is None]
            kept = [digests[missing[j]] for j in absent]
            store.try_put(recipe.key(layer), kept, new[layer][absent])
            for j in absent:
                rows[missing[j]] = new[layer][j]
    tokens = recipe.backbone.modality.has_tokens
    return {k: _stacked(rows, tokens and np.ndim(rows[0]) > 1) for k, rows in found.items()}


def _stacked(values: list, ragged: bool) -> np.ndarray:
    """Make one array of rows; an array of objects if they are ragged."""
    if not ragged:
        return np.stack(values)
    table = np.empty(len(values), object)
    for i, value in enumerate(values):
        table[i] = value
    return table


class _Source:
    """Opens samples and runs them through the network, which is prepared at its first use."""

    def __init__(self, recipe: Recipe, batch_size, device, n_jobs, runner: Engine | None = None):
        self.recipe = recipe
        self.runner = runner
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs

    @functools.cached_property
    def engine(self) -> Engine:
        return self.runner or self.recipe.engine(resolve_device(self.device))

    def compute(self, samples: list[_Sample]) -> dict[Any, np.ndarray]:
        groups = self.groups(samples)
        if self.recipe.backbone.modality.has_tokens:
            return self.engine.run_groups(groups, self.batch_size)
        ((_, tensors),) = groups
        return self.engine.run(tensors, self.batch_size)

    def groups(self, samples: list[_Sample]) -> list[tuple[np.ndarray, Sequence[torch.Tensor]]]:
        """Open and preprocess samples, and group those of one shape."""
        backbone = self.recipe.backbone
        many = getattr(backbone.preprocess, "many", None)
        if many is not None:  # such as for texts, which are tokenised together
            return many([sample.content for sample in samples])
        return backbone.modality.group(self._open(samples))

    def _open(self, samples: list[_Sample]) -> list[torch.Tensor]:
        backbone = self.recipe.backbone
        if self.n_jobs in (None, 1):
            return [_open(sample, backbone) for sample in samples]
        # A positive number of threads may exceed that of the samples.
        n_jobs = min(self.n_jobs, len(samples)) if self.n_jobs > 0 else self.n_jobs
        opened = Parallel(n_jobs, prefer="threads")(
            delayed(_open)(sample, backbone) for sample in samples
        )
        return list(opened)


def _open(sample: _Sample, backbone: Backbone) -> torch.Tensor:
    try:
        return open_sample(sample.content, backbone)
    except Exception as error:
        raise _SampleError(sample.position, error) from error


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
    opened = backbone.modality.open(sample)
    return torch.tensor(opened) if backbone.preprocess is None else backbone.preprocess(opened)


@contextlib.contextmanager
def _unreadable_named(samples: Sequence, start: int, backbone: Backbone):
    """Replace the error of one sample by one that lists all unreadable samples."""
    try:
        yield
    except _SampleError as error:
        problems = _problems(samples, start, backbone, {error.position: error.cause})
        raise UnreadableSamplesError(problems) from error.cause


def _problems(samples: Sequence, start: int, backbone: Backbone, known: dict) -> list[tuple]:
    """List the samples from a position on that cannot be opened, and those that failed before."""
    problems = []
    for i in range(start, len(samples)):
        error = known[i] if i in known else _error_of(samples[i], backbone)
        if error is not None:
            problems.append((i, samples[i], error))
    return problems


def _error_of(sample, backbone: Backbone) -> Exception | None:
    try:
        open_sample(sample, backbone)
    except Exception as error:
        return error
    return None


def _progress(steps: range, recipe: Recipe, verbose: int):
    if not verbose:
        return steps
    try:
        from rich.progress import track
    except ImportError:
        raise ImportError(
            "verbose=1 draws its bar with rich: pip install 'sktransfer[cli]'"
        ) from None
    return track(steps, description=f"{recipe.backbone.name} features")
