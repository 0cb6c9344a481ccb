"""Run the stages of a network in batches: what all runtimes share.

A batch is as large as stays cheap in memory, and smaller where the memory of a device is short. The
first sample of each shape is compared with the stages themselves.

Memory that is freed stays with the process, so that the next batch does not fault it in anew. glibc
gives blocks of more than 128 kB back to the operating system when they are freed, and each page of
the next block costs 2.5 µs. :func:`raise_thresholds` serves plain processes,
:func:`keep_freed_memory` those whose environment fixes the thresholds, such as Dask's workers.
"""

from __future__ import annotations

import abc
import contextlib
import ctypes
import functools
import importlib.util
import itertools
import math
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbones import pool
from ..data import Modality, get_modality

# A fresh memory page costs 2.5 µs, and the C library gives blocks over 32 MB back after each
# use. Activations that stay under this many bytes are not faulted in anew for each batch.
_BYTES = 20e6
_BYTES_ON_ACCELERATOR = 1e9
# A batch of short vectors costs next to nothing. Filled up to one size, it gives each vector the
# same bits in every batch, as scikit-learn's checks of estimators on tables expect.
_BYTES_FILLED_UP = 2**18
_SHAPES_KEPT = 8  # shapes of samples whose activations stay measured
# Relative L2 distance of the prepared stages' features to the stages' own.
_TOLERANCES = {"float32": 1e-4, "bfloat16": 0.2}

# Parameters of mallopt, and the defaults of the C library (malloc.h of glibc).
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_DEFAULT_THRESHOLD = 128 * 1024
_LARGEST_TRIM, _LARGEST_MMAP = 10**9, 2**25

# The largest block, in bytes, that glibc's dynamic thresholds follow is one of less than 32 MiB.
_LARGEST_FOLLOWED = 31 * 2**20

_LOCK = threading.Lock()
_n_active = 0


