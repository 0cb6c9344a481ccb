"""Keep the features of samples on disk, for later calls, estimators and processes."""

from __future__ import annotations

import functools
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from ..data.samples import is_whole
from .block_folder import BlockFolder


class FeatureStore:
    """Keep features by sample on disk, shared by estimators, folds and processes.

    The store is a folder of files with the features of up to 512 samples each. A file is complete
    or does not exist, even if a process is killed, and is never changed. So any number of processes
    read and write at the same time. Each sample's features have a checksum. Damaged features count
    as absent and are written again. A store that cannot be written is read, and nothing is added.
    A process that uses a store needs 16 bytes of memory for each entry.

    The target of :func:`sktransfer.extract_to` can be a store as well: the features in its parts
    are found, and others are added beside them.

    Parameters
    ----------
    location : str or Path
        A folder, made if need be; "~" is the home folder. The files are in its folder
        ``features.blocks``.
    max_bytes : int, default=None
        Bound on the size of the files, in bytes, at least 1. Above it the least recently used go
        first, a file at a time. None is no bound.

    Raises
    ------
    ValueError
        If ``location`` is no path or a file, or ``max_bytes`` no positive integer.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sktransfer import FeatureStore
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> store.put("recipe", [b"sample 1", b"sample 2"], np.ones((2, 3), np.float32))
    >>> store.get("recipe", [b"sample 2", b"sample 3"])
    [array([1., 1., 1.], dtype=float32), None]
    >>> len(store)
    2
    """

    location: Path

    def __init__(self, location: str | os.PathLike[str], *, max_bytes: int | None = None):
        if not isinstance(location, str | os.PathLike) or not os.fspath(location):
            raise ValueError(f"location={location!r}: give the path of a folder.")
        # Where the process works may change.
        self.location = Path(location).expanduser().absolute()
        if os.path.isfile(self.location):  # False where that cannot be known
            raise ValueError(f"{str(location)!r} is a file: features are stored in a folder.")
        if max_bytes is not None and not (is_whole(max_bytes) and max_bytes > 0):
            raise ValueError(
                f"max_bytes={max_bytes!r}: give a positive integer, a number of bytes, or None "
                "for no bound."
            )
        self.max_bytes = max_bytes
        self._has_warned = False
        self._blocks = BlockFolder(self.path, max_bytes)
        self._index = None

    @property
    def path(self) -> Path:
        """The folder of the files."""
        return self.location / "features.blocks"

    @property
    def conversions(self) -> Path | None:
        """The folder of networks that were converted for another runtime."""
        return self.location / "converted"

    @property
    def generations(self) -> Path | None:
        """The folder of what is known of the code that has computed rows (``generations.py``)."""
        return self.location / "features.generations"

    def get(self, recipe: str, digests: Sequence[bytes]) -> list[np.ndarray | None]:
        """Look up what was computed for samples.

        Parameters
        ----------
        recipe : str
            All that decides a value except the sample.
        digests : sequence of bytes
            One for each sample.

        Returns
        -------
        list of ndarray or None
            In the order of ``digests``, read-only; None for what is not there.
        """
        values = self._blocks.get(_keys(recipe, digests))
        missing = [i for i, row in enumerate(values) if row is None]
        if missing and self._parts is not None:
            rows = self._parts.get(recipe, [digests[i] for i in missing])
            for i, row in zip(missing, rows, strict=True):
                values[i] = row
        return values

    @property
    def _parts(self):
        """What :func:`extract_to` has written to the same folder; None if it is no target."""
        from .partitions.load import PartitionIndex

        if self._index is None and PartitionIndex.is_at(self.location):
            self._index = PartitionIndex(self.location)
        return self._index

    def put(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> None:
        """Keep what was computed for samples.

        Parameters
        ----------
        recipe : str
        digests : sequence of bytes
        values : ndarray of shape (n, ...)
            One row for each sample, of any shape and numeric type.

        Raises
        ------
        OSError
            If the disk is full or the folder cannot be written.
        """
        self._blocks.put(_keys(recipe, digests), values)

    def try_put(
        self, recipe: str, digests: Sequence[bytes], values: np.ndarray, *, aside: bool = False
    ) -> bool:
        """Keep what was computed for samples, or warn, once, where that fails.

        Parameters
        ----------
        recipe, digests, values
            As in :meth:`put`.
        aside : bool, default=False
            Whether the values were computed in addition, and may not be used. A store on disk
            keeps them, too.

        Returns
        -------
        bool
            Whether the values were kept.
        """
        try:
            self.put(recipe, digests, values)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"Features cannot be written to the store and will be computed again next "
                    f"time: {error}. Make room, or give a folder that can be written as memory=.",
                    stacklevel=2,
                )
            return False
        return True

    def clear(self) -> None:
        """Remove every entry and give the disk space back."""
        self._blocks.clear()
        if self.generations is not None:
            shutil.rmtree(self.generations, ignore_errors=True)

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def nbytes(self) -> int:
        """Bytes of the files."""
        return self._blocks.nbytes

    def __getstate__(self) -> dict[str, Any]:
        """Return the place and the bound; the files are listed again where it is used."""
        return {"location": self.location, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        FeatureStore.__init__(self, state["location"], max_bytes=state["max_bytes"])

    def __sklearn_clone__(self) -> FeatureStore:
        return self

    def __repr__(self) -> str:
        bound = "" if self.max_bytes is None else f", max_bytes={self.max_bytes}"
        return f"FeatureStore({str(self.location)!r}{bound})"


def as_store(memory: Any) -> FeatureStore | None:
    """Make a store of what a user gives as ``memory``.

    Beside the folder of an object with a ``location``, such as ``joblib.Memory``, another one is
    used. In a path, "~" is the home folder. An empty path or that of a file is a ``ValueError``.
    """
    if memory is None or isinstance(memory, FeatureStore):
        return memory
    if isinstance(memory, str | os.PathLike):
        if not os.fspath(memory):
            raise ValueError("memory='' is no folder: give its path, or None to keep nothing.")
        return _store_at(Path(memory).expanduser().absolute())
    if memory.location is None:
        return None
    return _store_at(Path(memory.location).absolute() / "sktransfer")


@functools.lru_cache(maxsize=8)
def _store_at(location: Path) -> FeatureStore:
    """Return the same store for a folder, so that a grid search lists its files once."""
    return FeatureStore(location)


def _keys(recipe: str, digests: Sequence[bytes]) -> np.ndarray:
    """Return 128 bits for each sample, as two integers."""
    base = xxhash.xxh3_128_digest(recipe.encode())
    joined = b"".join([xxhash.xxh3_128_digest(base + digest) for digest in digests])
    return np.frombuffer(joined, np.uint64).reshape(-1, 2)
