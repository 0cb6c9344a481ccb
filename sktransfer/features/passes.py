"""Group recipes into passes through a network, and run these."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..backbones import Backbone
from ..engines import Engine, resolve_device
from .generations import CheckedStore, StoredOutput
from .recipe import Recipe
from .store import FeatureStore

__all__ = ["Pass", "describe_passes", "make_passes"]


class Pass:
    """Runs samples through one network for some recipes. It is prepared at its first use.

    Parameters
    ----------
    recipes : dict of int to Recipe
        Of one backbone, precision and type, by their position among all recipes.
    batch_size : int or "auto"
    device : str
    runner : Engine or None
    store : FeatureStore or None
        Beside it, converted networks are kept.
    """

    backbone: Backbone
    conversions: Path | None
    outputs: list[tuple[int, str]]

    def __init__(
        self,
        recipes: dict[int, Recipe],
        batch_size: int | str | None,
        device: str,
        runner: Engine | None,
        store: FeatureStore | None,
    ):
        self.recipes = recipes
        self.batch_size: Any = batch_size
        self.device = device
        self.runner: Engine | None = runner
        self.conversions = None if store is None else store.conversions
        self.backbone = next(iter(recipes.values())).backbone
        self.outputs = [(i, layer) for i, recipe in recipes.items() for layer in recipe.layers]
        self._store = store

    @functools.cached_property
    def store(self) -> CheckedStore | None:
        """The features of this backbone in the store."""
        if self._store is None:
            return None
        wanted: dict[tuple[Any, ...], StoredOutput] = {}
        for i, recipe in self.recipes.items():
            for layer in recipe.layers:
                wanted[i, layer] = _stored(recipe, layer, recipe.pooling)
            for key, layer, pooling in recipe.whole_outputs:
                wanted[key] = _stored(recipe, layer, pooling)
        return CheckedStore(self._store, self.backbone, wanted, self.device)

    @functools.cached_property
    def engine(self) -> Engine:
        if self.runner is not None:
            return self.runner
        first, *others = self.recipes.items()
        also = [((i, layer), layer, r.pooling) for i, r in others for layer in r.layers]
        device = resolve_device(self.device)
        return first[1].engine(device, also=tuple(also), conversions=self.conversions)

    def execution(self) -> dict[str, Any]:
        """Describe how batches are run."""
        shape, size = self.backbone.input_shape, self.batch_size
        if size == "auto":
            sample = None if shape is None else torch.zeros(shape)
            size = None if sample is None else self.engine.batch_size(sample)
        return self.engine.execution() | {"batch_size": size}

    def compute(self, groups: list[Any]) -> dict[Any, np.ndarray]:
        """Run preprocessed samples.

        Returns
        -------
        dict of (int, str) to ndarray
            For each position of a recipe and layer; the whole activations that go to the store
            under ``(layer, "none")``.
        """
        if self.backbone.modality.has_tokens:
            found = self.engine.run_groups(groups, self.batch_size)
        else:
            ((_, tensors),) = groups
            found = self.engine.run(tensors, self.batch_size)
        first = next(iter(self.recipes))
        return {(first, k) if isinstance(k, str) else k: rows for k, rows in found.items()}


def _stored(recipe: Recipe, layer: str, pooling: Any) -> StoredOutput:
    key = recipe.key((layer, "none") if pooling == "none" else layer)
    return StoredOutput(key, layer, pooling, recipe.precision, recipe.dtype)


def make_passes(
    recipes: Sequence[Recipe],
    batch_size: int | str | None,
    device: str,
    runner: Engine | None,
    store: FeatureStore | None,
) -> list[Pass]:
    """Group the recipes that one pass through a network serves.

    Parameters
    ----------
    recipes : sequence of Recipe
    batch_size : int or "auto"
    device : str
    runner : Engine or None
        Runs all samples, for a single recipe.
    store : FeatureStore or None

    Returns
    -------
    list of Pass
    """
    groups: dict[tuple, dict[int, Recipe]] = {}
    for i, recipe in enumerate(recipes):
        key = id(recipe.backbone), recipe.precision, recipe.dtype, recipe.runtime
        groups.setdefault(key, {})[i] = recipe
    return [Pass(group, batch_size, device, runner, store) for group in groups.values()]


def describe_passes(
    recipes: Sequence[Recipe],
    *,
    batch_size: int | str | None = "auto",
    device: str = "auto",
    store: FeatureStore | None = None,
) -> dict[Backbone, dict[str, Any]]:
    """Describe how :func:`sktransfer.features.compute_several` runs the network of each pass.

    Parameters
    ----------
    recipes, batch_size, device, store
        As for that function.

    Returns
    -------
    dict of Backbone to dict
        "engine", "device", "precision", "layout" and "batch_size"; the last is None if it is "auto"
        and depends on the sample.
    """
    passes = make_passes(recipes, batch_size, device, None, store)
    return {one.backbone: one.execution() for one in passes}
