"""Entries of memory-mapped arrays in a folder, written atomically."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

__all__ = ["CacheError", "cache_folder", "map_entry", "write_entry"]

# -- files to map --------------------------------------------------------------------------------
# What an entry of the cache may hold, each a file of bare numbers.
_FILES = {
    "matrix": np.float32,
    "letters": np.uint8,
    "offsets": np.int64,
    "hashes": np.uint64,
    "order": np.int32,
}

_ABANDONED = 24 * 3600  # seconds after which a half-written entry is nobody's


class CacheError(Exception):
    """An entry of the cache could not be written."""


def cache_folder() -> Path:
    """Return where tables are kept: below ``$SKTRANSFER_HOME`` or the user's folder for caches."""
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
    """Map the files of an entry without reading them.

    Parameters
    ----------
    folder : Path
    stamp : dict
        What the entry must have been made of.

    Returns
    -------
    (dict, dict of str to ndarray) or None
        Its settings and arrays; None if it is not there, of something else, or damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["stamp"] != stamp:
            return None
        # "c": copy-on-write, so that torch takes them for writable; nothing is ever written.
        sizes = meta["sizes"]
        arrays = {name: np.memmap(folder / name, _FILES[name], mode="c") for name in sizes}
        return (meta, arrays) if {n: a.size for n, a in arrays.items()} == sizes else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_entry(folder: Path, stamp: dict, fill: Callable) -> None:
    """Write an entry beside its place and move it there, so that it is whole or not at all.

    Parameters
    ----------
    folder : Path
    stamp : dict
    fill : callable
        Given a function ``write(name, array)``, which may be called again to write on, writes the
        arrays and returns the settings, a dict.

    Raises
    ------
    CacheError
        If the disk or its permissions do not allow it. What ``fill`` itself raises passes.
    """
    with contextlib.ExitStack() as files:
        with _writing():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder.parent)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        files.callback(shutil.rmtree, new, ignore_errors=True)
        sizes: dict[str, int] = {}
        opened: dict = {}

        def write(name: str, array: np.ndarray) -> None:
            with _writing():
                if name not in opened:
                    opened[name] = files.enter_context((new / name).open("wb"))
                opened[name].write(np.ascontiguousarray(array, _FILES[name]))
            sizes[name] = sizes.get(name, 0) + array.size

        meta = {"stamp": stamp, **fill(write), "sizes": sizes}
        with _writing():
            for file in opened.values():
                file.close()
            (new / "meta.json").write_text(json.dumps(meta))
            _move(new, folder)


@contextlib.contextmanager
def _writing():
    try:
        yield
    except OSError as error:
        raise CacheError(str(error)) from error


def _move(new: Path, folder: Path) -> None:
    """Put a new entry into its place, which another process may be filling too."""
    try:
        os.rename(new, folder)
        return
    except OSError:  # an older entry, a damaged one or the other process's
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
    try:
        os.rename(folder, aside / "entry")
        os.rename(new, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in [*parent.glob(".new-*"), *parent.glob(".old-*")]:
        with contextlib.suppress(OSError):  # another process removes it too
            if time.time() - folder.stat().st_mtime > _ABANDONED:
                shutil.rmtree(folder)
