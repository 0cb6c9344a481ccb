"""How long to train where the user does not say: passes and rows in a step."""

from __future__ import annotations

import math

__all__ = ["auto_batch_size", "auto_epochs", "training_length"]

# benchmarks/finetune_defaults.py measures what these defaults give.
_STEPS = 120  # few rows need many passes, and many rows few
_PASSES = (4, 60)  # at least and at most
_SMALL, _SMALL_BATCH, _BATCH = 1000, 16, 32  # rows; rows in a step


def auto_batch_size(n_rows: int) -> int:
    """Return the number of rows in a training step: 16 up to 1,000 rows, else 32.

    Parameters
    ----------
    n_rows : int

    Returns
    -------
    int
        At most the number of rows.
    """
    return min(n_rows, _SMALL_BATCH if n_rows <= _SMALL else _BATCH)


def auto_epochs(n_rows: int, batch_size: int) -> int:
    """Return the number of passes that make 120 steps, at least 4 and at most 60.

    Parameters
    ----------
    n_rows, batch_size : int

    Returns
    -------
    int
    """
    fewest, most = _PASSES
    return min(most, max(fewest, round(_STEPS / math.ceil(n_rows / batch_size))))


def training_length(n_rows: int, batch_size: int | str, max_epochs: int | str) -> tuple[int, int]:
    """Return how long a training is: the rows in a batch, and the number of epochs.

    Parameters
    ----------
    n_rows : int
    batch_size, max_epochs : int or "auto"
        As in :class:`FineTunedClassifier`.

    Returns
    -------
    batch_size, n_epochs : int
    """
    size = auto_batch_size(n_rows) if isinstance(batch_size, str) else batch_size
    size = min(n_rows, size)
    epochs = auto_epochs(n_rows, size) if isinstance(max_epochs, str) else max_epochs
    return int(size), int(epochs)
