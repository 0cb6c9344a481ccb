"""Private names of torch."""

from __future__ import annotations

import linecache
import weakref
from typing import Any

from torch import fx
from torch.fx import graph_module

__all__ = ["TracedModule"]


class TracedModule(fx.GraphModule):
    """Module that was traced, whose generated source is kept no longer than the module.

    torch keeps the source of every ``GraphModule`` that was ever made, also of copies, for
    tracebacks: each training would need some kilobytes for good.
    """

    def recompile(self) -> Any:
        code = super().recompile()
        weakref.finalize(self, _forget, type(self).forward.__code__.co_filename).atexit = False
        return code


def _forget(filename: str) -> None:
    linecache.cache.pop(filename, None)
    loader = getattr(graph_module, "_loader", None)
    getattr(loader, "eval_cache", {}).pop(filename, None)
