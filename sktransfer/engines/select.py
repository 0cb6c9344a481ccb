"""Choose an engine, and keep the last engines of each network."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import keep_last
from .compiled import CompiledEngine
from .engine import Engine
from .exported import ExportedEngine
from .onnxruntime import ONNXRuntimeEngine
from .openvino import OpenVINOEngine
from .torch import TorchEngine

# A runtime is one class and one entry here.
ENGINES: dict[str, type[Engine]] = {
    "torch": TorchEngine,
    "openvino": OpenVINOEngine,
    "onnxruntime": ONNXRuntimeEngine,
    "compile": CompiledEngine,
}
_ENGINES_KEPT = 2  # for each network
_LOCK = threading.Lock()


def resolve_engine(engine: str) -> str:
    """Return the runtime that is meant: a key of ``ENGINES``.

    "auto" is "torch": a conversion takes seconds, which only many samples make up for.
    """
    if engine not in ("auto", *ENGINES):
        raise ValueError(f"engine={engine!r} is none of {['auto', *ENGINES]}.")
    return "torch" if engine == "auto" else engine


def check_engine(engine: str, device: torch.device, precision: str) -> None:
    """Check that a runtime is installed and supports a device and a precision."""
    ENGINES[resolve_engine(engine)].check(device, precision)


def engine_for(
    stages: Mapping[str, nn.Module],
    outputs: Mapping[Any, tuple[str, Any]],
    *,
    kept: dict[Any, Engine],
    engine: str = "auto",
    network: Callable[[], str] | None = None,
    conversions: Path | None = None,
    **settings: Any,
) -> Engine:
    """Return a prepared engine, the same again while it is among the last that were used.

    These are in ``kept``, which lives as long as the network does. ``network`` returns what
    identifies the stages in the folder ``conversions``, in which runtimes keep networks that they
    converted. All else is as for :class:`Engine`.
    """
    engine = resolve_engine(engine)
    key = (engine, *outputs.items(), *sorted(settings.items(), key=lambda item: item[0]))
    if issubclass(ENGINES[engine], ExportedEngine):
        # After a fit, set_params may have changed it, or a pickle been opened without its package.
        check_engine(engine, settings["device"], settings.get("precision", "float32"))
        settings |= {"network": network, "conversions": conversions}
    make = functools.partial(ENGINES[engine], stages, outputs, **settings)
    try:
        hash(key)
    except TypeError:  # a pooling may be an object without a hash
        return make()
    with _LOCK:
        return keep_last(kept, key, _ENGINES_KEPT, make)
