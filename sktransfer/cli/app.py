"""Run the command line, whose errors are messages."""

from __future__ import annotations

import sys
from importlib.util import find_spec

__all__ = ["main"]

_INSTALL = "The command line requires typer and rich: pip install 'sktransfer[cli]'"
# Exceptions whose message is meant for users; any other one is a bug and keeps its traceback.
_ERRORS = (ImportError, OSError, TypeError, ValueError)


def main() -> None:
    """Run the command line. Errors are printed as one message, with exit code 1."""
    if find_spec("typer") is None or find_spec("rich") is None:
        sys.exit(_INSTALL)
    from .commands import make_app

    try:
        make_app()(prog_name="sktransfer")
    except _ERRORS as error:
        from .output import note

        note(str(error))
        sys.exit(1)
