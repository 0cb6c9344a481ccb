"""Compute one shard: a pure function from rows of a source to a file of the target."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, NamedTuple

import numpy as np

from ...data import UnreadableSamplesError
from ...engines import keep_freed_memory, thread_budget
from ..function import Computed, FeatureFunction
from .arrow import arrow
from .folder import Folder
from .parts import DIGEST, ROW, Manifest, PartName, is_whole, write_part
from .planning import Shard

__all__ = ["Done", "ShardTask", "name_of"]

_SHOWN = 200  # characters of a sample or a cause


class Done(NamedTuple):
    """What a task reports: the rows that it has tried, and those that failed."""

    n_rows: int
    n_failed: int


@dataclasses.dataclass(frozen=True)
class ShardTask:
    """Compute the features of a shard and write them as a part.

    Parameters
    ----------
    function : FeatureFunction
    folder : Folder
        The target.
    manifest : Manifest
    on_error : {"record", "raise"}
        What is done with samples that cannot be computed.
    """

    function: FeatureFunction
    folder: Folder
    manifest: Manifest
    on_error: str

    def __call__(self, shard: Shard, n_threads: int | None = None) -> Done:
        """Compute a shard, unless its part exists.

        Parameters
        ----------
        shard : Shard
        n_threads : int, default=None
            Threads of torch during the task.

        Returns
        -------
        Done

        Raises
        ------
        UnreadableSamplesError
            With ``on_error="raise"``, if samples cannot be computed; with rows of the source.
        """
        name = PartName("part", shard.start, shard.digest)
        if not shard.again and self._exists(name, shard.verify):
            return Done(0, 0)
        with thread_budget(n_threads), keep_freed_memory():
            rows, failed = self._compute(shard)
        self._write(name, rows, failed, shard.sketch)
        if (shard.again or shard.verify) and not failed:
            self.folder.remove(str(name._replace(kind="failed")))
        return Done(len(shard), len(failed))

    def _exists(self, name: PartName, verify: bool) -> bool:
        """Tell whether a part exists, which another client may have made, and is whole."""
        if not self.folder.holds(str(name)):
            return False
        failures = name._replace(kind="failed")
        names = [name, failures] if self.folder.holds(str(failures)) else [name]
        return not verify or all(is_whole(self.folder, one, self.manifest.key) for one in names)

    def _compute(self, shard: Shard) -> tuple[_Rows, list[tuple]]:
        rows, failed = _Rows(len(shard), self.manifest), []
        start = shard.start
        for samples, kept in shard.chunks(self.function.modality.chunk_size):
            found = self.function.compute(samples)
            problems = [(start + i, sample, why) for i, sample, why in found.failed]
            if problems and self.on_error == "raise":
                raise UnreadableSamplesError([(i, name_of(s), why) for i, s, why in problems])
            failed += problems
            rows.add(start, found, kept)
            start += len(samples)
        return rows, failed

    def _write(
        self, name: PartName, rows: _Rows, failed: list[tuple], sketch: tuple[str, ...]
    ) -> None:
        """Write the failures first: a part without its failures would look complete."""
        failures = name._replace(kind="failed")
        if failed:
            write_part(self.folder, failures, _failures(failed), self.manifest, sketch)
        write_part(self.folder, name, rows.columns(), self.manifest, sketch)


class _Rows:
    """The rows of a part.

    Parameters
    ----------
    n : int
        The most rows that there can be.
    manifest : Manifest
    """

    def __init__(self, n: int, manifest: Manifest):
        self.blocks = manifest.blocks
        self.tables = [np.empty((n, block.width), manifest.dtype) for block in self.blocks]
        self.rows: list[int] = []
        self.digests: list[bytes] = []
        self.kept: list = []

    def add(self, start: int, found: Computed, kept: Any) -> None:
        """Add the features of a chunk that begins at a row of the source."""
        first, last = len(self.rows), len(self.rows) + len(found.positions)
        column = 0
        for block, table in zip(self.blocks, self.tables, strict=True):
            table[first:last] = found.features[:, column : column + block.width]
            column += block.width
        self.rows += [start + i for i in found.positions]
        self.digests += found.digests
        if kept is not None:
            self.kept.append(kept.take(arrow().array(found.positions, "int64")))

    def columns(self) -> dict[str, Any]:
        """Return the columns of the part by name."""
        pa, n = arrow(), len(self.rows)
        columns = {ROW: pa.array(self.rows, "int64"), DIGEST: pa.array(self.digests, pa.binary(16))}
        if self.kept:
            table = pa.concat_tables(self.kept).combine_chunks()
            columns |= {name: table[name] for name in table.column_names}
        tables = zip(self.blocks, self.tables, strict=True)
        return columns | {block.name: table[:n] for block, table in tables}


def _failures(failed: list[tuple]) -> dict[str, Any]:
    pa = arrow()
    return {
        ROW: pa.array([row for row, *_ in failed], "int64"),
        "sample": pa.array([name_of(sample) for _, sample, _ in failed], "string"),
        "cause": pa.array([_cause(why) for *_, why in failed], "string"),
    }


def name_of(sample: Any) -> str:
    """Return a short name of a sample: its path or its beginning, else its type.

    Parameters
    ----------
    sample : object

    Returns
    -------
    str
    """
    if isinstance(sample, dict):
        sample = sample.get("path") or type(sample)()
    if isinstance(sample, os.PathLike):
        sample = os.fspath(sample)
    text = sample if isinstance(sample, str) else type(sample).__name__
    return text[:_SHOWN].encode("utf-8", "replace").decode()


def _cause(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text[:_SHOWN].encode("utf-8", "replace").decode()
