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
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xxhash

from ..backbones import Backbone
from ..backbones.behavior import sketch
from ..data import checksum
from ..engines import distance, resolve_device
from .output import Output, compute_exactly, compute_fixed, open_or_none, store_key
from .store import FeatureStore

# Relative L2 distances up to which two computations of a row are the same. The first is for one
# kind of device in float32; rounding moves features by 1e-6.
_SAME = 1e-4
_SAME_ACROSS_DEVICES = 1e-2  # GPUs multiply in TensorFloat-32, which moves features by 1e-3
_SAME_IN_BFLOAT16 = 0.2  # of the rows of bfloat16 to those of float32
_STATES_KEPT = 4096


_STORES: ContextVar[bool] = ContextVar("stores", default=True)


@contextlib.contextmanager
def nothing_stored() -> Iterator[None]:
    """Keep no features in a block, as those of samples that were made up."""
    token = _STORES.set(False)
    try:
        yield
    finally:
        _STORES.reset(token)


class CheckedStore:
    """The rows of one backbone in a store, those of today's code only.

    ``outputs``, by any name, are what one pass through the network computes.
    """

    backbone: Backbone
    outputs: Mapping[Any, Output]
    store: FeatureStore
    keys: dict[Any, str]
    precision: str
    device_name: str

    def __init__(
        self,
        store: FeatureStore,
        outputs: Mapping[Any, Output],
        *,
        engine: str = "auto",
        precision: str = "float32",
        device: str = "auto",
    ):
        self.store, self.outputs = store, outputs
        self.backbone = next(iter(outputs.values())).backbone
        how = {"engine": engine, "precision": precision}
        self.keys = {name: store_key(output, **how) for name, output in outputs.items()}
        self.precision, self.device_name = precision, device
        self._like: Any = None  # a sample, whose shape a fixed one may need
        self._folder = store.generations  # None for rows of this process
        self._states: dict[Any, _State] = {}

    @functools.cached_property
    def device(self) -> torch.device:
        """The device on which rows are computed."""
        return resolve_device(self.device_name)

    # -- look up -------------------------------------------------------------------------------

    def get(
        self, samples: Sequence[Any], digests: Sequence[bytes], names: Iterable[Hashable]
    ) -> dict[Any, list[np.ndarray | None]]:
        """Look up rows, and compare those of a generation that this process has not compared.

        Samples are as the method ``read`` of their modality returns them. Returns for each output a
        row or None for each sample.
        """
        self._like = samples[0] if len(samples) else self._like
        if self._folder is None:
            return {name: self.store.get(self.keys[name], digests) for name in names}
        found: dict[Any, list[np.ndarray | None]] = {}
        names = list(names)
        while names:  # until each generation with rows of these samples has been compared
            rows_of: dict[Any, list[tuple[_Generation, list[int]]]] = {}
            for name in names:
                found[name], rows_of[name] = self._find(name, digests)
            names = self._compare(samples, found, rows_of) if any(rows_of.values()) else []
        return found

    def _find(self, name: Hashable, digests: Sequence[bytes]) -> tuple[list, list]:
        """Find rows in the generations; also return those not compared and where they have rows."""
        rows: list[np.ndarray | None] = [None] * len(digests)
        not_compared = []
        missing = list(range(len(digests)))
        for generation in reversed(self._state(name).usable()):
            key = self.keys[name] + generation.suffix
            values = self.store.get(key, [digests[i] for i in missing])
            places = [i for i, row in zip(missing, values, strict=True) if row is not None]
            if places and generation.is_same is None:
                not_compared.append((generation, places))
            if len(places) == len(digests):
                return values, not_compared
            for i, row in zip(missing, values, strict=True):
                rows[i] = row
            missing = [i for i in missing if rows[i] is None]
            if not missing:
                break
        return rows, not_compared

    def _compare(self, samples, found: dict, rows_of: dict) -> list[Hashable]:
        """Compare generations with today's code; return the names of outputs that have changed.

        The first and the last of the rows of each are computed again, those of samples that cannot
        be opened any more excepted.
        """
        opened: Any = functools.cache(lambda i: open_or_none(samples[i], self.backbone))
        comparisons = []
        for name, generations in rows_of.items():
            for generation, places in generations:
                first = next((i for i in places if opened(i) is not None), None)
                last = next((i for i in reversed(places) if opened(i) is not None), None)
                ends = {i for i in (first, last) if i is not None}
                # Rows with which nothing can be compared are not used.
                generation.is_same = bool(ends)
                comparisons += [(name, generation, i) for i in ends]
        names = {name for name, _, _ in comparisons}
        rows = self._compute({i: opened(i) for _, _, i in comparisons}, names)
        for name, generation, i in comparisons:
            if _distance(found[name][i], rows[i][name]) > self._bound(generation):
                generation.is_same = False
        changed = [n for n, g in rows_of.items() if not all(one.is_same for one, _ in g)]
        # The same code may give other rows in each run.
        at = {name: i for name, _, i in comparisons if name in changed}
        again = {i: open_or_none(samples[i], self.backbone) for i in {*at.values()}}
        repeated = self._compute({i: x for i, x in again.items() if x is not None}, at)
        for name, i in at.items():
            if i in repeated:
                self._note_repeats(name, _distance(rows[i][name], repeated[i][name]))
        return changed

    def _bound(self, generation: _Generation) -> float:
        """Return the distance up to which rows of a generation are those of today."""
        if self.precision != "float32":
            return _SAME_IN_BFLOAT16
        return _SAME if generation.kind == self.device.type else _SAME_ACROSS_DEVICES

    # -- keep ----------------------------------------------------------------------------------

    def put(
        self,
        name: Hashable,
        digests: Sequence[bytes],
        rows: np.ndarray,
        *,
        aside: bool = False,
        repeats: bool = False,
    ) -> None:
        """Keep rows that were computed, or warn, once, where that fails.

        ``aside`` are rows that were computed in addition, and may not be used. ``repeats`` tells
        that the network has been run twice on a sample, with equal results.
        """
        if not _STORES.get():
            return
        key = self.keys[name]
        if self._folder is not None:
            state = self._state(name)
            if state.repeats and state.to_write(self.device.type) is None:
                self._begin_generations(repeats)
            generation = state.to_write(self.device.type) if state.repeats else None
            if generation is None:
                return
            key += generation.suffix
        self.store.try_put(key, digests, rows, aside=aside)

    def _begin_generations(self, repeats: bool) -> None:
        """Find a generation to write to for each output that has none, or begin a new one.

        A generation of which nothing was found is told by its row of a fixed sample.
        """
        states = {name: self._state(name) for name in self.outputs}
        states = {n: s for n, s in states.items() if s.to_write(self.device.type) is None}
        outputs = {name: self.outputs[name] for name in states}
        sample, rows, again = compute_fixed(outputs, self.device, self._like, repeats)
        for name, state in states.items():
            if name in again:
                self._note_repeats(name, _distance(rows[name], again[name]))
            if not state.repeats:
                continue
            if any(one.is_same is False for one in state.generations):
                self._warn_once(
                    f"Features of backbone {self.backbone.name!r} in the store "
                    f"{str(self.store.location)!r} are not those that it computes now: code that "
                    "it uses, such as that of its preprocessing or pooling, has changed. They are "
                    "computed again, and kept beside the earlier ones."
                )
            reduced = sketch(rows[name]) if name in rows else None
            state.begin(self.device.type, sample, reduced)

    def _compute(self, opened: dict[int, Any], names: Iterable[Hashable]) -> dict[int, dict]:
        outputs = {name: self.outputs[name] for name in names}
        return compute_exactly(opened, outputs, self.device)

    # -- what this process knows ---------------------------------------------------------------

    def _state(self, name: Hashable) -> _State:
        if name not in self._states:  # a search looks up a hundred times
            code = (self.outputs[name].pooling, self.backbone.preprocess, self.backbone.module)
            file = xxhash.xxh3_128_hexdigest(self.keys[name].encode())
            path = f"{self._folder}{os.sep}{file}"
            key = (path, self.device.type, *map(_code_of, code))
            while len(_STATES) > _STATES_KEPT:
                _STATES.pop(next(iter(_STATES)), None)
            self._states[name] = _STATES.setdefault(key, _State(path))
        return self._states[name]

    def _note_repeats(self, name: Hashable, measured: float) -> None:
        """Note whether two runs of one code give the same; else rows are not stored."""
        if measured > _SAME:
            self._state(name).repeats = False
            self._warn_once(
                f"Features of backbone {self.backbone.name!r} differ between two runs on one "
                "sample, as those of a preprocessing or a network that draws at random do. They "
                "are not stored."
            )

    def _warn_once(self, message: str) -> None:
        key = str(self._folder), message
        if key not in _WARNED:
            _WARNED.add(key)
            warnings.warn(message, stacklevel=2)


