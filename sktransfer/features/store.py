"""The feature store: what a network once computed for a sample, kept for every later call."""

from __future__ import annotations

import functools
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import xxhash

__all__ = ["FeatureStore", "as_store"]

_LAYOUT = """
CREATE TABLE IF NOT EXISTS features (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL, used REAL NOT NULL
)
"""

_AT_ONCE = 500  # keys in one query; SQLite allows at least 999 variables


class FeatureStore:
    """Features by sample, on disk, shared by estimators, folds, candidates and processes.

    One SQLite file. SQLite makes every write whole or nothing, whoever is killed meanwhile,
    and lets any number of processes read while one writes. Each row carries a checksum; a row
    that fails it, or a file that is no such database, counts as absent and is written again.

    Parameters
    ----------
    location : str or Path
        A folder, made if need be. The file in it is ``features.sqlite``.
    max_bytes : int, default=None
        Bound on the features kept, in bytes. Above it the least recently used go first.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from sktransfer import FeatureStore
    >>> store = FeatureStore(tempfile.mkdtemp())
    >>> store.put("recipe", [b"sample 1", b"sample 2"], np.ones((2, 3), np.float32))
    >>> store.get("recipe", [b"sample 2", b"sample 3"])
    [array([1., 1., 1.], dtype=float32), None]
    >>> len(store)
    2
    """

    def __init__(self, location: str | os.PathLike, *, max_bytes: int | None = None):
        # Where the process works may change.
        self.location = Path(location).expanduser().absolute()
        self.max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None
        self._process: int | None = None
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The database file."""
        return self.location / "features.sqlite"

    def get(self, recipe: str, digests: Sequence[bytes]) -> list[np.ndarray | None]:
        """Look up what was computed for samples.

        Parameters
        ----------
        recipe : str
            All that decides a value except the sample.
        digests : sequence of bytes
            One for each sample.

        Returns
        -------
        list of ndarray or None
            In the order of ``digests``; None for what is not there.
        """
        keys = _keys(recipe, digests)
        found: dict[bytes, np.ndarray] = {}
        for start in range(0, len(keys), _AT_ONCE):
            found |= self._get_some(keys[start : start + _AT_ONCE])
        return [found.get(key) for key in keys]

    def _get_some(self, keys: list[bytes]) -> dict[bytes, np.ndarray]:
        marks = ",".join("?" * len(keys))

        def look_up(db):
            if self.max_bytes is not None:
                touch = f"UPDATE features SET used = ? WHERE key IN ({marks})"
                db.execute(touch, [time.time(), *keys])
            select = f"SELECT key, value, checksum FROM features WHERE key IN ({marks})"
            return db.execute(select, keys).fetchall()

        rows = self._run(look_up)
        return {k: _unpack(v) for k, v, c in rows if _is_sound(k, v, c)}

    def put(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> None:
        """Keep what was computed for samples.

        Parameters
        ----------
        recipe : str
        digests : sequence of bytes
        values : ndarray of shape (n, ...)
            One row for each sample, of any shape and numeric type.
        """
        now = time.time()
        packed = [_pack(value) for value in values]
        rows = [
            (key, value, _checksum(key, value), now)
            for key, value in zip(_keys(recipe, digests), packed, strict=True)
        ]

        def write(db):
            db.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)", rows)
            if self.max_bytes is not None:
                _evict(db, self.max_bytes)

        self._run(write)

    def clear(self) -> None:
        """Remove every entry and give the disk space back."""
        self._run(lambda db: db.execute("DELETE FROM features"))
        # VACUUM cannot run inside a transaction, which `_run` opens for whatever changes rows.
        self._run(lambda db: db.execute("VACUUM"))
        self._run(lambda db: db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall())

    def __len__(self) -> int:
        return self._number("SELECT count(*) FROM features")

    @property
    def nbytes(self) -> int:
        """Bytes of the entries, without what the database adds."""
        return self._number("SELECT coalesce(sum(length(value)), 0) FROM features")

    def _number(self, query: str) -> int:
        return self._run(lambda db: db.execute(query).fetchone()[0])

    def _run(self, action: Callable):
        """Run one transaction; where the file is damaged, begin a new one and run it there."""
        with self._lock:
            try:
                with self._connect() as db:
                    return action(db)
            except sqlite3.DatabaseError as error:
                # A full disk, a folder that may not be written: the user should know.
                if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                    raise sqlite3.OperationalError(f"{self.path}: {error}") from error
                self._remove()
                with self._connect() as db:
                    return action(db)

    def _connect(self) -> sqlite3.Connection:
        # A connection must not be used in a forked child: SQLite's locks belong to a process.
        # One to a file that was deleted would go on writing to nowhere.
        stale = self._process != os.getpid() or not self.path.exists()
        if self._connection is None or stale:
            self.location.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
            db.text_factory = bytes  # a damaged row may call its numbers text
            self._connection, self._process = db, os.getpid()
            # WAL: readers do not wait for the writer. NORMAL: a power cut may cost the last
            # entries, which will be computed again, never the file.
            db.execute("PRAGMA page_size=16384")
            _until_unlocked(lambda: db.execute("PRAGMA journal_mode=WAL"))
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute(_LAYOUT)
        return self._connection

    def _remove(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def __getstate__(self) -> dict:
        """Return the place and the bound; the connection is opened again where it is used."""
        return {"location": self.location, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["location"], max_bytes=state["max_bytes"])

    def __sklearn_clone__(self) -> FeatureStore:
        return self

    def __repr__(self) -> str:
        bound = "" if self.max_bytes is None else f", max_bytes={self.max_bytes}"
        return f"FeatureStore({str(self.location)!r}{bound})"


def as_store(memory) -> FeatureStore | None:
    """Make a store of what a user gives as ``memory``.

    Parameters
    ----------
    memory : None, str, Path, FeatureStore or object with a ``location``
        For the last, such as ``joblib.Memory``, a folder beside its own is used.

    Returns
    -------
    FeatureStore or None
    """
    if memory is None or isinstance(memory, FeatureStore):
        return memory
    if isinstance(memory, str | os.PathLike):
        return _store_at(Path(memory).absolute())
    if memory.location is None:
        return None
    return _store_at(Path(memory.location).absolute() / "sktransfer")


@functools.lru_cache(maxsize=8)
def _store_at(location: Path) -> FeatureStore:
    """Return one store for a folder, so that a grid search opens the file once."""
    return FeatureStore(location)


def _until_unlocked(action: Callable, seconds: float = 60) -> None:
    """Try again while another process makes the file: the change to WAL does not wait itself."""
    end = time.monotonic() + seconds
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Tell a layout that is not ours from circumstances that the user can change."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR


def _checksum(key: bytes, value: bytes) -> bytes:
    """Hash a row with its key: a damaged index could give another row's."""
    hasher = xxhash.xxh3_64(key)
    hasher.update(value)
    return hasher.digest()


