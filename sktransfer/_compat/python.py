"""Names of Python that are private or newer than the oldest version that is supported.

Private names were last seen in 3.13.
"""

from __future__ import annotations

import concurrent.futures

__all__ = ["n_workers_of"]


def n_workers_of(executor: concurrent.futures.Executor) -> int | None:
    """Return the most workers of an executor, None if that is not known."""
    return getattr(executor, "_max_workers", None)
