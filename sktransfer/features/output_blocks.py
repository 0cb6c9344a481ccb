"""Run samples of the extractor: blocks of its output, side by side, and unreadable samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from ..data import UnreadableSamplesError
from .output import Output
from .sizes import SeveralSizes
from .word_weights import TokenWeights, takes_weights

__all__ = ["SeveralBlocks"]


class SeveralBlocks(SeveralSizes):
    """Base of the extractor, whose output is a block for each size, layer and pooling.

    A subclass sets ``_blocks``, a list of (position of the size, layer, pooling), and ``_widths``.
    """

    outputs_: Any
    _blocks: list[tuple[Any, ...]]
    _widths: list[int]
    bad_samples_: dict[int, str]

    def _fit_readable(self, X, y) -> tuple:
        """Load the backbone and check X; return the samples, and y for them."""
        if self.on_error == "raise":
            self.__dict__.pop("bad_samples_", None)  # of an earlier fit
            return self._fit_backbone(X), y
        samples, rows, bad = _without_refused(self._fit_backbone, X)
        if not len(rows):
            self._fit_backbone(X)  # raises an error with all causes
        self.bad_samples_ = {}
        return samples, _safe_indexing(y, rows) if bad and y is not None else y

    def _run_readable(self, X) -> tuple[np.ndarray, dict[int, str]]:
        """Compute the output of the samples that can be read, and NaN for the others."""
        samples, rows, bad = _without_refused(self._transform_samples, X)
        n, n_refused = len(rows) + len(bad), len(bad)
        unreadable: dict[int, Exception] = {}
        found = self._run_samples(samples, unreadable) if len(rows) else np.empty((0, 0))
        bad |= {int(rows[i]): why for i, why in unreadable.items()}
        causes = {i: str(bad[i]) or type(bad[i]).__name__ for i in sorted(bad)}
        if not n_refused and len(bad) < n:
            return found, causes
        table = np.full((n, sum(self._widths)), np.nan, np.float32)
        if len(bad) < n:
            table[rows] = found
        return table, causes

    def _run_samples(self, samples, bad: dict | None = None) -> np.ndarray:
        """Compute the output; causes of samples that cannot be read go to ``bad``."""
        outputs = self.outputs_
        if takes_weights(self.backbone_):  # each pass is cheap, and "avg" alone is faster
            blocks = [self._weighted(samples, output) for output in outputs]
        else:
            blocks = self._compute(samples, outputs, bad=bad)
        # A single block is not copied, which would need twice the memory of the output.
        return blocks[0] if len(blocks) == 1 else np.hstack(blocks)

    def _weighted(self, samples, output: Output) -> np.ndarray:
        """Compute one block from word vectors."""
        if not isinstance(output.pooling, TokenWeights):
            return self._compute(samples, [output])[0]
        run = {"batch_size": self.batch_size, "device": self.device}
        return output.pooling.transform(samples, output.backbone, **run)

    def _usual_run(self):
        output = self.outputs_[0]
        learned = isinstance(output.pooling, TokenWeights)
        return dataclasses.replace(output, pooling="avg") if learned else output, {}


def _without_refused(check: Callable, X) -> tuple:
    """Call a function that checks samples, again without those that it refuses.

    Returns
    -------
    samples : list or ndarray
        What the function returns; an empty list if all samples are refused.
    rows : ndarray of int
        Their positions in X.
    bad : dict of int to Exception
        The causes, by the position in X.
    """
    try:
        samples = check(X)
        return samples, np.arange(len(samples)), {}
    except UnreadableSamplesError as error:
        bad = {i: why for i, _, why in error.problems}
    rows = np.setdiff1d(np.arange(_num_samples(X)), list(bad))
    if not len(rows):
        return [], rows, bad
    samples, kept, others = _without_refused(check, _safe_indexing(X, rows))
    return samples, rows[kept], bad | {int(rows[i]): why for i, why in others.items()}
