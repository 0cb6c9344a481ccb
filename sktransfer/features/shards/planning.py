"""Divide the rows of a source into shards."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import xxhash

from .arrow import arrow
from .pieces import Piece, Reading
from .sources import Source

__all__ = ["Shard", "plan"]


@dataclasses.dataclass(frozen=True)
class Shard:
    """Neighbouring rows of a source that one task computes.

    Parameters
    ----------
    start : int
        The position of the first row in the source.
    pieces : tuple of Piece
        Where the rows are.
    reading : Reading
    digest : str
        16 hexadecimal digits that differ if a row has changed.
    sketch : tuple of str
        Digests of some rows: the same rows in every shard, so that it is known again if some have
        changed, or were added at its end.
    again : bool, default=False
        Whether it is computed even if its part exists.
    verify : bool, default=False
        Whether a part that exists is read, and computed again if it is damaged.
    """

    start: int
    pieces: tuple[Piece, ...]
    reading: Reading
    digest: str
    sketch: tuple[str, ...]
    again: bool = False
    verify: bool = False

    def __len__(self) -> int:
        return sum(map(len, self.pieces))

    def chunks(self, n: int) -> Iterator[tuple[list[Any], Any]]:
        """Yield samples and kept columns, ``n`` rows at a time, whatever the pieces are."""
        samples: list = []
        tables: list = []
        for piece in self.pieces:
            for some, kept in piece.chunks(n, self.reading):
                samples, tables = samples + some, tables if kept is None else [*tables, kept]
                while len(samples) >= n:
                    first, tables = _divided(tables, n)
                    yield samples[:n], first
                    samples = samples[n:]
        if samples:
            yield samples, _divided(tables, len(samples))[0]


def _divided(tables: list, n: int) -> tuple[Any, list]:
    """Take the first rows off tables; None where no columns are kept."""
    if not tables:
        return None, tables
    joined = arrow().concat_tables(tables)
    return joined.slice(0, n), [joined.slice(n)]


def plan(source: Source, size: int, key: str) -> Iterator[Shard]:
    """Divide the rows of a source into shards of equal size.

    Parameters
    ----------
    source : Source
    size : int
        Rows in each shard but the last.
    key : str
        Of the recipe; it is part of the digests.

    Yields
    ------
    Shard
    """
    waiting: list[Piece] = []
    n_waiting = start = 0
    for piece in source.pieces:
        while len(piece):
            taken = piece.part(0, min(size - n_waiting, len(piece)))
            waiting.append(taken)
            n_waiting += len(taken)
            piece = piece.part(len(taken), len(piece))
            if n_waiting == size:
                yield _shard(start, waiting, source.reading, key)
                start, waiting, n_waiting = start + size, [], 0
    if waiting:
        yield _shard(start, waiting, source.reading, key)


def _shard(start: int, pieces: list[Piece], reading: Reading, key: str) -> Shard:
    state = xxhash.xxh3_64(repr((key, reading.column, reading.keep)).encode())
    for piece in pieces:
        state.update(piece.stamp(reading))
    shipped = tuple(piece.shipped() for piece in pieces)
    return Shard(start, shipped, reading, state.hexdigest(), _sketch(pieces, reading))


def _sketch(pieces: list[Piece], reading: Reading) -> tuple[str, ...]:
    """Return digests of rows 0, 1, 2, 4, 8 and so on."""
    found, wanted, first = [], 0, 0
    for piece in pieces:
        while wanted < first + len(piece):
            row = piece.part(wanted - first, wanted - first + 1)
            found.append(xxhash.xxh32_hexdigest(row.stamp(reading)))
            wanted = max(1, 2 * wanted)
        first += len(piece)
    return tuple(found)
