"""Drop what torch.export prints about a network that it cannot export; our own error says why."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import Any

__all__ = ["quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what this thread writes to the standard error stream and logs through torch.

    Other threads are not affected. With the environment variable ``TORCH_LOGS``, which asks torch
    to log, nothing is dropped.
    """
    if "TORCH_LOGS" in os.environ or sys.stderr is None:
        yield
        return
    own = threading.get_ident()
    before, sys.stderr = sys.stderr, _OfOtherThreads(sys.stderr, own)
    handlers, of_others = _handlers_of_torch(), _LogOfOtherThreads(own)
    for handler in handlers:
        handler.addFilter(of_others)
    try:
        yield
    finally:
        sys.stderr = before
        for handler in handlers:
            handler.removeFilter(of_others)


def _handlers_of_torch() -> list[logging.Handler]:
    """Return the handlers of all loggers of torch, some of which have their own."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    of_torch = [logger for logger in loggers if logger.name.split(".")[0] == "torch"]
    return [handler for logger in of_torch for handler in logger.handlers]


class _OfOtherThreads:
    """A stream without what one thread writes."""

    def __init__(self, stream: Any, thread: int):
        self._stream, self._thread = stream, thread

    def write(self, text: str) -> int:
        is_own = threading.get_ident() == self._thread
        return len(text) if is_own else self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _LogOfOtherThreads(logging.Filter):
    """A filter of the records of one thread."""

    def __init__(self, thread: int):
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread
