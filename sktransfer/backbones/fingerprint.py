"""A digest of what decides what a network computes: tensors, structure, settings and code.

Code cannot be described completely: a helper may be reached by its name in a text, or read from a
file. ``features/generations.py`` therefore compares stored features with those of today. What is
described here are all *values*, since two networks or poolings of one process may differ in them
alone, and the code of the user's own functions and classes, as far as it is referred to directly.
"""

from __future__ import annotations

import copyreg
import enum
import functools
import hashlib
import inspect
import io
import pickletools
import re
import sys
import types
import zipfile
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import fx, nn

# Packages whose functions and classes are described by name alone: a version of a package decides
# their code, while code of the user's may change between two runs.
_LIBRARIES = frozenset(
    ["builtins", "PIL", "numpy", "scipy", "sklearn", "sktransfer", "timm", "tokenizers"]
) | {"torch", "torchvision", "transformers"}

_PLAIN: tuple[type[Any], ...] = (bool, int, float, complex, str, bytes, enum.Enum, range, slice)
_PLAIN += (PurePath, np.generic, np.dtype, type(None), type(Ellipsis))
_PLAIN += (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format)

# Attributes that every module has; hooks are not among these, since they decide an output.
_INTERNAL = set(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}
_LONG = 200  # characters; a longer description of a part is replaced by its hash


def fingerprint(module: nn.Module, stages: Mapping[str, nn.Module] | None = None) -> str:
    """Hash what decides a network's output, and how it is divided if it is given as stages.

    That is by SHA-256 its tensors (buffers that are not saved included), its settings, its hooks
    and, for classes of the user's, their code. An object without a description, such as a lock,
    counts by its type.
    """
    return _Describer(lenient=True).fingerprint(module, stages)


def describe(item: Any) -> str:
    """Describe a callable or value by its content, for a cache key.

    The description of a function holds its code, closure, defaults and the globals that it uses;
    that of an object its class and its state as a pickle has it; that of an array or tensor a
    digest of all its numbers. An item that cannot be told from another of its type is a
    ``ValueError``.
    """
    return _Describer(lenient=False).render(item)


class _Describer:
    """Describe an item and all objects that it refers to, each object once.

    An object without a description is an error, or counts by its type if ``lenient``.
    """

    def __init__(self, lenient: bool):
        self.lenient = lenient
        # Descriptions by id. The object is kept too, so that its id is not used again.
        self.done: dict[object, tuple[object, str]] = {}

    def render(self, item) -> str:
        if isinstance(item, _PLAIN):
            return f"{type(item).__name__} {item!r}"
        if isinstance(getattr(item, "content_digest", None), str):  # a table of word vectors
            return f"{type(item).__qualname__} {item.content_digest}"
        if isinstance(item, torch.Tensor):
            return _tensor(item)
        if id(item) not in self.done:
            self.done[id(item)] = item, "itself"  # in a cycle
            text = self._describe(item)
            # Many items may refer to it; a hash keeps their descriptions short.
            text = text if len(text) <= _LONG else hashlib.sha256(text.encode()).hexdigest()
            self.done[id(item)] = item, text
        return self.done[id(item)][1]

    def _describe(self, item) -> str:
        """Describe an item that has parts."""
        name = type(item).__name__
        if isinstance(item, nn.Module):
            return f"{type(item).__qualname__} {self.fingerprint(item, None)}"
        if isinstance(item, types.ModuleType):
            return f"module {item.__name__}"
        if isinstance(item, np.ma.MaskedArray):
            return f"masked {self.render((np.asarray(item), np.ma.getmaskarray(item)))}"
        if isinstance(item, np.ndarray):
            numbers = item.ravel().tolist() if item.dtype == object else _sha(item)
            return f"array{item.dtype.str}{item.shape}{self.render(numbers)}"
        if isinstance(item, Mapping):  # the order of the items counts
            return f"{name} {[(self.render(k), self.render(v)) for k, v in item.items()]}"
        if isinstance(item, set | frozenset):
            return f"{name} {sorted(self.render(i) for i in item)}"
        if isinstance(item, list | tuple):
            name = name if type(item) in (list, tuple) else self._class(type(item))
            return f"{name} {[self.render(i) for i in item]}"
        if isinstance(item, type):
            return self._class(item)
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
                digest.update(f"{key}={self._render_or_name(value)}".encode())
        tensors: list[tuple[str, torch.Tensor]] = [*module.named_parameters(remove_duplicate=False)]
        tensors += module.named_buffers(remove_duplicate=False)
        place: dict[int, str] = {}
        for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
            shared = place.setdefault(id(tensor), name) != name
            content = place[id(tensor)] if shared else _tensor(tensor)
            digest.update(f"{name}{content}".encode())
        return digest.hexdigest()

    def _render_or_name(self, value) -> str:
        """Describe a setting of a module, by its type where there is no description."""
        try:
            return self.render(value)
        except ValueError:
            return type(value).__qualname__

    def _code(self, item) -> str:
        """Describe a callable, or return nothing."""
        if isinstance(item, types.CodeType):
            consts = [self.render(const) for const in item.co_consts]
            return repr((item.co_code.hex(), item.co_names, item.co_freevars, consts))
        if isinstance(item, types.MethodType):
            return f"{self.render(item.__func__)} of {self.render(item.__self__)}"
        if isinstance(item, types.FunctionType) and not is_library(item):
            return self._function(item)
        if isinstance(item, property):
            return f"property {self.render((item.fget, item.fset))}"
        if hasattr(item, "__wrapped__"):  # such as functools.cache returns
            return f"{_name(item)} of {self.render(item.__wrapped__)}"
        return _name(item) if inspect.isroutine(item) else ""

    def _function(self, function: types.FunctionType) -> str:
        empty = types.CellType()  # of a variable that is not set yet
        cells = [cell.cell_contents for cell in function.__closure__ or () if cell != empty]
        names, found = sorted(_names(function.__code__)), function.__globals__
        used = {name: found[name] for name in names if name in found}
        own = {k: v for k, v in vars(function).items() if k != "__wrapped__"}
        around = (function.__defaults__, function.__kwdefaults__, cells, used, own)
        return f"{self.render(function.__code__)}{self.render(around)}"

    def _class(self, cls: type) -> str:
        """Name a class, and describe the code and constants of the user's that it inherits from."""
        own = [base for base in cls.__mro__ if not is_library(base)]
        for base in own:
            if ("members", id(base)) in self.done:
                continue
            self.done["members", id(base)] = base, "itself"
            members = {k: getattr(v, "__func__", v) for k, v in vars(base).items()}
            members = {k: v for k, v in members.items() if _is_member(k, v)}
            described = {k: self._render_or_name(v) for k, v in members.items()}
            text = hashlib.sha256(repr(described).encode()).hexdigest()
            self.done["members", id(base)] = base, text
        return " ".join([_name(cls), *(self.done["members", id(base)][1] for base in own)])

    def _object(self, item) -> str:
        """Describe an object by its class and by the state that a pickle of it holds."""
        name = self._class(type(item))
        try:
            reduce = copyreg.dispatch_table.get(type(item), lambda item: item.__reduce_ex__(2))
            made = reduce(item)
            if not isinstance(made, str):  # it ends with items of a list and of a dictionary
                made = [*made[:3], *(list(part or ()) for part in made[3:5])]
            return f"{name} {self.render(made)}"
        except Exception as error:  # a method of the object, which may raise anything
            if self.lenient:
                return name
            raise ValueError(
                f"{item!r:.200} cannot be part of a cache key, since nothing describes what it "
                "holds. Use a function, or an object whose attributes hold its settings."
            ) from error


