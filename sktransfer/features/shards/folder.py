"""Write and list files in a folder at any location that fsspec knows."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Folder", "as_url", "below", "open_location"]

_NEW = ".new-"  # begins the name of a file that is being written
_ABANDONED = 24 * 3600  # seconds after which no process still writes to such a file


def as_url(location: str | os.PathLike[str]) -> str:
    """Return a location that means the same in every folder: a URL, or an absolute path.

    Parameters
    ----------
    location : str or path-like

    Returns
    -------
    str
    """
    text = os.fspath(location)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def open_location(url: str) -> tuple[Any, str]:
    """Return the file system of a location, and the path there.

    Parameters
    ----------
    url : str

    Returns
    -------
    fsspec.AbstractFileSystem, str
    """
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def below(folder: str, url: str) -> str | None:
    """Return the path of a location from a folder: "" for the folder, None for what is elsewhere.

    Parameters
    ----------
    folder, url : str

    Returns
    -------
    str or None
    """
    (system, top), (other, path) = open_location(folder), open_location(url)
    if system != other:
        return None
    if "file" in system.protocol:  # links
        top, path = os.path.realpath(top), os.path.realpath(path)
    top, path = top.rstrip("/"), path.rstrip("/")
    if top == path:
        return ""
    return path.removeprefix(f"{top}/") if path.startswith(f"{top}/") else None


class Folder:
    """A folder whose files are complete or do not exist.

    Parameters
    ----------
    location : str or path-like
        A path, or a URL that fsspec knows, such as ``memory://features`` or ``s3://bucket/features``.
    """

    url: str

    def __init__(self, location: str | os.PathLike[str]):
        self.url = as_url(location)

    @functools.cached_property
    def _place(self) -> tuple:
        system, path = open_location(self.url)
        return system, path.rstrip("/")

    def path(self, name: str) -> str:
        """Return the path of a file for the file system."""
        return f"{self._place[1]}/{name}"

    def make(self) -> None:
        """Make the folder if need be, and remove what killed processes left a day ago."""
        system, path = self._place
        system.makedirs(path, exist_ok=True)
        for entry in system.ls(path, detail=True):
            name = entry["name"].rpartition("/")[2]
            if name.startswith(_NEW) and time.time() - entry.get("mtime", time.time()) > _ABANDONED:
                self.remove(name)

    def names(self) -> list[str]:
        """List the complete files, sorted; empty if there is no folder."""
        system, path = self._place
        system.invalidate_cache(path)
        try:
            entries = system.ls(path, detail=True)
        except FileNotFoundError:
            return []
        names = [entry["name"].rpartition("/")[2] for entry in entries if entry["size"]]
        return sorted(name for name in names if not name.startswith(_NEW))

    def holds(self, name: str) -> bool:
        """Tell whether a file exists now and is not empty, as an interrupted copy may be."""
        system, path = self._place
        system.invalidate_cache(path)
        try:
            return system.info(self.path(name))["size"] > 0
        except FileNotFoundError:
            return False

    def open(self, name: str) -> Any:
        """Open a file to read it."""
        return self._place[0].open(self.path(name), "rb")

    def read(self, name: str) -> bytes:
        """Return the content of a file."""
        with self.open(name) as file:
            return file.read()

    def write(self, name: str, write: Callable[..., Any]) -> None:
        """Write a file under a temporary name, and rename it when it is complete.

        Parameters
        ----------
        name : str
            A file of that name is replaced.
        write : callable
            Is called with an open binary file.
        """
        system, _ = self._place
        temporary = self.path(f"{_NEW}{secrets.token_hex(8)}")
        try:
            with system.open(temporary, "wb") as file:
                write(file)
                _to_disk(file)
            system.mv(temporary, self.path(name))
        except BaseException:
            with contextlib.suppress(Exception):
                system.rm_file(temporary)
            raise

    def remove(self, name: str) -> None:
        """Remove a file, which another process may have removed."""
        with contextlib.suppress(FileNotFoundError):
            self._place[0].rm_file(self.path(name))

    def __getstate__(self) -> dict[str, Any]:
        return {"url": self.url}

    def __repr__(self) -> str:
        return f"Folder({self.url!r})"


def _to_disk(file) -> None:
    """Wait until a local file is on the disk, so that a power failure leaves no incomplete one."""
    file.flush()
    with contextlib.suppress(AttributeError, OSError):
        os.fsync(file.fileno())
