"""Keep the features of samples on disk, for later calls, estimators and processes."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from numbers import Integral
from pathlib import Path
from urllib.request import pathname2url

import numpy as np
import xxhash

from ..data.disk import checksum

__all__ = ["FeatureStore", "as_store"]

_LAYOUT = """
CREATE TABLE IF NOT EXISTS features (
    key BLOB PRIMARY KEY, value BLOB NOT NULL, checksum BLOB NOT NULL, used REAL NOT NULL
)
"""
_COLUMNS = [b"key", b"value", b"checksum", b"used"]
_MARK = 0x736B7466  # "sktf", as SQLite's application_id: the file is a feature store
_MAGIC = b"SQLite format 3\0"
_AT_ONCE = 500  # keys in one query; SQLite allows at least 999 variables
# What the user can change: a full disk, missing permissions. The file itself is sound.
_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM}
_NO_ROOM = {sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}


class FeatureStore:
    """Keep features by sample on disk, shared by estimators, folds and processes.

    The store is one SQLite file. A write is complete or does not happen, even if the process is
    killed, and any number of processes read while one writes. Each row has a checksum. A row
    whose checksum is wrong and a damaged file count as absent and are written again. A file of
    the same name that belongs to another program is refused. A store that cannot be written is
    read, and nothing is added.

    Parameters
    ----------
    location : str or Path
        A folder, made if need be; "~" is the home folder. The file in it is
        ``features.sqlite``.
    max_bytes : int, default=None
        Bound on the features kept, in bytes, at least 1. Above it the least recently used go
        first. None is no bound.

    Raises
    ------
    ValueError
        If ``location`` is no path or ``max_bytes`` no positive integer.

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
        if not isinstance(location, str | os.PathLike) or not os.fspath(location):
            raise ValueError(f"location={location!r}: give the path of a folder.")
        counts = isinstance(max_bytes, Integral) and not isinstance(max_bytes, bool)
        if max_bytes is not None and not (counts and max_bytes > 0):
            raise ValueError(
                f"max_bytes={max_bytes!r}: give a positive integer, a number of bytes, or None "
                "for no bound."
            )
        # Where the process works may change.
        self.location = Path(location).expanduser().absolute()
        self.max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None
        self._process: int | None = None
        self._is_read_only = False
        self._has_warned = False
        self._lock = threading.RLock()

    @property
    def path(self) -> Path:
        """The database file."""
        return self.location / "features.sqlite"

    @property
    def conversions(self) -> Path | None:
        """The folder of networks that were converted for another runtime."""
        return self.location / "converted"

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
                with _if_writable():
                    touch = f"UPDATE features SET used = ? WHERE key IN ({marks})"
                    db.execute(touch, [time.time(), *keys])
            select = f"SELECT key, value, checksum FROM features WHERE key IN ({marks})"
            return db.execute(select, keys).fetchall()

        rows = self._run(look_up, if_damaged=[])
        return {k: _unpack(v) for k, v, c in rows if _is_sound(k, v, c)}

    def put(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> None:
        """Keep what was computed for samples.

        Parameters
        ----------
        recipe : str
        digests : sequence of bytes
        values : ndarray of shape (n, ...)
            One row for each sample, of any shape and numeric type.

        Raises
        ------
        sqlite3.OperationalError
            If the disk is full or the folder cannot be written.
        """
        if self._is_read_only:  # perhaps there is room on the disk again
            self.close()
        now = time.time()
        packed = [_pack(value) for value in values]
        rows = [
            (key, value, checksum(key, value), now)
            for key, value in zip(_keys(recipe, digests), packed, strict=True)
        ]

        def write(db):
            db.executemany("INSERT OR REPLACE INTO features VALUES (?, ?, ?, ?)", rows)
            if self.max_bytes is not None:
                _evict(db, self.max_bytes)

        self._run(write)

    def try_put(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> bool:
        """Keep what was computed for samples, or warn, once, where that fails.

        Parameters
        ----------
        recipe, digests, values
            As in :meth:`put`.

        Returns
        -------
        bool
            Whether the values were kept.
        """
        try:
            self.put(recipe, digests, values)
        except (sqlite3.OperationalError, OSError) as error:
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"Features cannot be written to the store and will be computed again next "
                    f"time: {error}. Make room, or give a folder that can be written as memory=.",
                    stacklevel=2,
                )
            return False
        return True

    def try_put_aside(self, recipe: str, digests: Sequence[bytes], values: np.ndarray) -> bool:
        """Keep what was computed by the way, and may not be used; here as :meth:`try_put`.

        Parameters
        ----------
        recipe, digests, values
            As in :meth:`put`.

        Returns
        -------
        bool
            Whether the values were kept.
        """
        return self.try_put(recipe, digests, values)

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
        return self._run(lambda db: db.execute(query).fetchone()[0], if_damaged=0)

    def _run(self, action: Callable, if_damaged=None):
        """Run one transaction, in a new file if the present one is damaged.

        If a damaged file cannot be written, it cannot be replaced, and ``if_damaged`` is returned;
        the error is raised if that is None.
        """
        with self._lock:
            try:
                with self._connect() as db:
                    return action(db)
            except sqlite3.DatabaseError as error:
                # The user can make room on a full disk, or change permissions.
                if isinstance(error, sqlite3.OperationalError) and not _is_damage(error):
                    raise sqlite3.OperationalError(f"{self.path}: {error}") from error
                if self._is_read_only:
                    self.close()
                    if if_damaged is None:
                        raise
                    return if_damaged
                self._remove()
                with self._connect() as db:
                    return action(db)

    def _connect(self) -> sqlite3.Connection:
        # A forked process needs its own connection, since SQLite's locks belong to a process.
        # A connection to a file that was deleted would write to no file.
        stale = self._process != os.getpid() or not self.path.exists()
        if self._connection is None or stale:
            self._connection = self._open()
            self._process = os.getpid()
        return self._connection

    def _open(self) -> sqlite3.Connection:
        """Open the file, for reading alone where it cannot be written."""
        self._is_read_only = False
        try:
            return self._open_to_write()
        except sqlite3.OperationalError as error:
            if not _is_among(error, _READ_ONLY | _NO_ROOM) or not self.path.is_file():
                raise
        self._is_read_only = True
        return self._open_to_read()

    def _open_to_write(self) -> sqlite3.Connection:
        self.location.mkdir(parents=True, exist_ok=True)
        db = self._opened(str(self.path))
        # WAL: readers do not wait for the writer. NORMAL: a power cut may cost the last
        # entries, which will be computed again, never the file.
        db.execute("PRAGMA page_size=16384")
        _until_unlocked(lambda: db.execute("PRAGMA journal_mode=WAL"))
        db.execute("PRAGMA synchronous=NORMAL")
        if not _columns(db):
            db.execute(f"PRAGMA application_id={_MARK}")
            db.execute(_LAYOUT)
        return db

    def _open_to_read(self) -> sqlite3.Connection:
        """Open a file that cannot be written.

        Where no files can be made beside it, entries that are only in SQLite's log are not seen.
        """
        address = f"file:{pathname2url(str(self.path))}"
        try:
            return self._opened(f"{address}?mode=ro", uri=True)
        except sqlite3.OperationalError:
            return self._opened(f"{address}?immutable=1", uri=True)

    def _opened(self, address: str, **settings) -> sqlite3.Connection:
        """Connect to the file, and refuse one that is not a feature store."""
        db = sqlite3.connect(address, timeout=60, check_same_thread=False, **settings)
        db.text_factory = bytes  # a damaged row may call its numbers text
        try:
            self._check_owner(db)
        except BaseException:
            db.close()
            raise
        return db

    def _check_owner(self, db: sqlite3.Connection) -> None:
        # In this order: another process may make the table between the two queries.
        is_new = not db.execute("SELECT name FROM sqlite_master").fetchall()
        if is_new or _columns(db) == _COLUMNS:
            return
        if db.execute("PRAGMA application_id").fetchone()[0] == _MARK:
            raise sqlite3.DatabaseError("the layout of the table is damaged")
        raise ValueError(
            f"{self.path} is a database of another program, and is left as it is: give another "
            "folder as memory=, or move the file away."
        )

    def close(self) -> None:
        """Close the file, so that its folder can be removed. The next use opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _remove(self) -> None:
        """Remove a damaged file. One that SQLite did not write is kept under another name."""
        self.close()
        if not _is_sqlite(self.path):
            kept = self.path.with_suffix(".damaged")
            self.path.replace(kept)
            warnings.warn(
                f"{self.path} was no database: it is called {kept.name} now, and a new store "
                "takes its place.",
                stacklevel=2,
            )
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)

    def __getstate__(self) -> dict:
        """Return the place and the bound; the connection is opened again where it is used."""
        return {"location": self.location, "max_bytes": self.max_bytes}

    def __setstate__(self, state: dict) -> None:
        FeatureStore.__init__(self, state["location"], max_bytes=state["max_bytes"])

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
        For the last, such as ``joblib.Memory``, a folder beside its own is used. In a path, "~"
        is the home folder.

    Returns
    -------
    FeatureStore or None

    Raises
    ------
    ValueError
        If the path is empty.
    """
    if memory is None or isinstance(memory, FeatureStore):
        return memory
    if isinstance(memory, str | os.PathLike):
        if not os.fspath(memory):
            raise ValueError("memory='' is no folder: give its path, or None to keep nothing.")
        return _store_at(Path(memory).expanduser().absolute())
    if memory.location is None:
        return None
    return _store_at(Path(memory.location).absolute() / "sktransfer")


@functools.lru_cache(maxsize=8)
def _store_at(location: Path) -> FeatureStore:
    """Return the same store for a folder, so that a grid search opens its file once."""
    return FeatureStore(location)


def _until_unlocked(action: Callable, seconds: float = 60) -> None:
    """Try again while another process makes the file, since the change to WAL does not wait."""
    end = time.monotonic() + seconds
    while True:
        try:
            action()
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > end:
                raise
        time.sleep(0.01)


def _columns(db: sqlite3.Connection) -> list[bytes]:
    """Name the columns of the table, none where it does not exist."""
    return [row[1] for row in db.execute("PRAGMA table_info(features)")]


def _is_sqlite(path: Path) -> bool:
    """Tell whether SQLite wrote a file, which may be damaged behind its first bytes."""
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) in (_MAGIC, b"")


def _is_among(error: sqlite3.OperationalError, codes: set[int]) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in codes  # without the extension


@contextlib.contextmanager
def _if_writable() -> Iterator[None]:
    """Leave out a write where the disk is full or the file cannot be written."""
    try:
        yield
    except sqlite3.OperationalError as error:
        if not _is_among(error, _READ_ONLY | _NO_ROOM):
            raise


def _is_damage(error: sqlite3.OperationalError) -> bool:
    """Tell whether an error comes from the layout of the file and not from the disk."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_ERROR


def _is_sound(key, value, expected) -> bool:
    """Compare a row with its checksum, which covers the key: a damaged index finds other rows."""
    kinds = isinstance(key, bytes) and isinstance(value, bytes)
    return kinds and checksum(key, value) == expected


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
