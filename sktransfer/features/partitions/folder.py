"""A folder of features: Parquet files that are complete or do not exist, and a manifest."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

ROW, DIGEST = "row", "digest"  # columns of each partition
MANIFEST = "_features.json"
ROW_GROUP = 512  # rows that are read at once where single rows are looked up
_NEW = ".new-"  # begins the name of a file that is being written
_ABANDONED = 24 * 3600  # seconds after which no process still writes to such a file
_METADATA = b"sktransfer"
_NAME = re.compile(r"(part|failed)-(\d{12})-([0-9a-f]{16})\.parquet")
_SAME = 1e-4  # relative L2 distance of rows that are the same; processors differ by rounding
_AGAIN = "Call extract_to again with verify=True, which computes damaged partitions again."


class Folder:
    """A folder whose files are complete or do not exist.

    It is a path, or a URL that fsspec knows, such as ``memory://features`` or
    ``s3://bucket/features``.
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

        ``write`` is called with an open binary file. A file of that name is replaced.
        """
        system, _ = self._place
        temporary = self.path(f"{_NEW}{secrets.token_hex(8)}")
        try:
            with system.open(temporary, "wb") as file:
                write(file)
                # On the disk, so that a power failure leaves no incomplete file.
                file.flush()
                with contextlib.suppress(AttributeError, OSError):
                    os.fsync(file.fileno())
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


def as_url(location: str | os.PathLike[str]) -> str:
    """Return a location that means the same in every folder: a URL, or an absolute path."""
    text = os.fspath(location)
    return text if "://" in text else os.path.abspath(os.path.expanduser(text))


def open_location(url: str) -> tuple[Any, str]:
    """Return the file system of a location, and the path there."""
    from fsspec.core import url_to_fs

    return url_to_fs(url)


def below(folder: str, url: str) -> str | None:
    """Return the path of a location from a folder: "" for it, None for what is elsewhere."""
    (system, top), (other, path) = open_location(folder), open_location(url)
    if system != other:
        return None
    if "file" in system.protocol:  # links
        top, path = os.path.realpath(top), os.path.realpath(path)
    top, path = top.rstrip("/"), path.rstrip("/")
    if top == path:
        return ""
    return path.removeprefix(f"{top}/") if path.startswith(f"{top}/") else None


def arrow() -> Any:
    """Return pyarrow with its modules for Parquet and CSV, or say how to install it."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            "Features are kept in Parquet files: pip install 'sktransfer[dask]', or pyarrow alone "
            "for one machine."
        ) from None
    return pyarrow


# -- what the files contain ------------------------------------------------------------------------


class PartitionName(NamedTuple):
    """The name of a file: what it holds, its first row in the source and the digest of the rows."""

    kind: str  # "part", or "failed" for the samples of a partition that failed
    start: int
    digest: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.start:012d}-{self.digest}.parquet"

    @classmethod
    def parse(cls, name: str) -> PartitionName | None:
        """Read a name; None for that of another file."""
        match = _NAME.fullmatch(name)
        return match and cls(match[1], int(match[2]), match[3])

    @property
    def failures(self) -> PartitionName:
        """The name of the file with the samples that failed."""
        return self._replace(kind="failed")


class FeatureColumn(NamedTuple):
    """A column of features: those of one layer, input size and pooling.

    Parameters
    ----------
    key : str
        A digest of the key under which a store has these features.
    whole : (str, tuple of int), default=None
        For features that are whole activations: the key of these and their shape.
    """

    name: str
    width: int
    key: str
    whole: tuple[str, tuple[int, ...]] | None = None

    def shape_for(self, key: str) -> tuple[int, ...] | None:
        """Return the shape of a row under a key; None if the column has another one."""
        if key == self.key:
            return (self.width,)
        return self.whole[1] if self.whole is not None and key == self.whole[0] else None


