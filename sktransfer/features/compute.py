"""Samples -> preprocessing -> stages -> features, chunk by chunk, through the store."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.utils.parallel import Parallel, delayed

from ..backbones import Backbone
from ..data import UnreadableSamplesError, digest, open_image
from ..engines import Engine, Recipe, engine_for, resolve_device
from .store import FeatureStore
from .tables import empty_table

__all__ = ["compute_features", "compute_inputs", "open_sample"]

# Samples opened, computed and stored at a time. Texts are small, and a longer chunk fills the
# batches of each length better.
_CHUNK = {"image": 128, "array": 128, "text": 2048}
_AT_ONCE = 128  # rows copied at a time


def compute_features(
    samples: Sequence,
    recipe: Recipe,
    *,
    batch_size: int | str = "auto",
    device: str = "auto",
    store: FeatureStore | None = None,
    n_jobs: int | None = None,
    verbose: int = 0,
) -> dict[str, np.ndarray]:
    """Compute features of samples, each distinct one once.

    Parameters
    ----------
    samples : sequence
        As :func:`sktransfer.data.as_samples` returns them, or an array of rows.
    recipe : Recipe
    batch_size : int or "auto", default="auto"
    device : str, default="auto"
    store : FeatureStore, default=None
        Where features are looked up first and kept afterwards.
    n_jobs : int, default=None
        Threads that open and preprocess samples.
    verbose : int, default=0
        1 shows a progress bar.

    Returns
    -------
    dict of str to ndarray of shape (n_samples, n_features)
        For each layer of the recipe, float32. Whole activations of texts differ in length: an
        array of objects, of shape ``(length, channels)`` each.

    Raises
    ------
    UnreadableSamplesError
        Naming the samples that cannot be read.
    """
    # Whoever cannot be opened, all who cannot are named.
    try:
        kind = recipe.backbone.kind
        digests = _digests(samples, kind, store is not None)
        distinct, scatter = _distinct(digests)
        source = _Source(recipe, batch_size, device, n_jobs)
        tables, size = _Tables(len(distinct)), _CHUNK[kind]
        for start in _progress(range(0, len(distinct), size), recipe, verbose):
            chosen = distinct[start : start + size]
            chunk = [samples[i] for i in chosen]
            found = _through_store(chunk, [digests[i] for i in chosen], source, store)
            tables.write(start, found)
    except _SampleError as error:
        raise UnreadableSamplesError(_problems(samples, recipe.backbone)) from error.__cause__
    return {layer: tables.read(layer, scatter) for layer in recipe.layers}


def compute_inputs(samples: Sequence, backbone: Backbone, n_jobs: int | None = None) -> np.ndarray:
    """Open and preprocess all samples: what the first stage is given.

    Parameters
    ----------
    samples : sequence
    backbone : Backbone
    n_jobs : int, default=None

    Returns
    -------
    ndarray of shape (n_samples, ...), float32
        On disk where it is large. For texts an array of objects, the ids of each.

    Raises
    ------
    UnreadableSamplesError
    """
    if backbone.kind == "text":
        return _ids(samples, backbone)
    tables, size = _Tables(len(samples)), _CHUNK[backbone.kind]
    source = _Source(Recipe(backbone, ()), "auto", "cpu", n_jobs)
    try:
        for start in range(0, len(samples), size):
            opened = source.open(samples[start : start + size])
            _check_shapes(opened)
            tables.write(start, {"input": torch.stack(opened).numpy()})
    except _SampleError as error:
        raise UnreadableSamplesError(_problems(samples, backbone)) from error.__cause__
    return tables.read("input", None)


def _ids(texts: Sequence[str], backbone: Backbone) -> np.ndarray:
    rows = np.empty(len(texts), object)
    for positions, ids in backbone.preprocess.many(list(texts)):
        for position, row in zip(positions, ids.numpy(), strict=True):
            rows[position] = row
    return rows


class _Tables:
    """Results of all samples by layer: in memory, or in a file without a name where large."""

    def __init__(self, n_samples: int):
        self.n_samples = n_samples
        self.by_layer: dict[str, np.ndarray] = {}

    def write(self, start: int, found: dict[str, np.ndarray]) -> None:
        for layer, rows in found.items():
            if layer not in self.by_layer:
                self.by_layer[layer] = empty_table((self.n_samples, *rows.shape[1:]), rows.dtype)
            self.by_layer[layer][start : start + len(rows)] = rows

    def read(self, layer: str, scatter: np.ndarray | None) -> np.ndarray:
        table = self.by_layer[layer]
        if scatter is None:
            return table
        result = empty_table((len(scatter), *table.shape[1:]), table.dtype)
        for start in range(0, len(scatter), _AT_ONCE):
            result[start : start + _AT_ONCE] = table[scatter[start : start + _AT_ONCE]]
        return result


class _SampleError(Exception):
    """A sample could not be opened."""


def _digests(samples: Sequence, kind: str, stored: bool) -> Sequence:
    """Tell samples apart; texts that are not to be stored do so themselves."""
    if kind == "text" and not stored:
        return samples
    return [_digest(sample, kind) for sample in samples]


def _digest(sample, kind: str) -> bytes:
    try:
        return digest(sample, kind)
    except Exception as error:
        raise _SampleError from error


def _distinct(digests: Sequence) -> tuple[list[int], np.ndarray | None]:
    """Return one position of each distinct sample, and each sample's place among those."""
    place: dict = {}
    for d in digests:
        place.setdefault(d, len(place))
    if len(place) == len(digests):
        return list(range(len(digests))), None
    scatter = np.array([place[d] for d in digests])
    return np.unique(scatter, return_index=True)[1].tolist(), scatter


