"""Import pyarrow, an optional library, where tables are read or written."""

from __future__ import annotations

from typing import Any

__all__ = ["arrow"]


def arrow() -> Any:
    """Return pyarrow with its modules for Parquet and CSV.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        If pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            "Features are kept in Parquet files: pip install 'sktransfer[dask]', or pyarrow alone "
            "for one machine."
        ) from None
    return pyarrow
