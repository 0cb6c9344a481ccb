"""Keep tables of word vectors on disk, written once and memory-mapped by later processes."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np
import xxhash

from ...data import CacheError, checksum, new_folder, writing

__all__ = ["CacheError", "cache_folder", "map_entry", "write_entry"]

# The files of an entry, each an array without a header
_FILES = {
    "matrix": np.float32,
    "letters": np.uint8,
    "offsets": np.int64,
    "hashes": np.uint64,
    "order": np.int32,
}
# Files whose checksum was compared in this process: path, inode, time, size and checksum
_VERIFIED: set[tuple[Any, ...]] = set()
_SETTLED = 2.0  # seconds; two writes in a shorter time may leave the same modification time


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


def map_entry(
    folder: Path, stamp: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
    """Memory-map the files of an entry after comparing their checksums.

    Each file is compared once in a process, which takes about 0.1 s for a gigabyte in the cache
    of the operating system.

    Parameters
    ----------
    folder : Path
    stamp : dict
        The source that the entry must have been made from.

    Returns
    -------
    (dict, dict of str to ndarray) or None
        Its settings and arrays. None if it is missing, made from another source, or damaged.
    """
    try:
        meta = _read_meta(folder / "meta.json")
        if meta is None or meta["stamp"] != stamp:
            return None
        arrays = {name: _map(folder / name, *wanted) for name, wanted in meta["files"].items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return meta, arrays


def _map(path: Path, size: int, digest: str) -> np.ndarray:
    """Map one file, or raise ``ValueError`` if it has another size or checksum."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        # Mode "c", copy-on-write, since torch warns of read-only arrays; nothing is written.
        array = np.memmap(file, _FILES[path.name], mode="c")
    version = (str(path), status.st_ino, status.st_mtime_ns, status.st_size, digest)
    is_known = version in _VERIFIED
    if array.size != size or not (is_known or checksum(array).hex() == digest):
        raise ValueError(f"{path} is damaged")
    if time.time() - status.st_mtime > _SETTLED:
        _VERIFIED.add(version)
    return array


def _read_meta(path: Path) -> dict | None:
    """Read the settings of an entry, or return None if their checksum is another."""
    digest, _, text = path.read_text().partition("\n")
    return json.loads(text) if checksum(text.encode()).hex() == digest else None


def write_entry(folder: Path, stamp: dict[str, Any], fill: Callable[..., Any]) -> None:
    """Write an entry to a temporary folder and move it to its place.

    Parameters
    ----------
    folder : Path
    stamp : dict
    fill : callable
        Called with a function ``write(name, array)``, which appends an array to a file. Writes
        the arrays and returns the settings, a dict.

    Raises
    ------
    CacheError
        If the file system does not allow it. Errors of ``fill`` itself are not changed.
    """
    with new_folder(folder) as new, _Arrays(new) as arrays:
        meta = {"stamp": stamp, **fill(arrays.write)}
        text = json.dumps(meta | {"files": arrays.finish()})
        with writing():
            (new / "meta.json").write_text(f"{checksum(text.encode()).hex()}\n{text}")


class _Arrays(contextlib.ExitStack):
    """The files of an entry while they are written, with their checksums."""

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
            self.files[name].write(array.data)
        self.hashers[name].update(array.data)
        self.sizes[name] = self.sizes.get(name, 0) + array.size

    def finish(self) -> dict[str, tuple[int, str]]:
        """Close the files and return the number of elements and the checksum of each."""
        with writing():
            self.close()
        return {name: (self.sizes[name], h.hexdigest()) for name, h in self.hashers.items()}
