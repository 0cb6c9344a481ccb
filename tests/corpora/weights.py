"""Files of weights: of other things, with code, with wrong sizes, cut and corrupted."""

import functools
from pathlib import Path

from sktransfer.backbones.weights import load_weights
from tests.backbones.test_weights import HOSTILE, SAFE, STATE, as_bytes, damaged, network

from .cases import Case

WHOLE = {
    ".pth": as_bytes(STATE),
    ".old.pth": as_bytes(STATE, _use_new_zipfile_serialization=False),
    ".safetensors": SAFE,
}


def load(path: Path):
    return load_weights(network(), path)


def is_network(found) -> bool:
    return all(tensor.isfinite().all() for tensor in found.state_dict().values())


def all_weights(folder: Path, seed: int = 0, rounds: int = 60) -> list[Case]:
    """Return the corpus; the files are written into a folder."""
    made = {f"whole{suffix}": (content, "right") for suffix, content in WHOLE.items()}
    for suffix, files in HOSTILE.items():
        made |= {f"{name}{suffix}": (content, "error") for name, content in files.items()}
    for suffix, content in WHOLE.items():
        files = damaged(content, rounds, seed)
        made |= {f"{name}{suffix}": (damage, "either") for name, damage in files.items()}
    cases = []
    for i, (name, (content, may)) in enumerate(made.items()):
        path = folder / f"{i}{name[name.index('.') :]}"
        path.write_bytes(content)
        cases.append(Case(name, functools.partial(load, path), is_network, may))
    return cases