def _settings(module: nn.Module) -> dict:
    if isinstance(module, torch.jit.ScriptModule):
        return {"archive": _archive(module)}
    if isinstance(module, fx.GraphModule):
        called = [n.target for n in module.graph.nodes if n.op == "call_function"]
        return {"code": module.code, "functions": called}
    return {key: value for key, value in vars(module).items() if key not in _INTERNAL}


def _archive(module: torch.jit.ScriptModule) -> list[Any]:
    """List the code, attributes and constants of a scripted module, as its file holds them."""
    found = []
    with zipfile.ZipFile(io.BytesIO(module.save_to_buffer())) as archive:
        for name in archive.namelist():
            content: Any = archive.read(name)
            if name.endswith(".pkl"):
                content = repr([(op.name, arg) for op, arg, _ in pickletools.genops(content)])
            elif name.endswith(".py"):
                content = content.decode()
            elif name.endswith((".debug_pkl", "/version", ".data/serialization_id")):
                continue  # names of source files, among others
            found.append([_without_numbers(name), _without_numbers(content)])
    return sorted(found)


def _without_numbers(text: Any) -> Any:
    """Remove the numbers that torch gives to the classes of one name in a process."""
    return re.sub(r"___torch_mangle_\d+\.?", "", text) if isinstance(text, str) else text


def _is_member(name: str, value) -> bool:
    """Tell whether an attribute of a class was written by its author."""
    inner = name.startswith("__") and name.endswith("__")
    return inspect.isroutine(value) or not (inner or name.startswith("_abc_"))


def _names(code: types.CodeType) -> set[str]:
    """Return the global names that a function and the functions inside it may use."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def is_library(item: Any) -> bool:
    """Tell whether a function or a class belongs to an installed package, and not to the user."""
    if isinstance(item, types.FunctionType):  # functools.wraps changes its __module__
        return _is_installed(str(item.__globals__.get("__name__")))
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
    """Return the name of a class or function; of this package's, without the file that holds it.

    Classes move between files, and fingerprints of fitted models must not change with them.
    """
    module = str(getattr(item, "__module__", ""))
    module = "sktransfer" if module.partition(".")[0] == "sktransfer" else module
    return f"{module}.{getattr(item, '__qualname__', type(item).__qualname__)}"


def _tensor(tensor: torch.Tensor) -> str:
    if tensor.layout != torch.strided:
        raise ValueError(
            f"A tensor of the layout {tensor.layout} cannot be part of a cache key: make a dense "
            "one of it."
        )
    tensor = tensor.detach().cpu().contiguous().resolve_conj().resolve_neg()
    numbers = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0)
    return f"tensor{tensor.dtype}{tuple(tensor.shape)}{_sha(numbers)}"


def _sha(numbers: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(numbers).data).hexdigest()
