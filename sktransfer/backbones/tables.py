"""Word vectors that nobody copies: the table, the stage that looks rows up, and files to map."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .vocabulary import Vocabulary

__all__ = [
    "CacheError",
    "WordTable",
    "WordVectors",
    "cache_folder",
    "map_entry",
    "table_digest",
    "write_entry",
]


_AT_ONCE = 65536  # rows that are hashed at a time


class WordVectors:
    """Words and their vectors: shared by all that use them, never copied, never changed.

    Parameters
    ----------
    vocabulary : Vocabulary
        The words; id i has row i - 1.
    matrix : ndarray of shape (n_rows, dim), float32
        In memory or mapped. Rows behind those of the words are the vectors of subwords.
    subwords : callable, default=None
        From a word to the numbers of its n-grams, counted from the first row behind the words.
    source : tuple, default=None
        What ``wordvectors.open_source`` makes these vectors of again. A pickle then holds this and
        the digest instead of the numbers.
    digest : str, default=None
        The content digest, where it is known.

    Attributes
    ----------
    content_digest : str
        SHA-256 of the words and all numbers, computed once.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        matrix: np.ndarray,
        *,
        subwords: Callable[[str], list[int]] | None = None,
        source: tuple | None = None,
        digest: str | None = None,
    ):
        self.vocabulary = vocabulary
        self.subwords = subwords
        self.source = source
        self._digest = digest
        with warnings.catch_warnings():  # a read-only array: torch warns, and nothing here writes
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            self.matrix = torch.from_numpy(matrix)

    @classmethod
    def from_words(cls, words: Iterable[str], matrix, **settings) -> WordVectors:
        """Make vectors of a list of words and their rows in the same order."""
        return cls(Vocabulary.from_words(words), np.asarray(matrix, np.float32), **settings)

    @property
    def n_words(self) -> int:
        return len(self.vocabulary)

    @property
    def n_ids(self) -> int:
        """One more than the largest id: words, subwords, and 0 for none."""
        return len(self.matrix) + 1

    @property
    def dim(self) -> int:
        return self.matrix.shape[1]

    @property
    def content_digest(self) -> str:
        if self._digest is None:
            numbers, rows = hashlib.sha256(), self.matrix.numpy()
            for start in range(0, len(rows), _AT_ONCE):
                numbers.update(np.ascontiguousarray(rows[start : start + _AT_ONCE]).reshape(-1))
            self._digest = table_digest(numbers, self.vocabulary, self.subwords)
        return self._digest

    def __copy__(self) -> WordVectors:
        return self

    def __deepcopy__(self, memo) -> WordVectors:
        return self

    def __reduce__(self):
        if self.source is not None:
            return _reopened, (self.source, self.content_digest)
        parts = (self.vocabulary, np.array(self.matrix), self.subwords, self.content_digest)
        return _rebuilt, parts

    def __repr__(self) -> str:
        return f"<WordVectors: {self.n_words} words, {self.dim} numbers each>"


def table_digest(numbers, vocabulary: Vocabulary, subwords) -> str:
    """Finish the SHA-256 of a table's numbers with its words and subwords."""
    for name in ("letters", "offsets"):
        numbers.update(np.ascontiguousarray(vocabulary.arrays[name]))
    numbers.update(repr(subwords).encode())
    return numbers.hexdigest()


def _rebuilt(vocabulary, matrix, subwords, digest) -> WordVectors:
    return WordVectors(vocabulary, matrix, subwords=subwords, digest=digest)


def _reopened(source: tuple, digest: str) -> WordVectors:
    # At load time, not at import: the readers of files are built from this module.
    from .wordvectors import open_source

    found = open_source(*source)
    if found.content_digest != digest:
        raise ValueError(
            f"The word vectors of {source[0]!r} on this machine are not those that the pickle was "
            f"made with: digest {found.content_digest[:12]}, expected {digest[:12]}. Bring the "
            "same file, or fit again."
        )
    return found


