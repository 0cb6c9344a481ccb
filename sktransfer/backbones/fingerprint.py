"""A digest of all that decides what a network computes: tensors, structure and source code."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import pickle
import sys
import types
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import fx, nn

__all__ = ["describe", "fingerprint", "is_library"]

# Packages whose functions and classes are described by name alone: a version of a package decides
# their code, while code of the user's may change between two runs.
_LIBRARIES = frozenset(
    ["builtins", "PIL", "numpy", "scipy", "sklearn", "sktransfer", "timm", "tokenizers"]
) | {"torch", "torchvision", "transformers"}

_PLAIN: tuple[type[Any], ...] = (
    bool,
    int,
    float,
    complex,
    str,
    bytes,
    enum.Enum,
    range,
    slice,
    PurePath,
    np.generic,
)
_PLAIN += (type(None), type(Ellipsis), torch.dtype, torch.device, torch.Size, np.dtype)

# Attributes that every module has; hooks are not among these, since they decide an output.
_INTERNAL = set(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
_LONG = 200  # characters; a longer description of a part is replaced by its hash


def fingerprint(module: nn.Module, stages: Mapping[str, nn.Module] | None = None) -> str:
    """Hash everything that decides a network's output.

    Parameters
    ----------
    module : torch.nn.Module
    stages : mapping of str to torch.nn.Module, default=None
        Where the network is given as stages, how it is divided.

    Returns
    -------
    str
        SHA-256 over its tensors (buffers that are not saved included), its settings, its hooks
        and, for classes of the user's, their code. An object without a description, such as a
        lock, counts by its type.
    """
    return _Describer(lenient=True).fingerprint(module, stages)


def describe(item: Any) -> str:
    """Describe a callable or value by its content, for a cache key.

    Parameters
    ----------
    item : object
        The description of a function holds its code, closure, defaults and the globals that it
        uses; that of an object its class and attributes; that of an array or tensor a digest of
        all its numbers.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If an item has no description that differs from that of another one of its type.
    """
    return _Describer(lenient=False).render(item)


class _Describer:
    """Describe an item and all objects that it refers to, each object once.

    Parameters
    ----------
    lenient : bool
        Whether an object without a description counts by its type; otherwise it is an error.
    """

    def __init__(self, lenient: bool):
        self.lenient = lenient
        self.open: set[int] = set()  # ids of items whose description has begun; for cycles
        # Descriptions by id. The object is kept too, so that its id is not used again.
        self.done: dict[object, tuple[object, str]] = {}

    def render(self, item) -> str:
        if isinstance(item, _PLAIN):
            return f"{type(item).__name__} {item!r}"
        if isinstance(getattr(item, "content_digest", None), str):  # a table of word vectors
            return f"{type(item).__qualname__} {item.content_digest}"
        if isinstance(item, torch.Tensor):
            return _tensor(item)
        if isinstance(item, np.ndarray) and item.dtype != object:
            return f"array{item.dtype.str}{item.shape}{_sha(np.ascontiguousarray(item))}"
        if isinstance(item, types.ModuleType):
            return f"module {item.__name__}"
        if id(item) in self.open:
            return "itself"
        if id(item) not in self.done:
            self.open.add(id(item))
            try:
                text = self._structure(item)
            finally:
                self.open.discard(id(item))
            # Many items may refer to it; a hash keeps their descriptions short.
            text = text if len(text) <= _LONG else hashlib.sha256(text.encode()).hexdigest()
            self.done[id(item)] = item, text
        return self.done[id(item)][1]

    def _structure(self, item) -> str:
        """Describe an item that has parts."""
        name = type(item).__name__
        if isinstance(item, nn.Module):
            return f"{type(item).__qualname__} {self.fingerprint(item, None)}"
        if isinstance(item, np.ndarray):
            return f"array of objects{item.shape}{self.render(item.ravel().tolist())}"
        if isinstance(item, Mapping):  # the order of the items counts
            return f"{name} {[(self.render(k), self.render(v)) for k, v in item.items()]}"
        if isinstance(item, set | frozenset):
            return f"{name} {sorted(self.render(i) for i in item)}"
        if isinstance(item, list | tuple):
            return f"{name} {[self.render(i) for i in item]}"
        return self._code(item) or self._object(item)

    def fingerprint(self, module: nn.Module, stages) -> str:
        digest = hashlib.sha256(repr(None if stages is None else list(stages)).encode())
        # A module or tensor that is shared by two places differs from two equal ones: a later
        # place is described by the name of the first.
        first: dict[int, str] = {}
        for name, child in module.named_modules(remove_duplicate=False):
            if first.setdefault(id(child), name) != name:
                digest.update(f"{name}={first[id(child)]}".encode())
                continue
            digest.update(f"{name}:{self._class(type(child))}".encode())
            for key, value in sorted(_settings(child).items()):
                digest.update(f"{key}={self._setting(value)}".encode())
        tensors: list[tuple[str, torch.Tensor]] = [*module.named_parameters(remove_duplicate=False)]
        tensors += module.named_buffers(remove_duplicate=False)
        place: dict[int, str] = {}
        for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
            shared = place.setdefault(id(tensor), name) != name
            content = place[id(tensor)] if shared else _tensor(tensor)
            digest.update(f"{name}{content}".encode())
        return digest.hexdigest()

    def _setting(self, value) -> str:
        """Describe a setting of a module, by its type where there is no description."""
        try:
            return self.render(value)
        except ValueError:
            return type(value).__qualname__

    def _code(self, item) -> str:
        """Describe a callable or a class, or return nothing."""
        if isinstance(item, types.CodeType):
            consts = [self.render(const) for const in item.co_consts]
            return repr((item.co_code.hex(), item.co_names, item.co_freevars, consts))
        if isinstance(item, functools.partial):
            return f"partial {self.render((item.func, item.args, item.keywords))}"
        if isinstance(item, types.MethodType):
            return f"{self.render(item.__func__)} of {self.render(item.__self__)}"
        if isinstance(item, types.FunctionType):
            return self._function(item)
        if isinstance(item, property):
            return f"property {self.render((item.fget, item.fset))}"
        if isinstance(item, functools.cached_property):
            return f"property {self.render(item.func)}"
        if inspect.isclass(item):
            return self._class(item)
        return _name(item) if inspect.isroutine(item) else ""

    def _function(self, function: types.FunctionType) -> str:
        if is_library(function):
            return _name(function)
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
        names = sorted(_names(function.__code__))
        found = function.__globals__
        used = {name: _used_of(found[name], names) for name in names if name in found}
        around = (function.__defaults__, function.__kwdefaults__, cells, used)
        return f"{self.render(function.__code__)}{self.render(around)}"

    def _class(self, cls: type) -> str:
        """Name a class and describe the user's classes that it inherits from."""
        parts = [_class_name(cls)]
        for base in cls.__mro__:
            if not is_library(base):
                parts.append(self._members(base))
        return " ".join(parts)

    def _members(self, cls: type) -> str:
        """Describe the code and the constants of one class of the user's."""
        if ("members", id(cls)) not in self.done:
            self.done["members", id(cls)] = cls, "itself"
            members = {k: v for k, v in vars(cls).items() if _is_member(k, v)}
            members = {k: getattr(v, "__func__", v) for k, v in members.items()}
            described = {
                k: self._setting(v) if _is_value(v) else self.render(v) for k, v in members.items()
            }
            text = hashlib.sha256(repr(described).encode()).hexdigest()
            self.done["members", id(cls)] = cls, text
        return self.done["members", id(cls)][1]

    def _object(self, item) -> str:
        """Describe an object by its class and its attributes, or by its pickle."""
        try:
            return self._state(item)
        except ValueError:
            if is_library(type(item)):
                try:
                    numbers = np.frombuffer(pickle.dumps(item), np.uint8)
                    return f"{_class_name(type(item))} {_sha(numbers)}"
                except Exception:  # a method of the object, which may raise anything
                    pass
            if not self.lenient:
                raise
        return _class_name(type(item))

    def _state(self, item) -> str:
        state = getattr(item, "__dict__", None)
        if state is not None:
            return f"{self._class(type(item))} {self.render(dict(sorted(state.items())))}"
        text = repr(item)
        if " at 0x" in text:
            raise ValueError(
                f"{text} cannot be part of a cache key, since it has no attributes that describe "
                "it. Use a function, or an object whose attributes hold its settings."
            )
        return f"{_class_name(type(item))} {text}"


