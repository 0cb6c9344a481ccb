"""Write caches on disk: checksums, atomic replacement, removal of abandoned files."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xxhash

_ABANDONED = 24 * 3600  # seconds after which no process still writes to a temporary folder


class CacheError(Exception):
    """An entry of a cache could not be written."""


def checksum(*parts: Any) -> bytes:
    """Compute the checksum of bytes that are kept in a cache, joined.

    It is the 64-bit xxh3, 8 bytes, and detects damage, but no forgery.
    """
    hasher = xxhash.xxh3_64()
    for part in parts:
        hasher.update(part)
    return hasher.digest()


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Turn errors of the file system into :class:`CacheError`."""
    try:
        yield
    except OSError as error:
        raise CacheError(str(error)) from error


@contextlib.contextmanager
def new_folder(place: Path) -> Iterator[Path]:
    """Make a temporary folder beside a place and move it there at the end.

    Readers find the old folder or the new one, and never an incomplete one. If the block raises,
    the temporary folder is removed and the place is not changed. ``CacheError`` if the file system
    does not allow it.
    """
    with writing():
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(place.parent)
        new = Path(tempfile.mkdtemp(prefix=".new-", dir=place.parent))
    try:
        yield new
        with writing():
            _move(new, place)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def replace_file(path: Path, *parts: bytes) -> None:
    """Write a file such that readers find the old content or the new one, also after a crash.

    ``CacheError`` if the file system does not allow it; the old content is kept.
    """
    with writing(), _new_file(path, parts) as new:
        os.replace(new, path)


def claim_file(path: Path, *parts: Any) -> bool:
    """Write a file if there is none, such that one of several processes succeeds; else False.

    ``CacheError`` if the file system does not allow it.
    """
    with writing(), _new_file(path, parts) as new:
        try:
            os.link(new, path)
        except OSError:  # it exists, or the file system has no links
            if path.exists():
                return False
            os.replace(new, path)
        return True


@contextlib.contextmanager
def _new_file(path: Path, parts: tuple) -> Iterator[Path]:
    """Write a file of another name beside its place; what is left of it is removed."""
    remove_abandoned(path.parent)
    new = path.with_name(f".new-{secrets.token_hex(8)}")
    try:
        with open(new, "xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        yield new
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def remove_abandoned(parent: Path) -> None:
    """Remove what killed processes left in a folder more than a day ago.

    That is temporary folders and files of :func:`new_folder` and :func:`replace_file`.
    """
    for path in [*parent.glob(".new-*"), *parent.glob(".old-*")]:
        with contextlib.suppress(OSError):  # another process may remove it, too
            if time.time() - path.stat().st_mtime > _ABANDONED:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _move(new: Path, place: Path) -> None:
    """Move a new folder to its place, where another process may do the same."""
    try:
        os.rename(new, place)
        return
    except OSError:  # the place holds an older, a damaged or another process's folder
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=place.parent))
    try:
        with contextlib.suppress(FileNotFoundError):  # another process has just moved it aside
            os.rename(place, aside / "entry")
        os.rename(new, place)
    except OSError:
        if not place.exists():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)
