"""Samples of any kind: errors that name them, and choosing some by position."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

import numpy as np

__all__ = ["UnreadableSamplesError", "named_among", "take"]

_SHOWN = 10  # unreadable samples named in one error


class UnreadableSamplesError(ValueError):
    """Some samples could not be read; the message names each, up to ten, and why.

    Parameters
    ----------
    problems : list of (int, object, Exception)
        Position, sample and cause of each.
    """

    def __init__(self, problems: list[tuple[int, object, Exception]]):
        self.problems = problems
        lines = [f"sample {i}, {_label(sample)}: {why}" for i, sample, why in problems[:_SHOWN]]
        if len(problems) > _SHOWN:
            lines.append(f"and at least {len(problems) - _SHOWN} more")
        head = "1 sample" if len(problems) == 1 else f"{len(problems)} samples"
        super().__init__("\n  ".join([f"{head} could not be read:", *lines]))

    def __reduce__(self):
        return type(self), (self.problems,)

    def among(self, rows) -> UnreadableSamplesError:
        """Return the same error with the positions that samples had before some were taken.

        Parameters
        ----------
        rows : sequence of int
            Which were taken.

        Returns
        -------
        UnreadableSamplesError
        """
        return type(self)([(int(rows[i]), sample, why) for i, sample, why in self.problems])


def _label(sample) -> str:
    if isinstance(sample, str | os.PathLike):
        return repr(os.fspath(sample))
    shape = getattr(sample, "shape", getattr(sample, "size", ""))
    return f"{type(sample).__name__} {tuple(shape) if shape != '' else ''}".strip()


@contextlib.contextmanager
def named_among(rows):
    """Let an error about samples that were taken name them by their positions among all.

    Parameters
    ----------
    rows : sequence of int
        Which were taken.
    """
    try:
        yield
    except UnreadableSamplesError as error:
        raise error.among(rows) from error.__cause__


def take(samples: Sequence, rows) -> Sequence:
    """Choose samples by position.

    Parameters
    ----------
    samples : ndarray or list
    rows : array-like of int

    Returns
    -------
    ndarray or list
        The same type.
    """
    if isinstance(samples, np.ndarray):
        return samples[rows]
    return [samples[i] for i in rows]
