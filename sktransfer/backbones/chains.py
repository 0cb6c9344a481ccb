"""Cut a network into stages by recording which module takes what another one returned.

Networks of transformers cannot be traced, and their code differs from family to family. But in
nearly all of them an image becomes a tensor that is handed from module to module: embeddings,
blocks, a norm, a classifier. One image is run, and the calls are recorded. The path of modules that
leads from the image to the output is the chain of stages; a module whose own modules form such a
path is divided again. What lies between two modules (the class token is selected, a mean is taken)
is looked for among some functions. All other arguments of a module, such as rotary positions, are
constants of the input size. Whether that is true is checked on other images.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .._compat.torch import version_of
from .stages import Cut, uncut

_SAME = 1e-5  # relative L2 distance of the stages' output to the network's
_AT_MOST = 64  # tensors that one module returns


def cut_by_recording(module: nn.Module, x: torch.Tensor) -> Cut:
    """Cut a network into the modules that an image passes one after another.

    ``x`` is one image, ``(1, channels, height, width)``; noise suffices. Stages share the tensors
    of the network, and hold for images of this size. A network in which no chain is found, or that
    computes something else for other images, is one stage.
    """
    with torch.inference_mode(False), torch.no_grad():
        x = x.clone()  # which counts the operations in place on it
        entry = _Value(x, version_of(x))
        root = _record(module, x)
        whole: set[type] = set()  # a class with an instance that is not divided never is
        while True:
            known = len(whole)
            (goal,) = root.returned.values()
            steps = _divide(root, entry, goal, whole, is_root=True)
            if len(whole) == known:
                break
        if not steps:
            return uncut(module, "no chain of modules leads from its input to its output")
        stages: dict[str, nn.Module] = {}
        for name, stage in steps:
            while name in stages:
                name += "_"
            stages[name] = stage
        generator = torch.Generator().manual_seed(1)
        for n in (3, 2):  # other images, other sizes of batches
            others = torch.randn(n, *x.shape[1:], generator=generator)
            if not _is_same(stages, module, others):
                return uncut(module, "its modules, run in order, do not give its output")
    return Cut(stages, ends={}, why_single="" if len(stages) > 1 else "it is one module")


def _is_same(stages: dict[str, nn.Module], module: nn.Module, x: torch.Tensor) -> bool:
    expected = module(x.clone())
    try:
        y = x
        for stage in stages.values():
            y = stage(y)
    except Exception:  # a constant of one image does not fit another
        return False
    return y.shape == expected.shape and bool((y - expected).norm() <= _SAME * expected.norm())


# -- recording -------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Value:
    """A tensor at one moment: operations in place change it, and it stays the same object."""

    tensor: torch.Tensor
    version: int

    def is_(self, other: _Value) -> bool:
        return self.tensor is other.tensor and self.version == other.version


@dataclasses.dataclass(eq=False)
class _Call:
    """A call of a module: what it was given and returned, and the calls inside it."""

    name: str
    module: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = dataclasses.field(default_factory=dict)
    entered: list[_Value] = dataclasses.field(default_factory=list)
    returned: dict[tuple, _Value] = dataclasses.field(default_factory=dict)
    inside: list[_Call] = dataclasses.field(default_factory=list)


def _record(module: nn.Module, x: torch.Tensor) -> _Call:
    """Run a network once and return the calls of all its modules, as a tree."""
    names = {inner: name.partition(".")[2] for name, inner in module.named_modules()}
    root = _Call("", module)
    stack, handles = [root], []

    def begin(inner, args, kwargs):
        values = [_Value(t, version_of(t)) for _, t in _tensors((args, kwargs))]
        call = _Call(names[inner], inner, args, kwargs, values)
        stack[-1].inside.append(call)
        stack.append(call)

    def end(inner, args, kwargs, output):
        stack.pop().returned = _values(output)

    try:
        for inner in list(names)[1:]:
            handles.append(inner.register_forward_pre_hook(begin, with_kwargs=True, prepend=True))
            handles.append(inner.register_forward_hook(end, with_kwargs=True))
        root.returned = _values(module(x))
    finally:
        for handle in handles:
            handle.remove()
    return root


def _values(output: Any) -> dict[tuple, _Value]:
    return {path: _Value(tensor, version_of(tensor)) for path, tensor in _tensors(output)}


def _tensors(value: Any, path: tuple = ()) -> Iterator[tuple[tuple, torch.Tensor]]:
    """Yield the tensors of an output or an argument, each with the way to it."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):  # the outputs of transformers are dictionaries, too
        for key, item in value.items():
            yield from _tensors(item, (*path, key))
    elif isinstance(value, tuple | list):
        for i, item in enumerate(value[:_AT_MOST]):
            yield from _tensors(item, (*path, i))


def _at(value: Any, path: tuple) -> Any:
    for key in path:
        value = value[key]
    return value


# -- the chain -------------------------------------------------------------------------------------


@dataclasses.dataclass
class _Step:
    """A module of a chain: what enters it, and which of the tensors that it returns goes on."""

    call: _Call
    entry: _Value
    exit: tuple


