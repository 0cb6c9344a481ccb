"""One progress bar: by rich in a terminal, as an element of HTML in a notebook."""

from __future__ import annotations

import contextlib
import html
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["progress"]

_SECONDS = 0.1  # between two updates in a notebook


@contextlib.contextmanager
def progress(
    title: str, total: int | None, verbose: int, unit: str = "samples"
) -> Iterator[Callable[[int], None]]:
    """Show a bar with the number that are done, and how many in a second.

    In a notebook, rich needs widgets, and leaves an empty output where they are not saved. There,
    the bar is an output that is replaced, and that has its last state in the file.

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

    Raises
    ------
    ImportError
        In a terminal, without rich.
    """
    if not verbose:
        yield lambda n: None
        return
    make = _in_notebook if _is_notebook() else _in_terminal
    with make(title, total, unit) as advance:
        yield advance


def _is_notebook() -> bool:
    """Tell whether outputs are shown by Jupyter."""
    module = sys.modules.get("IPython")
    return module is not None and hasattr(module.get_ipython(), "kernel")


@contextlib.contextmanager
def _in_terminal(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    try:
        import rich.progress as bars
    except ImportError:
        raise ImportError(
            "verbose=1 draws its bar with rich: pip install 'sktransfer[cli]'"
        ) from None
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[speed]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns) as bar:
        task = bar.add_task(title, total=total, speed="")

        def advance(n: int) -> None:
            bar.advance(task, n)
            speed = bar.tasks[0].speed
            bar.update(task, speed="" if speed is None else f"{speed:.1f} {unit}/s")

        yield advance


@contextlib.contextmanager
def _in_notebook(title: str, total: int | None, unit: str) -> Iterator[Callable[[int], None]]:
    bar = NotebookBar(title, total, unit)
    bar.show()
    try:
        yield bar.advance
    finally:
        bar.show()


class NotebookBar:
    """A bar as HTML, and as text where HTML is not shown.

    Parameters
    ----------
    title : str
    total : int or None
    unit : str
    """

    n_done: int
    shown: float
    start: float
    title: str
    total: int | None
    unit: str

    def __init__(self, title: str, total: int | None, unit: str):
        self.title, self.total, self.unit = title, total, unit
        self.n_done = 0
        self.start = self.shown = time.perf_counter()
        self.handle: Any = None

    def advance(self, n: int) -> None:
        """Count some more, and show the bar unless it was shown just before."""
        self.n_done += n
        if time.perf_counter() - self.shown > _SECONDS:
            self.show()

    def show(self) -> None:
        """Show the bar, or replace what is shown of it."""
        from IPython.display import display

        self.shown = time.perf_counter()
        if self.handle is None:
            self.handle = display(self, display_id=True)
        else:
            self.handle.update(self)

    def _numbers(self) -> str:
        seconds = self.shown - self.start
        whole = "" if self.total is None else f" / {self.total}"
        speed = f", {self.n_done / seconds:.1f} {self.unit}/s" if self.n_done and seconds else ""
        return f"{self.n_done}{whole}{speed}"

    def _repr_html_(self) -> str:
        place = "" if self.total is None else f' value="{self.n_done}" max="{max(self.total, 1)}"'
        title = html.escape(self.title)
        return f"<label>{title} <progress{place}></progress></label> {self._numbers()}"

    def __repr__(self) -> str:
        return f"{self.title}: {self._numbers()}"
