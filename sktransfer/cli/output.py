"""Print results: tables for people, lines of tab-separated values for programs."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import rich
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = ["note", "print_rows", "results_on_stdout"]


def print_rows(
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[int] = (),
    grouped: bool = False,
) -> None:
    """Print a table in a terminal; whole lines with tabs, and no markup, into a pipe or a file.

    Parameters
    ----------
    names : sequence of str
        Names of the columns.
    rows : iterable of sequences
        Cells, which are converted to strings.
    right : sequence of int, default=()
        Columns of numbers, aligned at the right.
    grouped : bool, default=False
        Whether a table shows a first cell only where it differs from the one above it.
    """
    console = Console()
    if not console.is_terminal:
        for row in (names, *rows):
            print(*map(_one_line, row), sep="\t")
        return
    table = Table(*names, header_style="bold", box=None)
    for column in right:
        table.columns[column].justify = "right"
    above = None
    for first, *others in rows:
        cells = ["" if grouped and first == above else first, *others]
        table.add_row(*(escape(str(cell)) for cell in cells))
        above = first
    console.print(table)


def _one_line(cell) -> str:
    return " ".join(str(cell).split())


def note(text: str) -> None:
    """Print something about the work, and not its result, to standard error."""
    Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)


def results_on_stdout() -> None:
    """Send progress bars and warnings to standard error, so that a pipe receives results only."""
    rich.reconfigure(stderr=True)
    warnings.showwarning = _show_warning


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    note(f"Warning: {message}")
