"""Read tensors without running code, name every one that does not fit, and tell the licence."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import math
import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.parameter import is_lazy

from .._compat.torch import keep_versions

_LIGHTNING = "model."  # before the names of a network that is an attribute of a LightningModule
_SHOWN = 4  # names listed in an error before "and n more"


def read_tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a file of named tensors without running any code in it.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or one that ``torch.save`` wrote; then a dictionary of tensors,
        or one under the key ``state_dict`` or ``model``. The prefix "module." is removed from
        names; :func:`load_weights` removes "model.", too, which Lightning adds.

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
    read = load_file if path.suffix == ".safetensors" else _read_torch
    try:
        found = read(path)
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(
            f"weights: {str(path)!r} is not a file of plain tensors ({first_line(error)}). "
            "Save them with torch.save(module.state_dict(), path) or as .safetensors."
        ) from error
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) and _is_dense(tensor)
        for name, tensor in found.items()
    ):
        raise ValueError(
            f"weights: {str(path)!r} holds no dictionary of tensors by name: keys must be str and "
            "values dense tensors with data."
        )
    return {name.removeprefix("module."): tensor for name, tensor in found.items()}


def _read_torch(path: Path):
    """Read a file of ``torch.save``, and take the dictionary of tensors out of a checkpoint."""
    found = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    return found


def _is_dense(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor is dense and has data in memory."""
    special = tensor.is_meta or tensor.is_quantized or tensor.is_nested or is_lazy(tensor)
    return tensor.layout is torch.strided and not special


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, of 200 characters at most, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def load_weights(
    module: nn.Module, path: str | Path, rename: Callable[[str], str] = str
) -> nn.Module:
    """Load the tensors of a file into a module, in place, and check every name and shape.

    The tensors of the module may be on the meta device, so that they need no memory before.
    ``rename`` maps a name in the file to one in the module. The module is returned in ``eval``
    mode. If the file is of a network that was trained on another number of classes or of channels,
    its last or first layer has this number.

    A ``ValueError`` lists the missing and the unexpected names, the shapes and the types that
    differ, or names a tensor that holds NaN or infinity.
    """
    tensors = read_tensors(path)
    if not any(name.startswith(_LIGHTNING) for name in module.state_dict()):
        tensors = {name.removeprefix(_LIGHTNING): tensor for name, tensor in tensors.items()}
    tensors = {rename(name): tensor for name, tensor in tensors.items()}
    take_number_of_channels(module, tensors)
    take_number_of_classes(module, tensors)
    return load_tensors(module, tensors, f"weights: {str(path)!r}")


def take_number_of_classes(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the last layers of a module the number of outputs that they have in a file.

    Nothing is changed if tensors of other layers have another shape, too. A network of timm that
    was published without a classifier, such as DINOv2, gets that of the file.
    """
    _add_classifier(module, tensors)
    own = module.state_dict()
    changed = [name for name in own if name in tensors and own[name].shape != tensors[name].shape]
    layers = {name: module.get_submodule(name.rpartition(".")[0]) for name in changed}
    numbers = {(own[name].shape[:1], tensors[name].shape[:1]) for name in changed}
    only_outputs = all(
        isinstance(layers[name], nn.Linear | nn.Conv2d)
        and own[name].shape[1:] == tensors[name].shape[1:]
        for name in changed
    )
    prefixes = {name.rpartition(".")[0] for name in changed}
    is_whole = all(name in changed for name in own if name.rpartition(".")[0] in prefixes)
    if len(numbers) != 1 or not (only_outputs and is_whole):
        return
    for name, layer in layers.items():
        empty = nn.Parameter(torch.empty_like(tensors[name], dtype=own[name].dtype))
        setattr(layer, name.rpartition(".")[2], empty)
        number = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
        setattr(layer, number, len(tensors[name]))


def _add_classifier(module: Any, tensors: Mapping[str, torch.Tensor]) -> None:
    """Add the classifier of a file to a network of timm that was published without one."""
    path = getattr(module, "pretrained_cfg", {}).get("classifier")
    weight = tensors.get(f"{path}.weight") if isinstance(path, str) else None
    if weight is None or getattr(module, "num_classes", None) != 0:
        return
    n_classes = len(weight)

    def build() -> nn.Module:
        module.reset_classifier(n_classes)
        return module

    random_weights(build)


def first_convolutions(module: nn.Module) -> dict[str, nn.Conv2d]:
    """Find the convolutions that take the image, by their paths.

    They are those that timm names, or the first one of the module; there may be none.
    """
    named = getattr(module, "pretrained_cfg", {}).get("first_conv") or ()
    named = (named,) if isinstance(named, str) else named
    paths = dict(module.named_modules())
    found = {path: paths[path] for path in named if path in paths} or paths
    convolutions = [(k, m) for k, m in found.items() if isinstance(m, nn.Conv2d)]
    return dict(convolutions if found is not paths else convolutions[:1])


def with_channels(module: nn.Module, n: int) -> nn.Module:
    """Copy a network for images of another number of channels.

    Its first convolutions have the weights of the original ones, repeated for the channels and
    divided by how often they are repeated, as those of timm. All other tensors are shared. A
    ``ValueError`` if no convolution of three channels takes the image, or it has groups.
    """
    made = copy_sharing_tensors(module)
    layers = first_convolutions(made)
    if not layers or any(layer.in_channels != 3 for layer in layers.values()):
        raise ValueError("it does not begin with a convolution of three channels")
    for path, layer in layers.items():
        if layer.groups > 1:
            raise ValueError(f"its first convolution, {path!r}, has {layer.groups} groups")
        weight = layer.weight.detach()
        repeated = weight.repeat(1, -(-n // 3), 1, 1)[:, :n] * (3 / n)
        if n == 1:
            repeated = weight.sum(1, keepdim=True)
        layer.weight, layer.in_channels = nn.Parameter(repeated.contiguous()), n
    for inner in made.modules():  # networks of transformers compare it with their input
        if getattr(inner, "num_channels", None) == 3:
            inner.num_channels = n
    return made


def take_number_of_channels(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the first convolutions of a module the number of channels that they have in a file."""
    for path, layer in first_convolutions(module).items():
        given = tensors.get(f"{path}.weight")
        own = layer.weight
        if given is None or given.ndim != 4 or given.shape == own.shape:
            continue
        if (given.shape[0], *given.shape[2:]) == (own.shape[0], *own.shape[2:]):
            layer.weight = nn.Parameter(torch.empty_like(given, dtype=own.dtype))
            layer.in_channels = given.shape[1] * layer.groups


def n_outputs(module: nn.Module) -> int:
    """Return the number of outputs of the last linear or convolutional layer of a classifier."""
    return [len(m.weight) for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d)][-1]