class WordTable(nn.Module):
    """The stage that turns ids into vectors. Where there is no token it gives zeros.

    The vectors stay where they are: a copy of the module shares them, and ``to(device)`` moves
    only what is trained. Rows are looked up on the CPU and the result goes to the ids' device.

    Parameters
    ----------
    vectors : WordVectors
    index : Tensor of int64, shape (n,), default=None
        Ids whose rows are this module's own, sorted.
    rows : Tensor of shape (n, dim), default=None
        These rows, which can be trained.
    token_weight : Tensor of shape (n_ids,), default=None
        What each vector is multiplied by. That of id 0 does not matter.

    Examples
    --------
    >>> import torch
    >>> from sktransfer.backbones.tables import WordTable, WordVectors
    >>> table = WordTable(WordVectors.from_words(["a", "b"], [[1.0, 2.0], [3.0, 4.0]]))
    >>> table(torch.tensor([[2, 1, 0]]))
    tensor([[[3., 4.],
             [1., 2.],
             [0., 0.]]])
    """

    def __init__(self, vectors: WordVectors, index=None, rows=None, token_weight=None):
        super().__init__()
        self.vectors = vectors
        index = torch.empty(0, dtype=torch.int64) if index is None else index
        self.register_buffer("index", index)
        self.rows = nn.Parameter(torch.empty(0, vectors.dim) if rows is None else rows)
        self.register_buffer("token_weight", token_weight)

    @property
    def n_words(self) -> int:
        return self.vectors.n_words

    @property
    def n_ids(self) -> int:
        return self.vectors.n_ids

    @property
    def dim(self) -> int:
        return self.vectors.dim

    @property
    def shares_all(self) -> bool:
        """Whether every vector is as it was read: no rows of its own and no weights."""
        return len(self.index) == 0 and self.token_weight is None

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Turn ids ``(n, length)`` or ``(n, length, k)`` into vectors ``(n, length, dim)``."""
        return self._weighted(ids) if ids.ndim == 2 else self._mean(ids)

    @torch.no_grad()
    def text_means(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean vector of each text's tokens in one step, zeros where it has none.

        The same as :meth:`forward` and the mean over tokens, without the vectors in between.
        Each text's sum is its own, whatever stands beside it.

        Parameters
        ----------
        ids : Tensor of shape (n, length)
            Without words whose vectors are all zero, as ``WordPreprocessing`` leaves them out.

        Returns
        -------
        Tensor of shape (n, dim)
        """
        some = ids > 0
        counts = some.sum(1)
        starts = counts.cumsum(0) - counts
        return F.embedding_bag(ids[some] - 1, self.vectors.matrix, starts, mode="mean")

    def _mean(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the mean over those of k ids that are not 0."""
        some = ids != 0  # (n, length, k)
        counts = some.sum(-1).flatten()
        vectors = self._weighted(ids[some])  # in the order of tokens
        every = torch.arange(len(vectors), device=ids.device)
        starts = counts.cumsum(0) - counts
        if len(vectors) == 0:
            return vectors.new_zeros(*ids.shape[:2], self.dim)
        # Sums each token's vectors in their order, so that a text's last bits are its own.
        return F.embedding_bag(every, vectors, starts, mode="mean").view(*ids.shape[:2], self.dim)

    def _weighted(self, ids: torch.Tensor) -> torch.Tensor:
        vectors = self._look_up(ids)
        if self.token_weight is None:
            return vectors
        weight = self.token_weight[ids].masked_fill(ids == 0, 0.0)
        return vectors * weight.unsqueeze(-1)

    def _look_up(self, ids: torch.Tensor) -> torch.Tensor:
        if len(self.index) == 0:
            return self._shared(ids)
        place = torch.searchsorted(self.index, ids).clamp_(max=len(self.index) - 1)
        own = self.index[place] == ids
        vectors = F.embedding(place, self.rows)
        own_or_none = own | (ids == 0)
        if own_or_none.all():  # in training: the shared table is not needed
            return vectors.masked_fill(~own.unsqueeze(-1), 0.0)
        return torch.where(own.unsqueeze(-1), vectors, self._shared(ids))

    def _shared(self, ids: torch.Tensor) -> torch.Tensor:
        there = ids.cpu()
        # Indexing takes a matrix that lies by columns (the GloVe package's) without a copy.
        vectors = self.vectors.matrix[(there - 1).clamp_(min=0)]
        return vectors.masked_fill_((there == 0).unsqueeze(-1), 0.0).to(ids.device)

    def restricted(self, ids: np.ndarray) -> WordTable:
        """Return a table that is equal to this one, with rows of its own for some ids.

        Parameters
        ----------
        ids : ndarray of int
            Those whose rows are to be trained; 0 is ignored.

        Returns
        -------
        WordTable
        """
        index = torch.from_numpy(np.unique(ids).astype(np.int64)).to(self.index.device)
        index = index[index > 0]
        rows = self._look_up(index).detach().clone()
        return WordTable(self.vectors, index, rows, self.token_weight)

    def with_weights(self, token_weight) -> WordTable:
        """Return this table with a factor for each id.

        Parameters
        ----------
        token_weight : array-like of shape (n_ids,)

        Returns
        -------
        WordTable

        Raises
        ------
        ValueError
            If there is not one for each id.
        """
        weight = torch.tensor(np.asarray(token_weight), dtype=torch.float32)
        if weight.shape != (self.n_ids,):
            raise ValueError(f"token_weight has shape {tuple(weight.shape)}, not ({self.n_ids},)")
        return WordTable(self.vectors, self.index, self.rows.detach(), weight)

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        """Take the sizes of what is loaded: which rows are trained is part of the state."""
        for name in ("index", "rows", "token_weight"):
            given, own = state_dict.get(prefix + name), getattr(self, name)
            if given is None or (own is not None and own.shape == given.shape):
                continue
            empty = torch.empty_like(given, device=self.index.device)
            if name == "rows":
                own.data = empty  # the same parameter, for an optimizer that knows it
            else:
                setattr(self, name, empty)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return f"{self.n_words} words, dim={self.dim}, {len(self.index)} rows of its own"


# -- files to map --------------------------------------------------------------------------------

# What an entry of the cache may hold, each a file of bare numbers.
_FILES = {
    "matrix": np.float32,
    "letters": np.uint8,
    "offsets": np.int64,
    "hashes": np.uint64,
    "order": np.int32,
}
_ABANDONED = 24 * 3600  # seconds after which a half-written entry is nobody's


class CacheError(Exception):
    """An entry of the cache could not be written."""


def cache_folder() -> Path:
    """Return where tables are kept: below ``$SKTRANSFER_HOME`` or the user's folder for caches."""
    home = os.environ.get("SKTRANSFER_HOME")
    if home:
        return Path(home) / "word-vectors"
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "sktransfer" / "word-vectors"


def map_entry(folder: Path, stamp: dict) -> tuple[dict, dict[str, np.ndarray]] | None:
    """Map the files of an entry without reading them.

    Parameters
    ----------
    folder : Path
    stamp : dict
        What the entry must have been made of.

    Returns
    -------
    (dict, dict of str to ndarray) or None
        Its settings and arrays; None if it is not there, of something else, or damaged.
    """
    try:
        meta = json.loads((folder / "meta.json").read_text())
        if meta["stamp"] != stamp:
            return None
        # "c": copy-on-write, so that torch takes them for writable; nothing is ever written.
        sizes = meta["sizes"]
        arrays = {name: np.memmap(folder / name, _FILES[name], mode="c") for name in sizes}
        return (meta, arrays) if {n: a.size for n, a in arrays.items()} == sizes else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def write_entry(folder: Path, stamp: dict, fill: Callable) -> None:
    """Write an entry beside its place and move it there, so that it is whole or not at all.

    Parameters
    ----------
    folder : Path
    stamp : dict
    fill : callable
        Given a function ``write(name, array)``, which may be called again to write on, writes the
        arrays and returns the settings, a dict.

    Raises
    ------
    CacheError
        If the disk or its permissions do not allow it. What ``fill`` itself raises passes.
    """
    with contextlib.ExitStack() as files:
        with _writing():
            folder.parent.mkdir(parents=True, exist_ok=True)
            _remove_abandoned(folder.parent)
            new = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
        files.callback(shutil.rmtree, new, ignore_errors=True)
        sizes: dict[str, int] = {}
        opened: dict = {}

        def write(name: str, array: np.ndarray) -> None:
            with _writing():
                if name not in opened:
                    opened[name] = files.enter_context((new / name).open("wb"))
                opened[name].write(np.ascontiguousarray(array, _FILES[name]))
            sizes[name] = sizes.get(name, 0) + array.size

        meta = {"stamp": stamp, **fill(write), "sizes": sizes}
        with _writing():
            for file in opened.values():
                file.close()
            (new / "meta.json").write_text(json.dumps(meta))
            _move(new, folder)


@contextlib.contextmanager
def _writing():
    try:
        yield
    except OSError as error:
        raise CacheError(str(error)) from error


def _move(new: Path, folder: Path) -> None:
    """Put a new entry into its place, which another process may be filling too."""
    try:
        os.rename(new, folder)
        return
    except OSError:  # an older entry, a damaged one or the other process's
        aside = Path(tempfile.mkdtemp(prefix=".old-", dir=folder.parent))
    try:
        os.rename(folder, aside / "entry")
        os.rename(new, folder)
    except OSError:
        if not folder.exists():
            raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_abandoned(parent: Path) -> None:
    for folder in [*parent.glob(".new-*"), *parent.glob(".old-*")]:
        with contextlib.suppress(OSError):  # another process removes it too
            if time.time() - folder.stat().st_mtime > _ABANDONED:
                shutil.rmtree(folder)
