"""Read tensors from files, safely, and say exactly what does not fit."""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

__all__ = ["check_sha256", "load_weights", "random_weights", "read_tensors", "seeded"]

_SHOWN = 8  # names listed in an error before "and n more"


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a file of named tensors without running any code in it.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or one that ``torch.save`` wrote; then a dictionary of tensors,
        or one under the key ``state_dict`` or ``model``.

    Returns
    -------
    dict of str to Tensor

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds anything but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights: no file {str(path)!r}")
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"weights: {str(path)!r} is not a file of plain tensors "
            f"({str(error).splitlines()[0]}). "
            "Save them with torch.save(module.state_dict(), path) or as .safetensors."
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(isinstance(t, torch.Tensor) for t in found.values()):
        raise ValueError(f"weights: {str(path)!r} holds no dictionary of tensors by name.")
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def load_weights(
    module: nn.Module, path: str | Path, rename: Callable[[str], str] = str
) -> nn.Module:
    """Put the tensors of a file into a module, in place, every name and shape accounted for.

    Parameters
    ----------
    module : torch.nn.Module
        Its tensors may lie on the meta device: then no memory was spent on them yet.
    path : str or Path
        See :func:`read_tensors`.
    rename : callable, default=str
        From a name in the file to a name in the module.

    Returns
    -------
    torch.nn.Module
        The same module, in ``eval`` mode.

    Raises
    ------
    ValueError
        Listing the missing and the unexpected names and the shapes that differ.
    """
    tensors = {rename(name): tensor for name, tensor in read_tensors(path).items()}
    wanted = module.state_dict()
    tensors = {_modern(name, wanted): tensor for name, tensor in tensors.items()}
    # Old files lack the counter of batches that batch norm has kept since PyTorch 0.4.1.
    for name in wanted:
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.tensor(0))
    shapes = [
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    problems = {
        "missing": [name for name in wanted if name not in tensors],
        "unexpected": [name for name in tensors if name not in wanted],
        "of another shape": shapes,
    }
    if any(problems.values()):
        lines = [f"  {kind}: {_shorten(names)}" for kind, names in problems.items() if names]
        raise ValueError("\n".join([f"weights: {str(path)!r} does not fit the network:", *lines]))
    # Files in half or double precision: the network computes in that of its own tensors.
    state = OrderedDict(
        (name, tensor.to(wanted[name].dtype) if tensor.is_floating_point() else tensor)
        for name, tensor in tensors.items()
    )
    # Some networks look at the version of a file; the names were just found to be today's.
    state._metadata = wanted._metadata
    module.load_state_dict(state, assign=True)
    for parameter in module.parameters():
        parameter.requires_grad_(True)  # assigned tensors take it from the meta parameters
    return module.eval()


# Names in files that torchvision published before it changed its code; it renames them itself
# while loading, after our comparison of names.
_OLD = [
    (r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.\w+)$", r"\1\2"),  # DenseNet
    (r"\.mlp\.linear_1\.", ".mlp.0."),  # ViT
    (r"\.mlp\.linear_2\.", ".mlp.3."),
]


def _modern(name: str, wanted) -> str:
    found = [re.sub(old, new, name) for old, new in _OLD]
    return next((new for new in found if name not in wanted and new in wanted), name)


def _shorten(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def random_weights(build: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """Build a module whose random initialisation neither reads nor moves the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build().eval()


def check_sha256(path: Path, prefix: str) -> None:
    """Raise ``ValueError`` unless the file's SHA-256 begins with ``prefix``."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(prefix):
        raise ValueError(
            f"weights: {str(path)!r} is damaged or another file: its SHA-256 begins with "
            f"{found[: len(prefix)]}, expected {prefix}. Delete it and fetch it again."
        )


_GENERATOR = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Let torch's global generator begin at a seed, and put it back afterwards.

    Threads share that generator, and one that puts it back would disturb another that draws.
    So this is one thread's at a time; it should hold what draws and nothing that waits.

    Parameters
    ----------
    seed : int
    device : torch.device, default=None
        An accelerator whose generator is meant as well as the CPU's.
    """
    device = torch.device("cpu") if device is None else device
    with _GENERATOR, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # Not torch.manual_seed, which seeds every accelerator and puts none of them back.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield
