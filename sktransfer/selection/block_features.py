"""Compute the features of blocks: layers at several sizes, counts and weighted means of words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone
from ..features import Recipe, TokenWeights, as_store, compute_several, describe_passes
from .members import BY_RANK, RAW, Block

__all__ = ["compute_blocks", "describe_runs"]


def compute_blocks(
    samples: Sequence[Any],
    backbone: Backbone,
    blocks: Iterable[Block],
    vectorizer: Any,
    run: dict[str, Any],
) -> dict[Block, np.ndarray]:
    """Compute the features of samples for some blocks, in one pass for each input size.

    Parameters
    ----------
    samples : sequence
    backbone : Backbone
    blocks : iterable of Block
    vectorizer : transformer or None
        Fitted; for the block ``RAW``.
    run : dict
        device, engine, memory, n_jobs, verbose.

    Returns
    -------
    dict of Block to ndarray of shape (n_samples, n_features)
    """
    blocks = list(dict.fromkeys(blocks))
    recipes = _recipes(backbone, blocks, run["engine"])
    settings = {name: run[name] for name in ("device", "n_jobs", "verbose")}
    settings["store"] = as_store(run["memory"])
    found = compute_several(samples, list(recipes.values()), **settings) if recipes else []
    by_key = dict(zip(recipes, found, strict=True))
    by_key |= _by_rank(samples, backbone, blocks, run["device"])
    return {
        block: vectorizer.transform(samples) if block == RAW else _side_by_side(block, by_key)
        for block in blocks
    }


def describe_runs(
    backbone: Backbone, blocks: Iterable[Block], run: dict[str, Any]
) -> dict[Backbone, dict[str, Any]]:
    """Describe how the network runs for some blocks, for each input size.

    Parameters
    ----------
    backbone, blocks, run
        As for :func:`compute_blocks`.

    Returns
    -------
    dict of Backbone to dict
        As of :func:`sktransfer.features.describe_passes`.
    """
    recipes = _recipes(backbone, list(map(_without_ranks, blocks)), run["engine"]).values()
    return describe_passes(list(recipes), device=run["device"], store=as_store(run["memory"]))


def _recipes(backbone: Backbone, blocks: list[Block], engine: str) -> dict[tuple, Recipe]:
    """Return a recipe for each size and pooling."""
    layers: dict[tuple, list[str]] = {}
    for block in (block for block in blocks if block != RAW):
        for pooling in _poolings(block):
            if pooling != BY_RANK:
                layers.setdefault((block.size, pooling), []).append(block.layer)
    return {
        (size, pooling): Recipe(
            backbone.with_image_size(size), tuple(dict.fromkeys(names)), pooling, runtime=engine
        )
        for (size, pooling), names in layers.items()
    }


def _by_rank(samples, backbone: Backbone, blocks: list[Block], device: str) -> dict[tuple, dict]:
    """Compute the means of words that are weighted by rank, which are not stored."""
    layers = [block.layer for block in blocks if block.pooling == BY_RANK]
    if not layers:
        return {}
    table = TokenWeights.by_rank(backbone).transform(samples, backbone, device=device)
    return {(None, BY_RANK): dict.fromkeys(layers, table)}


def _without_ranks(block: Block) -> Block:
    """Return the block with the pooling of the same network that an engine runs."""
    return dataclasses.replace(block, pooling="avg") if block.pooling == BY_RANK else block


def _side_by_side(block: Block, by_key: dict) -> np.ndarray:
    """Return the poolings of a block, from the tables by size and pooling."""
    parts = [by_key[block.size, pooling][block.layer] for pooling in _poolings(block)]
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def _poolings(block: Block) -> tuple[str, ...]:
    return block.pooling if isinstance(block.pooling, tuple) else (block.pooling,)
