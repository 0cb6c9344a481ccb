"""Convert networks for other libraries by ``torch.export``, and keep what was converted."""

from __future__ import annotations

import abc
import contextlib
import inspect
import logging
import os
import shutil
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import xxhash
from torch import nn
from torch.overrides import TorchFunctionMode

from ..backbones import pool
from ..data.disk import CacheError, checksum, new_folder, writing
from .engine import Engine

# From a batch to the outputs of the exported network. Any number of threads may call it.
Run = Callable[[np.ndarray], Sequence[np.ndarray]]
T = TypeVar("T")

_EXPORTING = threading.RLock()  # torch.export is not made for several threads
_REPLACING = threading.Lock()  # the standard error stream
_LENGTH = 16  # tokens in the example texts; any number but 0 and 1, which are special to export
_NO_LIMIT = 2**31  # tokens
_KEPT = 16  # conversions in one folder; each is about as large as the weights
_CHECKSUM = "checksum"
_LONGEST = 300  # characters of another library's error in a message


class ExportedEngine(Engine):
    """Run stages with another library, for which ``torch.export`` prepares them.

    Stages and pooling are exported as one network for batches of any size (and texts of any
    length), once for each shape of samples, when the first sample is known. A subclass converts the
    exported network into files, and loads such files. If the first sample's features differ from
    those of the stages, or a stage cannot be converted, an error is raised. Texts of more than
    ``longest`` tokens, where stages have this attribute, are run by the stages themselves.

    Parameters are those of :class:`Engine`; ``network`` returns what identifies the stages in the
    folder ``conversions``, where converted networks are kept. None keeps them as long as this
    engine.
    """

    exported: list[tuple[str, str | tuple[Any, ...]]]
    falls_back = False
    layout = "runtime"  # each library chooses its own

    def __init__(
        self,
        stages: Mapping[str, nn.Module],
        outputs: Mapping[Any, tuple[str, Any]],
        *,
        network: Callable[[], str] | None = None,
        conversions: Path | None = None,
        **settings: Any,
    ):
        super().__init__(stages, outputs, **settings)
        # Layers and poolings that are outputs of the converted network, each once.
        wanted = ((layer, how) for layer in self.layers for _, how in self.outputs[layer])
        self.exported = list(dict.fromkeys((layer, _inside(how)) for layer, how in wanted))
        self._stages = dict(list(stages.items())[: list(stages).index(self.layers[-1]) + 1])
        self._refuse_tables()
        limits = (getattr(stage, "longest", None) for stage in self._stages.values())
        self._longest = min(filter(None, limits), default=_NO_LIMIT)
        self._network = network
        self._conversions = Conversions(None if network is None else conversions)
        self._runs: dict[tuple[Any, ...], Run] = {}  # by shape

    # -- what a runtime defines ----------------------------------------------------------------

    @classmethod
    def check(cls, device: torch.device, precision: str) -> None:
        super().check(device, precision)
        if device.type != "cpu":
            raise ValueError(
                f"engine={cls.runtime!r} runs on the CPU only, and the device is {device}: give "
                "device='cpu', or engine='torch'."
            )

    @abc.abstractmethod
    def convert(self, program: torch.export.ExportedProgram) -> dict[str, bytes]:
        """Convert an exported network into files by name."""

    @abc.abstractmethod
    def load(self, files: dict[str, bytes]) -> Run:
        """Prepare a network that :meth:`convert` has converted."""

    # -- running -------------------------------------------------------------------------------

    def prepare(self, batch: torch.Tensor) -> None:
        self._run_for(batch)

    def forward(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        if self.modality.has_tokens and batch.shape[1] > self._longest:
            # The stages run longer texts in chunks, in a loop that cannot be converted.
            return self.run_modules(self.segments, batch, torch.float32)
        arrays = self._run_for(batch)(batch.contiguous().numpy())
        outputs = dict(zip(self.exported, map(_as_tensor, arrays), strict=True))
        where = self.where(batch)
        features: dict[Any, torch.Tensor] = {}
        for layer, wanted in self.outputs.items():
            for key, pooling in wanted:
                values = outputs[layer, _inside(pooling)]
                if not _is_exported(pooling):
                    values = pool(values, pooling, **where)
                features[key] = values.to(torch.float32, copy=True)
        return features

    @property
    def needs_check(self) -> bool:
        return True

    def _run_for(self, batch: torch.Tensor) -> Run:
        """Return the converted network for samples of one shape, made at its first use."""
        shape = () if self.modality.has_tokens else tuple(batch.shape[1:])
        key = (*shape, batch.dtype)
        if key not in self._runs:
            with _EXPORTING:
                if key not in self._runs:
                    self._runs[key] = self._prepare(batch, key)
        return self._runs[key]

    def _prepare(self, batch: torch.Tensor, shape: tuple) -> Run:
        key = self._key(shape)
        files = self._conversions.read(key)
        if files is None:
            files = self._converted(self._example(batch))
            self._conversions.write(key, files)
        return self.load(files)

    def _example(self, batch: torch.Tensor) -> torch.Tensor:
        """Make a batch of two of a batch, with texts of a fixed length."""
        pair = batch[:1].expand(2, *batch.shape[1:])
        if self.modality.has_tokens and batch.ndim > 1:
            length = min(_LENGTH, self._longest)
            repeats = -(-length // max(1, batch.shape[1]))
            pair = pair.repeat(1, repeats, *[1] * (batch.ndim - 2))[:, :length]
        return pair.contiguous().clone()

    def _key(self, shape: tuple) -> str:
        """Describe everything that decides a conversion."""
        network = "" if self._network is None else self._network()
        versions = [f"{name} {version(name)}" for name in ("torch", *self.packages)]
        pooled = str((self.exported, self.prefix_tokens))
        return "|".join(["v2", network, pooled, str(shape), *versions])

    def _converted(self, example: torch.Tensor) -> dict[str, bytes]:
        network = _Network(self, self.where(example))
        try:
            return self._convert(network, example)
        except Exception as error:  # of any type, since it comes from two other libraries
            where, why = self._obstacle(example) or ("its layers, run together", error)
            raise ValueError(
                f"engine={self.runtime!r} cannot run backbone {self.name!r}: {where} cannot be "
                f"converted ({_in_short(why)}). Use engine='torch'."
            ) from error

    def _convert(self, module: nn.Module, example: torch.Tensor) -> dict[str, bytes]:
        with quiet(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what the libraries will change
            axes = (0, 1) if self.modality.has_tokens and example.ndim > 1 else (0,)
            return retry_with_plain_attention(
                lambda: self.convert(export(module, (example,), [axes])), module, (example,)
            )

    def _obstacle(self, x: torch.Tensor) -> tuple[str, Exception] | None:
        """Return the first stage that cannot be converted, and why."""
        for name, stage in self._stages.items():
            try:
                self._convert(stage, x.clone())
            except Exception as error:
                return f"stage {name!r}", error
            with torch.no_grad():
                x = stage(x.clone())
        return None

    def _refuse_tables(self) -> None:
        """Refuse a stage that has a function for itself and the pooling."""
        tables = [name for name, stage in self._stages.items() if hasattr(stage, "fused_pooling")]
        if tables:
            raise ValueError(
                f"engine={self.runtime!r} cannot run backbone {self.name!r}: stage {tables[0]!r} "
                "looks up vectors in a table, and a conversion would only copy them. Use "
                "engine='torch'."
            )


def export(
    module: nn.Module, inputs: tuple[torch.Tensor, ...], any_size: Sequence[tuple[int, ...]]
) -> torch.export.ExportedProgram:
    """Export a module, which takes one input or any number, for inputs of any size.

    The inputs are examples, of a size other than 0 and 1 along the axes of any size.
    """
    shapes: tuple = tuple(dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for axes in any_size)
    parameters = inspect.signature(module.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        shapes = (shapes,)  # one parameter holds all inputs
    with torch.no_grad():
        return torch.export.export(module, inputs, dynamic_shapes=shapes)


def retry_with_plain_attention(
    convert: Callable[[], T], module: nn.Module, inputs: tuple[torch.Tensor, ...]
) -> T:
    """Convert a network; if that fails, try again with attention as matrix products.

    The result of ``scaled_dot_product_attention`` may have another memory layout in torch than in a
    graph, where it is divided into operators. Swin, BEiT and T5 fail because of that. After a
    failure, the network is run with these inputs to see whether it has attention; if not, there is
    no second attempt. The error is always that of the first one.
    """
    try:
        return convert()
    except Exception:
        noted = _NotedAttention()
        with contextlib.suppress(Exception), torch.no_grad(), noted:
            module(*(x.clone() for x in inputs))
        # torch's own layers compute attention without calling the function.
        own = any(isinstance(part, nn.MultiheadAttention) for part in module.modules())
        if noted.n_calls or own:
            with contextlib.suppress(Exception), _PlainAttention():
                return convert()
        raise


class _NotedAttention(TorchFunctionMode):
    """Count the calls of ``scaled_dot_product_attention``."""

    n_calls = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.n_calls += func is nn.functional.scaled_dot_product_attention
        return func(*args, **(kwargs or {}))


class _PlainAttention(TorchFunctionMode):
    """Compute ``scaled_dot_product_attention`` by the formula of its documentation."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        plain = func is nn.functional.scaled_dot_product_attention
        return (_attention if plain else func)(*args, **(kwargs or {}))


def _attention(
    query: torch.Tensor,  # (..., heads, length, width)
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    dropout_p: float = 0.0,  # networks that are converted do not drop anything
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> torch.Tensor:
    if enable_gqa:
        key, value = (
            each.repeat_interleave(query.shape[-3] // each.shape[-3], -3) for each in (key, value)
        )
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1) @ value


class _Network(nn.Module):
    """Stages and pooling as one module, whose outputs are ``engine.exported``."""

    def __init__(self, engine: ExportedEngine, where: dict[str, Any]):
        super().__init__()
        self.segments = nn.ModuleList(engine.segments)
        self.poolings = [[p for name, p in engine.exported if name == x] for x in engine.layers]
        self.where = where

    def forward(self, x):
        outputs = []
        for segment, poolings in zip(self.segments, self.poolings, strict=True):
            x = segment(x)
            pooled = [pool(x, p, **self.where) for p in poolings]
            # Of a vector, each pooling is the vector itself, and a graph has no output twice.
            outputs += [each * 1 if i and x.ndim == 2 else each for i, each in enumerate(pooled)]
        return tuple(outputs)


def _is_exported(pooling) -> bool:
    """Tell whether a pooling is part of the converted network; the user's functions are not."""
    poolings = pooling if isinstance(pooling, tuple) else (pooling,)
    return all(isinstance(each, str) for each in poolings)


def _inside(pooling) -> str | tuple:
    """Return the pooling that is part of the converted network."""
    return pooling if _is_exported(pooling) else "none"


def _as_tensor(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def _in_short(error: Exception) -> str:
    """Return the first line of an error that says something, in at most 300 characters."""
    said = str(error.__cause__ or error)  # torch.onnx first says what to do with its own error
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:_LONGEST]


class Conversions:
    """Converted networks in a folder, each with a checksum.

    A damaged conversion counts as absent. At most 16 are kept; the least recently used are removed.
    Without a folder, nothing is kept.
    """

    def __init__(self, folder: Path | None):
        self.folder = folder

    def read(self, key: str) -> dict[str, bytes] | None:
        """Read a conversion, whose key describes the network, the runtime and its version.

        None if there is no such conversion or it is damaged.
        """
        if self.folder is None:
            return None
        place = self._place(key)
        try:
            files = {path.name: path.read_bytes() for path in sorted(place.iterdir())}
        except OSError:
            return None
        if files.pop(_CHECKSUM, None) != _checksum(key, files):
            return None
        with contextlib.suppress(OSError):  # a folder that cannot be written
            os.utime(place)  # used now
        return files

    def write(self, key: str, files: dict[str, bytes]) -> None:
        """Keep a conversion, or warn if that fails."""
        if self.folder is None:
            return
        try:
            self._write(key, files)
        except CacheError as error:
            warnings.warn(
                f"The converted network cannot be written and will be converted again next time: "
                f"{error}. Make room, or give a folder that can be written as memory=.",
                stacklevel=2,
            )

    def _write(self, key: str, files: dict[str, bytes]) -> None:
        with new_folder(self._place(key)) as folder, writing():
            for name, content in [*files.items(), (_CHECKSUM, _checksum(key, files))]:
                (folder / name).write_bytes(content)
        self._remove_oldest()

    def _remove_oldest(self) -> None:
        assert self.folder is not None
        with contextlib.suppress(OSError):  # another process may remove them, too
            places = [path for path in self.folder.iterdir() if not path.name.startswith(".")]
            for place in sorted(places, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
                shutil.rmtree(place)

    def _place(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / xxhash.xxh3_128_hexdigest(key.encode())


def _checksum(key: str, files: dict[str, bytes]) -> bytes:
    parts = [part for name in sorted(files) for part in (name.encode(), files[name])]
    return checksum(key.encode(), *parts)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what this thread writes to the standard error stream and logs through torch.

    Other threads are not affected, and may be quiet meanwhile. With the environment variable
    ``TORCH_LOGS``, which asks torch to log, nothing is dropped.
    """
    if "TORCH_LOGS" in os.environ or sys.stderr is None:
        yield
        return
    own = threading.get_ident()
    with _REPLACING:
        stream = sys.stderr = _OfOtherThreads(sys.stderr, own)
    handlers, of_others = _handlers_of_torch(), _LogOfOtherThreads(own)
    for handler in handlers:
        handler.addFilter(of_others)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(of_others)
        stream.thread = None
        with _REPLACING:  # the last of several threads that are quiet restores the stream
            while isinstance(sys.stderr, _OfOtherThreads) and sys.stderr.thread is None:
                sys.stderr = sys.stderr.stream


def _handlers_of_torch() -> list[logging.Handler]:
    """Return the handlers of all loggers of torch, some of which have their own."""
    loggers = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    of_torch = [logger for logger in loggers if logger.name.split(".")[0] == "torch"]
    return [handler for logger in of_torch for handler in logger.handlers]


class _OfOtherThreads:
    """A stream without what one thread writes; ``thread`` is None when that is over."""

    def __init__(self, stream: Any, thread: int):
        self.stream = stream
        self.thread: int | None = thread

    def write(self, text: str) -> int:
        is_own = threading.get_ident() == self.thread
        return len(text) if is_own else self.stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _LogOfOtherThreads(logging.Filter):
    """A filter of the records of one thread."""

    def __init__(self, thread: int):
        super().__init__()
        self._thread = thread

    def filter(self, record: logging.LogRecord) -> bool:
        return record.thread != self._thread
