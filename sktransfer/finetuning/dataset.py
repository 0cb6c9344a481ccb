"""The rows of a training: activations of samples, targets and weights, and their batches."""

from __future__ import annotations

import copy
import dataclasses
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from skorch.dataset import Dataset
from torch.utils.data import default_collate

from ..backbones import Backbone
from ..data import forward_strides, pad_rows
from ..engines import as_batch
from ..features import FeatureStore, Output, Stream, compute_inputs, compute_outputs, layers_of
from .distributed import ONE_PROCESS, Processes

_FEW = 16  # samples whose computation is timed
_SECONDS = 0.5  # after which fewer are
_BYTES_TIMED = 2**25  # written to disk and read again
_FREE = 1.1  # times the size of a table that must be free on the disk
_AT_ONCE = 64  # rows copied to a device in one part
_ON_DEVICE = 0.5  # largest share of an accelerator's free memory for activations


@dataclasses.dataclass
class ActivationCache:
    """Compute activations at the cut between frozen and trained stages: once, or when needed.

    Parameters
    ----------
    output : Output or None
        Of the last frozen stage; None if none is frozen.
    run : dict
        device, engine, precision and n_jobs of the frozen stages.
    max_bytes : int
        Size of activations, or of inputs, that are kept in memory.
    where : {"memory", "disk", "nowhere"}, default="memory"
        Where activations are during a training. "nowhere": they are computed in each epoch.
    """

    backbone: Backbone
    output: Output | None
    run: dict[str, Any]
    max_bytes: int
    store: FeatureStore | None
    verbose: int
    where: str = "memory"

    def stream(self, samples: Sequence[Any], keep_bytes: int = 0) -> Stream:
        """Return activations that are computed when they are asked for."""
        source = self.output or self.backbone
        return Stream(samples, source, keep_bytes=keep_bytes, **self.run)

    def rows(
        self,
        samples: Sequence[Any],
        *,
        keep: bool = True,
        then: Callable[..., np.ndarray] | None = None,
    ) -> np.ndarray | Stream:
        """Return the activations of samples, or what a function makes of them.

        Parameters
        ----------
        keep : bool, default=True
            Whether a stream of inputs, such as images, keeps them.
        then : callable, default=None
            Takes the activations of some samples and their positions, None for those of all; its
            result is returned in place of the activations, which are not kept.
        """
        if self.output is not None:
            if self.where == "nowhere" and then is None:
                return self.stream(samples)
            how: dict[str, Any] = {"store": self.store, "verbose": self.verbose, **self.run}
            how["in_memory"] = 0 if self.where == "disk" else None
            return compute_outputs(samples, [self.output], then=then, **how)[0]
        rows: np.ndarray | Stream
        if self._is_streamed(samples):
            rows = self.stream(samples, self.max_bytes if keep and then is None else 0)
        else:
            rows = compute_inputs(samples, self.backbone, self.run["n_jobs"])
        return rows if then is None else then(rows, None)

    def _is_streamed(self, samples: Sequence[Any]) -> bool:
        """Tell whether inputs are opened when they are asked for. Ids of texts are small."""
        in_memory = self.backbone.preprocess is None and isinstance(samples, np.ndarray)
        return not in_memory and not self.backbone.modality.has_tokens

    def place(self, samples: Sequence[Any], n_tables: int, n_passes: int) -> dict[str, Any]:
        """Decide where the activations of a training are kept.

        If they take more than ``max_bytes``, a timing of some samples decides.

        Parameters
        ----------
        n_tables : int
            How many activations there are of each sample, because of augmented views.
        n_passes : int
            How often each is used.

        Returns
        -------
        dict
            "place" is ``where``, "nbytes" their size, and "seconds" those that were expected for
            "disk" and "nowhere" if a timing decided.
        """
        n_bytes = n_tables * len(samples) * self._row_bytes(samples)
        seconds: dict[str, float] = {}
        if n_bytes <= self.max_bytes or (self.output is None and not self._is_streamed(samples)):
            self.where = "memory"
        elif self.output is None:
            self.where = "nowhere"
        elif shutil.disk_usage(tempfile.gettempdir()).free < _FREE * n_bytes:
            self.where = "nowhere"
        else:
            seconds = self._expected(samples, n_bytes, n_tables, n_passes)
            self.where = min(seconds, key=seconds.__getitem__)
            if self.verbose:
                where = {"disk": "kept in a temporary file", "nowhere": "computed in each epoch"}
                times = ", ".join(f"{where[k]} {t:.3g} s" for k, t in seconds.items())
                print(
                    f"Activations at the cut take {n_bytes / 1e9:.3g} GB, more than "
                    f"max_cache_bytes={self.max_bytes}; they are {where[self.where]} (expected: "
                    f"{times})."
                )
        return {"place": self.where, "nbytes": n_bytes, "seconds": seconds}

    def _row_bytes(self, samples: Sequence[Any]) -> int:
        if self.output is None:
            return int(np.prod(self.backbone.input_shape or (0,)))  # of bytes, before scaling
        info = layers_of(self.backbone, samples)[self.output.layer]
        item = np.dtype(np.float32).itemsize
        if self.output.pooling != "none":
            return info.width * item
        if self.backbone.modality.has_tokens:
            few = _few(samples, _FEW)
            ids = compute_inputs(few, self.backbone, None)
            return int(np.mean([len(row) for row in ids]) * info.width * item)
        return int(np.prod(info.shape)) * item

    def _expected(
        self, samples: Sequence, n_bytes: int, n_tables: int, n_passes: int
    ) -> dict[str, float]:
        """Time the computation of some activations and their way to disk and back."""
        self.stream(_few(samples, 1))[:]  # prepares the network
        rows, compute = _timed(lambda: self.stream(_few(samples, 2))[:])
        if compute < _SECONDS:
            few = _few(samples, _FEW)
            rows, compute = _timed(lambda: self.stream(few)[:])
        each, n = compute / len(rows), n_tables * len(samples)
        write, read = seconds_on_disk(sum(row.nbytes for row in rows) // len(rows))
        return {
            "disk": n * each + n_bytes * (write + n_passes * read),
            "nowhere": n_passes * n * each,
        }


def _few(samples: Sequence, n: int) -> list:
    n = min(n, len(samples))
    return [samples[i] for i in np.linspace(0, len(samples) - 1, n).astype(int)]


def _timed(function: Callable) -> tuple:
    start = time.perf_counter()
    result = function()
    return result, time.perf_counter() - start


def seconds_on_disk(row_bytes: int) -> tuple[float, float]:
    """Time the disk of temporary files.

    Parameters
    ----------
    row_bytes : int
        Size of what is read at a time.

    Returns
    -------
    write, read : float
        Seconds for a byte. Where the system cannot be told to forget what it has written, the
        second is that of its memory.
    """
    row_bytes = min(max(1, row_bytes), _BYTES_TIMED)
    n_rows = max(1, _BYTES_TIMED // row_bytes)
    row = np.random.default_rng(0).bytes(row_bytes)
    with tempfile.TemporaryFile(buffering=0) as file:

        def write() -> None:
            for _ in range(n_rows):
                file.write(row)
            os.fsync(file.fileno())

        def read() -> None:
            for i in np.random.default_rng(0).permutation(n_rows):
                file.seek(int(i) * row_bytes)
                file.read(row_bytes)

        _, written = _timed(write)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        _, seconds_read = _timed(read)
    return written / (n_rows * row_bytes), seconds_read / (n_rows * row_bytes)


# -- rows and batches ------------------------------------------------------------------------------


class Activations:
    """Rows of an array and more rows after them, copied only on access.

    Parameters
    ----------
    rows : ndarray of shape (n, ...), array of n arrays or Stream
        In memory, memory-mapped, or computed when they are asked for.
    index : ndarray of int, default=None
        Positions of the rows; None for all.
    behind : ndarray, default=None
        More rows, after those of the index.
    """

    index: np.ndarray

    def __init__(
        self,
        rows: np.ndarray | Stream,
        index: np.ndarray | None = None,
        behind: np.ndarray | None = None,
    ):
        self.rows: Any = rows
        self.index = np.arange(len(rows)) if index is None else index
        self.behind = behind

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a pickle or a copy, which holds no other rows of the array."""
        return {"rows": self[:], "index": np.arange(len(self)), "behind": None}

    def __len__(self) -> int:
        return len(self.index) + (0 if self.behind is None else len(self.behind))

    def __getitem__(self, at: Any) -> np.ndarray:
        at = np.arange(*at.indices(len(self))) if isinstance(at, slice) else at
        (rows,) = self.batches([at])
        return rows

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the rows at some places after another; those of a stream are loaded ahead."""
        behind, n = self.behind, len(self.index)
        fronts = [self.index[at if behind is None else at[at < n]] for at in places]
        rows = self.rows.batches(fronts) if self.is_streamed else map(self.rows.__getitem__, fronts)
        for at, front in zip(places, rows, strict=True):
            if behind is None:
                yield front
                continue
            joined = np.empty((len(at), *behind.shape[1:]), behind.dtype)
            joined[at < n], joined[at >= n] = front, behind[at[at >= n] - n]
            yield joined

    def forget(self) -> None:
        """Drop the inputs that a stream keeps."""
        if self.is_streamed:
            self.rows.forget()

    @property
    def is_streamed(self) -> bool:
        return isinstance(self.rows, Stream)

    @property
    def nbytes(self) -> int:
        return len(self) * self.rows[:1].nbytes

    @property
    def is_ragged(self) -> bool:
        """Whether rows are texts, which differ in length."""
        return self.rows.dtype == object


class TrainingDataset(Dataset):
    """Hold training rows: activations at the cache, targets and weights.

    ``X`` and ``y`` are what callbacks of skorch pass to ``predict`` and compare with.

    Parameters
    ----------
    views : sequence of Activations or ndarray of shape (n, ...)
        The activations; several if samples have augmented views, of which each epoch uses one
        at random.
    target : ndarray of shape (n,) or (n, n_outputs)
    weight : ndarray of shape (n,)
        Batches hold weights divided by their mean, so that loss times weight, averaged over
        batches of any size, is the weighted mean over all rows.
    fresh : callable, default=None
        From the seed of an epoch to a table of new views.
    processes : Processes, default=ONE_PROCESS
        Those that share the rows. The views hold the share of this one, the targets and weights
        are those of all rows.
    """

    relative: torch.Tensor
    target: torch.Tensor
    weight: torch.Tensor
    device: torch.device | None = None  # an accelerator that batches are copied to

    def __init__(
        self,
        views: Sequence[Activations | np.ndarray],
        target: np.ndarray,
        weight: np.ndarray,
        fresh: Callable[..., Any] | None = None,
        processes: Processes = ONE_PROCESS,
    ):
        self.processes = processes
        self.views: list[Activations | torch.Tensor] = [
            view if isinstance(view, Activations) else Activations(view) for view in views
        ]
        self.target = torch.from_numpy(target)
        self.weight = torch.from_numpy(weight.astype(np.float64))  # 1e-300 is 0 as a float32
        self.relative = torch.from_numpy((weight / (weight.mean() or 1.0)).astype(np.float32))
        self.fresh = fresh

    @property
    def X(self) -> TrainingDataset:
        return self

    @property
    def y(self) -> np.ndarray:
        return self.target.numpy(force=True)

    def __len__(self) -> int:
        return len(self.target)

    def __getitem__(self, i: int) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        x, y = self.batch(torch.tensor([i]))
        return {name: value[0] for name, value in x.items()}, y[0]

    def batch(self, index: torch.Tensor) -> tuple[dict[str, Any], torch.Tensor]:
        """Return the activations and weights of rows in their first view, and their targets."""
        (taken,) = self.batches([index], 0, None)
        return taken

    def batches(
        self, batches: Sequence[torch.Tensor], epoch_seed: int, generator: torch.Generator | None
    ) -> Iterator[tuple[dict[str, Any], torch.Tensor]]:
        """Yield several batches, which are loaded ahead if they are not in memory."""
        views = [torch.zeros_like(index) for index in batches]
        n_views = len(self.views)
        if generator is not None and n_views > 1:
            views = [torch.randint(n_views, (len(i),), generator=generator) for i in batches]
        if self.processes.size == 1:
            inputs = self._activations(batches, views, epoch_seed)
            for index, x in zip(batches, inputs, strict=True):
                index = index.to(self.target.device)
                yield {"x": x, "weight": self.relative[index]}, self.target[index]
            return
        # The share of each batch that this process has; the shares of all are as long.
        shares = [SharedBatch(index.cpu(), self.processes) for index in batches]
        views = [which[share.mine] for which, share in zip(views, shares, strict=True)]
        here = [share.positions // self.processes.size for share in shares]
        inputs = self._activations(here, views, epoch_seed)
        for index, share, x in zip(batches, shares, inputs, strict=True):
            at, whole = (i.to(self.target.device) for i in (share.positions, index))
            share.update(x=x, weight=self.relative[at] * share.factor.to(at.device))
            share.target, share.weight = self.target[whole], self.relative[whole]
            yield share, self.target[at]

    def _activations(
        self, batches: Sequence[torch.Tensor], views: Sequence[torch.Tensor], epoch_seed: int
    ) -> Iterator[torch.Tensor]:
        """Yield the activations of some batches of rows, each row in one of its views."""
        if self.fresh is not None:
            return self._taken(self.fresh(epoch_seed), batches)
        if len(self.views) == 1 or not any(which.any() for which in views):
            return self._taken(self.views[0], batches)
        if not any(isinstance(v, Activations) and v.is_streamed for v in self.views):
            return map(self._of_views, batches, views)
        # Streams of the same samples are one table, in which the rows behind them come once.
        streams: list[Any] = self.views
        first, n_behind = streams[0], (len(streams) - 1) * len(streams[0].index)
        table = np.concatenate([view.index for view in streams])
        joined = Activations(first.rows, table, first.behind)
        n = len(first.index)
        places = [
            torch.where(index < n, index + which * n, index + n_behind)
            for index, which in zip(batches, views, strict=True)
        ]
        return self._taken(joined, places)

    def own(self) -> TrainingDataset:
        """Return the rows that this process has, as rows of their own."""
        if self.processes.size == 1:
            return self
        mine = copy.copy(self)
        mine.processes, at = ONE_PROCESS, slice(self.processes.rank, None, self.processes.size)
        mine.target, mine.weight = self.target[at], self.weight[at]
        mine.relative = self.relative[at]
        return mine

    def _taken(
        self, view: Activations | torch.Tensor, batches: Sequence[torch.Tensor]
    ) -> Iterator[torch.Tensor]:
        if isinstance(view, torch.Tensor):
            for index in batches:
                yield view[index.to(view.device)]
            return
        for rows in view.batches([index.numpy(force=True) for index in batches]):
            # Texts are padded with zeros, the id of no token.
            is_ragged = rows.dtype == object
            x = torch.from_numpy(pad_rows(list(rows))) if is_ragged else as_tensor(rows)
            if self.device is not None:  # begin to copy it, beside which the network runs
                x = as_batch(x, self.device).to(self.device, non_blocking=True)
            yield x

    def _of_views(self, index: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
        (taken,) = self._taken(self.views[0], [index])
        for number, view in enumerate(self.views[1:], start=1):
            here = which == number
            (taken[here.to(taken.device)],) = self._taken(view, [index[here]])
        return taken

    def to(self, device: torch.device) -> TrainingDataset:
        """Return rows for an accelerator, and on it if they fit into half of its free memory."""
        if device.type != "cuda" or any(
            isinstance(v, Activations) and v.is_ragged for v in self.views
        ):
            return self  # texts are padded in each batch
        moved = copy.copy(self)
        moved.device = device
        size = sum(view.nbytes for view in self.views)
        if size < _ON_DEVICE * torch.cuda.mem_get_info(device)[0]:
            moved.views = [copy_rows(view, device) for view in self.views]
            moved.target, moved.relative = self.target.to(device), self.relative.to(device)
        return moved


class SharedBatch(dict[str, Any]):
    """The inputs of a process, whose rows are filled up with rows of weight 0.

    Row i of all rows belongs to process ``i % size``.
    """

    target: torch.Tensor  # of all rows of the batch
    weight: torch.Tensor
    places: torch.Tensor  # of the rows among the shares of all processes
    mine: torch.Tensor  # positions in the batch
    positions: torch.Tensor
    factor: torch.Tensor

    def __init__(self, batch: torch.Tensor, processes: Processes):
        owner, size = batch % processes.size, processes.size
        order, counts = owner.argsort(stable=True), torch.bincount(owner, minlength=size)
        n = int(counts.max())
        self.places = torch.empty_like(batch)
        self.places[order] = torch.cat([n * r + torch.arange(c) for r, c in enumerate(counts)])
        own = order[owner[order] == processes.rank]
        rest = torch.zeros(n - len(own), dtype=torch.int64)
        self.mine = torch.cat([own, rest])
        self.positions = torch.cat([batch[own], rest + processes.rank])
        # The mean of the losses of all shares is that of the batch.
        self.factor = (torch.arange(n) < len(own)) * (n * size / len(batch))


def copy_rows(view: Activations | torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy all rows to a device, a part at a time.

    Returns
    -------
    Tensor of shape (n, ...)
    """
    if isinstance(view, torch.Tensor):
        return view.to(device)
    like = as_tensor(view[:1])
    copied = torch.empty((len(view), *like.shape[1:]), dtype=like.dtype, device=device)
    parts = np.split(np.arange(len(view)), range(_AT_ONCE, len(view), _AT_ONCE))
    for at, rows in zip(parts, view.batches(parts), strict=True):
        copied[at[0] : at[-1] + 1] = as_tensor(rows).to(device)
    return copied


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Convert an array to a tensor, without a copy unless it is read-only or reversed."""
    return torch.from_numpy(np.require(forward_strides(array), requirements=["C", "W"]))


class Batches:
    """Iterate over rows in batches, in a new random order in each epoch.

    Parameters
    ----------
    rows : TrainingDataset or torch.utils.data.Dataset
        skorch makes other datasets from arrays.
    seed : int, default=None
        None keeps the order of the rows.
    in_pairs : bool, default=False
        Whether a last batch of one row is added to the batch before it.
    """

    generator: torch.Generator | None

    def __init__(self, rows: Any, batch_size: int, seed: int | None = None, in_pairs: bool = False):
        self.rows = rows
        self.batch_size = batch_size
        self.in_pairs = in_pairs
        self.generator = None if seed is None else torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return count_batches(len(self.rows), self.batch_size, self.in_pairs)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        order, epoch_seed = torch.arange(len(self.rows)), 0
        if self.generator is not None:
            order = torch.randperm(len(self.rows), generator=self.generator)
            epoch_seed = int(torch.randint(2**31, (1,), generator=self.generator))
        batches = list(order.split(self.batch_size))
        if len(batches) > len(self):
            batches[-2:] = [torch.cat(batches[-2:])]
        if isinstance(self.rows, TrainingDataset):
            yield from self.rows.batches(batches, epoch_seed, self.generator)
            return
        for index in batches:
            yield tuple(default_collate([self.rows[i] for i in index.tolist()]))


def count_batches(n_rows: int, batch_size: int, in_pairs: bool) -> int:
    """Count the batches of an epoch.

    Parameters
    ----------
    in_pairs : bool
        As in :class:`Batches`.
    """
    n_batches = math.ceil(n_rows / batch_size)
    joined = in_pairs and n_batches > 1 and n_rows - (n_batches - 1) * batch_size == 1
    return n_batches - joined