def load_tensors(
    module: nn.Module, tensors: Mapping[str, torch.Tensor], source: str, *, copy: bool = False
) -> nn.Module:
    """Load tensors into a module, in place, as :func:`load_weights` does.

    ``source`` begins the message of an error. With ``copy`` the module keeps its own tensors, which
    several of its parts may share.
    """
    wanted = module.state_dict()
    tensors = {_modern(name, wanted): tensor for name, tensor in tensors.items()}
    # Files older than PyTorch 0.4.1 lack the counter of batches of batch norm.
    for name in wanted:
        if name.endswith("num_batches_tracked"):
            tensors.setdefault(name, torch.tensor(0))
    _check_fit(tensors, wanted, source)
    # Files may be in half or double precision; the network keeps its own.
    state: Any = OrderedDict((n, _as_own(tensor, wanted[n].dtype)) for n, tensor in tensors.items())
    # Some networks read the version of a file; its names are those of the current version.
    keep_versions(state, wanted)
    module.load_state_dict(state, assign=not copy)
    check_finite(source, module)
    return module.eval()


def _check_fit(tensors: dict, wanted: dict, source: str) -> None:
    """Raise ValueError unless a file has the tensors that a module wants, and no others."""
    common = [name for name in wanted if name in tensors]
    problems = {
        "missing": [name for name in wanted if name not in tensors],
        "unexpected": [name for name in tensors if name not in wanted],
        "of another shape": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(wanted[name].shape)}"
            for name in common
            if tensors[name].shape != wanted[name].shape
        ],
        "of another type": [
            f"{name} {_kind(tensors[name])} instead of {_kind(wanted[name])}"
            for name in common
            if _kind(tensors[name]) != _kind(wanted[name])
        ],
    }
    if any(problems.values()):
        lines = [f"  {kind}: {_shorten(names)}" for kind, names in problems.items() if names]
        raise ValueError("\n".join([f"{source} does not fit the network:", *lines]))


def _kind(tensor: torch.Tensor) -> str:
    """Return the kind of numbers; tensors are only converted to a type of the same kind."""
    if tensor.dtype == torch.bool:
        return "bool"
    kinds = {"complex": tensor.is_complex(), "floating": tensor.is_floating_point()}
    return next((kind for kind, holds in kinds.items() if holds), "integer")


