"""Load networks of the timm library by ``"timm:<name>"``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .backbone import Backbone
from .imagenet import imagenet_classes, imagenet_ids, unique_names
from .preprocessing import ImagePreprocessing
from .stages import modules_around, trace
from .weights import copy_sharing_tensors, load_weights, n_outputs, random_weights


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
    opened, and then nothing is downloaded. A name ``"timm:hf-hub:<owner>/<name>"`` is that of a
    network of timm on the Hugging Face hub, from which its configuration comes, too.
    """
    timm = _timm()
    short = name.removeprefix("timm:")
    on_hub = short.startswith("hf-hub:")
    if not on_hub and short.split(".")[0] not in timm.list_models():
        raise ValueError(f"timm has no network {short!r}; sktransfer.list_backbones('timm:*')")
    if on_hub and weights is None and not download:
        raise ValueError(f"{name!r}: its architecture is on the hub, and nothing is downloaded.")
    has_other_classes = False  # those of the one who trained the weights of a file
    if weights == "default":
        module = _pretrained(timm, short, download)
    elif weights is None:
        module = random_weights(lambda: _create(timm, short))
    else:
        module = random_weights(lambda: _create(timm, short))
        n_usual = getattr(module, "num_classes", None)
        is_classifier = n_usual in (0, n_outputs(module))
        module = load_weights(module, Path(weights))
        n_found = n_outputs(module) if getattr(module, "num_classes", 0) else 0
        has_other_classes = is_classifier and n_found != n_usual
    classes, class_ids = _classes(timm, module)
    if has_other_classes:
        classes, class_ids = [str(i) for i in range(n_outputs(module))], None
    return Backbone(
        name,
        module,
        preprocess=_preprocessing(timm, module),
        classes=classes,
        class_ids=class_ids,
        loaded_by=(name, weights) if weights == "default" else None,
        licence=_licence(module) if weights == "default" else None,
        opaque=_untraced(),
        heads=_classifier(module),
        resize=_with_input_size if hasattr(module, "set_input_size") else None,
        patch_size=_patch_size(module),
    )


def _create(timm, name: str, pretrained: bool = False) -> Any:
    """Build a network of timm for one input size, in which positions are constant tensors.

    Where timm computes positions from the shape of each input, the network could not be cut.
    """
    try:
        return timm.create_model(name, pretrained=pretrained, dynamic_img_size=False)
    except TypeError:  # it has no such setting
        return timm.create_model(name, pretrained=pretrained)


def _with_input_size(module: nn.Module, image_size: int) -> nn.Module:
    """Return a copy for images of another size, which shares the tensors that do not change."""
    made = copy_sharing_tensors(module)
    with warnings.catch_warnings():  # timm 1.0.31 indexes with a list, of which torch warns
        warnings.simplefilter("ignore", UserWarning)
        made.set_input_size(img_size=(image_size, image_size))
    return made


def _patch_size(module: Any) -> int | None:
    """Return the side of the patches that an image is divided into, if it is."""
    patches = getattr(module, "patch_embed", getattr(module, "embeds", None))
    side = getattr(patches, "patch_size", None)
    side = max(side) if isinstance(side, tuple | list) else side
    return side if isinstance(side, int) else None


def _classes(timm, module: Any) -> tuple[Sequence[str] | None, Sequence[str] | None]:
    """Return names and WordNet ids of the outputs, for the sets of ImageNet that timm knows."""
    n_classes = getattr(module, "num_classes", None)
    subset = timm.data.infer_imagenet_subset({"num_classes": n_classes})
    if subset is None or n_classes != n_outputs(module):
        return None, None
    if subset == "imagenet-1k":
        return imagenet_classes(), imagenet_ids()
    found = timm.data.ImageNetInfo(subset)
    return unique_names(found.label_descriptions(), found.label_names()), found.label_names()


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
        return random_weights(lambda: _create(timm, name, pretrained=True))
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
