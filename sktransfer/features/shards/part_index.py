"""Look up features by sample in the parts of a folder."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xxhash

from .arrow import arrow
from .folder import Folder
from .loading import open_features
from .parts import DIGEST, MANIFEST, Block, Manifest, PartName, read_part

__all__ = ["PartIndex"]

_KEPT = 64  # row groups in memory: at most 512 samples of one block each
_OPEN = 64  # files


class PartIndex:
    """Find the features of samples that :func:`extract_to` has computed, by their digests.

    Parameters
    ----------
    location : Path
        The folder of the parts. It need not exist.
    """

    def __init__(self, location: Path):
        self.location = location
        self._listed = -1
        self._keys = np.empty((0, 2), np.uint64)
        self._places = np.empty((0, 2), np.int64)
        self._folder = Folder(location)
        self._manifest: Manifest | None = None
        self._names: list[PartName] = []
        self._group = functools.lru_cache(_KEPT)(self._read_group)
        self._file = functools.lru_cache(_OPEN)(self._open)

    @staticmethod
    def is_at(location: Path) -> bool:
        """Tell whether a folder is the target of an extraction."""
        return os.path.exists(location / MANIFEST)

    def get(self, recipe: str, digests: Sequence[bytes]) -> list[np.ndarray | None]:
        """Look up the features of samples.

        Parameters
        ----------
        recipe : str
            All that decides a value except the sample.
        digests : sequence of bytes

        Returns
        -------
        list of ndarray or None
            None for what no part has.
        """
        self._refresh()
        block, shape = self._block(recipe)
        if block is None or not len(self._keys):
            return [None] * len(digests)
        wanted = np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)
        at = np.minimum(np.searchsorted(_order(self._keys), _order(wanted)), len(self._keys) - 1)
        found = (self._keys[at] == wanted).all(axis=1)
        places = self._places[at]
        return [
            self._row(block, shape, *places[i].tolist()) if found[i] else None
            for i in range(len(wanted))
        ]

    def _block(self, recipe: str) -> tuple[Block | None, tuple[int, ...]]:
        """Return the column with the features of a recipe, and the shape of a row."""
        key = xxhash.xxh3_128_hexdigest(recipe.encode())
        for block in () if self._manifest is None else self._manifest.blocks:
            if (shape := block.shape_for(key)) is not None:
                return block, shape
        return None, ()

    def _row(self, block: Block, shape: tuple, part: int, row: int) -> np.ndarray | None:
        try:
            _, groups, first = self._file(part)
            rows = self._group(block, part, int(groups[row]))
            return rows[row - first[groups[row]]].reshape(shape)
        except (OSError, arrow().ArrowInvalid):  # a damaged part counts as missing
            return None

    def _read_group(self, block: Block, part: int, group: int) -> np.ndarray:
        column = self._file(part)[0].read_row_group(group, [block.name])[block.name]
        rows = column.combine_chunks().flatten().to_numpy().reshape(-1, block.width)
        rows.flags.writeable = False
        return rows

    def _open(self, part: int) -> tuple:
        """Open a part; return it, the row group of each row, and the first row of each group."""
        path = self._folder.path(str(self._names[part]))
        file = arrow().parquet.ParquetFile(path, page_checksum_verification=True, memory_map=True)
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)]
        return file, np.repeat(np.arange(len(sizes)), sizes), np.cumsum([0, *sizes])

    def _refresh(self) -> None:
        """List the parts, if the folder has changed."""
        try:
            changed = os.stat(self.location).st_mtime_ns
        except OSError:
            return
        if changed == self._listed:
            return
        self._listed = changed
        try:
            _, self._manifest, self._names = open_features(self.location)
        except (FileNotFoundError, ImportError):
            self._manifest = None
            return
        self._group.cache_clear()
        self._file.cache_clear()
        self._index(self._manifest)

    def _index(self, manifest: Manifest) -> None:
        digests = [self._digests(name, manifest) for name in self._names]
        sizes = [len(some) for some in digests]
        keys = np.frombuffer(b"".join(b"".join(some) for some in digests), np.uint64)
        rows = np.concatenate([np.arange(size) for size in sizes])
        places = np.stack([np.repeat(np.arange(len(sizes)), sizes), rows], axis=1)
        order = np.argsort(_order(keys.reshape(-1, 2)), kind="stable")
        self._keys, self._places = keys.reshape(-1, 2)[order], places[order]

    def _digests(self, name: PartName, manifest: Manifest) -> list[bytes]:
        try:
            return read_part(self._folder, name, [DIGEST], manifest.key)[DIGEST].to_pylist()
        except (ValueError, OSError):
            return []


def _order(keys: np.ndarray) -> np.ndarray:
    """Return numbers that sort keys; two keys have one number once in 2**64 pairs."""
    return keys[:, 0]
