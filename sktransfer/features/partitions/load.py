"""Read the features of a folder: at once, by partition, or by sample."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ...data.types import PathLike
from ..key_index import KeyIndex, as_keys
from ..output import empty_table
from .folder import (
    DIGEST,
    MANIFEST,
    FeatureColumn,
    Folder,
    Manifest,
    PartitionName,
    arrow,
    features_in,
    open_partition,
    read_partition,
)

_KEPT = 64  # row groups in memory: at most 512 samples of one column each
_OPEN = 64  # files


def load_features(folder: PathLike) -> tuple[np.ndarray, Any]:
    """Read the features of a folder that :func:`extract_to` has written.

    Parameters
    ----------
    folder : str or path-like
        A path, or a URL that fsspec knows.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        float32 or float16, in the order of the source. Above 2 GiB it is mapped to a temporary
        file.
    table : pyarrow.Table
        The kept columns, and "row", the position in the source. Rows without features are not in
        it.

    Raises
    ------
    FileNotFoundError
        If there are no features in the folder.
    ValueError
        If a partition is damaged or there twice.

    See Also
    --------
    iter_features : Read features partition by partition.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedFeatureExtractor, extract_to, load_features
    >>> folder, photos = tempfile.mkdtemp(), load_sample_images().images
    >>> report = extract_to(folder, PretrainedFeatureExtractor(), source=photos)
    >>> X, table = load_features(folder)
    >>> X.shape, table["row"].to_pylist()
    ((2, 1280), [0, 1])
    """
    place, manifest, names = _open_once(folder)
    n_rows = 0
    for name in names:
        with open_partition(place, name, manifest.key) as parquet:
            n_rows += parquet.metadata.num_rows
    width = sum(column.width for column in manifest.columns)
    X = empty_table((n_rows, width), np.dtype(manifest.dtype))
    tables, row = [], 0
    for features, table in _read(place, manifest, names):
        X[row : row + len(features)] = features
        row += len(features)
        tables.append(table)
    return X, arrow().concat_tables(tables, promote_options="permissive")


def iter_features(folder: PathLike) -> Iterator[tuple[np.ndarray, Any]]:
    """Read the features of a folder partition by partition, for data that fit no memory.

    Parameters
    ----------
    folder : str or path-like
        A path, or a URL that fsspec knows.

    Yields
    ------
    X : ndarray of shape (n_rows, n_features)
        Of one partition; the partitions come in the order of the source.
    table : pyarrow.Table
        The kept columns of these rows, and "row", the position in the source.

    Raises
    ------
    FileNotFoundError
        If there are no features in the folder.
    ValueError
        If a partition is damaged or there twice.

    See Also
    --------
    load_features : Read all features at once.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedFeatureExtractor, extract_to, iter_features
    >>> folder, photos = tempfile.mkdtemp(), load_sample_images().images
    >>> report = extract_to(folder, PretrainedFeatureExtractor(), source=photos, partition_size=1)
    >>> [X.shape for X, table in iter_features(folder)]
    [(1, 1280), (1, 1280)]
    """
    yield from _read(*_open_once(folder))


def _open_once(folder: PathLike) -> tuple[Folder, Manifest, list[PartitionName]]:
    """List the partitions in the order of the source, and check that no rows are there twice."""
    place = Folder(folder)
    manifest, names = _open(place)
    for first, second in itertools.pairwise(names):
        if first.start == second.start:
            raise ValueError(
                f"{place.url!r} has two files with the same rows, '{first}' and '{second}': a call "
                "was interrupted after rows had changed. Call extract_to again, which removes the "
                "old one."
            )
    return place, manifest, names


def _open(folder: Folder) -> tuple[Manifest, list[PartitionName]]:
    manifest = Manifest.load(folder)
    names = [name for name in map(PartitionName.parse, folder.names()) if name]
    names = [name for name in names if name.kind == "part"]
    if manifest is None or not names:
        raise FileNotFoundError(
            f"There are no features in {folder.url!r}: give the target of extract_to."
        )
    return manifest, sorted(names, key=lambda name: name.start)


def _read(folder: Folder, manifest: Manifest, names: list[PartitionName]) -> Iterator[tuple]:
    own = [DIGEST, *(column.name for column in manifest.columns)]
    for name in names:
        table = read_partition(folder, name, key=manifest.key)
        yield features_in(table, manifest.columns), table.drop_columns(own)


class PartitionIndex:
    """Find the features of samples that :func:`extract_to` has computed, by their digests.

    The folder of the partitions need not exist.
    """

    def __init__(self, location: Path):
        self.location = location
        self._listed = -1
        self._rows = KeyIndex()  # file << 32 | row
        self._folder = Folder(location)
        self._manifest: Manifest | None = None
        self._names: list[PartitionName] = []
        self._group = functools.lru_cache(_KEPT)(self._read_group)
        self._file = functools.lru_cache(_OPEN)(self._open)

    @staticmethod
    def is_at(location: Path) -> bool:
        """Tell whether a folder is the target of an extraction."""
        return os.path.exists(location / MANIFEST)

    def get(self, recipe: str, digests: Sequence[bytes]) -> list[np.ndarray | None]:
        """Look up the features of samples; None for what no partition has.

        ``recipe`` is all that decides a value except the sample.
        """
        self._refresh()
        column, shape = self._column(recipe)
        if column is None or not len(self._rows):
            return [None] * len(digests)
        places = self._rows.find(as_keys(digests)).tolist()
        return [None if place < 0 else self._row(column, shape, place) for place in places]

    def _column(self, recipe: str) -> tuple[FeatureColumn | None, tuple[int, ...]]:
        """Return the column with the features of a recipe, and the shape of a row."""
        key = xxhash.xxh3_128_hexdigest(recipe.encode())
        for column in () if self._manifest is None else self._manifest.columns:
            if (shape := column.shape_for(key)) is not None:
                return column, shape
        return None, ()

    def _row(self, column: FeatureColumn, shape: tuple, place: int) -> np.ndarray | None:
        file, row = place >> 32, place & (2**32 - 1)
        try:
            _, groups, first = self._file(file)
            rows = self._group(column, file, int(groups[row]))
            return rows[row - first[groups[row]]].reshape(shape)
        except (OSError, arrow().ArrowInvalid):  # a damaged file counts as missing
            return None

    def _read_group(self, column: FeatureColumn, file: int, group: int) -> np.ndarray:
        table = self._file(file)[0].read_row_group(group, [column.name])
        rows = table[column.name].combine_chunks().flatten().to_numpy().reshape(-1, column.width)
        rows.flags.writeable = False
        return rows

    def _open(self, file: int) -> tuple:
        """Open a file; return it, the row group of each row, and the first row of each group."""
        path = self._folder.path(str(self._names[file]))
        parquet = arrow().parquet.ParquetFile(
            path, page_checksum_verification=True, memory_map=True
        )
        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        return parquet, np.repeat(np.arange(len(sizes)), sizes), np.cumsum([0, *sizes])

    def _refresh(self) -> None:
        """List the partitions and sort the digests of their samples, if the folder has changed."""
        try:
            changed = os.stat(self.location).st_mtime_ns
        except OSError:
            return
        if changed == self._listed:
            return
        self._listed = changed
        try:
            self._manifest, self._names = _open(self._folder)
        except (FileNotFoundError, ImportError):
            self._manifest = None
            return
        self._group.cache_clear()
        self._file.cache_clear()
        keys, places = [np.empty((0, 2), np.uint64)], [np.empty(0, np.int64)]
        for file, name in enumerate(self._names):
            with contextlib.suppress(ValueError, OSError):  # damaged
                table = read_partition(self._folder, name, [DIGEST], key=self._manifest.key)
                keys.append(as_keys(table[DIGEST].to_pylist()))
                places.append((file << 32) + np.arange(len(keys[-1])))
        self._rows = KeyIndex()
        self._rows.add(np.concatenate(keys), np.concatenate(places))
