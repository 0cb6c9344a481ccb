"""Turn nested values into bytes and back, by JSON and safetensors instead of pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch

__all__ = ["first_unknown", "from_bytes", "to_bytes"]

_PLAIN = (type(None), bool, int, float, str, np.ndarray, np.generic, torch.Tensor)
_JSON = "json"  # name of the tensor with the text, which may exceed what a header takes


def to_bytes(value: Any) -> bytes:
    """Turn nested values into bytes.

    Parameters
    ----------
    value : object
        Dictionaries, lists and tuples of numbers, texts, None, tensors and arrays.

    Returns
    -------
    bytes
        In the format of safetensors.

    Raises
    ------
    TypeError
        If a value is of another type.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_pack(value, tensors)).encode()
    content = {_JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    return safetensors.torch.save(content | tensors)


def from_bytes(content: bytes) -> Any:
    """Return the value that :func:`to_bytes` was given.

    Parameters
    ----------
    content : bytes

    Returns
    -------
    object
        Numbers of NumPy are those of Python.
    """
    tensors = safetensors.torch.load(content)
    return _unpack(json.loads(tensors.pop(_JSON).numpy().tobytes()), tensors)


def first_unknown(value: Any) -> type[Any] | None:
    """Return the first type in nested values that cannot be turned into bytes, or None."""
    if isinstance(value, _PLAIN):
        return None
    if not isinstance(value, Mapping | list | tuple):
        return type(value)
    items = [*value, *value.values()] if isinstance(value, Mapping) else value
    return next((found for item in items if (found := first_unknown(item))), None)


def _pack(value, tensors: dict[str, torch.Tensor]):
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.ndarray):
        return {"array": _keep(torch.from_numpy(value.copy()), tensors)}
    if isinstance(value, torch.Tensor):
        return {"tensor": _keep(value, tensors)}
    if isinstance(value, Mapping):
        return {"dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        packed = [_pack(item, tensors) for item in value]
        return {"tuple": packed} if isinstance(value, tuple) else packed
    raise TypeError(f"a {type(value).__name__} can be no part of a file")


def _keep(tensor: torch.Tensor, tensors: dict[str, torch.Tensor]) -> str:
    name = str(len(tensors))
    # A copy, since safetensors takes no tensors that share memory or are not contiguous.
    tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    return name


def _unpack(packed, tensors: Mapping[str, torch.Tensor]):
    if isinstance(packed, list):
        return [_unpack(item, tensors) for item in packed]
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = packed.items()
    if kind == "dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
    if kind == "tuple":
        return tuple(_unpack(content, tensors))
    return tensors[content] if kind == "tensor" else tensors[content].numpy()