class Engine(abc.ABC):
    """Run the stages of a network up to some layers, fast and without training.

    A subclass, one for each runtime, prepares ``segments`` in its ``__init__`` and runs a batch
    in :meth:`forward`. This class makes batches, and compares the first sample's features with
    those of the stages themselves. If the two disagree, the stages are used, with a warning.

    Parameters
    ----------
    stages : mapping of str to torch.nn.Module
        The stages of a network in order; each takes the output of the one before. A stage may
        have a method ``fused_pooling(pooling)``, which returns one function for the stage and the
        pooling, or None. It is used where that stage runs alone.
    outputs : mapping of hashable to (str, pooling)
        The stage whose output is read, and how it becomes a vector, by the key under which it is
        returned. Poolings are those of :func:`sktransfer.backbones.pool`; "none" keeps whole
        activations. Stages behind all of these do not run.
    modality : Modality or str, default="array"
        Says whether a sample is a sequence of tokens, and how many samples a batch holds at most.
    precision : {"float32", "bfloat16"}, default="float32"
        The type in which the stages compute.
    opaque : tuple of callable, default=()
        Functions that are one operation where the stages are traced.
    name : str, default="network"
        The name of the network in messages.
    prefix_tokens : int, default=None
        Tokens before the patches; see :func:`sktransfer.backbones.pool`.

    Attributes
    ----------
    layers : list of str
        Those that are read, in the order of the network.
    outputs : dict of str to list of (hashable, pooling)
        The outputs of each layer.
    segments : list of torch.nn.Sequential
        The stages, divided at the layers.
    """

    layers: list[str]
    outputs: dict[str, list[tuple[Any, Any]]]
    modality: Modality
    segments: list[nn.Sequential]
    runtime = "torch"
    packages: tuple[str, ...] = ()  # optional ones that the runtime needs
    extra = ""  # of this package, which installs them
    layout = "channels_last"  # of images in memory
    falls_back = True  # whether the stages are run where the check on the first sample fails
    fills_up = False  # whether batches of several samples all have one size
    _largest_batch: int | None = None  # where the device's memory is short

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        outputs: Mapping[Any, tuple[str, Any]],
        *,
        device: torch.device,
        modality: Modality | str = "array",
        precision: str = "float32",
        opaque: tuple[Callable[..., Any], ...] = (),
        name: str = "network",
        prefix_tokens: int | None = None,
    ):
        if device.type == "cpu":
            raise_thresholds()
        names = list(stages)
        self.outputs = {}
        for key, (layer, pooling) in outputs.items():
            self.outputs.setdefault(layer, []).append((key, pooling))
        self.layers = sorted(self.outputs, key=names.index)
        bounds = [0, *(names.index(layer) + 1 for layer in self.layers)]
        slices = [list(stages.values())[a:b] for a, b in itertools.pairwise(bounds)]
        self.segments = [nn.Sequential(*part) for part in slices]
        self.device = device
        self.modality = get_modality(modality)
        self.precision = precision
        self.opaque = opaque
        self.name = name
        self.prefix_tokens = prefix_tokens
        self._fused = self._fused_pooling()
        self._falls_back = False  # to the stages as they are
        # Bytes of the largest activation of one sample, by its shape: images of several sizes may
        # go through one engine.
        self._bytes: dict[tuple[int, ...], int] = {}

    # -- what a runtime defines ----------------------------------------------------------------

    @abc.abstractmethod
    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run a batch through the prepared stages.

        Returns the features of each output, ``(n, n_features)``, on the CPU, float32.
        """

    @classmethod
    def check(cls, device: torch.device, precision: str) -> None:
        """Raise an error if the runtime cannot be used.

        That is ``ImportError`` if a package is missing, and ``ValueError`` if the runtime does not
        support the device or the precision.
        """
        missing = [name for name in cls.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ImportError(
                f"engine={cls.runtime!r} needs {', '.join(missing)}: "
                f"pip install 'sktransfer[{cls.extra}]'"
            )

    def prepare(self, batch: torch.Tensor) -> None:
        """Prepare for samples of a new shape by a batch of one, if the runtime needs an example."""
        return None

    @property
    def reference(self) -> Sequence[nn.Module]:
        """One module for each layer, in float32, with which :meth:`forward` is compared."""
        return self.segments

    def modules(self) -> Iterable[nn.Module]:
        """Return the modules that run with the first sample, so that their outputs are measured."""
        return [module for segment in self.reference for module in segment.modules()]

    @property
    def needs_check(self) -> bool:
        """Whether the prepared stages can be compared with the stages themselves."""
        return self.device.type == "cpu" and self.precision == "float32"

    @property
    def has_compared(self) -> bool:
        """Whether a sample was run in both forms, with equal features."""
        return bool(self._bytes) and self.needs_check and not self._falls_back

    # -- running -------------------------------------------------------------------------------

    def _fused_pooling(self) -> Callable | None:
        """Return the function that a single stage offers for itself and the pooling, if any."""
        single = len(self.segments) == 1 and len(self.segments[0]) == 1
        single = single and len(self.outputs[self.layers[0]]) == 1
        offer = getattr(self.segments[0][0], "fused_pooling", None) if single else None
        if offer is None or self.precision != "float32" or self.device.type != "cpu":
            return None
        ((_, pooling),) = self.outputs[self.layers[0]]
        return offer(pooling)

    @torch.inference_mode()
    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Run a batch ``(n, ...)`` and return the features of each output, on the CPU."""
        self._inspect(batch[:1])
        return self.run_modules(self.segments, batch) if self._falls_back else self.forward(batch)

    @torch.inference_mode()
    def batch_size(self, sample: torch.Tensor) -> int:
        """Return how many samples to run at a time: as many as stay cheap in memory.

        It depends on shapes and the device alone, never on a timing.
        """
        on_cpu = self.device.type == "cpu"
        limit = self.modality.batch_limit(tuple(sample.shape), on_cpu)
        if self.modality.has_tokens:
            return limit
        n_bytes = self._inspect(sample[None])
        return int(np.clip((_BYTES if on_cpu else _BYTES_ON_ACCELERATOR) // n_bytes, 1, limit))

    def run(
        self, tensors: Iterable[torch.Tensor] | torch.Tensor, batch_size: int | str = "auto"
    ) -> dict[Any, np.ndarray]:
        """Run samples of one shape, at least one, in batches.

        They are taken when a batch needs them. Where a batch does not fit into the memory of a
        device, it and all that come later are half as large, with one warning.
        """
        source = iter(tensors)
        waiting = list(itertools.islice(source, 1))
        size = self.batch_size(waiting[0]) if batch_size == "auto" else int(batch_size)
        fills_up = (batch_size == "auto" and self.is_cheap(waiting[0], size)) or self.fills_up
        parts = []
        while waiting:
            most = min(size, self._largest_batch or size)
            waiting += itertools.islice(source, min(sys.maxsize, max(0, most - len(waiting))))
            samples = waiting[:most]
            try:
                batch = as_batch(samples, self.device)
                part = self._run_filled(batch, most) if fills_up else self(batch)
            except torch.OutOfMemoryError:
                if len(samples) == 1:
                    raise
                part = None
            if part is None:  # outside the handler, whose error refers to the batch's tensors
                if self._largest_batch is None:
                    warnings.warn(
                        f"Batches of {len(samples)} do not fit into the memory of {self.device}: "
                        "smaller ones are used from here on. Give a smaller batch_size=, or make "
                        "room on the device.",
                        stacklevel=2,
                    )
                self._largest_batch = fewer_rows(most, len(samples))
                continue
            parts.append(part)
            waiting = waiting[most:] or list(itertools.islice(source, 1))
        return {key: torch.cat([part[key] for part in parts]).numpy() for key in parts[0]}

    def is_cheap(self, sample: torch.Tensor, size: int) -> bool:
        """Tell whether a batch of ``size`` vectors costs about as much as one vector."""
        if sample.ndim != 1 or self.device.type != "cpu" or self.modality.has_tokens:
            return False
        with torch.inference_mode():
            return self._inspect(sample[None]) * size <= _BYTES_FILLED_UP

    def _run_filled(self, batch: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        """Run a batch filled up to ``size`` with its last sample."""
        n = len(batch)
        filled = torch.cat([batch, batch[-1:].expand(size - n, *batch.shape[1:])])
        return {key: rows[:n] for key, rows in self(filled).items()}

    def run_groups(
        self, groups: Sequence[tuple[Any, ...]], batch_size: int | str = "auto"
    ) -> dict[Any, np.ndarray]:
        """Run samples of several shapes, such as texts, those of one shape together.

        A group has the positions of the samples of one shape, and the samples. Returns for each
        output a row for each position; an array of objects where rows differ in length.
        """
        n = sum(len(positions) for positions, _ in groups)
        tables: dict[Any, np.ndarray] = {}
        for positions, tensors in groups:
            if self._fused is None:
                outputs = self.run(tensors, batch_size)
            else:
                (layer,) = self.layers
                ((key, _),) = self.outputs[layer]
                outputs = {key: self._fused(as_batch(tensors)).numpy()}
            for key, rows in outputs.items():
                is_ragged = self.modality.has_tokens and rows.ndim > 2
                if key not in tables:
                    empty = np.empty((n, *rows.shape[1:]), rows.dtype)
                    tables[key] = np.empty(n, object) if is_ragged else empty
                if is_ragged:
                    for position, row in zip(positions, rows, strict=True):
                        tables[key][position] = row
                else:
                    tables[key][positions] = rows
        return tables

    def execution(self) -> dict[str, str]:
        """Describe how batches are run: engine, device, precision, layout of images in memory."""
        return {
            "engine": self.runtime,
            "device": str(self.device),
            "precision": self.precision,
            "layout": self.layout,
        }

    # -- through modules -----------------------------------------------------------------------

    def run_modules(
        self,
        segments: Sequence[nn.Module],
        batch: torch.Tensor,
        dtype: torch.dtype | None = None,
    ) -> dict[str, torch.Tensor]:
        """Run a batch through one module for each layer, each given the output of the one before.

        Without ``dtype``, the type of the modules, it is cast automatically, as the precision says.
        """
        x = batch.to(self.device, non_blocking=True)
        x = x.to(dtype) if dtype is not None and x.is_floating_point() else x
        where = self.where(x)
        if x.ndim == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        features: dict[Any, torch.Tensor] = {}
        # Also disables an autocast around the call, which the key of the store does not contain.
        is_low = dtype is None and self.precision != "float32"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=is_low):
            for layer, segment in zip(self.layers, segments, strict=True):
                x = segment(x)
                for key, pooling in self.outputs[layer]:
                    pooled = pool(x, pooling, **where)
                    # A copy, since the next stage may overwrite its input.
                    features[key] = pooled.to("cpu", torch.float32, copy=True)
        return features

    def where(self, batch: torch.Tensor) -> dict[str, Any]:
        """Return the arguments of :func:`pool` that say where positions are, by the input."""
        sides = (batch.shape[2], batch.shape[3]) if batch.ndim == 4 else None
        masked = self.modality.has_tokens
        return {"sides": sides, "prefix_tokens": self.prefix_tokens, "masked": masked}

    # -- the first sample ----------------------------------------------------------------------

    def _inspect(self, probe: torch.Tensor) -> int:
        """Compare with the stages, once a shape, and return the bytes of the largest activation."""
        shape = () if self.modality.has_tokens else tuple(probe.shape[1:])
        if shape in self._bytes:
            return self._bytes[shape]
        self.prepare(probe.clone())
        # Copies, since a network may change its input.
        with _largest_output(self.modules()) as largest:
            features, expected = self.forward(probe.clone()), {}
            if self.needs_check and not self._falls_back:
                expected = self.run_modules(self.reference, probe.clone(), torch.float32)
        measured, tolerance = distance(features, expected), _TOLERANCES[self.precision]
        if measured > tolerance and not self.falls_back:
            raise RuntimeError(
                f"engine={self.runtime!r} gives other features for backbone {self.name!r} than its "
                f"stages: a relative distance of {measured:.1g}, where {tolerance:.1g} is allowed "
                f"in {self.precision}. Use engine='torch'."
            )
        if measured > tolerance:
            warnings.warn(
                f"The fast form of backbone {self.name!r} does not give the same features as its "
                "stages; the stages themselves are used, which is slower.",
                stacklevel=2,
            )
            self._falls_back = True
        while len(self._bytes) >= _SHAPES_KEPT:
            self._bytes.pop(next(iter(self._bytes)))
        self._bytes[shape] = n_bytes = max(1, largest[0] // len(probe))
        return n_bytes


def as_batch(
    tensors: Sequence[torch.Tensor] | torch.Tensor, device: torch.device | None = None
) -> torch.Tensor:
    """Return samples as one tensor, for a GPU in memory from which it can copy by itself."""
    batch = tensors if isinstance(tensors, torch.Tensor) else torch.stack(list(tensors))
    is_for_gpu = device is not None and device.type == "cuda" and batch.device.type == "cpu"
    return batch.pin_memory() if is_for_gpu else batch


def distance(features: dict[Any, Any], expected: dict[Any, Any]) -> float:
    """Return the largest relative L2 distance to the features that are expected, 0 if none are."""
    largest = 0.0
    for layer in expected:
        a, b = features[layer].double(), expected[layer].double()
        same = (a == b) | (a.isnan() & b.isnan())  # also NaN and infinity in the same place
        relative = torch.where(same, 0.0, a - b).norm() / (b.nan_to_num().norm() + 1e-8)
        largest = max(largest, float(relative.nan_to_num(torch.inf)))
    return largest


@contextlib.contextmanager
def _largest_output(modules: Iterable[nn.Module]) -> Iterator[list[int]]:
    """Collect, while modules are called, the size in bytes of their largest output."""
    largest, thread = [1], threading.get_ident()

    def note(module, args, output):
        # Other threads may run the same modules on other batches.
        if isinstance(output, torch.Tensor) and threading.get_ident() == thread:
            largest[0] = max(largest[0], output.numel() * output.element_size())

    # Compiled modules take no hooks.
    modules = [m for m in modules if not isinstance(m, torch.jit.ScriptModule)]
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        yield largest
    finally:
        for hook in hooks:
            hook.remove()


# -- devices, threads and memory ------------------------------------------------------------------


def resolve_device(device: str) -> torch.device:
    """Find the device that is meant, and check that it is on this machine.

    "auto" is the current accelerator, or the CPU where there is none. A named device that is not on
    this machine is a ``ValueError``.
    """
    if device == "auto":
        is_there = torch.accelerator.is_available()  # 2.6 has no check_available=True
        found = torch.accelerator.current_accelerator() if is_there else None
        return found or torch.device("cpu")
    try:
        resolved = torch.device(device)
        torch.empty(0, device=resolved).cpu()
    except (RuntimeError, AssertionError) as error:  # also for "meta", which holds no data
        why = str(error).splitlines()[0]
        raise ValueError(f"device={device!r} cannot be used on this machine: {why}") from None
    return resolved


def fewer_rows(most_rows: int, n_rows: int) -> int:
    """Return half as many rows for the next batches, after ``n_rows`` did not fit into a device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()  # blocks of other sizes than the next batches need
    return math.ceil(min(most_rows, n_rows) / 2)


@contextlib.contextmanager
def thread_budget(n_threads: int | None) -> Iterator[None]:
    """Let torch use a number of threads, and put it back afterwards; None changes nothing."""
    before = torch.get_num_threads()
    if n_threads is not None and n_threads != before:
        torch.set_num_threads(n_threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


@functools.cache
def raise_thresholds() -> None:
    """Free one block of 31 MiB, after which glibc keeps freed blocks of up to that size.

    glibc's threshold for giving blocks back grows to the size of the largest block below 32 MiB
    that was freed, and that for trimming the heap to twice this size (mallopt(3),
    ``M_MMAP_THRESHOLD``). The block is never written to, so it takes no memory. This is done once
    in a process. No setting is changed: ``mallopt`` would end the dynamic thresholds for good, and
    where the environment sets them, nothing happens. With other C libraries, nothing is done.
    """
    try:
        uses_glibc = os.confstr("CS_GNU_LIBC_VERSION") is not None
    except (AttributeError, ValueError):  # Windows; a C library that does not know the name
        return
    if uses_glibc:
        torch.empty(_LARGEST_FOLLOWED, dtype=torch.uint8)


@contextlib.contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Keep freed memory in the process, and return it to the system afterwards.

    Dask starts its workers with ``MALLOC_TRIM_THRESHOLD_=65536``. Then the C library returns the
    output of each layer to the operating system and asks for it again, page by page, which takes
    twice as long as the computation itself. Where this variable is not set, or the C library is
    not glibc, nothing is changed.
    """
    global _n_active
    is_low = "MALLOC_TRIM_THRESHOLD_" in os.environ and _given_threshold("TRIM") < _LARGEST_TRIM
    library = _c_library() if is_low else None
    if library is None:
        yield
        return
    with _LOCK:  # tasks of several threads share the settings of the process
        _n_active += 1
        _set_thresholds(library, _LARGEST_TRIM, _LARGEST_MMAP)
    try:
        yield
    finally:
        with _LOCK:
            _n_active -= 1
            if not _n_active:
                _set_thresholds(library, _given_threshold("TRIM"), _given_threshold("MMAP"))
                library.malloc_trim(0)


def _c_library() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "mallopt") and hasattr(library, "malloc_trim") else None


def _set_thresholds(library: ctypes.CDLL, trim: int, mmap: int) -> None:
    library.mallopt(_TRIM_THRESHOLD, trim)
    library.mallopt(_MMAP_THRESHOLD, mmap)


def _given_threshold(name: str) -> int:
    """Return the threshold that the process was started with."""
    try:
        return int(os.environ[f"MALLOC_{name}_THRESHOLD_"])
    except (KeyError, ValueError):
        return _DEFAULT_THRESHOLD
