"""The command line: ``main`` runs it, and turns errors and interrupts into exit codes.

Each file with commands is imported by ``make_app``, and what a command uses when it is called, so
that ``--help`` and wrong commands take no longer than typer. Nothing is imported before ``main``
runs, which answers an interrupt by its exit code.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

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
    from .app import make_app

    try:
        return make_app()(prog_name="sktransfer", standalone_mode=False)
    except Exception as error:
        return _report(error)


def _report(error: Exception) -> int:
    """Print an error, and return the exit code."""
    import io
    import traceback

    from .output import ReaderLeft, note  # not at the start, since it takes a second

    if isinstance(error, ReaderLeft):
        return 0
    if hasattr(error, "exit_code"):  # a usage error of typer, whose class lies in several packages
        usage = io.StringIO()
        error.show(usage)  # type: ignore[attr-defined]
        note(usage.getvalue().rstrip())
        return error.exit_code
    note(str(error) if isinstance(error, _ERRORS) else traceback.format_exc().rstrip())
    return 1
