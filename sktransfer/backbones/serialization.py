"""Nested values as JSON and tensors: what checkpoints and files of estimators have in common."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import safetensors.torch
import torch

_DEEPEST = 500  # lists and objects inside each other
LARGEST_VALUES = {"most_bytes": 2**28, "most_values": 2**22}  # of nested values as one text


def write_json(
    value: Any, name: str, *, most_bytes: int, most_values: int, indent: int | None = None
) -> str:
    """Turn plain values into JSON that :func:`read_json` takes with the same limits.

    It is one line without spaces, unless nested lines are indented. A ``ValueError`` with the name
    if it is larger or deeper than allowed.
    """
    text = json.dumps(value, indent=indent, separators=None if indent else (",", ":"))
    check_json(text.encode(), name, most_bytes=most_bytes, most_values=most_values)
    return text


def read_json(content: bytes | str, name: str, *, most_bytes: int, most_values: int) -> Any:
    """Parse JSON in UTF-8 that an untrusted file holds, after :func:`check_json`.

    A ``ValueError`` with the name if it is no JSON, or larger or deeper than allowed.
    """
    content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    check_json(content, name, most_bytes=most_bytes, most_values=most_values)
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name!r:.80} cannot be read ({error!s:.100})") from error


def check_json(content: bytes, name: str, *, most_bytes: int, most_values: int) -> None:
    """Limit JSON by its size, the number of its values and its nesting, before it is parsed.

    Parsed values take up to 200 bytes each: 60 MB of ``[{},{},...]`` would take 1.5 GB. Commas and
    opening brackets outside texts are counted as values. A ``ValueError`` has the name.
    """
    if len(content) > most_bytes:
        raise ValueError(f"{name!r:.80} has {len(content):,} bytes of JSON, of {most_bytes:,}")
    if b"\0" in content:
        raise ValueError(f"{name!r:.80} is no JSON in UTF-8")
    quoted = content.replace(b"\\\\", b"").replace(b'\\"', b"")  # without quotes inside texts
    if quoted.count(b'"') <= 4 * most_values:  # a value has a text, and may have another as key
        outside = b"".join(quoted.split(b'"')[::2])
        brackets = outside.translate(None, _NO_BRACKETS)
        if sum(map(outside.count, (b",", b"[", b"{"))) <= most_values:
            signs = np.frombuffer(brackets, np.uint8)
            deepest = np.where((signs == ord("[")) | (signs == ord("{")), 1, -1).cumsum()
            if deepest.max(initial=0) > _DEEPEST:
                raise ValueError(f"{name!r:.80} has JSON that is nested too deeply")
            return
    raise ValueError(f"{name!r:.80} has more than {most_values:,} values in its JSON")


_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def check_tensors(content: bytes, name: str) -> None:
    """Limit the header of a part in the format of safetensors, before it is parsed."""
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    check_json(header, name, most_bytes=2**24, most_values=2**19)  # a tensor has seven values


# -- nested values in the format of safetensors ------------------------------------------------

_PLAIN = (type(None), bool, int, float, str, np.ndarray, np.generic, torch.Tensor)
_JSON = "json"  # name of the tensor with the text, which may exceed what a header takes


def to_bytes(value: Any) -> bytes:
    """Turn nested values into bytes, in the format of safetensors.

    They are dictionaries, lists and tuples of numbers, texts, None, tensors and arrays; another
    type is a ``TypeError``, and more values than :func:`from_bytes` takes are a ``ValueError``.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = write_json(_pack(value, tensors), _JSON, **LARGEST_VALUES).encode()
    content = {_JSON: torch.frombuffer(bytearray(text), dtype=torch.uint8)}
    return safetensors.torch.save(content | tensors)


def from_bytes(content: bytes) -> Any:
    """Return the value that :func:`to_bytes` was given; numbers of NumPy are those of Python."""
    check_tensors(content, "its tensors")
    tensors = safetensors.torch.load(content)
    text = tensors.pop(_JSON).numpy().tobytes()
    return _unpack(read_json(text, _JSON, **LARGEST_VALUES), tensors)


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
