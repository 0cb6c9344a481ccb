"""The number of threads of torch."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["thread_budget"]


@contextlib.contextmanager
def thread_budget(n_threads: int | None) -> Iterator[None]:
    """Let torch use a number of threads, and put the number back afterwards.

    Parameters
    ----------
    n_threads : int or None
        None changes nothing.
    """
    before = torch.get_num_threads()
    if n_threads is not None and n_threads != before:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
