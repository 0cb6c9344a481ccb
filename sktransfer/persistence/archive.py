"""The container of a file: a zip of named parts with a table of contents, read within limits.

The part of skops holds the objects of scikit-learn; trusted types alone are constructed from it.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import os
import re
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from sklearn import metrics, model_selection

from .._compat.sklearn import PRIVATE_TYPES, score_function
from ..backbones.serialization import read_json, write_json
from ..data import check_interrupt

__all__ = [
    "CONTENTS",
    "FORMAT",
    "DamagedFileError",
    "UntrustedTypesError",
    "dump_objects",
    "load_objects",
    "read_archive",
    "untrusted_types",
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

    Raises
    ------
    ValueError
        If :func:`read_archive` would refuse the file for its size.
    """
    path = Path(path).expanduser()
    digests = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
    contents = {"format": FORMAT, **contents, "sha256": digests}
    table = write_json(contents, CONTENTS, **_LARGEST_CONTENTS, indent=1).encode()
    if len(parts) >= _MOST_MEMBERS:
        raise ValueError(f"it has {len(parts):,} parts, of {_MOST_MEMBERS:,}")
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


# -- the part of skops -------------------------------------------------------------------------


_LARGEST_SCHEMA = {"most_bytes": 2**28, "most_values": 500_000}  # an object has six values


class UntrustedTypesError(TypeError):
    """A file has objects of types that are not trusted."""


def _skops():
    try:
        import skops.io
    except ImportError:
        raise ImportError(
            "Files of sktransfer.save require skops: pip install 'sktransfer[files]'"
        ) from None
    return skops.io


def dump_objects(item: Any) -> bytes:
    """Write an object with all that it refers to.

    Parameters
    ----------
    item : object

    Returns
    -------
    bytes

    Raises
    ------
    TypeError
        If it holds an object that skops cannot write.
    ValueError
        If it holds more, or is nested deeper, than :func:`load_objects` takes.
    """
    skops = _skops()
    try:
        data = _compact(skops.dumps(item))
    except RecursionError:
        raise
    except Exception as error:  # objects may raise anything when they are asked for their state
        raise TypeError(f"skops cannot write it ({type(error).__name__}: {error})") from error
    _check(data)
    return data


def _compact(data: bytes) -> bytes:
    """Write the JSON of skops without spaces, which are three quarters of it."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            part = old.read(name)
            if name.endswith(".json"):
                part = json.dumps(json.loads(part), separators=(",", ":")).encode()
            new.writestr(zipfile.ZipInfo(name), part)
    return made.getvalue()


def load_objects(data: bytes, trusted: Sequence[str | type[Any]] | None) -> Any:
    """Read what :func:`dump_objects` wrote.

    Parameters
    ----------
    data : bytes
    trusted : sequence of str or type, or None
        Types that are constructed besides those of NumPy, SciPy and scikit-learn.

    Returns
    -------
    object

    Raises
    ------
    DamagedFileError
        If the bytes are not of that form.
    UntrustedTypesError
        If there are other types; the message lists them.
    """
    skops = _skops()
    from skops.io.exceptions import UntrustedTypesFoundException

    _check(data)
    try:
        return skops.loads(data, trusted=[*_helpers_of_scikit(), *(trusted or ())])
    except UntrustedTypesFoundException as error:
        raise UntrustedTypesError(
            f"{error}\nIf you know and trust them, pass their names as trusted= to sktransfer.load."
        ) from None
    except Exception as error:  # a hostile file can raise anything
        raise _unreadable(error) from error


def untrusted_types(data: bytes) -> list[str]:
    """List the types that must be trusted explicitly.

    Parameters
    ----------
    data : bytes
        What :func:`dump_objects` wrote.

    Returns
    -------
    list of str
    """
    skops = _skops()
    _check(data)
    try:
        found = skops.get_untrusted_types(data=data)
    except Exception as error:
        raise _unreadable(error) from error
    return sorted({*found} - {*_helpers_of_scikit()})


@functools.cache
def _helpers_of_scikit() -> tuple[str, ...]:
    """Name what scikit-learn's searches hold: splitters, scorers, their metrics, and calibrations.

    None of them does anything when it is made. skops trusts estimators, and not these.
    """
    scorers = [metrics.get_scorer(name) for name in metrics.get_scorer_names()]
    found = {type(scorer) for scorer in scorers} | {score_function(scorer) for scorer in scorers}
    found |= {cls for cls in vars(model_selection).values() if hasattr(cls, "get_n_splits")}
    own = {f"{one.__module__}.{one.__qualname__}" for one in found}
    return tuple(sorted(own | PRIVATE_TYPES))


def _unreadable(error: Exception) -> DamagedFileError:
    return DamagedFileError(f"its objects cannot be read ({type(error).__name__}: {error!s:.200})")


def _check(data: bytes) -> None:
    """Check the zip file of skops: no member is compressed, no array announces more than it has."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in check_members(archive, len(data)):
                _check_member(name, archive.read(name))
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        raise DamagedFileError(f"its objects are no zip file ({error})") from error


def _check_member(name: str, content: bytes) -> None:
    if name.endswith(".npy"):
        _check_array(name, content)
    elif name.endswith(".json"):
        _check_texts(read_json(content, name, **_LARGEST_SCHEMA))
    elif not name.endswith(".bin"):
        raise DamagedFileError(
            f"its objects hold a part {name!r}, which this version does not read"
        )


def _check_texts(node: Any) -> None:
    """Refuse JSON inside the texts of a schema, which skops parses and writes for scalars only."""
    if isinstance(node, dict):
        text = node.get("content")
        if isinstance(text, str) and text.lstrip()[:1] in ("[", "{"):
            raise DamagedFileError("its objects hold JSON that is no number or text")
    for inner in node.values() if isinstance(node, dict) else node:
        if isinstance(inner, dict | list):
            _check_texts(inner)


def _check_array(name: str, content: bytes) -> None:
    file = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(file)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version[0]](file)
        expected = dtype.itemsize * int(np.prod(shape, dtype=object))
    except Exception as error:  # the header is evaluated as a literal, which can raise anything
        raise DamagedFileError(f"array {name!r} has no valid header ({error!s:.100})") from error
    if dtype.hasobject or expected != len(content) - file.tell():
        raise DamagedFileError(f"array {name!r} has not the size that it announces")
