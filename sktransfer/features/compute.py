"""Compute the features of samples chunk by chunk, through the store."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone
from ..data import Modality
from ..engines import Engine
from .opening import Sample, SampleErrors, digests_of, open_for, read, unreadable_named
from .passes import Pass, make_passes
from .recipe import Recipe
from .store import FeatureStore
from .tables import empty_table

__all__ = ["compute_features", "compute_inputs", "compute_several"]


def compute_features(
    samples: Sequence, recipe: Recipe, *, runner: Engine | None = None, **settings
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
    samples: Sequence,
    recipes: Sequence[Recipe],
    *,
    batch_size: int | str = "auto",
    device: str = "auto",
    store: FeatureStore | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
    runner: Engine | None = None,
    bad: dict[int, Exception] | None = None,
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
    n_jobs : int, default=None
        Threads that open and preprocess samples.
    verbose : int, default=0
        1 shows a progress bar.
    runner : Engine, default=None
        For a single recipe: as in :func:`compute_features`.
    bad : dict of int to Exception, default=None
        If given, causes are put into it by the position of each sample that cannot be read, and
        the features of these samples are NaN.

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
    backbones, size = [one.backbone for one in passes], recipes[0].backbone.modality.chunk_size
    run = _Run(len(samples), passes, store, n_jobs)
    for start in _progress(range(0, len(samples), size), backbones[0], verbose):
        with unreadable_named(samples, start, backbones):
            for part in read(samples, range(start, start + size), backbones[0].modality, bad):
                run.add(part) if bad is None else run.add_readable(part, bad)
    run.tables.clear(list(bad or ()))
    return [{layer: run.tables[i, layer] for layer in r.layers} for i, r in enumerate(recipes)]


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
    for start in range(0, len(samples), modality.chunk_size):
        with unreadable_named(samples, start, [backbone]):
            for part in read(samples, range(start, start + modality.chunk_size), modality):
                (groups,) = open_for(part, [backbone], [range(len(part))], n_jobs)
                for places, tensors in groups:
                    rows = _stacked([tensor.numpy() for tensor in tensors], modality.has_tokens)
                    tables.write([part[i].position for i in places], {"input": rows})
    return tables.by_output["input"]


class _Tables:
    """One table for each output, with one row for each sample."""

    def __init__(self, n_samples: int):
        self.n_samples = n_samples
        self.by_output: dict[Any, np.ndarray] = {}

    def write(self, positions: Sequence[int], found: dict[Any, np.ndarray]) -> None:
        for output, rows in found.items():
            if output not in self.by_output:
                self.by_output[output] = empty_table((self.n_samples, *rows.shape[1:]), rows.dtype)
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

    Parameters
    ----------
    n_samples : int
    passes : list of Pass
    store : FeatureStore or None
    n_jobs : int or None
    """

    def __init__(
        self, n_samples: int, passes: list[Pass], store: FeatureStore | None, n_jobs: int | None
    ):
        self.passes, self.store, self.n_jobs = passes, store, n_jobs
        self.tables = _Tables(n_samples)
        self.first: dict[object, int] = {}  # by digest
        self.failed: dict[object, Exception] = {}  # by digest

    def add_readable(self, samples: list[Sample], bad: dict[int, Exception]) -> None:
        """Do the same as :meth:`add` without samples that cannot be opened, which go to ``bad``."""
        while samples:
            try:
                return self.add(samples)
            except SampleErrors as error:
                bad |= error.problems
                self._note_failed(error.problems)
                samples = [sample for sample in samples if sample.position not in bad]

    def _note_failed(self, problems: dict[int, Exception]) -> None:
        """Remember the digests of samples that cannot be opened, for those equal to them."""
        for key in [key for key, position in self.first.items() if position in problems]:
            self.failed[key] = problems[self.first.pop(key)]

    def add(self, samples: list[Sample]) -> None:
        """Compute the features of some samples and put them into the tables."""
        new: dict[bytes, Sample] = {}
        repeated: dict[int, int] = {}  # position: that of the first sample equal to it
        keys = self._digests(samples)
        self._check_known(samples, keys)
        for sample, key in zip(samples, keys, strict=True):
            first = self.first.setdefault(key, sample.position)
            if first == sample.position:
                new[key] = sample
            else:
                repeated[sample.position] = first
        if new:
            positions = [sample.position for sample in new.values()]
            self.tables.write(positions, self._compute(list(new.values()), list(new)))
        if repeated:
            self.tables.repeat(list(repeated.values()), list(repeated))

    def _check_known(self, samples: list[Sample], keys: list) -> None:
        """Raise an error for samples equal to those that could not be opened."""
        pairs = zip(samples, keys, strict=True)
        known = {s.position: self.failed[key] for s, key in pairs if key in self.failed}
        if known:
            raise SampleErrors(known)

    def _digests(self, samples: list[Sample]) -> list:
        """Return a digest of each sample; without a store, hashable samples themselves."""
        modality: Modality = self.passes[0].backbone.modality
        if modality.is_hashable and self.store is None:
            return [sample.content for sample in samples]
        return digests_of(samples, modality)

    def _compute(self, samples: list[Sample], digests: list[bytes]) -> dict[tuple, np.ndarray]:
        """Look up features in the store, compute the missing ones and store them."""
        parts = [_Part(one, digests, self.store) for one in self.passes]
        backbones = [one.backbone for one in self.passes]
        groups = open_for(samples, backbones, [part.missing for part in parts], self.n_jobs)
        found: dict[tuple, np.ndarray] = {}
        for part in parts:
            found |= part.complete(groups.pop(0))  # frees what was opened for it
        return found


