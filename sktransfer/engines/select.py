"""Choose an engine for a recipe, and keep the last ones."""

from __future__ import annotations

import torch

from .base import Recipe
from .torch import Engine

__all__ = ["engine_for"]

_ENGINES_KEPT = 2  # for each network: a list of layers and the next candidate's


def engine_for(recipe: Recipe, device: torch.device) -> Engine:
    """Return a prepared engine, the same again while its network lives and it is in use."""
    engines = recipe.backbone.prepared.setdefault("engines", {})
    key = (recipe, device)
    found = engines.pop(key, None) or Engine(recipe, device)
    engines[key] = found  # the newest last
    while len(engines) > _ENGINES_KEPT:
        engines.pop(next(iter(engines)))
    return found
