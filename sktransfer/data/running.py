"""What long computations show and obey: a progress bar, and interrupts that Python would drop."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

from tqdm.std import tqdm

from .._printable import printable


@contextlib.contextmanager
def progress(
    title: str, total: int | None, verbose: int, unit: str = "samples"
) -> Iterator[Callable[[int], object]]:
    """Show a bar of tqdm on standard error: how many are done, and how many in a second.

    It is text everywhere, also in a notebook, where no widgets are needed and the last state is
    saved in the file. Without ``verbose`` nothing is shown. What is yielded is called with the
    number that were done since the last call; ``unit`` is what is counted, in the plural.
    """
    if not verbose or sys.stderr is None:
        yield lambda n: None
        return
    seconds = 0.1 if sys.stderr.isatty() else 1.0  # between two updates, which a file keeps
    with tqdm(total=total, desc=printable(title), unit=f" {unit}", mininterval=seconds) as bar:
        yield bar.update


# -- interrupts ------------------------------------------------------------------------------------
#
# Python raises KeyboardInterrupt in the main thread, wherever that is. In a callback of a weak
# reference, in ``__del__`` and while garbage is collected, exceptions are printed and dropped, and
# the program goes on. A handler sees each interrupt. Without it, 9 of 240 interrupts at random
# moments of trainings were dropped.


class _Handler:
    """Call the handler of before, and remember that it raised KeyboardInterrupt."""

    called = False

    def __init__(self, before: Callable[..., Any]):
        self.before = before

    def __call__(self, number: int, frame: Any) -> None:
        try:
            self.before(number, frame)
        except KeyboardInterrupt:
            self.called = True
            raise


@contextlib.contextmanager
def kept_interrupts() -> Iterator[None]:
    """Raise KeyboardInterrupt at the end of a block if one was raised in it and did not leave it.

    Another exception that leaves the block is not replaced. A handler of the program is called as
    before. Where interrupts are ignored, and outside the main thread, nothing is changed. The
    handler is that of the outermost block, and is removed at its end.
    """
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGINT)
    if is_main and callable(before) and not isinstance(before, _Handler):
        handler = _Handler(before)
        with _silent_hook(), _installed(handler):
            yield
        if handler.called:
            raise KeyboardInterrupt
        return
    yield
    check_interrupt()


@contextlib.contextmanager
def _installed(handler: _Handler) -> Iterator[None]:
    before = handler.before
    try:
        signal.signal(signal.SIGINT, handler)  # an interrupt may come before the next line
        yield
    finally:
        while signal.getsignal(signal.SIGINT) is handler:  # another interrupt may come just now
            with contextlib.suppress(KeyboardInterrupt):
                signal.signal(signal.SIGINT, before)


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

    False without such a block, and outside the main thread.
    """
    handler = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    return is_main and isinstance(handler, _Handler) and handler.called


def check_interrupt() -> None:
    """Raise an interrupt that was dropped: between two batches, or before a file is replaced."""
    if was_interrupted():
        raise KeyboardInterrupt
