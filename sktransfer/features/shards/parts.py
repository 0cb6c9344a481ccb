"""The files of a folder of features: parts in Parquet, and what they have in common."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from .arrow import arrow
from .folder import Folder

__all__ = [
    "DIGEST",
    "MANIFEST",
    "ROW",
    "Block",
    "Manifest",
    "PartName",
    "features_of",
    "is_whole",
    "open_part",
    "read_part",
    "sketch_of",
    "write_part",
]

ROW, DIGEST = "row", "digest"  # columns of each part
MANIFEST = "_features.json"
_METADATA = b"sktransfer"
_AGAIN = "Call extract_to again with verify=True, which computes damaged parts again."
_GROUP = 512  # rows that are read at once where single rows are looked up
_NAME = re.compile(r"(part|failed)-(\d{12})-([0-9a-f]{16})\.parquet")


class PartName(NamedTuple):
    """The name of a file: what it holds, its first row in the source and the digest of the rows."""

    kind: str
    start: int
    digest: str

    def __str__(self) -> str:
        return f"{self.kind}-{self.start:012d}-{self.digest}.parquet"

    @classmethod
    def parse(cls, name: str) -> PartName | None:
        """Read a name; None for that of another file."""
        match = _NAME.fullmatch(name)
        return match and cls(match[1], int(match[2]), match[3])


class Block(NamedTuple):
    """A column of features: those of one layer, input size and pooling.

    Parameters
    ----------
    name : str
    width : int
    key : str
        A digest of the key of the recipe.
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
    """What all parts of a folder have in common.

    Parameters
    ----------
    key : str
        A digest of everything that decides the features of a sample, except the sample.
    blocks : tuple of Block
    dtype : str
    shard_size : int
    backbone : str
        Its name, for messages.
    """

    key: str
    blocks: tuple[Block, ...]
    dtype: str
    shard_size: int
    backbone: str

    def __repr__(self) -> str:
        return f"{self.backbone!r} {[block.name for block in self.blocks]} {self.dtype}"

    @classmethod
    def load(cls, folder: Folder) -> Manifest | None:
        """Read the manifest of a folder; None where there is none."""
        if not folder.holds(MANIFEST):
            return None
        found = json.loads(folder.read(MANIFEST))
        return cls(**found | {"blocks": tuple(map(_block, found["blocks"]))})

    def save(self, folder: Folder) -> None:
        """Write the manifest, or check that the folder belongs to the same recipe.

        Raises
        ------
        ValueError
            If the folder has the features of another recipe, or shards of another size.
        """
        found = self.load(folder)
        if found is None:
            content = json.dumps(dataclasses.asdict(self), indent=1).encode()
            folder.write(MANIFEST, lambda file: file.write(content))
        elif found.key != self.key:
            raise ValueError(
                f"{folder.url!r} has features of another recipe, {found!r}, not of {self!r} "
                "with the same weights and preprocessing. Give another target."
            )
        elif found.shard_size != self.shard_size:
            raise ValueError(
                f"{folder.url!r} was begun with shard_size={found.shard_size}, not "
                f"{self.shard_size}. Give that size, another target, or remove the folder."
            )


def _block(found: list) -> Block:
    """Make a block of its form in JSON, where tuples are lists."""
    name, width, key, whole = found
    return Block(name, width, key, None if whole is None else (whole[0], tuple(whole[1])))


def write_part(
    folder: Folder,
    name: PartName,
    columns: dict[str, Any],
    manifest: Manifest,
    sketch: tuple[str, ...],
) -> None:
    """Write columns as one Parquet file, whose bytes depend on nothing else.

    Parameters
    ----------
    folder : Folder
    name : PartName
    columns : dict of str to arrow array, or ndarray of shape (n, width) for features
    manifest : Manifest
    sketch : tuple of str
        That of the shard.
    """
    pa = arrow()
    own = {"format": 1, "key": manifest.key, "rows": name.digest, "start": name.start}
    own["sketch"] = sketch
    made = {k: _fixed_size(v) if isinstance(v, np.ndarray) else v for k, v in columns.items()}
    table = pa.table(made).replace_schema_metadata({_METADATA: json.dumps(own)})
    narrow = [k for k, v in columns.items() if not isinstance(v, np.ndarray)]
    settings = {
        # Features are not compressible; statistics and dictionaries of them are of no use.
        "compression": dict.fromkeys(narrow, "zstd"),
        "row_group_size": _GROUP,
        "use_dictionary": False,
        "write_statistics": False,
        "write_page_checksum": True,
    }
    folder.write(str(name), lambda file: pa.parquet.write_table(table, file, **settings))


