"""Run the command line, whose errors are messages."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from typing import Any

from ..data import kept_interrupts

__all__ = ["main"]

_INSTALL = "The command line requires typer and rich: pip install 'sktransfer[cli]'"
# Exceptions whose message is meant for users; any other one is a bug and keeps its traceback.
_ERRORS = (ImportError, OSError, TypeError, ValueError)
_INTERRUPTED = 130  # the exit code, as in shells: 128 + SIGINT


def main() -> None:
    """Run the command line and exit.

    Errors are printed as one message, with exit code 1. After an interrupt the exit code is 130,
    and the file of a model is not written.
    """
    if find_spec("typer") is None or find_spec("rich") is None:
        sys.exit(_INSTALL)
    try:
        with kept_interrupts():
            code = _run()
    except KeyboardInterrupt:
        code = _INTERRUPTED
    sys.exit(code)


def _run() -> Any:
    """Run a command, and return the exit code."""
    from .commands import make_app

    try:
        make_app()(prog_name="sktransfer")
    except SystemExit as ended:
        return ended.code
    except _ERRORS as error:
        from .output import note

        note(str(error))
        return 1
    return 0
