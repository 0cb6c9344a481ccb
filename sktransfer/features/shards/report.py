"""What an extraction has done."""

from __future__ import annotations

import dataclasses
from typing import Any

from .arrow import arrow
from .folder import Folder
from .parts import ROW, PartName, read_part

__all__ = ["ExtractionReport", "read_failures"]


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
    def failed(self) -> Any:
        """A table (pyarrow) with the columns "row", "sample" and "cause", in order of the rows."""
        return read_failures(Folder(self.target))


def read_failures(folder: Folder) -> Any:
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