def _is_sound(key, value, checksum) -> bool:
    kinds = isinstance(key, bytes) and isinstance(value, bytes)
    return kinds and _checksum(key, value) == checksum


def _keys(recipe: str, digests: Sequence[bytes]) -> list[bytes]:
    base = xxhash.xxh3_128_digest(recipe.encode())
    return [xxhash.xxh3_128_digest(base + d) for d in digests]


def _pack(value: np.ndarray) -> bytes:
    """Put type and shape before the numbers, padded so that they stay aligned."""
    header = f"{value.dtype.str}:{','.join(map(str, value.shape))}".encode()
    return header.ljust(64) + np.ascontiguousarray(value).tobytes()


def _unpack(value: bytes) -> np.ndarray:
    dtype, sizes = _unpack_header(value[:64])
    return np.frombuffer(value, dtype, offset=64).reshape(sizes)


@functools.lru_cache(maxsize=64)
def _unpack_header(header: bytes) -> tuple[np.dtype, tuple[int, ...]]:
    dtype, _, shape = header.decode().strip().partition(":")
    return np.dtype(dtype), tuple(int(n) for n in shape.split(",") if n)


def _evict(db: sqlite3.Connection, max_bytes: int) -> None:
    """Delete the least recently used rows beyond the bound."""
    (total,) = db.execute("SELECT coalesce(sum(length(value)), 0) FROM features").fetchone()
    if total <= max_bytes:
        return
    db.execute(
        """
        DELETE FROM features WHERE key IN (
            SELECT key FROM (
                SELECT key, sum(length(value)) OVER (ORDER BY used DESC, rowid DESC) AS total
                FROM features
            ) WHERE total > ?
        )
        """,
        [max_bytes],
    )
