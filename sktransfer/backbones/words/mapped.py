"""Tables of word vectors on disk: written once, memory-mapped by every later process."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import xxhash

from ...data import CacheError, checksum, new_folder, writing

__all__ = ["CacheError", "cache_folder", "map_entry", "write_entry"]

# The files of an entry, each an array without a header.
_FILES = {
    "matrix": np.float32,
    "letters": np.uint8,
    "offsets": np.int64,
    "hashes": np.uint64,
    "order": np.int32,
}
# Files whose checksum this process has compared, by what changes when a file is written.
_VERIFIED: set[tuple] = set()
_SETTLED = 2.0  # seconds; the clock of a file system may be coarser than two writes are apart


def cache_folder() -> Path:
    """Return where tables are kept: below ``$SKTRANSFER_HOME`` or the user's cache folder.

    Returns
    -------
    Path
        It need not exist.
    """
    home = os.environ.get("SKTRANSFER_HOME")
    if home:
        return Path(home) / "word-vectors"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sktransfer" / "word-vectors"


def map_entry(folder: Path, stamp: dict) -> tuple[dict, dict[str, np.ndarray]] | None:
    """Memory-map the files of an entry after comparing their checksums.

    Each file is compared once in a process, which takes about 0.1 s for a gigabyte that the
    operating system has in memory.

    Parameters
    ----------
    folder : Path
    stamp : dict
        What the entry must have been made of.

    Returns
    -------
    (dict, dict of str to ndarray) or None
        Its settings and arrays; None if it is missing, made of something else, or damaged.
    """
    try:
        meta = _read_meta(folder / "meta.json")
        if meta is None or meta["stamp"] != stamp:
            return None
        arrays = {name: _map(folder / name, *wanted) for name, wanted in meta["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return None if any(array is None for array in arrays.values()) else (meta, arrays)


def _map(path: Path, size: int, digest: str) -> np.ndarray | None:
    """Map one file if it has the size and the checksum that were written down."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        # "c": copy-on-write, so that torch takes the array for writable; nothing is written.
        array = np.memmap(file, _FILES[path.name], mode="c")
    version = (str(path), status.st_ino, status.st_mtime_ns, status.st_size, digest)
    if array.size == size and version in _VERIFIED:
        return array
    if array.size != size or checksum(array).hex() != digest:
        return None
    if time.time() - status.st_mtime > _SETTLED:
        _VERIFIED.add(version)
    return array


def _read_meta(path: Path) -> dict | None:
    """Read the settings of an entry if they have the checksum that stands beside them."""
    digest, _, text = path.read_text().partition("\n")
    return json.loads(text) if checksum(text.encode()).hex() == digest else None


def write_entry(folder: Path, stamp: dict, fill: Callable) -> None:
    """Write an entry to a temporary folder and move it to its place, so that it is whole.

    Parameters
    ----------
    folder : Path
    stamp : dict
    fill : callable
        Is given a function ``write(name, array)``, which may be called again to append, writes
        the arrays and returns the settings, a dict.

    Raises
    ------
    CacheError
        If the disk or its permissions do not allow it. What ``fill`` itself raises passes.
    """
    with new_folder(folder) as new, _Arrays(new) as arrays:
        meta = {"stamp": stamp, **fill(arrays.write)}
        text = json.dumps(meta | {"files": arrays.finish()})
        with writing():
            (new / "meta.json").write_text(f"{checksum(text.encode()).hex()}\n{text}")


class _Arrays(contextlib.ExitStack):
    """The files of an entry while they are written, with the checksum of each."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self.files: dict[str, IO[bytes]] = {}
        self.hashers: dict[str, xxhash.xxh3_64] = {}
        self.sizes: dict[str, int] = {}

    def write(self, name: str, array: np.ndarray) -> None:
        """Append an array to the file of this name."""
        array = np.ascontiguousarray(array, _FILES[name])
        with writing():
            if name not in self.files:
                self.files[name] = self.enter_context((self.folder / name).open("wb"))
                self.hashers[name] = xxhash.xxh3_64()
            self.files[name].write(array)
        self.hashers[name].update(array)
        self.sizes[name] = self.sizes.get(name, 0) + array.size

    def finish(self) -> dict[str, tuple[int, str]]:
        """Close the files and return the number of elements and the checksum of each."""
        with writing():
            self.close()
        return {name: (self.sizes[name], h.hexdigest()) for name, h in self.hashers.items()}
