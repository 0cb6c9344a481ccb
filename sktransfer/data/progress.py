"""The progress bar of all packages."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm.std import tqdm

from .base import printable

__all__ = ["progress"]


@contextlib.contextmanager
def progress(
    title: str, total: int | None, verbose: int, unit: str = "samples"
) -> Iterator[Callable[[int], object]]:
    """Show a bar of tqdm on standard error: how many are done, and how many in a second.

    It is text everywhere, also in a notebook, where no widgets are needed and the last state is
    saved in the file.

    Parameters
    ----------
    title : str
    total : int or None
        None where it is not known.
    verbose : int
        0 shows nothing.
    unit : str, default="samples"
        What is counted, in the plural.

    Yields
    ------
    callable
        It is called with the number that were done since the last call.
    """
    if not verbose or sys.stderr is None:
        yield lambda n: None
        return
    seconds = 0.1 if sys.stderr.isatty() else 1.0  # between two updates, which a file keeps
    with tqdm(total=total, desc=printable(title), unit=f" {unit}", mininterval=seconds) as bar:
        yield bar.update
