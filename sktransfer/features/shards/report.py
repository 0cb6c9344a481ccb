"""What an extraction has done, and its progress."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

from .arrow import arrow
from .folder import Folder
from .parts import ROW, PartName, read_part

__all__ = ["ExtractionReport", "progress", "read_failures"]


@dataclasses.dataclass(frozen=True)
class ExtractionReport:
    """What :func:`sktransfer.extract_to` has done.

    Parameters
    ----------
    target : str
        The folder of the features.
    n_rows : int
        Rows of the source.
    n_done : int
        Rows that have features now, whenever these were computed.
    n_failed : int
        Rows that have none.
    n_new : int
        Rows that this call has tried.
    """

    target: str
    n_rows: int
    n_done: int
    n_failed: int
    n_new: int

    @property
    def failed(self):
        """A table (pyarrow) with the columns "row", "sample" and "cause", in order of the rows."""
        return read_failures(Folder(self.target))


def read_failures(folder: Folder):
    """Read what is known about the samples that failed.

    Parameters
    ----------
    folder : Folder

    Returns
    -------
    pyarrow.Table
        With the columns "row", "sample" and "cause".
    """
    pa = arrow()
    names = [name for name in map(PartName.parse, folder.names()) if name]
    tables = [read_part(folder, name, None) for name in names if name.kind == "failed"]
    schema = pa.schema([(ROW, pa.int64()), ("sample", pa.string()), ("cause", pa.string())])
    return pa.concat_tables([schema.empty_table(), *tables])


@contextlib.contextmanager
def progress(n_rows: int | None, verbose: int) -> Iterator[Callable[[int], None]]:
    """Show a bar with samples a second and the time that is left.

    Parameters
    ----------
    n_rows : int or None
        None where it is not known.
    verbose : int
        0 shows nothing.

    Yields
    ------
    callable
        It is called with the number of rows that were done since the last call.
    """
    if not verbose:
        yield lambda n: None
        return
    try:
        from rich import progress as bars
    except ImportError:
        raise ImportError(
            "verbose=1 draws its bar with rich: pip install 'sktransfer[cli]'"
        ) from None
    columns = (
        bars.TextColumn("features"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TextColumn("{task.fields[speed]}"),
        bars.TimeRemainingColumn(),
    )
    with bars.Progress(*columns) as bar:
        task = bar.add_task("", total=n_rows, speed="")

        def advance(n: int) -> None:
            bar.advance(task, n)
            speed = bar.tasks[0].speed
            bar.update(task, speed="" if speed is None else f"{speed:.1f} samples/s")

        yield advance
