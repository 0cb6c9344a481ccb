"""Run stages fast: batching, memory, fusion and pooling; one file for each runtime.

An engine takes stages, and the outputs that are read. It knows no backbone and no store.
"""

from .engine import (
    Engine,
    as_batch,
    distance,
    fewer_rows,
    keep_freed_memory,
    raise_thresholds,
    resolve_device,
    thread_budget,
)
from .exported import export, quiet, retry_with_plain_attention
from .onnxruntime import onnx_model
from .select import ENGINES, check_engine, engine_for, resolve_engine
from .torch import TorchEngine

__all__ = [
    "ENGINES",
    "Engine",
    "TorchEngine",
    "as_batch",
    "check_engine",
    "distance",
    "engine_for",
    "export",
    "fewer_rows",
    "keep_freed_memory",
    "onnx_model",
    "quiet",
    "raise_thresholds",
    "resolve_device",
    "resolve_engine",
    "retry_with_plain_attention",
    "thread_budget",
]