class _Part:
    """Some samples in one pass: what the store has of their features, and what is missing.

    Parameters
    ----------
    one : Pass
    digests : list of bytes
        Of the samples.
    store : FeatureStore or None
    """

    def __init__(self, one: Pass, digests: list[bytes], store: FeatureStore | None):
        self.one, self.digests, self.store = one, digests, store
        self.missing: Sequence[int] = range(len(digests))
        self.found: dict[tuple, list] = {}
        if store is not None:
            self.found = {output: store.get(one.key(output), digests) for output in one.outputs}
            columns = zip(*self.found.values(), strict=True)
            runs_all = one.runner is not None
            self.missing = [
                i for i, row in enumerate(columns) if runs_all or any(v is None for v in row)
            ]

    def complete(self, groups: list) -> dict[tuple, np.ndarray]:
        """Compute the missing features from preprocessed samples, store and return all."""
        new = self.one.compute(groups) if self.missing else {}
        if self.store is None:
            return {output: new[output] for output in self.one.outputs}
        if self.missing:
            self._put_aside(new, self.store)
            for output in self.one.outputs:
                self._put(output, new[output], self.store)
        ragged = self.one.backbone.modality.has_tokens
        return {
            k: _stacked(rows, ragged and np.ndim(rows[0]) > 1) for k, rows in self.found.items()
        }

    def _put_aside(self, new: dict[Any, np.ndarray], store: FeatureStore) -> None:
        digests = [self.digests[i] for i in self.missing]
        for recipe in self.one.recipes.values():
            for key in ((layer, "none") for layer in recipe.whole):
                store.try_put_aside(recipe.key(key), digests, new[key])

    def _put(self, output: tuple[int, str], rows: np.ndarray, store: FeatureStore) -> None:
        """Store the features of an output that were missing."""
        found = self.found[output]
        absent = [j for j, i in enumerate(self.missing) if found[i] is None]
        digests = [self.digests[self.missing[j]] for j in absent]
        store.try_put(self.one.key(output), digests, rows[absent])
        for j in absent:
            found[self.missing[j]] = rows[j]


def _stacked(values: list, ragged: bool) -> np.ndarray:
    """Make one array of rows; an array of objects if they are ragged."""
    if not ragged:
        return np.stack(values)
    table = np.empty(len(values), object)
    for i, value in enumerate(values):
        table[i] = value
    return table


def _progress(steps: range, backbone: Backbone, verbose: int):
    if not verbose:
        return steps
    try:
        from rich.progress import track
    except ImportError:
        raise ImportError(
            "verbose=1 draws its bar with rich: pip install 'sktransfer[cli]'"
        ) from None
    return track(steps, description=f"{backbone.name} features")