@dataclasses.dataclass(frozen=True, repr=False)
class Manifest:
    """What all partitions of a folder have in common.

    Parameters
    ----------
    key : str
        A digest of everything that decides the features of a sample, except the sample.
    backbone : str
        Its name, for messages.
    behavior : tuple of str, default=()
        Which fixed sample the network has computed, and a sketch of each of its outputs, in
        hexadecimal digits. Empty if that is not known.
    """

    key: str
    columns: tuple[FeatureColumn, ...]
    dtype: str
    partition_size: int
    backbone: str
    behavior: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"{self.backbone!r} {[column.name for column in self.columns]} {self.dtype}"

    @classmethod
    def load(cls, folder: Folder) -> Manifest | None:
        """Read the manifest of a folder, None where there is none; ValueError if it is damaged."""
        if not folder.holds(MANIFEST):
            return None
        try:
            return cls._of_json(folder.read(MANIFEST))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise _damaged(folder, error) from error

    @classmethod
    def _of_json(cls, text: bytes) -> Manifest:
        content = json.loads(text)
        columns = []
        for name, width, key, whole in content.pop("columns"):  # tuples are lists in JSON
            whole = None if whole is None else (whole[0], tuple(whole[1]))
            columns.append(FeatureColumn(name, width, key, whole))
        behavior = tuple(content.pop("behavior", ()))
        for sketch in behavior[1:]:
            _row_of(sketch)
        return cls(columns=tuple(columns), behavior=behavior, **content)

    def check(self, folder: Folder) -> None:
        """Check that a folder has no other features.

        A ``ValueError`` if the folder has other features, or partitions of another size, or if the
        code of today computes other features; or if the manifest is damaged.
        """
        there = self.load(folder)
        if there is None:
            return
        if there.key != self.key:
            raise ValueError(
                f"{folder.url!r} has features of another recipe, {there!r}, not of {self!r} "
                "with the same weights and preprocessing. Give another target."
            )
        if there.partition_size != self.partition_size:
            raise ValueError(
                f"{folder.url!r} was begun with partition_size={there.partition_size}, not "
                f"{self.partition_size}. Give that size, another target, or remove the folder."
            )
        if there.behavior and self.behavior and len(there.behavior) != len(self.behavior):
            raise _damaged(folder, f"{len(there.behavior)} entries of behavior")
        if not _is_same(there.behavior, self.behavior):
            raise ValueError(
                f"{folder.url!r} has features that backbone {self.backbone!r} does not compute any "
                "more: code that it uses, such as that of its preprocessing or pooling, has "
                "changed. Use the same code, or give another target."
            )

    def save(self, folder: Folder) -> None:
        """Write the manifest, unless the folder has one."""
        if not folder.holds(MANIFEST):
            content = json.dumps(dataclasses.asdict(self), indent=1).encode()
            folder.write(MANIFEST, lambda file: file.write(content))


def _damaged(folder: Folder, why: object) -> ValueError:
    return ValueError(
        f"'{folder.url}/{MANIFEST}' is damaged, or of a later version ({why!s:.200}). Restore it "
        "from a copy, or give another target and compute the features again."
    )


def _is_same(recorded: tuple[str, ...], computed: tuple[str, ...]) -> bool:
    """Compare two records of what a network computes, if both are of the same fixed sample."""
    if not recorded or not computed or recorded[0] != computed[0]:
        return True
    pairs = zip(recorded[1:], computed[1:], strict=True)
    rows = [(_row_of(there), _row_of(now)) for there, now in pairs]
    return all(  # NaN is not the same
        a.shape == b.shape and np.linalg.norm(a - b) <= _SAME * np.linalg.norm(b) + 1e-8
        for a, b in rows
    )


def _row_of(sketch: str) -> np.ndarray:
    return np.frombuffer(bytes.fromhex(sketch), np.float32)


