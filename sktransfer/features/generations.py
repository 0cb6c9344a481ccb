"""Return stored features only if the code of today computes the same.

A key of the store contains what can be described of a network, its preprocessing and its pooling.
Code cannot be described completely, so features that were found are compared with what is computed
now. Those that differ stay where they are, and others are kept beside them: a *generation* of the
key is a namespace for the rows that one state of the code has computed on one kind of device.

    a process looks up samples      generations of each key, the newest first
    it finds rows in one            the first and the last of these samples are computed again
    they are the same               the generation is used, and written to
    they are not                    an older generation, or none
    nothing was found               a fixed sample shows which generation may be written to
    there is none                   a new generation

Each process compares a generation once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import secrets
import types
import warnings
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import xxhash

from ..backbones import Backbone
from ..backbones.behavior import sketch
from ..data import checksum
from ..engines import distance, resolve_device
from .store import FeatureStore

__all__ = ["CheckedStore", "StoredOutput"]

# Relative L2 distances up to which two computations of a row are the same. The first is for one
# kind of device in float32; rounding moves features by 1e-6.
_SAME = 1e-4
_SAME_IN_FLOAT16 = 1e-3
_SAME_ACROSS_DEVICES = 1e-2  # GPUs multiply in TensorFloat-32, which moves features by 1e-3
_SAME_IN_BFLOAT16 = 0.2  # of the rows of bfloat16 to those of float32
_STATES_KEPT = 4096


class StoredOutput(NamedTuple):
    """What the store keeps under a key.

    Attributes
    ----------
    key : str
        All that can be described of what decides a row, except the sample.
    layer : str
    pooling : str, callable or tuple
    precision : {"float32", "bfloat16"}, default="float32"
    dtype : {"float32", "float16"}, default="float32"
    """

    key: str
    layer: str
    pooling: Any
    precision: str = "float32"
    dtype: str = "float32"


class CheckedStore:
    """The rows of one backbone in a store, those of today's code only.

    Parameters
    ----------
    store : FeatureStore
    backbone : Backbone
    outputs : mapping of hashable to StoredOutput
        What one pass through the network computes, by any name.
    device : str, default="auto"
        As for :func:`sktransfer.engines.resolve_device`.
    """

    store: FeatureStore
    backbone: Backbone
    outputs: Mapping[Any, StoredOutput]

    def __init__(
        self,
        store: FeatureStore,
        backbone: Backbone,
        outputs: Mapping[Any, StoredOutput],
        device: str = "auto",
    ):
        self.store, self.backbone, self.outputs = store, backbone, outputs
        self.device_name = device
        self._like: Any = None  # a sample, whose shape a fixed one may need

    @functools.cached_property
    def device(self) -> torch.device:
        """The device on which rows are computed."""
        return resolve_device(self.device_name)

    def get(
        self, samples: Sequence[Any], digests: Sequence[bytes], names: Iterable[Hashable]
    ) -> dict[Any, list[np.ndarray | None]]:
        """Look up rows, and compare those of a generation that this process has not compared.

        Parameters
        ----------
        samples : sequence of n samples
            As the method ``read`` of their modality returns them.
        digests : sequence of n bytes
        names : iterable of hashable
            Of the outputs.

        Returns
        -------
        dict of hashable to list of n ndarray or None
        """
        self._like = samples[0] if len(samples) else self._like
        folder = self.store.generations
        if folder is None:  # rows of this process
            return {name: self.store.get(self.outputs[name].key, digests) for name in names}
        found: dict[Any, list[np.ndarray | None]] = {}
        names = list(names)
        while names:  # until each generation with rows of these samples has been compared
            origins = {name: self._find(self._state(name), name, digests, found) for name in names}
            names = self._compare(samples, found, origins)
        return found

    def _find(self, state: _State, name: Hashable, digests, found: dict) -> list[tuple]:
        """Find rows in the generations; return those not compared and where they have rows."""
        rows: list[np.ndarray | None] = [None] * len(digests)
        found[name] = rows
        origins = []
        for generation in reversed(state.usable()):
            missing = [i for i, row in enumerate(rows) if row is None]
            if not missing:
                break
            key = self.outputs[name].key + generation.suffix
            values = self.store.get(key, [digests[i] for i in missing])
            here = [i for i, row in zip(missing, values, strict=True) if row is not None]
            for i, row in zip(missing, values, strict=True):
                rows[i] = row
            if here and generation.is_same is None:
                origins.append((generation, here))
        return origins

    def _compare(self, samples, found: dict, origins: dict[Any, list[tuple]]) -> list[Hashable]:
        """Compare the generations in which rows were found; return the names to look up again."""
        opened = functools.cache(functools.partial(self._open, samples))
        ends: dict[int, list[tuple]] = {}  # by sample, the outputs and generations to compare
        for name, generations in origins.items():
            for generation, places in generations:
                both = (_first(places, opened), _first(places[::-1], opened))
                pair = {i for i in both if i is not None}
                generation.is_same = bool(pair)  # rows that nothing can be compared with do not
                for i in pair:
                    ends.setdefault(i, []).append((name, generation))
        names = [name for name, generations in origins.items() if generations]
        again = {i: tensor for i in sorted(ends) if (tensor := opened(i)) is not None}
        rows = self._compute(again, names)
        for i, pairs in ends.items():
            for name, generation in pairs:
                bound = self._bound(name, generation)
                if _distance(found[name][i], rows[i][name]) > bound:
                    generation.is_same = False
        changed = [n for n, g in origins.items() if not all(one.is_same for one, _ in g)]
        for name in changed:
            self._check_repeats(name, samples, rows, ends)
        return changed

    def _bound(self, name: Hashable, generation: _Generation) -> float:
        """Return the distance up to which rows of a generation are those of today."""
        output = self.outputs[name]
        if output.precision != "float32":
            return _SAME_IN_BFLOAT16
        if generation.kind != self.device.type:
            return _SAME_ACROSS_DEVICES
        return _SAME_IN_FLOAT16 if output.dtype == "float16" else _SAME

    def _check_repeats(self, name: Hashable, samples, rows: dict, ends: dict) -> None:
        """Note that an output differs between two runs of one code, so that it is not stored."""
        i = next((i for i, pairs in ends.items() if name in dict(pairs)), None)
        if i is not None and (opened := self._open(samples, i)) is not None:
            again = self._compute({i: opened}, [name])[i][name]
            self._note_repeats(name, _distance(rows[i][name], again) <= _SAME)

    def _note_repeats(self, name: Hashable, repeats: bool) -> None:
        if repeats:
            return
        self._state(name).repeats = False
        self._warn_once(
            f"Features of backbone {self.backbone.name!r} differ between two runs on one sample, "
            "as those of a preprocessing or a network that draws at random do. They are not stored."
        )

    def put(self, name: Hashable, digests: Sequence[bytes], rows: np.ndarray) -> None:
        """Keep rows that were computed, or warn, once, where that fails.

        Parameters
        ----------
        name : hashable
            Of the output.
        digests : sequence of n bytes
        rows : ndarray of n rows
        """
        key = self._key_to_write(name)
        if key is not None:
            self.store.try_put(key, digests, rows)

    def put_aside(self, name: Hashable, digests: Sequence[bytes], rows: np.ndarray) -> None:
        """Keep rows that were computed in addition, and may not be used, as :meth:`put`."""
        key = self._key_to_write(name)
        if key is not None:
            self.store.try_put_aside(key, digests, rows)

    # -- where this process may write ----------------------------------------------------------

    def _key_to_write(self, name: Hashable) -> str | None:
        """Return the key of the generation that is written to; None if nothing is stored."""
        if self.store.generations is None:
            return self.outputs[name].key
        state = self._state(name)
        if state.repeats and state.to_write(self.device.type) is None:
            self._begin_generations()
        if not state.repeats:
            return None
        generation = state.to_write(self.device.type)
        return None if generation is None else self.outputs[name].key + generation.suffix

    def _begin_generations(self) -> None:
        """Find a generation to write to for each output that has none, or begin a new one.

        A generation of which nothing was found is told by its row of a fixed sample.
        """
        states = {name: self._state(name) for name in self.outputs}
        states = {n: s for n, s in states.items() if s.to_write(self.device.type) is None}
        sample, rows = self._compute_fixed(states)
        for name, state in states.items():
            if not state.repeats:
                continue
            if any(one.is_same is False for one in state.generations):
                self._warn_once(
                    f"Features of backbone {self.backbone.name!r} in the store "
                    f"{str(self.store.location)!r} are not those that it computes now: code that "
                    "it uses, such as that of its preprocessing or pooling, has changed. They are "
                    "computed again, and kept beside the earlier ones."
                )
            reduced = None if rows is None else sketch(rows[name])
            in_float16 = self.outputs[name].dtype == "float16"
            bound = _SAME_IN_FLOAT16 if in_float16 else _SAME
            state.begin(self.device.type, sample, reduced, bound)

    def _compute_fixed(self, names: Iterable[Hashable]) -> tuple[str, dict[Any, np.ndarray] | None]:
        """Compute the rows of a sample that is the same in all processes, twice.

        Returns
        -------
        str
            Which sample it was.
        dict of hashable to ndarray, or None
            None if there is no such sample.
        """
        modality = self.backbone.modality
        for shape in (None, self._shape_of_samples()):
            sample = modality.example(shape)
            twice = [] if sample is None else [self._open([sample], 0) for _ in range(2)]
            opened = {i: tensor for i, tensor in enumerate(twice) if tensor is not None}
            if len(opened) < 2:
                continue
            with contextlib.suppress(Exception):  # the network does not take such samples
                first, second = self._compute(opened, names).values()
                for name in names:
                    self._note_repeats(name, _distance(first[name], second[name]) <= _SAME)
                return f"{modality.name} {shape}", first
        return "", None

    def _shape_of_samples(self) -> tuple[int, ...] | None:
        try:
            return tuple(self.backbone.modality.open(self._like).shape)
        except Exception:  # it cannot be opened, or has no shape
            return None

    # -- today's features ----------------------------------------------------------------------

    def _open(self, samples: Sequence[Any], i: int) -> torch.Tensor | None:
        """Open and preprocess a sample; None if that fails."""
        backbone = self.backbone
        try:
            if (many := getattr(backbone.preprocess, "many", None)) is not None:
                ((_, (tensor,)),) = many([samples[i]])
                return tensor
            opened = backbone.modality.open(samples[i])
            if backbone.preprocess is None:
                return torch.tensor(opened)
            return backbone.preprocess(opened)
        except Exception:  # the user's preprocessing may raise anything
            return None

    @torch.inference_mode()
    def _compute(
        self, opened: dict[int, torch.Tensor], names: Iterable[Hashable]
    ) -> dict[int, dict[Any, np.ndarray]]:
        """Compute rows by the stages as they are, in float32; samples of one shape together."""
        names = list(names)
        rows: dict[int, dict[Any, np.ndarray]] = {i: {} for i in opened}
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for i, tensor in opened.items():
            by_shape.setdefault(tuple(tensor.shape), []).append(i)
        for places in by_shape.values():
            batch = torch.stack([opened[i] for i in places]).to(self.device)
            batch = batch.float() if batch.is_floating_point() else batch
            if batch.ndim == 4:
                batch = batch.contiguous(memory_format=torch.channels_last)
            outputs = [(self.outputs[name].layer, self.outputs[name].pooling) for name in names]
            with torch.autocast(self.device.type, enabled=False):
                tables = self.backbone.run(batch, outputs)
            for name, table in zip(names, tables, strict=True):
                table = table.to("cpu", getattr(torch, self.outputs[name].dtype))
                for i, row in zip(places, table.numpy(), strict=True):
                    rows[i][name] = row
        return rows

    # -- what this process knows ---------------------------------------------------------------

    def _state(self, name: Hashable) -> _State:
        output, folder = self.outputs[name], self.store.generations
        assert folder is not None  # else nothing is asked of generations
        code = (output.pooling, self.backbone.preprocess, self.backbone.module)
        file = xxhash.xxh3_128_hexdigest(output.key.encode())
        key = (str(folder), file, self.device.type, *map(_code_of, code))
        while len(_STATES) > _STATES_KEPT:
            _STATES.pop(next(iter(_STATES)), None)
        return _STATES.setdefault(key, _State(folder / file))

    def _warn_once(self, message: str) -> None:
        key = str(self.store.generations), message
        if key not in _WARNED:
            _WARNED.add(key)
            warnings.warn(message, stacklevel=2)


@dataclasses.dataclass(eq=False)
class _Generation:
    """A namespace of rows.

    Parameters
    ----------
    suffix : str
        Of the key.
    kind : str or None
        The kind of device that has computed the rows; None if that is not known.
    sample : str, default=""
        Which fixed sample the sketch is of.
    sketch : ndarray of shape (256,), default=None
    is_same : bool, default=None
        Whether today's code computes the same; None until they have been compared.
    is_ours : bool, default=False
        Whether this process writes to it.
    """

    suffix: str
    kind: str | None
    sample: str = ""
    sketch: np.ndarray | None = None
    is_same: bool | None = None
    is_ours: bool = False


class _State:
    """What a process knows of one key of a store.

    Parameters
    ----------
    path : Path
        Begins the names of the files of its generations.
    """

    def __init__(self, path: Path):
        self.path = path
        self.repeats = True  # whether two runs give the same
        self._reset()

    def _reset(self) -> None:
        # Rows without a generation are those of extract_to, or were put by the user.
        self.generations = [_Generation("", None)]
        self.n_files = 0

    def refresh(self) -> None:
        """Read the files of generations that other processes have begun."""
        if self.n_files and not self._file(0).exists():  # the store was cleared
            self._reset()
        while (generation := _read_generation(self._file(self.n_files))) is not None:
            self.n_files += 1
            self.generations.append(generation)

    def _file(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")

    def usable(self) -> list[_Generation]:
        """Return the generations that may hold rows of today's code, the newest last."""
        self.refresh()
        return [one for one in self.generations if self.repeats and one.is_same is not False]

    def to_write(self, kind: str) -> _Generation | None:
        """Return the newest generation to which rows of a kind of device may be written."""
        ready = [one for one in self.usable() if one.kind == kind and (one.is_same or one.is_ours)]
        return ready[-1] if ready else None

    def begin(self, kind: str, sample: str, sketch: np.ndarray | None, bound: float) -> None:
        """Find the newest generation with the same row of a fixed sample, or begin a new one."""
        new = _Generation(f"|{secrets.token_hex(8)}", kind, sample, sketch, True, True)
        while True:
            for one in reversed(self.usable()):
                if one.sketch is None or sketch is None:
                    continue
                if (one.kind, one.sample) == (kind, sample):
                    if _distance(one.sketch, sketch) <= bound:
                        one.is_ours = True
                        return
            try:
                if not _write_generation(self._file(self.n_files), new):
                    continue  # another process was faster
                self.n_files += 1
            except OSError:  # nor can rows be written
                pass
            self.generations.append(new)
            return


