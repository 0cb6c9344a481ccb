"""Rows of zip and tar archives, which are read without unpacking."""

from __future__ import annotations

import dataclasses
import tarfile
import zipfile
from collections.abc import Iterator
from typing import Any, NamedTuple

from .arrow import arrow
from .folder import open_location
from .pieces import Piece, Reading, as_sample, name_table

__all__ = ["TarPiece", "ZipPiece", "tar_pieces", "zip_pieces"]

_AT_ONCE = 4096  # members in one piece


@dataclasses.dataclass(frozen=True)
class ZipPiece(Piece):
    """Members of a zip archive.

    Parameters
    ----------
    url : str
    names : tuple of str
    stamps : tuple of int
        The CRC of each, which the archive contains.
    """

    url: str
    names: tuple[str, ...]
    stamps: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.names)

    def part(self, start: int, stop: int) -> ZipPiece:
        return ZipPiece(self.url, self.names[start:stop], self.stamps[start:stop])

    def stamp(self, reading: Reading) -> bytes:
        return "".join(map(repr, zip(self.names, self.stamps, strict=True))).encode()

    def shipped(self) -> ZipPiece:
        return dataclasses.replace(self, stamps=())

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        system, path = open_location(self.url)
        with system.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            for start in range(0, len(self), n):
                names = self.names[start : start + n]
                samples = [as_sample(archive.read(name), name, reading) for name in names]
                yield samples, name_table(names, reading.keep)


def zip_pieces(url: str) -> Iterator[ZipPiece]:
    """List the files of a zip archive in their order."""
    system, path = open_location(url)
    with system.open(path, "rb") as file, zipfile.ZipFile(file) as archive:
        found = [one for one in archive.infolist() if _is_sample(one.filename, one.is_dir())]
    for start in range(0, len(found), _AT_ONCE):
        some = found[start : start + _AT_ONCE]
        yield ZipPiece(url, tuple(m.filename for m in some), tuple(m.CRC for m in some))


class Entry(NamedTuple):
    """A sample of a tar archive: the name that its files share, and the place of each."""

    name: str
    places: dict[str, tuple[int, int]]  # suffix: offset and size


@dataclasses.dataclass(frozen=True)
class TarPiece(Piece):
    """Samples of a tar archive, each a file or several files with one name.

    Parameters
    ----------
    url : str
    entries : tuple of Entry
    identity : str, default=""
        Size and time of the archive.
    """

    url: str
    entries: tuple[Entry, ...]
    identity: str = ""

    def __len__(self) -> int:
        return len(self.entries)

    def part(self, start: int, stop: int) -> TarPiece:
        return dataclasses.replace(self, entries=self.entries[start:stop])

    def stamp(self, reading: Reading) -> bytes:
        return "".join(repr((self.identity, entry)) for entry in self.entries).encode()

    def chunks(self, n: int, reading: Reading) -> Iterator[tuple[list[Any], Any]]:
        system, path = open_location(self.url)
        with system.open(path, "rb") as file:
            for start in range(0, len(self), n):
                yield self._read(file, self.entries[start : start + n], reading)

    def _read(self, file, entries: tuple[Entry, ...], reading: Reading) -> tuple:
        if reading.column is None:
            names = [entry.name for entry in entries]
            contents = [_content(file, entry, "") for entry in entries]
            kept = name_table(names, reading.keep)
        else:
            names = [f"{entry.name}.{reading.column}" for entry in entries]
            contents = [_content(file, entry, reading.column) for entry in entries]
            kept = arrow().table(
                {k: [_text(file, entry, k) for entry in entries] for k in reading.keep}
            )
        pairs = zip(contents, names, strict=True)
        return [None if c is None else as_sample(c, name, reading) for c, name in pairs], kept


def _content(file, entry: Entry, suffix: str) -> bytes | None:
    if suffix not in entry.places:
        return None
    offset, size = entry.places[suffix]
    file.seek(offset)
    return file.read(size)


def _text(file, entry: Entry, suffix: str) -> str | None:
    """Return a small file as a text; "__key__" is the name that the files of a sample share."""
    content = entry.name.encode() if suffix == "__key__" else _content(file, entry, suffix)
    return None if content is None else content.decode("utf-8", "replace")


def tar_pieces(url: str, identity: str, reading: Reading) -> Iterator[TarPiece]:
    """List the samples of a tar archive in their order; its headers are read, not its files."""
    system, path = open_location(url)
    with system.open(path, "rb") as file:
        entries: list[Entry] = []
        for entry in _entries(_members(file, url), by_name=reading.column is not None):
            entries.append(entry)
            if len(entries) == _AT_ONCE:
                yield TarPiece(url, tuple(entries), identity)
                entries = []
        if entries:
            yield TarPiece(url, tuple(entries), identity)


def _members(file, url: str) -> Iterator[tarfile.TarInfo]:
    try:
        archive = tarfile.open(fileobj=file, mode="r:")
    except tarfile.ReadError as error:
        raise ValueError(f"{url!r} is no tar archive without compression: {error}") from None
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # they would be kept
        if _is_sample(member.name, not member.isreg()):
            yield member


def _entries(members: Iterator[tarfile.TarInfo], by_name: bool) -> Iterator[Entry]:
    """Make a sample of each file, or of neighbouring files that differ in their suffix only."""
    current: Entry | None = None
    for member in members:
        folder, _, last = member.name.rpartition("/")
        stem, _, suffix = last.partition(".")
        name = f"{folder}/{stem}" if folder else stem
        place = member.offset_data, member.size
        if not by_name:
            yield Entry(member.name, {"": place})
        elif current is not None and current.name == name:
            current.places[suffix.lower()] = place
        else:
            if current is not None:
                yield current
            current = Entry(name, {suffix.lower(): place})
    if current is not None:
        yield current


def _is_sample(name: str, is_folder: bool) -> bool:
    """Tell whether a member is a file that a user put into an archive."""
    hidden = any(part.startswith(".") for part in name.removeprefix("./").split("/"))
    return not (is_folder or hidden or name.startswith("__MACOSX/"))
