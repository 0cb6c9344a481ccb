"""Read the features of a folder: all at once, or part by part."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from ...data.types import PathLike
from ..tables import empty_table
from .arrow import arrow
from .folder import Folder
from .parts import DIGEST, Manifest, PartName, features_of, open_part, read_part

__all__ = ["iter_features", "load_features", "open_features"]


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
        If a part is damaged or there twice.

    See Also
    --------
    iter_features : Read features part by part.

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
    n_rows = sum(_count(place, name, manifest) for name in names)
    width = sum(block.width for block in manifest.blocks)
    X = empty_table((n_rows, width), np.dtype(manifest.dtype))
    tables, row = [], 0
    for features, table in _read(place, manifest, names):
        X[row : row + len(features)] = features
        row += len(features)
        tables.append(table)
    return X, arrow().concat_tables(tables, promote_options="permissive")


def iter_features(folder: PathLike) -> Iterator[tuple[np.ndarray, Any]]:
    """Read the features of a folder part by part, for data that fit no memory.

    Parameters
    ----------
    folder : str or path-like
        A path, or a URL that fsspec knows.

    Yields
    ------
    X : ndarray of shape (n_rows, n_features)
        Of one part; the parts come in the order of the source.
    table : pyarrow.Table
        The kept columns of these rows, and "row", the position in the source.

    Raises
    ------
    FileNotFoundError
        If there are no features in the folder.
    ValueError
        If a part is damaged or there twice.

    See Also
    --------
    load_features : Read all features at once.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import load_sample_images
    >>> from sktransfer import PretrainedFeatureExtractor, extract_to, iter_features
    >>> folder, photos = tempfile.mkdtemp(), load_sample_images().images
    >>> report = extract_to(folder, PretrainedFeatureExtractor(), source=photos, shard_size=1)
    >>> [X.shape for X, table in iter_features(folder)]
    [(1, 1280), (1, 1280)]
    """
    yield from _read(*_open_once(folder))


def open_features(folder: PathLike) -> tuple[Folder, Manifest, list[PartName]]:
    """List the parts of a folder in the order of the source.

    Parameters
    ----------
    folder : str or path-like

    Returns
    -------
    Folder, Manifest, list of PartName

    Raises
    ------
    FileNotFoundError
        If there are no features.
    """
    place = Folder(folder)
    manifest = Manifest.load(place)
    names = [name for name in map(PartName.parse, place.names()) if name and name.kind == "part"]
    if manifest is None or not names:
        raise FileNotFoundError(
            f"There are no features in {place.url!r}: give the target of extract_to."
        )
    return place, manifest, sorted(names, key=lambda name: name.start)


def _open_once(folder: PathLike) -> tuple[Folder, Manifest, list[PartName]]:
    """List the parts, and check that no rows are there twice."""
    place, manifest, names = open_features(folder)
    for first, second in itertools.pairwise(names):
        if first.start == second.start:
            raise ValueError(
                f"{place.url!r} has two parts of the same rows, '{first}' and '{second}': a call "
                "was interrupted after rows had changed. Call extract_to again, which removes the "
                "old one."
            )
    return place, manifest, names


def _count(folder: Folder, name: PartName, manifest: Manifest) -> int:
    with open_part(folder, name, manifest.key) as opened:
        return opened.metadata.num_rows


def _read(folder: Folder, manifest: Manifest, names: list[PartName]) -> Iterator[tuple]:
    blocks = [block.name for block in manifest.blocks]
    for name in names:
        part = read_part(folder, name, None, manifest.key)
        yield features_of(part, manifest.blocks), part.drop_columns([DIGEST, *blocks])
