"""The command line: ``main`` runs it, and turns errors and interrupts into exit codes.

Each file with commands is imported by ``make_app``, and what a command uses when it is called, so
that ``--help`` and wrong commands take no longer than typer. Nothing is imported before ``main``
runs, which answers an interrupt by its exit code.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # that of typing takes longer to import than this file
if TYPE_CHECKING:
    from typing import Any

__all__ = ["import_or_exit", "main"]

_INSTALL = "The command line requires typer and rich: pip install 'sktransfer[cli]'"
# Exceptions whose message is meant for users; any other one is a bug and keeps its traceback.
_ERRORS = (ImportError, OSError, TypeError, ValueError)
_INTERRUPTED = 130  # the exit code, as in shells: 128 + SIGINT


def main() -> None:
    """Run the command line and exit.

    Errors are printed as one message, with exit code 1. After an interrupt the exit code is 130,
    and the file of a model is not written. A reader that leaves before the end of the results, as
    ``head`` does, ends the command without an error.
    """
    try:
        code = _run()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code)


def _run() -> int | str | None:
    """Run a command, and return the exit code, or a message for the exit code 1."""
    from importlib.util import find_spec

    if find_spec("typer") is None or find_spec("rich") is None:
        return _INSTALL
    app = import_or_exit("sktransfer.cli.app")
    try:
        return app.make_app()(prog_name="sktransfer", standalone_mode=False)
    except Exception as error:
        return _report(error)


def import_or_exit(name: str) -> Any:
    """Import a module; an interrupt meanwhile ends the process, before anything was written.

    As an exception it would pass code in other languages, and abort inside that of torch.
    """
    import signal  # which takes longer than this file
    import threading
    from importlib import import_module

    before = signal.getsignal(signal.SIGINT)
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or before is not signal.default_int_handler:
        return import_module(name)
    signal.signal(signal.SIGINT, lambda number, frame: os._exit(_INTERRUPTED))
    try:
        return import_module(name)
    finally:
        signal.signal(signal.SIGINT, before)


def _report(error: Exception) -> int:
    """Print an error, and return the exit code."""
    import io
    import traceback

    from .output import ReaderLeft, note  # not at the start, since rich takes long

    if isinstance(error, ReaderLeft):
        return 0
    if hasattr(error, "exit_code"):  # a usage error of typer, whose class lies in several packages
        usage = io.StringIO()
        error.show(usage)  # type: ignore[attr-defined]
        note(usage.getvalue().rstrip())
        return error.exit_code
    note(str(error) if isinstance(error, _ERRORS) else traceback.format_exc().rstrip())
    return 1
