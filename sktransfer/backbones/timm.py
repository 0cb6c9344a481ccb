"""Load networks of the timm library by ``"timm:<name>"``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from .backbone import Backbone
from .imagenet import imagenet_classes, imagenet_ids
from .preprocessing import ImagePreprocessing
from .stages import modules_around, trace
from .weights import load_weights, n_outputs, random_weights

__all__ = ["load_timm", "timm_names"]


def _timm():
    try:
        import timm
    except ImportError:
        raise ImportError(
            "Backbones named 'timm:…' need timm: pip install 'sktransfer[timm]'"
        ) from None
    return timm


def timm_names() -> list[str]:
    """List the names of timm's networks, with the prefix."""
    return [f"timm:{name}" for name in _timm().list_models()]


def load_timm(name: str, weights: Any, *, download: bool = True) -> Backbone:
    """Load a network of timm with its published, local or random weights.

    timm downloads published weights to its own folder. ``download`` is False when a pickle is
    opened, and then nothing is downloaded.
    """
    timm = _timm()
    short = name.removeprefix("timm:")
    if short.split(".")[0] not in timm.list_models():
        raise ValueError(f"timm has no network {short!r}; sktransfer.list_backbones('timm:*')")
    if weights == "default":
        module = _pretrained(timm, short, download)
    elif weights is None:
        module = random_weights(lambda: timm.create_model(short, pretrained=False))
    else:
        module = load_weights(random_weights(lambda: timm.create_model(short)), Path(weights))
    imagenet = getattr(module, "num_classes", None) == n_outputs(module) == 1000
    return Backbone(
        name,
        module,
        preprocess=_preprocessing(timm, module),
        classes=imagenet_classes() if imagenet else None,
        class_ids=imagenet_ids() if imagenet else None,
        loaded_by=(name, weights) if weights == "default" else None,
        licence=_licence(module) if weights == "default" else None,
        opaque=_untraced(),
        heads=_classifier(module),
    )


def _licence(module: Any) -> str | None:
    """Return what timm states about the licence of pretrained weights."""
    settings = getattr(module, "pretrained_cfg", {})
    found, tag = settings.get("license"), settings.get("tag")
    return None if found is None else f"{found} (pretrained_cfg of timm, tag {tag!r})"


def _untraced() -> tuple:
    """Return the functions and classes of modules that timm asks not to be traced into."""
    from timm.models import get_notrace_functions, get_notrace_modules

    return (*get_notrace_functions(), *get_notrace_modules())


class _PreLogits(nn.Module):
    """A network of timm up to what its classifier takes."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network.forward_head(self.network.forward_features(x), pre_logits=True)


def _classifier(module: Any) -> tuple[str, ...]:
    """Return the paths of the modules that make logits of pre-logits, one or several.

    These are the modules of the head that do not run for ``pre_logits=True``. Some networks have a
    norm or a hidden layer in their head, which may run or not.
    """
    if not hasattr(module, "get_classifier"):
        return ()
    found = module.get_classifier()
    wanted = set(map(id, found if isinstance(found, tuple | list) else [found]))
    heads = [name for name, inner in module.named_modules() if id(inner) in wanted]
    ran = _before_logits(module)
    if ran:
        heads = list({name.partition(".")[0] for name in heads})
    inside = [n for n, _ in module.named_modules() if any(_is_in(n, head) for head in heads)]
    return tuple(n for n in inside if not any(_is_in(other, n) for other in ran))


def _is_in(name: str, other: str) -> bool:
    """Tell whether a module is another one or a part of it."""
    return f"{name}.".startswith(f"{other}.")


def _before_logits(module: nn.Module) -> set[str]:
    """Return the paths of the modules that run for ``pre_logits=True``, none if unknown."""
    try:
        graph = trace(_PreLogits(module), _untraced())
    except Exception:  # tracing runs the network's own code, which may raise anything
        return set()
    names = {name for node in graph.nodes for _, name, _ in modules_around(node)}
    return {name.removeprefix("network.") for name in names}


def _pretrained(timm, name: str, download: bool) -> nn.Module:
    if not download:
        raise FileNotFoundError(
            f"The weights of 'timm:{name}' are downloaded only by fit. Call "
            f"sktransfer.load_backbone('timm:{name}') once in this process before loading."
        )
    try:
        return random_weights(lambda: timm.create_model(name, pretrained=True))
    except Exception as error:
        raise FileNotFoundError(
            f"timm could not load the weights of {name!r} ({type(error).__name__}: {error}). "
            "Without internet access, use a local file: weights='….safetensors'."
        ) from error


def _preprocessing(timm, module: nn.Module) -> ImagePreprocessing:
    config = timm.data.resolve_model_data_config(module)
    crop = tuple(config["input_size"][1:])
    resize = tuple(math.floor(side / config["crop_pct"]) for side in crop)
    return ImagePreprocessing(
        _side(resize),
        _side(crop),
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
        config["crop_mode"],
    )


def _side(size: tuple[int, int]) -> int | tuple[int, int]:
    """Return the side of a square, or height and width."""
    return size[0] if size[0] == size[1] else size