def _settings(module: nn.Module) -> dict:
    if isinstance(module, torch.jit.ScriptModule):
        return {"code": getattr(module, "code", "")}
    if isinstance(module, fx.GraphModule):
        return {"code": module.code}
    return {key: value for key, value in vars(module).items() if key not in _INTERNAL}


def _used_of(value, names: list[str]):
    """Return a global that a function uses; for a module of the user's, the names used of it."""
    if not isinstance(value, types.ModuleType) or _is_installed(value.__name__):
        return value
    return {name: vars(value)[name] for name in names if name in vars(value)}


def _is_member(name: str, value) -> bool:
    """Tell whether an attribute of a class was written by its author."""
    inner = name.startswith("__") and name.endswith("__")
    return inspect.isroutine(value) or not (inner or name.startswith("_abc_"))


def _is_value(member) -> bool:
    return not (inspect.isroutine(member) or isinstance(member, property | type))


def _is_filled(cell) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> set[str]:
    """Return the global names that a function and the functions inside it may use."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def is_library(item: Any) -> bool:
    """Tell whether a function or a class belongs to an installed package, and not to the user.

    Parameters
    ----------
    item : callable

    Returns
    -------
    bool
    """
    return _is_installed(str(getattr(item, "__module__", None)))


@functools.lru_cache(maxsize=1024)
def _is_installed(module: str) -> bool:
    """Tell whether a module belongs to an installed package, by its name or its folder."""
    top = module.partition(".")[0]
    if top == "__main__":
        return False
    if top in _LIBRARIES or top in sys.stdlib_module_names:
        return True
    file = getattr(sys.modules.get(top), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(PurePath(file).parts))


def _name(item) -> str:
    module = getattr(item, "__module__", "")
    return f"{module}.{getattr(item, '__qualname__', type(item).__qualname__)}"


def _class_name(cls: type) -> str:
    """Return the name of a class; for classes of this package, without the file that holds it.

    Classes move between files, and fingerprints of fitted models must not change with them.
    """
    package = cls.__module__.partition(".")[0]
    return f"{package}.{cls.__qualname__}" if package == "sktransfer" else _name(cls)


def _tensor(tensor: torch.Tensor) -> str:
    tensor = tensor.detach().cpu().contiguous()
    numbers = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0)
    return f"tensor{tensor.dtype}{tuple(tensor.shape)}{_sha(numbers)}"


def _sha(numbers: np.ndarray) -> str:
    return hashlib.sha256(numbers.data).hexdigest()