def _divide(
    call: _Call, entry: _Value, goal: _Value, whole: set[type], is_root: bool = False
) -> list[tuple[str, nn.Module]] | None:
    """Return the stages of a module, by name, or None if its modules are no chain."""
    if not call.inside or (type(call.module) in whole and not is_root):
        return None
    chain = _chain(call.inside, 0, entry, goal, set())
    if chain is None:
        if not is_root and type(call.module) is not nn.Sequential:
            whole.add(type(call.module))
        return None
    found: list[tuple[str, nn.Module]] = []
    for step in chain:
        if isinstance(step, str):
            found.append((step, _Between(step)))
            continue
        inner = _divide(step.call, step.entry, step.call.returned[step.exit], whole)
        found += inner or [(step.call.name or "network", _Stage(step))]
    return found


def _chain(
    calls: Sequence[_Call], at: int, value: _Value, goal: _Value, failed: set
) -> list[Any] | None:
    """Find modules, from a position on, that lead from one value to another.

    Functions between modules are tried where no module takes the value as it is.
    """
    key = at, id(value.tensor), value.version
    if key in failed:
        return None
    found = _through(calls, at, value, goal, failed)
    if found is not None:
        return found
    if value.is_(goal):
        return []
    for name, function in _BETWEEN.items():
        made = _made(function, value.tensor)
        if made is None:
            continue
        if _is_equal(made, goal.tensor):
            return [name]
        for i in range(at, len(calls)):
            for entered in calls[i].entered:
                if _is_equal(made, entered.tensor):
                    rest = _through(calls, i, entered, goal, failed)
                    if rest is not None:
                        return [name, *rest]
    failed.add(key)
    return None


def _through(
    calls: Sequence[_Call], at: int, value: _Value, goal: _Value, failed: set
) -> list[Any] | None:
    """Find modules that lead from one value to another, the first of which takes it as it is."""
    for i in range(at, len(calls)):
        if not any(entered.is_(value) for entered in calls[i].entered):
            continue
        for path, returned in calls[i].returned.items():
            rest = _chain(calls, i + 1, returned, goal, failed)
            if rest is not None:
                return [_Step(calls[i], value, path), *rest]
    return None


def _made(function: Callable, value: torch.Tensor) -> torch.Tensor | None:
    try:
        return function(value)
    except Exception:  # it is for another number of axes
        return None


def _is_equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.allclose(a, b, 1e-5, 1e-6)


# Functions between two modules, tried in this order. A class token is the first of the tokens;
# registers, up to eight, may follow it.
_BETWEEN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda x: _tokens(x).mean(1),
    "class_token": lambda x: _tokens(x)[:, 0],
    "mean_of_positions": lambda x: _image(x).mean((2, 3)),
    "flatten": lambda x: x.flatten(1),
    "tokens": lambda x: _image(x).flatten(2).transpose(1, 2),
    "channels_first": lambda x: _image(x).permute(0, 3, 1, 2),
    "channels_last": lambda x: _image(x).permute(0, 2, 3, 1),
    "class_token_and_mean": lambda x: torch.cat([_tokens(x)[:, 0], x[:, 1:].mean(1)], 1),
    "mean_before_tokens": lambda x: torch.cat(
        [_image(x).mean((2, 3))[:, None], x.flatten(2).transpose(1, 2)], 1
    ),
}


def _mean_after(x: torch.Tensor, n: int) -> torch.Tensor:
    return _tokens(x)[:, n:].mean(1)


for _n in range(1, 9):
    _BETWEEN[f"mean_after_{_n}"] = functools.partial(_mean_after, n=_n)


def _tokens(x: torch.Tensor) -> torch.Tensor:
    if x.ndim != 3:
        raise ValueError("no tokens")
    return x


def _image(x: torch.Tensor) -> torch.Tensor:
    if x.ndim != 4:
        raise ValueError("no image")
    return x


class _Between(nn.Module):
    """A function between two modules, by name."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return _BETWEEN[self.name](x)


# -- stages ----------------------------------------------------------------------------------------


class _Hole:
    """A place in the arguments of a module: for the value that enters, or for a constant."""

    def __init__(self, buffer: str | None):
        self.buffer = buffer


class _Stage(nn.Module):
    """A module of a chain: takes one tensor and returns one.

    Other tensors among its arguments are constants, which are moved with the module and are no part
    of its state.
    """

    def __init__(self, step: _Step):
        super().__init__()
        self.module = step.call.module
        self.exit = step.exit
        self.args = self._with_holes(step.call.args, step.entry.tensor)
        self.kwargs = self._with_holes(step.call.kwargs, step.entry.tensor)

    def _with_holes(self, value: Any, entry: torch.Tensor) -> Any:
        if value is entry:
            return _Hole(None)
        if isinstance(value, torch.Tensor):
            name = f"constant_{len(list(self.buffers(recurse=False)))}"
            self.register_buffer(name, value.clone(), persistent=False)
            return _Hole(name)
        if isinstance(value, dict):
            return {key: self._with_holes(item, entry) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return tuple(self._with_holes(item, entry) for item in value)
        return value

    def _filled(self, value: Any, x: torch.Tensor) -> Any:
        if isinstance(value, _Hole):
            return x if value.buffer is None else getattr(self, value.buffer)
        if isinstance(value, dict):
            return {key: self._filled(item, x) for key, item in value.items()}
        if isinstance(value, tuple):
            return tuple(self._filled(item, x) for item in value)
        return value

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output = self.module(*self._filled(self.args, x), **self._filled(self.kwargs, x))
        return _at(output, self.exit)
