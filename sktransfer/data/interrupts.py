"""Keep interrupts, such as Ctrl-C, that Python would drop.

Python raises KeyboardInterrupt in the main thread, wherever that is. In a callback of a weak
reference, in ``__del__`` and while garbage is collected, exceptions are printed and dropped, and
the program goes on. A handler sees each interrupt.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

__all__ = ["check_interrupt", "kept_interrupts", "was_interrupted"]


class _Handler:
    """Raise KeyboardInterrupt, as the default handler does, and remember that."""

    called = False

    def __call__(self, number: int, frame: Any) -> NoReturn:
        self.called = True
        raise KeyboardInterrupt


@contextlib.contextmanager
def kept_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of a block if one was raised in it and did not leave it.

    Another exception that leaves the block is not replaced. Where the program handles interrupts
    itself, and outside the main thread, nothing is changed. The handler is that of the outermost
    block, and is removed at its end.

    Raises
    ------
    KeyboardInterrupt
    """
    is_main = threading.current_thread() is threading.main_thread()
    if is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        handler = _Handler()
        with _silent_hook(), _installed(handler):
            yield
        if handler.called:
            raise KeyboardInterrupt
        return
    yield
    check_interrupt()


@contextlib.contextmanager
def _installed(handler: _Handler) -> Iterator[None]:
    try:
        signal.signal(signal.SIGINT, handler)  # an interrupt may come before the next line
        yield
    finally:
        while signal.getsignal(signal.SIGINT) is handler:  # another interrupt may come just now
            with contextlib.suppress(KeyboardInterrupt):
                signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def _silent_hook() -> Iterator[None]:
    """Print nothing where KeyboardInterrupt is dropped, since it is raised later."""
    before: Callable[..., Any] = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if not issubclass(unraisable.exc_type, KeyboardInterrupt):
            before(unraisable)

    try:
        sys.unraisablehook = hook
        yield
    finally:
        sys.unraisablehook = before


def was_interrupted() -> bool:
    """Tell whether there was an interrupt in the block of :func:`kept_interrupts` around the call.

    Returns
    -------
    bool
        False without such a block, and outside the main thread.
    """
    handler = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and isinstance(handler, _Handler) and handler.called


def check_interrupt() -> None:
    """Raise an interrupt that was dropped: between two batches, or before a file is replaced.

    Raises
    ------
    KeyboardInterrupt
        If :func:`was_interrupted`.
    """
    if was_interrupted():
        raise KeyboardInterrupt
