"""Choose an engine, and keep the last engines of each network."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence

from torch import nn

from .base import Engine
from .torch import TorchEngine

__all__ = ["ENGINES", "engine_for"]

# A runtime is one class and one entry here.
ENGINES: dict[str, type[Engine]] = {"torch": TorchEngine}
_ENGINES_KEPT = 2  # for each network
_LOCK = threading.Lock()


def engine_for(
    stages: Mapping[str, nn.Module],
    layers: Sequence[str],
    pooling: str | Callable | tuple = "avg",
    *,
    kept: dict,
    engine: str = "torch",
    **settings,
) -> Engine:
    """Return a prepared engine, the same again while it is among the last that were used.

    Parameters
    ----------
    stages : mapping of str to torch.nn.Module
    layers : sequence of str
    pooling : str, callable or tuple, default="avg"
    kept : dict
        Where engines of this network are kept. It lives as long as the network does.
    engine : str, default="torch"
        The runtime, a key of ``ENGINES``.
    **settings
        Of :class:`Engine`.

    Returns
    -------
    Engine
    """
    key = (engine, tuple(layers), pooling, *sorted(settings.items(), key=lambda item: item[0]))
    if not _is_hashable(key):  # a pooling may be an object without a hash
        return ENGINES[engine](stages, layers, pooling, **settings)
    with _LOCK:
        found = kept.pop(key, None) or ENGINES[engine](stages, layers, pooling, **settings)
        kept[key] = found  # the newest last
        while len(kept) > _ENGINES_KEPT:
            kept.pop(next(iter(kept)))
    return found


def _is_hashable(key: tuple) -> bool:
    try:
        hash(key)
    except TypeError:
        return False
    return True
