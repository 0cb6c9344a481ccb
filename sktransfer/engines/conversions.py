"""Keep converted networks on disk, so that another process does not convert them again."""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from pathlib import Path

import xxhash

from ..data.disk import CacheError, checksum, new_folder, writing

__all__ = ["Conversions"]

_KEPT = 16  # conversions in one folder; each is about as large as the weights
_CHECKSUM = "checksum"


class Conversions:
    """Converted networks in a folder, each with a checksum.

    A damaged conversion counts as absent. At most 16 are kept; the least recently used are
    removed.

    Parameters
    ----------
    folder : Path or None
        None keeps nothing.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def read(self, key: str) -> dict[str, bytes] | None:
        """Read a conversion.

        Parameters
        ----------
        key : str
            Describes the network, the runtime and its version.

        Returns
        -------
        dict of str to bytes, or None
            The files by name; None if there is no such conversion or it is damaged.
        """
        if self.folder is None:
            return None
        place = self._place(key)
        try:
            files = {path.name: path.read_bytes() for path in sorted(place.iterdir())}
        except OSError:
            return None
        if files.pop(_CHECKSUM, None) != _checksum(key, files):
            return None
        with contextlib.suppress(OSError):  # a folder that cannot be written
            os.utime(place)  # used now
        return files

    def write(self, key: str, files: dict[str, bytes]) -> None:
        """Keep a conversion, or warn if that fails.

        Parameters
        ----------
        key : str
        files : dict of str to bytes
        """
        if self.folder is None:
            return
        try:
            self._write(key, files)
        except CacheError as error:
            warnings.warn(
                f"The converted network cannot be written and will be converted again next time: "
                f"{error}. Make room, or give a folder that can be written as memory=.",
                stacklevel=2,
            )

    def _write(self, key: str, files: dict[str, bytes]) -> None:
        with new_folder(self._place(key)) as folder, writing():
            for name, content in [*files.items(), (_CHECKSUM, _checksum(key, files))]:
                (folder / name).write_bytes(content)
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        assert self.folder is not None
        with contextlib.suppress(OSError):  # another process may remove them, too
            places = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
            for place in sorted(places, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
                shutil.rmtree(place)

    def _place(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / xxhash.xxh3_128_hexdigest(key.encode())


def _checksum(key: str, files: dict[str, bytes]) -> bytes:
    parts = [part for name in sorted(files) for part in (name.encode(), files[name])]
    return checksum(key.encode(), *parts)