# -- generations -----------------------------------------------------------------------------------


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
    """What a process knows of one key of a store; ``path`` begins the names of its files."""

    def __init__(self, path: str):
        self.path = path
        self.repeats = True  # whether two runs give the same
        self._reset()

    def _reset(self) -> None:
        # Rows without a generation are those of extract_to, or were put by the user.
        self.generations = [_Generation("", None)]
        self.n_files = 0

    def _file(self, number: int) -> str:
        return f"{self.path}.{number}"

    def usable(self) -> list[_Generation]:
        """Return the generations that may hold rows of today's code, the newest last."""
        if self.n_files and not os.path.exists(self._file(0)):  # the store was cleared
            self._reset()
        while (begun_by_others := _read_generation(self._file(self.n_files))) is not None:
            self.n_files += 1
            self.generations.append(begun_by_others)
        return [one for one in self.generations if self.repeats and one.is_same is not False]

    def to_write(self, kind: str) -> _Generation | None:
        """Return the newest generation to which rows of a kind of device may be written."""
        ready = [one for one in self.usable() if one.kind == kind and (one.is_same or one.is_ours)]
        return ready[-1] if ready else None

    def begin(self, kind: str, sample: str, sketch: np.ndarray | None) -> None:
        """Find the newest generation with the same row of a fixed sample, or begin a new one."""
        new = _Generation(f"|{secrets.token_hex(8)}", kind, sample, sketch, True, True)
        while True:
            for one in reversed(self.usable()):
                if one.sketch is None or sketch is None or (one.kind, one.sample) != (kind, sample):
                    continue
                if _distance(one.sketch, sketch) <= _SAME:
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


def _write_generation(path: str, generation: _Generation) -> bool:
    """Write a generation to a file; False if there is one."""
    about = {"suffix": generation.suffix, "kind": generation.kind, "sample": generation.sample}
    numbers = b"" if generation.sketch is None else generation.sketch.tobytes()
    content = json.dumps(about).encode() + b"\n" + numbers
    folder = Path(path).parent
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".new-{secrets.token_hex(8)}"
    try:
        new.write_bytes(checksum(content) + content)
        os.link(new, path)
    except FileExistsError:
        return False
    finally:
        new.unlink(missing_ok=True)
    return True


def _read_generation(path: str) -> _Generation | None:
    """Read a file; None if there is none. Of a damaged one, the rows are not found again."""
    if not os.path.exists(path):  # faster than an error at each look-up
        return None
    try:
        content = Path(path).read_bytes()
    except OSError:
        return None
    if checksum(content[8:]) != content[:8]:
        return _Generation("", None, is_same=False)
    about, numbers = content[8:].split(b"\n", 1)
    sketch = np.frombuffer(numbers, np.float32) if numbers else None
    return _Generation(**json.loads(about), sketch=sketch)


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
