"""Run samples of the extractor: blocks of its output, side by side, and unreadable samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _num_samples

from ..data import UnreadableSamplesError
from .poolings import is_learned, unlearned
from .recipe import Recipe
from .sizes import SeveralSizes
from .word_weights import takes_weights

__all__ = ["SeveralBlocks"]


class SeveralBlocks(SeveralSizes):
    """Base of the extractor, whose output is a block for each size, layer and pooling.

    A subclass sets ``_blocks``, a list of (position of the size, layer, pooling), and ``_widths``.
    """

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
        if takes_weights(self.backbone_):  # each pass is cheap, and "avg" alone is faster
            blocks = [self._pool_words(samples, *output) for _, *output in self._blocks]
        else:
            blocks = self._run_blocks(samples, bad)
        # A single block is not copied, which would need twice the memory of the output.
        return blocks[0] if len(blocks) == 1 else np.hstack(blocks)

    def _usual_run(self):
        return self._recipes()[0], self.batch_size

    def _run_blocks(self, samples, bad: dict | None) -> list[np.ndarray]:
        """Compute the blocks of the output, in one pass for each size."""
        tables = self._compute(samples, self._recipes(), bad=bad)
        by_pooling = dict(zip(self._layers_by_pooling(), tables, strict=True))
        return [by_pooling[i, id(p)][layer] for i, layer, p in self._blocks]

    def _recipes(self) -> list[Recipe]:
        """Make a recipe for each size and pooling."""
        sized, poolings = self._sized, {id(p): unlearned(p) for *_, p in self._blocks}
        return [
            self._recipe(tuple(layers), poolings[p], backbone=sized[i])
            for (i, p), layers in self._layers_by_pooling().items()
        ]

    def _layers_by_pooling(self) -> dict[tuple[int, int], dict[str, None]]:
        found: dict[tuple[int, int], dict[str, None]] = {}
        for i, layer, pooling in self._blocks:  # a pooling may have no hash
            found.setdefault((i, id(pooling)), {})[layer] = None
        return found

    def _pool_words(self, samples, layer: str, pooling) -> np.ndarray:
        """Compute one block from word vectors."""
        if not is_learned(pooling):
            return self._features(samples, (layer,), pooling)[layer]
        run = {"batch_size": self.batch_size, "device": self.device}
        return self.token_weights_[pooling].transform(samples, self.backbone_, **run)


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
