"""Describe what is read from a network: the output of a layer at an input size, pooled.

At its end, the arrays of outputs: in memory, or in a temporary file where they are large.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import math
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..backbones import (
    Backbone,
    LayerInfo,
    describe,
    inspect_layers,
    stages_of,
)
from ..data import UnreadableSamplesError
from ..engines import Engine, engine_for, raise_thresholds, resolve_engine

_IN_MEMORY = 2**31  # bytes of one table; larger ones go to disk
_AT_ONCE = 2**20  # bytes written at a time
_UNSUPPORTED = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@dataclasses.dataclass(frozen=True)
class Output:
    """What is read from a network: the activation of a layer, pooled.

    Parameters
    ----------
    backbone : Backbone
        The network, at the input size at which it is run.
    layer : str
        The layer whose activation is read.
    pooling : str, callable, tuple or TokenWeights, default="avg"
        How the activation becomes a vector; see :func:`sktransfer.backbones.pool`. "none" keeps
        the whole activation. :class:`TokenWeights` are a mean of word vectors whose weights
        were learned.
    width : int, default=None
        Number of features. None if it is not known, or is not the same for all samples.
    column : str or int, default=None
        The column of a table whose samples are read. None where X is no table of several.
    """

    backbone: Backbone
    layer: str
    pooling: str | Callable[..., Any] | tuple[Any, ...] | Any = "avg"
    width: int | None = None
    column: str | int | None = None

    @property
    def image_size(self) -> int | None:
        """Side of the square that the network is given, in pixels; None if it is no square."""
        return side_of(self.backbone)


def store_key(
    output: Output, *, precision: str = "float32", dtype: str = "float32", engine: str = "auto"
) -> str:
    """Describe all that decides the values of an output except the sample, for the store.

    ``dtype`` is the type in which features are kept, in a store always float32.
    """
    backbone = output.backbone
    precision = _precision_of(backbone, precision)
    settings = (describe(output.pooling), precision, dtype, describe(backbone.modality))
    place = output.layer, str(backbone.prefix_tokens)
    parts = ("v4", backbone.fingerprint, *place, *settings, describe(backbone.preprocess))
    # Runtimes differ by their rounding, which is large in another precision than float32.
    runtime = resolve_engine(engine)
    by_runtime = precision != "float32" and runtime != "torch"
    return "|".join((*parts, runtime) if by_runtime else parts)


def engine_for_outputs(
    outputs: Sequence[Output],
    *,
    device: torch.device,
    engine: str = "auto",
    precision: str = "float32",
    stages: Mapping[str, nn.Module] | None = None,
    conversions: Path | None = None,
) -> Engine:
    """Return the engine that computes outputs of one backbone, by their position.

    ``stages`` are run instead of the backbone's own; without, the engine is kept beside the
    backbone. ``conversions`` is the folder in which runtimes keep networks that they converted.
    """
    backbone = outputs[0].backbone
    if backbone.runtime is not None and resolve_engine(engine) != "torch":
        raise ValueError(
            f"engine={engine!r} cannot run backbone {backbone.name!r}, which runs in "
            f"{backbone.runtime}: leave engine= out."
        )

    def network() -> str:  # two backbones may cut one network differently
        names = list(stages_of(backbone))
        return "|".join((backbone.fingerprint, str(names), describe(backbone.modality)))

    return engine_for(
        stages_of(backbone) if stages is None else stages,
        {i: (output.layer, output.pooling) for i, output in enumerate(outputs)},
        engine=engine,
        network=network if stages is None else None,
        conversions=conversions,
        kept=backbone.prepared.setdefault("engines", {}) if stages is None else {},
        device=device,
        modality=backbone.modality,
        precision=_precision_of(backbone, precision),
        opaque=backbone.opaque,
        name=backbone.name,
        prefix_tokens=backbone.prefix_tokens,
    )


def _precision_of(backbone: Backbone, precision: str) -> str:
    """Return the precision in which a network is run: of its own program, what goes in and out."""
    return precision if backbone.runtime is None else "float32"


def side_of(backbone: Backbone) -> int | None:
    """Return the side of the square that a network is given, in pixels; None if it is no square."""
    shape = backbone.input_shape or ()
    return shape[1] if len(shape) == 3 and shape[1] == shape[2] else None


def layers_of(
    backbone: Backbone, samples: Sequence[Any] | np.ndarray | None = None
) -> dict[str, LayerInfo]:
    """Check the stages of a network on one sample and describe each layer; later calls are free.

    The first of the samples is opened if the preprocessing does not tell the shape of the input,
    and named if that fails. None is needed after :func:`prepare_probe`.
    """
    raise_thresholds()  # the first activations of a process are these
    return inspect_layers(backbone, probe_batch(backbone, samples))


def probe_batch(
    backbone: Backbone, samples: Sequence[Any] | np.ndarray | None = None
) -> torch.Tensor:
    """Return a batch of one for a network: noise if the shape is known, else the first sample."""
    shape = backbone.input_shape
    of, batch = backbone.prepared.get("probe", (None, None))  # a fit asks several times
    if shape is not None:
        if of != shape:
            # Not zeros, which would hide steps that are left out, as an activation.
            generator = torch.Generator().manual_seed(0)
            batch = torch.randn(1, *shape, generator=generator, dtype=torch.float32)
            backbone.prepared["probe"] = shape, batch
        return batch
    if samples is None:
        if batch is not None:
            return batch
        raise ValueError(f"The shape of the input of backbone {backbone.name!r} is not known.")
    sample = samples[0]
    if of is not sample:
        try:
            batch = backbone.open(sample)[None]
        except Exception as error:
            raise UnreadableSamplesError([(0, sample, error)]) from error
        backbone.prepared["probe"] = sample, batch
    return batch


def prepare_probe(backbone: Backbone, shape: Sequence[int], dtype: str) -> None:
    """Let :func:`layers_of` describe a network without a sample.

    ``shape`` and ``dtype``, by its name in torch, are those of a sample that was preprocessed. A
    ``ValueError`` if it would have more than 2²⁸ numbers, as a damaged file may say.
    """
    if math.prod(shape) > 2**28:
        raise ValueError(
            f"A sample of shape {tuple(shape)} is too large for backbone {backbone.name!r}."
        )
    batch = torch.ones(1, *shape, dtype=getattr(torch, dtype))
    if not backbone.modality.has_tokens:  # id 0 is no token
        # Not noise: a network may take the numbers for positions in a table.
        batch.view(-1)[1::2] = 0
    backbone.prepared["probe"] = None, batch


# -- by the stages as they are --------------------------------------------------------------------


def open_or_none(sample: object, backbone: Backbone) -> torch.Tensor | None:
    """Open and preprocess a sample that was read; None if that fails."""
    try:
        return backbone.open(sample)
    except Exception:  # the user's preprocessing may raise anything
        return None


@torch.inference_mode()
def compute_exactly(
    opened: Mapping[int, torch.Tensor],
    outputs: Mapping[Any, Output],
    device: torch.device,
) -> dict[int, dict[Any, np.ndarray]]:
    """Compute rows by the stages as they are, in float32; samples of one shape together.

    Returns for each of the preprocessed samples the row of each output of one backbone.
    """
    rows: dict[int, dict[Any, np.ndarray]] = {i: {} for i in opened}
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for i, tensor in opened.items() if outputs else ():
        by_shape.setdefault(tuple(tensor.shape), []).append(i)
    for places in by_shape.values():
        batch = torch.stack([opened[i] for i in places]).to(device)
        batch = batch.float() if batch.is_floating_point() else batch
        batch = batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
        read = [(output.layer, output.pooling) for output in outputs.values()]
        backbone = next(iter(outputs.values())).backbone
        with torch.autocast(device.type, enabled=False):
            tables = backbone.run(batch, read)
        for name, table in zip(outputs, tables, strict=True):
            values = table.to("cpu", torch.float32).numpy()
            for i, row in zip(places, values, strict=True):
                rows[i][name] = row
    return rows


def compute_fixed(
    outputs: Mapping[Any, Output],
    device: torch.device,
    like: Any = None,
    repeats: bool = False,
) -> tuple[str, dict[Any, np.ndarray], dict[Any, np.ndarray]]:
    """Compute the rows of a sample that is the same in all processes, twice.

    ``like`` is a sample that was read, of a shape that the network takes. If the network is known
    to give the same in two runs (``repeats``), it is run once. Returns which sample it was ("" if
    the network takes none), its rows, and those of the second run.
    """
    backbone = next(iter(outputs.values())).backbone
    for usual in (True, False):
        with contextlib.suppress(Exception):  # there is no such sample, or the network refuses it
            shape = None if usual else tuple(backbone.modality.open(like).shape)
            sample = backbone.modality.example(shape)
            first, second = (open_or_none(sample, backbone) for _ in range(2))
            if sample is None or first is None or second is None:
                continue
            rows = compute_exactly({0: first}, outputs, device)[0]
            is_known = repeats and torch.equal(first, second)
            again = {} if is_known else compute_exactly({0: second}, outputs, device)[0]
            return f"{backbone.modality.name} {shape}", rows, again
    return "", {}, {}


# -- arrays of outputs -----------------------------------------------------------------------------


def empty_table(
    shape: tuple[int, ...], dtype: np.dtype, in_memory: int | None = None
) -> np.ndarray:
    """Return an array to be filled, in memory or, above ``in_memory`` bytes (2 GiB), in a file.

    The file has no name. The space on disk is reserved at once: a write to a mapped file on a full
    disk would kill the process. If there is no room, it is an ``OSError``.
    """
    dtype = np.dtype(dtype)
    n_bytes = math.prod(shape) * dtype.itemsize
    limit = _IN_MEMORY if in_memory is None else in_memory
    if n_bytes <= limit or dtype.hasobject:
        return np.empty(shape, dtype)
    with tempfile.TemporaryFile(buffering=0) as file:
        _reserve(file, n_bytes)
        mapped = mmap.mmap(file.fileno(), n_bytes)
    # Not np.memmap: joblib would send the name of its file to other processes, and it has none.
    return np.ndarray(shape, dtype, mapped)


def _reserve(file, n_bytes: int) -> None:
    try:
        _allocate(file, n_bytes)
    except OSError as error:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        raise OSError(
            error.errno,
            f"{_megabytes(n_bytes)} of temporary disk space are needed, and {folder} has "
            f"{_megabytes(free)} free ({error.strerror}): make room there, set TMPDIR to another "
            "folder, or compute fewer samples at a time.",
        ) from error


def _allocate(file, n_bytes: int) -> None:
    try:
        os.posix_fallocate(file.fileno(), 0, n_bytes)
    except AttributeError:  # not on macOS and Windows
        _write_zeros(file, n_bytes)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        _write_zeros(file, n_bytes)


def _write_zeros(file, n_bytes: int) -> None:
    zeros = memoryview(bytes(_AT_ONCE))
    written = 0
    while written < n_bytes:
        written += file.write(zeros[: n_bytes - written])
    os.fsync(file.fileno())  # some file systems find room only now


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB"


def check_outputs(outputs: np.ndarray, positions: np.ndarray | None = None) -> np.ndarray:
    """Check that a network gives every sample numbers, and return them.

    Minus infinity, the logarithm of a probability of 0, is accepted. A ``ValueError`` names the
    first sample with NaN or infinity, by its position.
    """
    wrong = np.flatnonzero((np.isnan(outputs) | np.isposinf(outputs)).any(axis=1))
    if len(wrong):
        at = wrong[0] if positions is None else positions[wrong[0]]
        raise ValueError(
            f"The network gives NaN or infinity for {len(wrong)} of {len(outputs)} samples, the "
            f"first of them sample {at}. Look for unusual values in these samples, leave them out, "
            "or use precision='float32'."
        )
    return outputs
