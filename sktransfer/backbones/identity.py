"""Tell by content, not by address, what a network or a function computes."""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import types
from collections.abc import Mapping
from pathlib import PurePath

import numpy as np
import torch
from torch import fx, nn

__all__ = ["describe", "fingerprint"]

# Code of these is told by its name: it comes with an installation, not with the user.
_LIBRARIES = frozenset(
    ["builtins", "PIL", "numpy", "scipy", "sklearn", "sktransfer", "timm", "tokenizers"]
) | {"torch", "torchvision", "transformers"}
_PLAIN = (bool, int, float, complex, str, bytes, enum.Enum, range, slice, PurePath, np.generic)
_PLAIN += (type(None), type(Ellipsis), torch.dtype, torch.device, torch.Size, np.dtype)
# What every module has, and what of it decides an output.
_INTERNAL = set(vars(nn.Module())) - {"_forward_hooks", "_forward_pre_hooks"}


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
        and, for classes of the user's, their code.
    """
    return _fingerprint(module, stages, set())


def _fingerprint(module: nn.Module, stages, seen: set[int]) -> str:
    digest = hashlib.sha256(repr(None if stages is None else list(stages)).encode())
    for name, child in module.named_modules():
        digest.update(f"{name}:{_describe_class(type(child), seen)}".encode())
        for key, value in sorted(_settings(child).items()):
            digest.update(f"{key}={_setting(value, seen)}".encode())
    tensors = dict(module.named_parameters()) | dict(module.named_buffers())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name}{_tensor(tensor)}".encode())
    return digest.hexdigest()


def _settings(module: nn.Module) -> dict:
    if isinstance(module, fx.GraphModule):
        return {"code": module.code}
    return {key: value for key, value in vars(module).items() if key not in _INTERNAL}


def _setting(value, seen: set[int]) -> str:
    """Describe a setting of a module, as far as it can be told."""
    try:
        return _describe(value, seen)
    except ValueError:
        return type(value).__qualname__


def describe(item) -> str:
    """Describe what a callable or value does, for a cache key: by content, not by address.

    Parameters
    ----------
    item : object
        A function is told by its code, closure, defaults and the globals that it uses; an object
        by its class and its attributes; arrays and tensors by all their numbers.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the item cannot be told apart from another of its kind.
    """
    return _describe(item, set())


def _describe(item, seen: set[int]) -> str:
    if isinstance(item, _PLAIN):
        return f"{type(item).__name__} {item!r}"
    if isinstance(getattr(item, "content_digest", None), str):  # large, and hashed once
        return f"{type(item).__qualname__} {item.content_digest}"
    if isinstance(item, torch.Tensor):
        return _tensor(item)
    if isinstance(item, np.ndarray) and item.dtype != object:
        return f"array{item.dtype.str}{item.shape}{_sha(np.ascontiguousarray(item))}"
    if isinstance(item, types.ModuleType):
        return f"module {item.__name__}"
    if id(item) in seen:
        return "itself"
    seen = seen | {id(item)}
    if isinstance(item, nn.Module):
        return f"{type(item).__qualname__} {_fingerprint(item, None, seen)}"
    if isinstance(item, Mapping):
        pairs = ((_describe(key, seen), _describe(value, seen)) for key, value in item.items())
        return f"{type(item).__name__} {sorted(pairs)}"
    if isinstance(item, set | frozenset):
        return f"{type(item).__name__} {sorted(_describe(i, seen) for i in item)}"
    if isinstance(item, list | tuple):
        return f"{type(item).__name__} {[_describe(i, seen) for i in item]}"
    return _describe_code(item, seen) or _describe_object(item, seen)


def _describe_code(item, seen: set[int]) -> str:
    """Describe a callable or a class, or return nothing."""
    if isinstance(item, types.CodeType):
        consts = [_describe(const, seen) for const in item.co_consts]
        return repr((item.co_code.hex(), item.co_names, item.co_freevars, consts))
    if isinstance(item, functools.partial):
        return f"partial {_describe((item.func, item.args, item.keywords), seen)}"
    if isinstance(item, types.MethodType):
        return f"{_describe(item.__func__, seen)} of {_describe(item.__self__, seen)}"
    if isinstance(item, types.FunctionType):
        return _describe_function(item, seen)
    if inspect.isclass(item):
        return _describe_class(item, seen)
    return _name(item) if inspect.isroutine(item) else ""


def _describe_function(function: types.FunctionType, seen: set[int]) -> str:
    if _is_library(function):
        return _name(function)
    cells = [cell.cell_contents for cell in function.__closure__ or () if _is_filled(cell)]
    used = {
        name: function.__globals__[name]
        for name in sorted(_names(function.__code__))
        if name in function.__globals__
    }
    around = (function.__defaults__, function.__kwdefaults__, cells, used)
    return f"{_describe_code(function.__code__, seen)}{_describe(around, seen)}"


def _is_filled(cell) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _names(code: types.CodeType) -> set[str]:
    """Return the global names that a function and those inside it may use."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return set(code.co_names).union(*map(_names, inner))


def _describe_class(cls: type, seen: set[int]) -> str:
    """Name a class and describe the code of the user's classes that it inherits from."""
    parts = [_name(cls)]
    for base in cls.__mro__:
        if _is_library(base) or id(base) in seen:
            continue
        inside = seen | {id(base)}
        functions = {k: v for k, v in vars(base).items() if inspect.isroutine(v)}
        functions = {k: getattr(v, "__func__", v) for k, v in functions.items()}
        parts.append(_describe(functions, inside))
    return " ".join(parts)


def _describe_object(item, seen: set[int]) -> str:
    state = getattr(item, "__dict__", None)
    if state is not None:
        return f"{_describe_class(type(item), seen)} {_describe(dict(state), seen)}"
    text = repr(item)
    if " at 0x" in text:
        raise ValueError(
            f"{text} cannot be part of a cache key: nothing says what it does. Use a function, or "
            "an object whose attributes hold its settings."
        )
    return f"{_name(type(item))} {text}"


def _is_library(item) -> bool:
    return str(getattr(item, "__module__", None)).partition(".")[0] in _LIBRARIES


def _name(item) -> str:
    module = getattr(item, "__module__", "")
    return f"{module}.{getattr(item, '__qualname__', type(item).__qualname__)}"


def _tensor(tensor: torch.Tensor) -> str:
    tensor = tensor.detach().cpu().contiguous()
    numbers = tensor.reshape(-1).view(torch.uint8).numpy() if tensor.numel() else np.empty(0)
    return f"tensor{tensor.dtype}{tuple(tensor.shape)}{_sha(numbers)}"


def _sha(numbers: np.ndarray) -> str:
    return hashlib.sha256(numbers).hexdigest()
