"""Run stages fast: batching, memory, fusion and pooling; one file for each runtime."""

from .base import Recipe, group_by_shape, resolve_device
from .pooling import pool
from .select import engine_for
from .torch import Engine

__all__ = ["Engine", "Recipe", "engine_for", "group_by_shape", "pool", "resolve_device"]
