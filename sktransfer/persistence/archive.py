"""The container of a file: a zip of named parts with a table of contents, read within limits."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from ..backbones.serialization import check_json, read_json
from ..data import check_interrupt

__all__ = [
    "CONTENTS",
    "FORMAT",
    "DamagedFileError",
    "check_members",
    "read_archive",
    "write_archive",
]

CONTENTS = "contents.json"  # the first member: versions, networks, and a SHA-256 of each other one
FORMAT = 1  # of files; a file of an earlier format must open
_MOST_MEMBERS = 10_000
_LARGEST_CONTENTS = {"most_bytes": 2**22, "most_values": 2**16}
_NAME = re.compile(r"[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*\.[a-z]+")


class DamagedFileError(ValueError):
    """A file is not one that ``sktransfer.save`` wrote, or was changed since."""


def write_archive(
    path: str | os.PathLike[str], contents: dict[str, Any], parts: Mapping[str, bytes]
) -> None:
    """Write a file, which replaces an earlier one when it is complete.

    Parameters
    ----------
    path : str or Path
    contents : dict
        What JSON can hold.
    parts : mapping of str to bytes
    """
    path = Path(path).expanduser()
    digests = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
    table = json.dumps({"format": FORMAT, **contents, "sha256": digests}, indent=1).encode()
    check_json(table, CONTENTS, **_LARGEST_CONTENTS)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "wb") as file:
            _write_zip(file, {CONTENTS: table, **parts})
            file.flush()
            os.fsync(file.fileno())
        _set_mode(temporary)
        check_interrupt()
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _write_zip(file: BinaryIO, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time


def _set_mode(path: str) -> None:
    """Give a file the permissions of a new one; those of temporary files are stricter."""
    mask = os.umask(0)
    os.umask(mask)
    os.chmod(path, 0o666 & ~mask)


def read_archive(
    path: str | os.PathLike[str], *, parts: bool = True
) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Read a file and check it, without interpreting any part but the table of contents.

    Nothing is decompressed, since parts are stored as they are, so that a file needs no more memory
    than its size.

    Parameters
    ----------
    path : str or Path
    parts : bool, default=True
        Whether the parts are read, too.

    Returns
    -------
    contents : dict
    parts : dict of str to bytes

    Raises
    ------
    DamagedFileError
        If anything is not as :func:`write_archive` writes it.
    ValueError
        If a later version of the package wrote the file.
    """
    with open(Path(path).expanduser(), "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                sizes = check_members(archive, os.fstat(file.fileno()).st_size)
                contents = _read_contents(archive, sizes)
                found = {name: archive.read(name) for name in contents["sha256"] if parts}
        except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, OSError) as error:
            raise DamagedFileError(f"it is no complete zip file ({error})") from error
    for name, part in found.items():
        if hashlib.sha256(part).hexdigest() != contents["sha256"][name]:
            raise DamagedFileError(f"{name!r} was changed after the file was saved")
    return contents, found


def check_members(archive: zipfile.ZipFile, size: int) -> dict[str, int]:
    """Check names and sizes of the members of a zip file, none of which may be compressed.

    Parameters
    ----------
    archive : ZipFile
    size : int
        Bytes of the whole file.

    Returns
    -------
    dict of str to int
        The size of each member in bytes.

    Raises
    ------
    DamagedFileError
    """
    members = archive.infolist()
    names = [member.filename for member in members]
    if len(members) > _MOST_MEMBERS or len(set(names)) < len(names):
        raise DamagedFileError(f"it has {len(members)} parts, or parts of the same name")
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED and member.flag_bits & 1 == 0
        if not stored or member.file_size != member.compress_size:
            raise DamagedFileError(f"{member.filename[:80]!r} is compressed or encrypted")
        if not _NAME.fullmatch(member.filename):
            raise DamagedFileError(f"{member.filename[:80]!r} is not the name of a part")
    if sum(member.file_size for member in members) > size:
        raise DamagedFileError("its parts are larger than the file")
    return {member.filename: member.file_size for member in members}


def _read_contents(archive: zipfile.ZipFile, sizes: dict[str, int]) -> dict[str, Any]:
    if not sizes.get(CONTENTS, 0):
        raise DamagedFileError(f"it has no {CONTENTS!r}")
    try:
        contents = read_json(archive.read(CONTENTS), CONTENTS, **_LARGEST_CONTENTS)
    except ValueError as error:
        raise DamagedFileError(str(error)) from error
    if not isinstance(contents, dict) or not isinstance(contents.get("format"), int):
        raise DamagedFileError(f"{CONTENTS!r} is no table of contents")
    if contents["format"] > FORMAT:
        raise ValueError(
            f"it has format {contents['format']}, and this version of sktransfer reads formats up "
            f"to {FORMAT}: install a later version"
        )
    digests = contents.get("sha256")
    if not isinstance(digests, dict) or {*digests, CONTENTS} != set(sizes):
        raise DamagedFileError(f"{CONTENTS!r} names other parts than there are")
    return contents