def write_partition(
    folder: Folder,
    name: PartitionName,
    columns: dict[str, Any],
    *,
    key: str,
    sketch: tuple[str, ...],
) -> None:
    """Write columns as one Parquet file, whose bytes depend on nothing else.

    Columns are arrays of pyarrow, or arrays ``(n, width)`` of features. ``key`` is that of the
    manifest, and ``sketch`` that of the partition.
    """
    pa = arrow()
    own = {"format": 1, "key": key, "rows": name.digest, "start": name.start, "sketch": sketch}
    arrays = {}
    for label, values in columns.items():
        if isinstance(values, np.ndarray):
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            arrays[label] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
        else:
            arrays[label] = values
    table = pa.table(arrays).replace_schema_metadata({_METADATA: json.dumps(own)})
    narrow = [label for label, values in columns.items() if not isinstance(values, np.ndarray)]
    settings = {
        # Features are not compressible; statistics and dictionaries of them are of no use.
        "compression": dict.fromkeys(narrow, "zstd"),
        "row_group_size": ROW_GROUP,
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,
    }
    folder.write(str(name), lambda file: pa.parquet.write_table(table, file, **settings))


@contextlib.contextmanager
def open_partition(folder: Folder, name: PartitionName, key: str | None = None) -> Iterator[Any]:
    """Open the file of a partition, and check that it is what its name and the manifest's key say.

    A ``ValueError`` if the file is damaged, has the rows of another partition or other features.
    """
    pa = arrow()
    try:
        with folder.open(str(name)) as file:
            parquet = pa.parquet.ParquetFile(file, page_checksum_verification=True)
            own = _own_metadata(parquet)
            if (own["start"], own["rows"]) != (name.start, name.digest):
                raise ValueError(
                    f"{str(name)!r} in {folder.url!r} is a copy of another partition, that of row "
                    f"{own['start']}. {_AGAIN}"
                )
            if key is not None and own["key"] != key:
                raise ValueError(f"{str(name)!r} in {folder.url!r} has features of another recipe.")
            yield parquet
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, KeyError) as error:
        raise ValueError(
            f"{str(name)!r} in {folder.url!r} is damaged ({error}). {_AGAIN}"
        ) from error


def _own_metadata(parquet) -> dict[str, Any]:
    """Return what a file says about itself: key, first row, digest and sketch of its rows."""
    metadata = parquet.schema_arrow.metadata or {}
    try:
        return json.loads(metadata[_METADATA])
    except ValueError as error:
        raise OSError(f"metadata: {error}") from None


def sketch_of(folder: Folder, name: PartitionName) -> list[str]:
    """Return the sketch of the rows in a file; empty if it is damaged."""
    try:
        with open_partition(folder, name) as parquet:
            return _own_metadata(parquet)["sketch"]
    except (ValueError, FileNotFoundError):
        return []


def is_whole(folder: Folder, name: PartitionName, key: str) -> bool:
    """Tell whether a file can be read to its end and is what its name says."""
    try:
        read_partition(folder, name, key=key)
    except (ValueError, FileNotFoundError):
        return False
    return True


def read_partition(
    folder: Folder,
    name: PartitionName,
    columns: list[str] | None = None,
    *,
    key: str | None = None,
) -> Any:
    """Read columns of a partition, None for all, as a table; see :func:`open_partition`."""
    with open_partition(folder, name, key) as parquet:
        return parquet.read(columns).replace_schema_metadata()


def features_in(table: Any, columns: tuple[FeatureColumn, ...]) -> np.ndarray:
    """Return the features in a table of a partition side by side."""
    arrays = []
    for column in columns:
        chunks = table[column.name].chunks
        chunks = [chunk.flatten().to_numpy().reshape(-1, column.width) for chunk in chunks]
        empty = np.empty((0, column.width))
        arrays.append(chunks[0] if len(chunks) == 1 else np.concatenate([empty, *chunks]))
    return arrays[0] if len(arrays) == 1 else np.hstack(arrays)


def read_failures(folder: Folder) -> Any:
    """Read what is known about the samples that failed: a table of "row", "sample" and "cause"."""
    pa = arrow()
    names = [name for name in map(PartitionName.parse, folder.names()) if name]
    tables = [read_partition(folder, name) for name in names if name.kind == "failed"]
    schema = pa.schema([(ROW, pa.int64()), ("sample", pa.string()), ("cause", pa.string())])
    return pa.concat_tables([schema.empty_table(), *tables])
