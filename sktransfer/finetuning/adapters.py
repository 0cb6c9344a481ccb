"""Low-rank adapters (LoRA) in the trained stages: describe them, add them, and merge them.

The adapter of a layer with the weights W computes W x + (alpha / r) B A x, where the matrices A and
B have the rank r (Hu et al. 2022, arXiv:2106.09685). B is zero before training, so that the network
computes what it did. The layers are those of peft. W, and whatever has no adapter, is not trained.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ..backbones import seeded

_EXTRA = 'Low-rank adapters need peft: pip install "sktransfer[peft]".'
_DEFAULT = {"r": 8, "lora_alpha": 16}
# What a LoraConfig may set: the rest trains other parameters, changes the weights before training,
# or is not about layers of torch.
_FREE = (
    *("r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules", "exclude_modules"),
    *("layers_to_transform", "layers_pattern"),
)
_WITHOUT_EFFECT = ("task_type", "inference_mode", "peft_type", "peft_version", "runtime_config")
_OF_FILES = {"r", "lora_alpha", "lora_dropout", "use_rslora", "target_modules"}


def is_lora(trainable: Any) -> bool:
    """Tell whether a value of ``trainable`` asks for adapters: "lora", or a LoraConfig of peft."""
    return is_lora_config(trainable) or (isinstance(trainable, str) and trainable == "lora")


def is_lora_config(item: Any) -> bool:
    """Tell whether an object is a LoraConfig, without an import of peft."""
    return type(item).__name__ == "LoraConfig" and hasattr(item, "lora_alpha")


def describe_adapters(trainable: Any) -> dict[str, Any]:
    """Describe the adapters that ``trainable`` asks for.

    Parameters
    ----------
    trainable : "lora" or peft.LoraConfig

    Returns
    -------
    dict of str to object
        Arguments of a LoraConfig, as values of JSON.

    Raises
    ------
    ImportError
        Without peft.
    ValueError
        Naming a setting of a LoraConfig that cannot be used.
    """
    try:
        from peft import LoraConfig
    except ImportError as error:
        raise ImportError(_EXTRA) from error
    if isinstance(trainable, str):
        return dict(_DEFAULT)
    default = vars(LoraConfig())
    changed = {k: v for k, v in vars(trainable).items() if k in default and v != default[k]}
    refused = [name for name in changed if name not in _FREE + _WITHOUT_EFFECT]
    if refused:
        raise ValueError(
            f"trainable=LoraConfig({refused[0]}={changed[refused[0]]!r:.60}): only the adapters of "
            f"layers and the head are trained. Leave {refused[0]} at its default."
        )
    settings = {"r": trainable.r, "lora_alpha": trainable.lora_alpha} | changed
    return {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in settings.items()
        if name in _FREE
    }


def make_config(settings: dict[str, Any]) -> Any:
    """Make a LoraConfig of what :func:`describe_adapters` returned.

    Raises
    ------
    ValueError
        For other settings, such as those of a file that was changed.
    """
    from peft import LoraConfig

    unknown = sorted(set(settings) - set(_FREE))
    if unknown:
        raise ValueError(f"Low-rank adapters have no setting {unknown[0]!r:.80}.")
    return LoraConfig(**settings)


def check_adapters(settings: dict[str, Any], tensors: dict[str, Any]) -> None:
    """Check the adapters of a file against its tensors.

    Parameters
    ----------
    tensors : dict of str to Tensor
        Those of the adapters.

    Raises
    ------
    ValueError
        If the tensors are not of these adapters.
    """
    rank, names = settings.get("r"), settings.get("target_modules")
    are_named = isinstance(names, list) and all(isinstance(name, str) for name in names)
    are_plain = set(settings) <= _OF_FILES and type(rank) is int and are_named
    if not are_plain or not tensors or any(rank not in t.shape for t in tensors.values()):
        raise ValueError("The adapters of the file are not those of its tensors.")


def add_adapters(
    stages: nn.Sequential, settings: dict[str, Any], backbone: str, seed: int
) -> dict[str, Any]:
    """Add adapters to the layers of some stages, in place.

    Parameters
    ----------
    stages : torch.nn.Sequential
        The last one is the head, which has none.
    settings : dict
        As :func:`describe_adapters` returns it. Without ``target_modules`` all linear layers have
        adapters, or all convolutions without groups where there are no linear layers.
    backbone : str
        Its name, for errors.
    seed : int
        Of the matrices A.

    Returns
    -------
    dict
        The settings, with the names of the layers that have adapters.

    Raises
    ------
    ValueError
        If no layer can have an adapter.
    """
    from peft import inject_adapter_in_model

    below = nn.Sequential(*list(stages)[:-1])
    settings = dict(settings)
    if settings.get("target_modules") in (None, "all-linear"):
        settings["target_modules"] = _layers_with_matrix(below)
        if not settings["target_modules"]:
            raise ValueError(
                f"trainable='lora': backbone {backbone!r} has no linear layer and no convolution "
                "that could have an adapter. Use 'head', 'all' or a number of stages."
            )
    try:
        with seeded(seed), warnings.catch_warnings():
            # peft sets it for each layer by the order of the axes of its matrix, and says so.
            warnings.filterwarnings("ignore", "fan_in_fan_out is set", UserWarning)
            inject_adapter_in_model(make_config(settings), below)
    except ValueError as error:  # such as names that no layer has
        text = f"trainable=LoraConfig(...), backbone {backbone!r}: {error!s:.300}"
        raise ValueError(text) from error
    for position, stage in enumerate(below):
        stages[position] = stage
    adapted = [name for name, module in below.named_modules() if hasattr(module, "get_base_layer")]
    kept = {name: value for name, value in settings.items() if name in _OF_FILES}
    return kept | {"target_modules": adapted}


def _layers_with_matrix(stages: nn.Sequential) -> list[str]:
    """Return the names of the layers that have adapters where none are named."""
    # These read the weights of the layers in them.
    fused = nn.MultiheadAttention | nn.TransformerEncoderLayer
    inside = {
        id(inner)
        for module in stages.modules()
        if isinstance(module, fused)
        for inner in module.modules()
    }
    named = [(name, module) for name, module in stages.named_modules() if id(module) not in inside]
    linear = [name for name, module in named if type(module) is nn.Linear or _is_conv1d(module)]
    if linear:
        return linear
    return [
        name
        for name, module in named
        if isinstance(module, nn.Conv2d)
        and module.groups == 1
        # Subclasses may pad in their own way.
        and (type(module) is nn.Conv2d or set(module.kernel_size) == {1})
    ]


def _is_conv1d(module: nn.Module) -> bool:
    """Tell whether a layer is the linear one of GPT-2, without an import of transformers."""
    cls = type(module)
    return (cls.__module__, cls.__qualname__) == ("transformers.pytorch_utils", "Conv1D")


def is_adapter(name: str) -> bool:
    """Tell whether a tensor of a module belongs to an adapter, by its name."""
    return ".lora_" in name


@torch.no_grad()
def with_merged_adapters(module: Any) -> Any:
    """Return a module without adapters that computes the same: a copy, or the module itself.

    The product of the matrices of each adapter is added to the weights of its layer.
    """
    if module.adapters is None or not any(map(is_adapter, module.state_dict())):
        return module
    merged = deepcopy(module)
    layers = [(n, m) for n, m in merged.named_modules() if hasattr(m, "get_base_layer")]
    for name, layer in layers:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(merged.get_submodule(parent), child, layer.get_base_layer())
    merged.adapters, merged.part = None, "all"
    return merged
