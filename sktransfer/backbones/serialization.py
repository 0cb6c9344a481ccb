"""Nested values as JSON and tensors: what checkpoints and files of estimators have in common."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

__all__ = ["check_json", "check_tensors", "read_json"]

_DEEPEST = 500  # lists and objects inside each other


def read_json(content: bytes | str, name: str, *, most_bytes: int, most_values: int) -> Any:
    """Parse JSON that an untrusted file holds, after :func:`check_json`.

    Parameters
    ----------
    content : bytes or str
        In UTF-8.
    name : str
        For messages.
    most_bytes, most_values : int

    Returns
    -------
    object

    Raises
    ------
    ValueError
        If it is no JSON, or larger or deeper than allowed.
    """
    content = content.encode(errors="surrogatepass") if isinstance(content, str) else content
    check_json(content, name, most_bytes=most_bytes, most_values=most_values)
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name!r:.80} cannot be read ({error!s:.100})") from error


def check_json(content: bytes, name: str, *, most_bytes: int, most_values: int) -> None:
    """Limit JSON by its size, the number of its values and its nesting, before it is parsed.

    Parsed values take up to 200 bytes each: 60 MB of ``[{},{},...]`` would take 1.5 GB.

    Parameters
    ----------
    content : bytes
    name : str
        For the message.
    most_bytes : int
    most_values : int
        Of commas and opening brackets outside texts.

    Raises
    ------
    ValueError
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
    """Limit the header of a part in the format of safetensors, before it is parsed.

    Parameters
    ----------
    content : bytes
    name : str
        For the message.

    Raises
    ------
    ValueError
    """
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    check_json(header, name, most_bytes=2**24, most_values=2**19)  # a tensor has seven values