def _as_own(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a tensor in another precision of its kind, with memory for each element."""
    tensor = tensor.to(dtype)
    return tensor.contiguous() if 0 in tensor.stride() else tensor


def check_finite(source: str, *modules: nn.Module) -> None:
    """Raise ``ValueError`` with the tensor in which networks hold numbers that are not finite.

    That is, a parameter or a running statistic of batch norm is NaN or infinite, a running variance
    is negative, or another buffer holds NaN. Other buffers may hold infinity, as masks of attention
    do. ``source`` begins the message; tensors that modules share are checked once.
    """
    seen: set[int] = set()
    for module in modules:
        statistics = ("running_mean", "running_var")
        buffers = dict(module.named_buffers())
        masks = {name for name in buffers if name.rpartition(".")[2] not in statistics}
        for name, tensor in chain(module.named_parameters(), buffers.items()):
            if id(tensor) not in seen:
                _check_tensor(name, tensor, source, may_be_infinite=name in masks)
            seen.add(id(tensor))


def _check_tensor(name: str, tensor: torch.Tensor, source: str, may_be_infinite: bool) -> None:
    if not (_is_dense(tensor) and _kind(tensor) in ("floating", "complex") and tensor.numel()):
        return
    low, high = _extremes(tensor.detach())
    problem = "NaN" if math.isnan(low) else None
    if not may_be_infinite and (math.isinf(low) or math.isinf(high)):
        problem = "infinity"
    if not problem and low < 0 and name.rpartition(".")[2] == "running_var":
        problem = f"a negative variance ({low:.3g})"
    if problem:
        raise ValueError(
            f"{source}: tensor {name!r} holds {problem}, which makes all outputs meaningless. Use "
            "weights whose numbers are finite."
        )


def _extremes(tensor: torch.Tensor) -> tuple[float, float]:
    """Return the smallest and the largest number; both are NaN if one number is."""
    tensor = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    tensor = tensor.float() if tensor.element_size() == 1 else tensor  # no such kernel for float8
    low, high = torch.aminmax(tensor)
    return float(low), float(high)


# Names in files that torchvision published before it changed its code. torchvision renames them
# while loading, which is after the comparison of names.
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


def copy_sharing_tensors(module: nn.Module) -> Any:
    """Copy a module, whose copy has the same parameters and buffers.

    Its settings, and tensors that it replaces, are its own.
    """
    tensors = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    return deepcopy(module, tensors)


def random_weights(build: Callable[[], nn.Module]) -> nn.Module:
    """Build a module with random weights and leave the global generator as it is."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().eval()


def check_sha256(path: Path, prefix: str) -> None:
    """Raise ``ValueError`` unless the file's SHA-256 begins with ``prefix``."""
    with open(path, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(prefix):
        raise ValueError(
            f"weights: {str(path)!r} is damaged or another file: its SHA-256 begins with "
            f"{found[: len(prefix)]}, expected {prefix}. Delete it and download it again."
        )


_GENERATOR = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generator within a block, and restore its state afterwards.

    So with the generator of ``device``, an accelerator. Threads share the generator, so that one
    thread at a time may be in such a block. It should contain what draws random numbers, and
    nothing that waits.
    """
    device = torch.device("cpu") if device is None else device
    with _GENERATOR, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        # torch.manual_seed would seed all accelerators and restore none of them.
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type != "cpu":
            torch.get_device_module(device).manual_seed(seed)
        yield


_LONGEST = 200  # characters of a statement; some packages put the whole text into their metadata
_FRONT_MATTER = re.compile(r"---\n.*?^license:\s*(\S.*?)\s*$.*?^---$", re.DOTALL | re.MULTILINE)


def licence_of_package(name: str) -> str | None:
    """Return what an installed package states about its licence, and where; None if nothing."""
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    for place, text in (("metadata", _in_metadata(found)), ("LICENSE", _in_file(found))):
        if text:
            return f"{text} ({place} of the package {name} {found.version})"
    return None


def _in_metadata(found: importlib.metadata.Distribution) -> str:
    """Return the licence in the metadata of a package, by the newer or the older field."""
    metadata: Any = found.metadata
    fields = [metadata.get(key) or "" for key in ("License-Expression", "License")]
    return next((text for text in fields if text != "UNKNOWN" and 0 < len(text) < _LONGEST), "")


def _in_file(found: importlib.metadata.Distribution) -> str:
    """Return the first line of the licence file of a package, which is the name."""
    for path in found.files or ():
        if path.name.upper().startswith(("LICENSE", "LICENCE")):
            lines = path.read_text().splitlines()
            return next((line.strip() for line in lines if line.strip()), "")[:_LONGEST]
    return ""


def licence_of_folder(folder: Path) -> str | None:
    """Return what the model card in a folder of the Hugging Face hub states about the licence."""
    try:
        text = (folder / "README.md").read_text(errors="replace")
    except OSError:
        return None
    found = _FRONT_MATTER.match(text)
    return None if found is None else f"{found[1][:_LONGEST]} (README.md of the model)"