def _fixed_size(features: np.ndarray):
    pa = arrow()
    flat = pa.array(np.ascontiguousarray(features).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, features.shape[1])


@contextlib.contextmanager
def open_part(folder: Folder, name: PartName, key: str | None = None) -> Iterator[Any]:
    """Open a part, and check that it is what its name says.

    Parameters
    ----------
    folder : Folder
    name : PartName
    key : str, default=None
        The key of the recipe that the part must have.

    Yields
    ------
    pyarrow.parquet.ParquetFile

    Raises
    ------
    ValueError
        If the part is damaged, has the rows of another part or features of another recipe.
    """
    pa = arrow()
    try:
        with folder.open(str(name)) as file:
            opened = pa.parquet.ParquetFile(file, page_checksum_verification=True)
            own = _own_of(opened)
            if (own["start"], own["rows"]) != (name.start, name.digest):
                raise ValueError(
                    f"{str(name)!r} in {folder.url!r} is a copy of another part, that of row "
                    f"{own['start']}. {_AGAIN}"
                )
            if key is not None and own["key"] != key:
                raise ValueError(f"{str(name)!r} in {folder.url!r} has features of another recipe.")
            yield opened
    except (pa.ArrowException, OSError, KeyError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(
            f"{str(name)!r} in {folder.url!r} is damaged ({error}). {_AGAIN}"
        ) from error


def _own_of(opened) -> dict[str, Any]:
    """Return what a part says about itself: key, first row, digest and number of its rows."""
    metadata = opened.schema_arrow.metadata or {}
    try:
        return json.loads(metadata[_METADATA])
    except ValueError as error:
        raise OSError(f"metadata: {error}") from None


def sketch_of(folder: Folder, name: PartName) -> list[str]:
    """Return the sketch of the shard that a part was made of; empty if the part is damaged."""
    try:
        with open_part(folder, name) as opened:
            return _own_of(opened)["sketch"]
    except (ValueError, FileNotFoundError):
        return []


def read_part(
    folder: Folder, name: PartName, columns: list[str] | None, key: str | None = None
) -> Any:
    """Read columns of a part.

    Parameters
    ----------
    folder : Folder
    name : PartName
    columns : list of str or None
        None for all.
    key : str, default=None
        The key of the recipe that the part must have.

    Returns
    -------
    pyarrow.Table

    Raises
    ------
    ValueError
        As :func:`open_part`.
    """
    with open_part(folder, name, key) as opened:
        return opened.read(columns).replace_schema_metadata()


def is_whole(folder: Folder, name: PartName, key: str) -> bool:
    """Tell whether a part can be read to its end and is what its name says."""
    try:
        read_part(folder, name, None, key)
    except (ValueError, FileNotFoundError):
        return False
    return True


def features_of(table: Any, blocks: tuple[Block, ...]) -> np.ndarray:
    """Return the features of a part side by side.

    Parameters
    ----------
    table : pyarrow.Table
    blocks : tuple of Block

    Returns
    -------
    ndarray of shape (n, n_features)
    """
    found = [_rows(table[block.name], block.width) for block in blocks]
    return found[0] if len(found) == 1 else np.hstack(found)


def _rows(column, width: int) -> np.ndarray:
    chunks = [chunk.flatten().to_numpy().reshape(-1, width) for chunk in column.chunks]
    return chunks[0] if len(chunks) == 1 else np.concatenate([np.empty((0, width)), *chunks])