_STATES: dict[tuple[Any, ...], _State] = {}
_WARNED: set[tuple[str, str]] = set()


def _write_generation(path: Path, generation: _Generation) -> bool:
    """Write a generation to a file; False if there is one."""
    about = {"suffix": generation.suffix, "kind": generation.kind, "sample": generation.sample}
    numbers = b"" if generation.sketch is None else generation.sketch.tobytes()
    content = json.dumps(about).encode() + b"\n" + numbers
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".new-{secrets.token_hex(8)}")
    try:
        new.write_bytes(checksum(content) + content)
        os.link(new, path)
    except FileExistsError:
        return False
    finally:
        new.unlink(missing_ok=True)
    return True


def _read_generation(path: Path) -> _Generation | None:
    """Read a file; None if there is none. Of a damaged one, the rows are not found again."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    if checksum(content[8:]) != content[:8]:
        return _Generation("", None, is_same=False)
    about, numbers = content[8:].split(b"\n", 1)
    sketch = np.frombuffer(numbers, np.float32) if numbers else None
    return _Generation(**json.loads(about), sketch=sketch)


def _first(places: Sequence[int], opened: Callable[[int], Any]) -> int | None:
    """Return the first sample that can be opened."""
    return next((i for i in places if opened(i) is not None), None)


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    if found.shape != expected.shape:
        return np.inf
    return distance({"row": torch.tensor(found)}, {"row": torch.tensor(expected)})


def _code_of(item: Any) -> Hashable | type:
    """Return the object that holds the code of a pooling, preprocessing or network.

    A cell of a notebook that runs again makes another one.
    """
    if isinstance(item, tuple):
        return tuple(map(_code_of, item))
    if isinstance(item, str | types.FunctionType | None):
        return item
    cls = type(item)
    return cls.__name__ if issubclass(cls, torch.fx.GraphModule) else cls
