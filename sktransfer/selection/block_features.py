"""Compute the features of blocks: layers at several sizes, counts and weighted means of words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from .. import features
from ..backbones import Backbone
from ..features import Output, TokenWeights, as_store, compute_outputs
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
    outputs = _outputs(backbone, blocks)
    settings = {name: run[name] for name in ("device", "engine", "n_jobs", "verbose")}
    settings["store"] = as_store(run["memory"])
    tables = compute_outputs(samples, list(outputs.values()), **settings) if outputs else []
    by_key = dict(zip(outputs, tables, strict=True))
    if any(block.pooling == BY_RANK for block in blocks):  # means of words, which are not stored
        weights = TokenWeights.by_rank(backbone)
        table = weights.transform(samples, backbone, device=run["device"])
        by_key |= {_key(block, BY_RANK): table for block in blocks if block.pooling == BY_RANK}
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
        As of :func:`sktransfer.features.describe_runs`.
    """
    outputs = _outputs(backbone, list(map(_without_ranks, blocks)))
    settings = {"device": run["device"], "engine": run["engine"]}
    return features.describe_runs(list(outputs.values()), **settings, store=as_store(run["memory"]))


def _outputs(backbone: Backbone, blocks: list[Block]) -> dict[tuple, Output]:
    """Return what the engine computes for blocks, by size, layer and pooling."""
    return {
        _key(block, pooling): Output(backbone.with_image_size(block.size), block.layer, pooling)
        for block in blocks
        if block != RAW
        for pooling in _poolings(block)
        if pooling != BY_RANK
    }


def _key(block: Block, pooling: str) -> tuple:
    return block.size, block.layer, pooling


def _without_ranks(block: Block) -> Block:
    """Return the block with the pooling of the same network that an engine runs."""
    return dataclasses.replace(block, pooling="avg") if block.pooling == BY_RANK else block


def _side_by_side(block: Block, by_key: dict) -> np.ndarray:
    """Return the poolings of a block, from the tables by size, layer and pooling."""
    parts = [by_key[_key(block, pooling)] for pooling in _poolings(block)]
    return parts[0] if len(parts) == 1 else np.hstack(parts)


def _poolings(block: Block) -> tuple[str, ...]:
    return block.pooling if isinstance(block.pooling, tuple) else (block.pooling,)
