"""All that the command line prints: tables for people, and lines, JSON and CSV for programs.

Names of files, labels and the contents of files are written by others. What a terminal would obey,
such as escape sequences, is replaced by escapes of Python, or of JSON.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .._printable import CONTROLS, printable

# What spreadsheets take as a formula, at the beginning of a cell, or behind their other separator.
_FORMULA = re.compile("(^|;)([=+\\-@＝＋－＠])")


class ReaderLeft(Exception):
    """Raised where the program that reads the results has ended, as ``head`` does."""


def note(text: str) -> None:
    """Print something about the work, and not its result, to standard error."""
    console = Console(stderr=True, soft_wrap=True)
    console.print(printable(text, keep="\n"), markup=False, highlight=False, emoji=False)


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning as a note, in place of ``warnings.showwarning``."""
    note(f"Warning: {message}")


def print_lines(*lines: object) -> None:
    """Print results, one a line.

    Raises
    ------
    ReaderLeft
    """
    _write("".join(f"{printable(str(line))}\n" for line in lines))


def print_json(value: Any) -> None:
    """Print a line of JSON, from which the value can be read back to the bit."""
    text = json.dumps(value, ensure_ascii=False)
    _write(CONTROLS.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def print_csv(cells: Iterable[object]) -> None:
    """Print a line of CSV; texts that a spreadsheet would take as a formula begin with ``'``."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(map(_csv_cell, cells))
    _write(line.getvalue())


def print_rows(
    names: Sequence[str],
    rows: Iterable[Sequence[Any]],
    right: Sequence[int] = (),
    grouped: bool = False,
) -> None:
    """Print a table in a terminal; whole lines with tabs, and no markup, into a pipe or a file.

    Columns of numbers are aligned at the right. A ``grouped`` table shows a first cell only where
    it differs from the one above it.
    """
    console = Console()
    if not console.is_terminal:
        lines = ["\t".join(map(_one_line, row)) for row in (names, *rows)]
        _write("".join(f"{line}\n" for line in lines))
        return
    table = Table(*names, header_style="bold", box=None)
    for column in right:
        table.columns[column].justify = "right"
    above = None
    for first, *others in rows:
        cells = ["" if grouped and first == above else first, *others]
        table.add_row(*(Text(printable(str(cell))) for cell in cells))
        above = first
    console.print(table)


def print_columns(names: Sequence[str], summary: str) -> None:
    """Print names in columns in a terminal, with a summary, and one a line for other programs."""
    console = Console()
    if not console.is_terminal:
        print_lines(*names)
        return
    console.print(Columns([Text(printable(name)) for name in names], padding=(0, 3)))
    console.print(Text(printable(summary), style="dim"))


def _write(text: str) -> None:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes standard output at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise ReaderLeft from None


def _one_line(cell: object) -> str:
    return printable(" ".join(str(cell).split()))


def _csv_cell(cell: object) -> object:
    if not isinstance(cell, str) or _is_number(cell):
        return cell
    return _FORMULA.sub(r"\1'\2", printable(cell))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
