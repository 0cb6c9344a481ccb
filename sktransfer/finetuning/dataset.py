"""Training rows (activations at the cache, targets and weights) and their batches."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from skorch.dataset import Dataset
from torch.utils.data import default_collate

from ..data import forward_strides, pad_rows
from ..engines import as_batch
from ..features import Stream
from .distributed import ONE_PROCESS, Processes

_AT_ONCE = 64  # rows copied to a device in one part
_ON_DEVICE = 0.5  # largest share of an accelerator's free memory for activations


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
        return self._joined(at, self.rows[self._in_front(at)])

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """Yield the rows at some places after another; those of a stream are loaded ahead."""
        fronts = [self._in_front(at) for at in places]
        rows = self.rows.batches(fronts) if self.is_streamed else map(self.rows.__getitem__, fronts)
        return map(self._joined, places, rows)

    def _in_front(self, at: np.ndarray) -> np.ndarray:
        """Return the positions in the array of those rows that are not behind it."""
        return self.index[at if self.behind is None else at[at < len(self.index)]]

    def _joined(self, at: np.ndarray, front: np.ndarray) -> np.ndarray:
        if self.behind is None:
            return front
        taken = np.empty((len(at), *self.behind.shape[1:]), self.behind.dtype)
        taken[at < len(self.index)] = front
        taken[at >= len(self.index)] = self.behind[at[at >= len(self.index)] - len(self.index)]
        return taken

    def forget(self) -> None:
        """Drop the inputs that a stream keeps."""
        if self.is_streamed:
            self.rows.forget()

    @property
    def is_streamed(self) -> bool:
        return isinstance(self.rows, Stream)

    @property
    def positions(self) -> np.ndarray:
        """Positions of the samples, -1 for the rows behind them."""
        return np.append(self.index, np.full(len(self) - len(self.index), -1))

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
        if self.processes.size > 1:
            yield from self._shared_batches(batches, epoch_seed, generator)
            return
        inputs = self._activations(batches, self._draw_views(batches, generator), epoch_seed)
        for index, x in zip(batches, inputs, strict=True):
            index = index.to(self.target.device)
            yield {"x": x, "weight": self.relative[index]}, self.target[index]

    def _shared_batches(
        self, batches: Sequence[torch.Tensor], epoch_seed: int, generator: torch.Generator | None
    ) -> Iterator[tuple[Any, ...]]:
        """Yield the share of each batch that this process has; the shares of all are as long."""
        shares = [SharedBatch(index.cpu(), self.processes) for index in batches]
        views = self._draw_views(batches, generator)
        views = [which[share.mine] for which, share in zip(views, shares, strict=True)]
        here = [share.positions // self.processes.size for share in shares]
        inputs = self._activations(here, views, epoch_seed)
        for index, share, x in zip(batches, shares, inputs, strict=True):
            at, whole = (i.to(self.target.device) for i in (share.positions, index))
            share.update(x=x, weight=self.relative[at] * share.factor.to(at.device))
            share.target, share.weight = self.target[whole], self.relative[whole]
            yield share, self.target[at]

    def _draw_views(
        self, batches: Sequence[torch.Tensor], generator: torch.Generator | None
    ) -> list[torch.Tensor]:
        """Draw which view each row of some batches has; without a generator it is the first."""
        n_views = 1 if generator is None else max(1, len(self.views))
        if n_views == 1:
            return [torch.zeros_like(index) for index in batches]
        return [torch.randint(n_views, (len(i),), generator=generator) for i in batches]

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
            x = torch.from_numpy(pad_rows(list(rows))) if is_ragged else _as_tensor(rows)
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
    like = _as_tensor(view[:1])
    copied = torch.empty((len(view), *like.shape[1:]), dtype=like.dtype, device=device)
    parts = np.split(np.arange(len(view)), range(_AT_ONCE, len(view), _AT_ONCE))
    for at, rows in zip(parts, view.batches(parts), strict=True):
        copied[at[0] : at[-1] + 1] = _as_tensor(rows).to(device)
    return copied


def as_rows(view: np.ndarray) -> torch.Tensor | list[torch.Tensor]:
    """Convert an array to a tensor, or an array of texts, which differ in length, to a list.

    Parameters
    ----------
    view : ndarray of shape (n, ...) or array of n arrays
    """
    if view.dtype == object:
        return [_as_tensor(row) for row in view]
    return _as_tensor(view)


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    """Convert an array to a tensor, without a copy unless it is read-only or reversed."""
    return torch.from_numpy(np.require(forward_strides(array), requirements=["C", "W"]))


class Batches:
    """Iterate over rows in batches, in a new random order in each epoch.

    Parameters
    ----------
    rows : TrainingDataset or torch.utils.data.Dataset
        skorch makes other datasets from arrays.
    batch_size : int
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
    n_rows : int
    batch_size : int
    in_pairs : bool
        As in :class:`Batches`.
    """
    n_batches = math.ceil(n_rows / batch_size)
    joined = in_pairs and n_batches > 1 and n_rows - (n_batches - 1) * batch_size == 1
    return n_batches - joined
