"""Train in the processes that ``accelerate launch`` or ``torchrun`` has started.

All of them call ``fit`` with the same arguments, and each has a share of the rows. The gradients of
a step are averaged by ``DistributedDataParallel``. Before each collective of ``torch.distributed``
the processes agree that none has failed, so that an error in one is an error in all.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import functools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from ..data import digest_array, take
from ..engines import resolve_device

# While samples are loaded. A process that is killed closes its connections: others notice at once.
_LOADING = datetime.timedelta(days=30)
_STEP = datetime.timedelta(seconds=60)  # in which all have computed the gradients of a step
_FINE, _STOP, _NO_MEMORY, _FAILED = range(4)


class Processes:
    """The processes that train together: this one, or with a ``device`` those of a launcher."""

    rank: int = 0
    size: int = 1
    accelerator: Any
    trained: Any = None  # the module that they train, in DistributedDataParallel
    _all_know = False  # of an error

    def __init__(self, device: str | None = None):
        if device is None or not is_launched():
            return
        try:
            from accelerate import Accelerator, InitProcessGroupKwargs
        except ImportError as error:
            how = 'pip install "sktransfer[accelerate]"'
            raise ImportError(f"Training in several processes needs accelerate: {how}.") from error
        on_cpu, times = resolve_device(device).type == "cpu", InitProcessGroupKwargs(timeout=_STEP)
        # Precision is a parameter of the estimators.
        self.accelerator = Accelerator(mixed_precision="no", cpu=on_cpu, kwargs_handlers=[times])
        kind = self.accelerator.distributed_type.value
        if kind not in ("MULTI_CPU", "MULTI_GPU"):
            raise ValueError(f"accelerate is configured for {kind}: use MULTI_GPU or MULTI_CPU.")
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self._group = _group_of_decisions(dist.group.WORLD)

    @contextlib.contextmanager
    def fitting(self, fingerprint: str, *arrays: np.ndarray) -> Iterator[None]:
        """Raise an error in all processes if a block fails in one, or if they fit other data."""
        try:
            if self.size > 1:
                about = [fingerprint, *map(digest_array, arrays)]
                if any(other != about for other in self.everyones(about)):
                    raise ValueError("The processes fit different networks, targets or weights.")
            yield
        except BaseException as error:
            if not self._all_know:
                self.agree(error)
            raise
        self.agree()

    def agree(self, error: BaseException | None = None, *, stop: bool = False) -> bool:
        """Return whether one process stops the training; raise an error if another has failed."""
        if self.size == 1:
            return stop
        code = _STOP if stop else _FINE
        if error is not None:
            code = _NO_MEMORY if isinstance(error, torch.OutOfMemoryError) else _FAILED
        worst, texts = torch.tensor(code), [""] * self.size
        self._all_know = True
        try:
            dist.all_reduce(worst, dist.ReduceOp.MAX, group=self._group)
        except RuntimeError as lost:
            raise RuntimeError("A process of the training has ended, or was killed.") from lost
        if worst == _FAILED:
            text = f"{type(error).__name__}: {error}" if code == _FAILED else ""
            dist.all_gather_object(texts, text, group=self._group)
            rank = next(rank for rank, text in enumerate(texts) if text)
            if code != _FAILED:
                raise RuntimeError(f"Process {rank} of the training failed: {texts[rank]}")
            return False
        self._all_know = False
        if worst == _NO_MEMORY and error is None:
            raise torch.OutOfMemoryError("Another process of the training is short of memory.")
        return bool(worst == _STOP)

    def everyones(self, value: Any) -> list[Any]:
        """Return the values of all processes."""
        values = [value] * self.size
        if self.size > 1:
            self.agree()
            dist.all_gather_object(values, value, group=self._group)
        return values

    def from_first(self, value: Any) -> Any:
        """Return the value that the first process has."""
        return self.everyones(value if self.rank == 0 else None)[0]

    def share(self, samples: Any, *parts: np.ndarray) -> tuple[Any, ...]:
        """Return this process's samples, their positions, and those of disjoint parts in them."""
        if self.size == 1:
            return samples, np.arange(len(samples)), *parts
        if min(len(part) for part in parts if len(part)) < self.size:
            raise ValueError(f"Each of {self.size} processes needs a sample, and one to validate.")
        mine = [part[self.rank :: self.size] for part in parts]
        positions = np.sort(np.concatenate(mine))
        return take(samples, positions), positions, *(np.searchsorted(positions, p) for p in mine)

    def collect(self, rows: np.ndarray) -> np.ndarray:
        """Return the rows of all processes, in their order, in the first one."""
        if self.size == 1:
            return rows
        self.agree()
        shares: Any = [None] * self.size if self.rank == 0 else None
        dist.gather_object(rows, shares, dst=0, group=self._group)
        if shares is not None:
            rows = np.empty((sum(map(len, shares)), *rows.shape[1:]), rows.dtype)
            for rank, share in enumerate(shares):
                rows[rank :: self.size] = share
        return rows

    def wrap(self, module: Any, buffers: dict[str, torch.Tensor]) -> None:
        """Prepare a module for DistributedDataParallel, after a first step without it.

        Parameters
        ----------
        module : TrainableStages
            With the gradients of the step.
        buffers : dict of str to Tensor
            As they were before it.
        """
        from accelerate import DistributedDataParallelKwargs

        for name, buffer in module.named_buffers():
            if not torch.equal(buffer, buffers[name]):
                raise ValueError(f"The buffer {name!r} changes in training: train in one process.")
        unused = any(p.requires_grad and p.grad is None for p in module.parameters())
        module.zero_grad(set_to_none=True)
        module.seed += self.rank * 2**32  # rows differ in what dropout drops
        self._learned = [p.requires_grad for p in module.parameters()]
        unused = any(self.everyones(unused))
        handler = DistributedDataParallelKwargs(find_unused_parameters=unused)
        self.accelerator.ddp_handler = handler
        self.trained = self.accelerator.prepare_model(module)
        self.trained.broadcast_buffers = False  # they do not change

    def check_trained(self, module: torch.nn.Module) -> None:
        """Raise an error if other parameters are trained than when the module was prepared."""
        learned = [p.requires_grad for p in module.parameters()]
        if self.trained is not None and learned != self._learned:
            raise ValueError("A callback changed which weights are trained: train in one process.")

    def whole_step(self, step: dict[str, Any], batch: Any) -> dict[str, Any]:
        """Return the loss and the outputs of a batch, from those of this process's share."""
        if self.size == 1:
            return step
        loss = self.accelerator.reduce(step["loss"].detach(), "mean")
        return {"loss": loss, "y_pred": self.whole_outputs(step["y_pred"], batch[0])}

    def whole_outputs(self, outputs: Any, batch: Any) -> tuple[Any, Any]:
        """Return the outputs and the weights of all rows of a ``SharedBatch``."""
        gathered = self.accelerator.gather(outputs[0].detach().contiguous())
        return gathered[batch.places.to(gathered.device)], batch.weight


ONE_PROCESS = Processes()


@functools.cache
def _group_of_decisions(world: Any) -> Any:
    atexit.register(lambda: dist.is_initialized() and dist.destroy_process_group())
    return dist.new_group(backend="gloo", timeout=_LOADING)


def is_launched() -> bool:
    """Tell whether a launcher has started several processes."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size() > 1
    return "RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1


def refuse_launcher(estimator: Any) -> None:
    """Raise an error if a launcher has started several processes, for what is fitted in one.

    Raises
    ------
    ValueError
    """
    if is_launched():
        raise ValueError(
            f"{type(estimator).__name__} measures times, which differ between the processes of a "
            "launcher: fit it in one process, or fit a FineTunedClassifier in several."
        )


def is_first_process() -> bool:
    """Tell whether this is the first of the processes, whose progress is shown."""
    return not is_launched() or int(os.environ.get("RANK", 0)) == 0