def _through_store(
    samples: list, digests: list[bytes], source: _Source, store: FeatureStore | None
) -> dict[str, np.ndarray]:
    """Look features up, compute those that are missing, keep them."""
    recipe = source.recipe
    if store is None:
        return source.compute(samples)
    found = {layer: store.get(recipe.key(layer), digests) for layer in recipe.layers}
    columns = zip(*found.values(), strict=True)
    missing = [i for i, row in enumerate(columns) if any(value is None for value in row)]
    if missing:
        new = source.compute([samples[i] for i in missing])
        for layer, table in new.items():
            store.try_put(recipe.key(layer), [digests[i] for i in missing], table)
            for i, value in zip(missing, table, strict=True):
                found[layer][i] = value
    return {layer: _stacked(values, recipe.backbone.kind) for layer, values in found.items()}


def _stacked(values: list[np.ndarray], kind: str) -> np.ndarray:
    if kind != "text" or values[0].ndim == 1:
        return np.stack(values)
    table = np.empty(len(values), object)
    for i, value in enumerate(values):
        table[i] = value
    return table


class _Source:
    """Opens samples and runs them through the network, which is prepared when first needed."""

    def __init__(self, recipe: Recipe, batch_size, device: str, n_jobs: int | None):
        self.recipe = recipe
        self.batch_size = batch_size
        self.device = device
        self.n_jobs = n_jobs

    @functools.cached_property
    def engine(self) -> Engine:
        return engine_for(self.recipe, resolve_device(self.device))

    def compute(self, samples: list) -> dict[str, np.ndarray]:
        if self.recipe.backbone.kind == "text":
            groups = self.recipe.backbone.preprocess.many(samples)
            return self.engine.run_groups(groups, self.batch_size)
        tensors = self.open(samples)
        _check_shapes(tensors)
        return self.engine.run(tensors, self.batch_size)

    def open(self, samples: list) -> list[torch.Tensor]:
        if self.n_jobs in (None, 1):
            return [_open(sample, self.recipe.backbone) for sample in samples]
        opened = Parallel(self.n_jobs, prefer="threads")(
            delayed(_open)(sample, self.recipe.backbone) for sample in samples
        )
        return list(opened)


def _open(sample, backbone: Backbone) -> torch.Tensor:
    """Open and preprocess one sample."""
    try:
        return open_sample(sample, backbone)
    except Exception as error:
        raise _SampleError from error


def open_sample(sample, backbone: Backbone) -> torch.Tensor:
    """Open one sample as its backbone wants it.

    Parameters
    ----------
    sample : object
    backbone : Backbone

    Returns
    -------
    Tensor
        Without a batch axis.
    """
    if backbone.kind == "array":
        return torch.tensor(sample)
    if backbone.kind == "text":
        return backbone.preprocess(sample)
    return backbone.preprocess(open_image(sample))


def _problems(samples: Sequence, backbone: Backbone) -> list[tuple[int, object, Exception]]:
    problems = []
    for i, sample in enumerate(samples):
        try:
            open_sample(sample, backbone)
        except Exception as error:
            problems.append((i, sample, error))
    return problems


def _check_shapes(tensors: list[torch.Tensor]) -> None:
    shapes = {tuple(t.shape) for t in tensors}
    if len(shapes) > 1:
        raise ValueError(
            f"The preprocessing returns tensors of different shapes, {sorted(shapes)[:3]}; a "
            "network needs one shape: add a resize and a crop to it."
        )


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
