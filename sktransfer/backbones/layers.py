"""Layers by name: list them, resolve a name, find the penultimate one and what is trained."""

from __future__ import annotations

import difflib
import warnings
from numbers import Integral
from typing import Any

from torch import nn

from ..data import shorten
from .base import Backbone
from .registry import load_backbone
from .stages import cut_of, has_matrix, has_tensors, stages_of

__all__ = [
    "boundary",
    "is_single_classifier",
    "list_layers",
    "penultimate",
    "resolve_layer",
    "weighted_layers",
]


def list_layers(backbone: Any) -> list[str]:
    """Name the places at which a backbone can be cut, from the input to the output.

    Parameters
    ----------
    backbone : str, Backbone or torch.nn.Module
        See :func:`sktransfer.load_backbone`.

    Returns
    -------
    list of str
        The layer ``name`` is the output of the stage ``name``.

    Raises
    ------
    ValueError
        For an unknown name; the nearest ones are listed.
    FileNotFoundError
        For weights that are not on this machine and cannot be downloaded.

    Examples
    --------
    >>> from sktransfer import list_layers
    >>> layers = list_layers("efficientnet_lite0")
    >>> layers[0], layers[-1], len(layers)
    ('stem', 'classifier', 22)
    """
    return list(stages_of(load_backbone(backbone)))


def penultimate(backbone: Backbone) -> str:
    """Name the layer whose output a classifier takes: the default layer for features.

    It is the input of the classifier that the source of the network names, or of several linear
    layers at the end that give the output together. Otherwise it is the input of the last stage
    with parameters, if that stage is linear or the backbone declares classes. A network that ends
    in another way is taken for an encoder, and its output is used.
    """
    cut = cut_of(backbone)
    if backbone.penultimate is not None or cut.head_input is not None:
        return str(backbone.penultimate or cut.head_input)
    of, found = backbone.prepared.get("penultimate", (None, None))
    if of is not cut:
        found = _find_penultimate(backbone)
        backbone.prepared["penultimate"] = cut, found
    return found


def _find_penultimate(backbone: Backbone) -> str:
    stages = stages_of(backbone)
    names = list(stages)
    if backbone.modality.has_tokens and backbone.classes is None:
        return names[-1]  # an encoder's last block holds linear layers and is no classifier
    learned = [i for i, stage in enumerate(stages.values()) if has_tensors(stage)]
    last = learned[-1] if learned else 0
    linear = any(isinstance(m, nn.Linear) for m in list(stages.values())[last].modules())
    is_classifier = backbone.classes is not None or (linear and len(learned) > 1)
    return names[last - 1] if is_classifier and last > 0 else names[-1]


def weighted_layers(backbone: Backbone) -> list[int]:
    """Return the positions of the stages with weights up to the penultimate layer.

    Parameters
    ----------
    backbone : Backbone

    Returns
    -------
    list of int
        A norm alone does not count: it belongs to the convolution before it.
    """
    stages = stages_of(backbone)
    top = list(stages).index(penultimate(backbone)) + 1
    return [i for i, stage in enumerate(stages.values()) if i < top and has_matrix(stage)]


def is_single_classifier(backbone: Backbone) -> bool:
    """Tell whether a backbone is a classifier that has no layer before its output."""
    return backbone.classes is not None and len(stages_of(backbone)) == 1


def resolve_layer(backbone: Backbone, layer: str | int | None, *, parameter: str = "layer") -> str:
    """Find the layer that is meant.

    Parameters
    ----------
    backbone : Backbone
    layer : str, int or None
        A name of :func:`list_layers`, the name of a module that ends at such a place
        ("layer4" is the output of its last block), a position among the layers (-1 is the
        output), or None for the penultimate layer.
    parameter : str, default="layer"
        The name that errors give the argument.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        Offering the nearest names, or saying why the network cannot be cut there.

    Warns
    -----
    UserWarning
        For None, where a classifier is a single stage: its outputs are taken for features. Once
        for each backbone.
    """
    names = list(stages_of(backbone))
    if layer is None:
        _warn_single_classifier(backbone)
        return penultimate(backbone)
    if isinstance(layer, Integral):
        if not -len(names) <= layer < len(names):
            raise ValueError(
                f"{parameter}={layer}: backbone {backbone.name!r} has {len(names)} layers, "
                f"{-len(names)} to {len(names) - 1}."
            )
        return names[layer]
    if layer in names:
        return layer
    cut = cut_of(backbone)
    if layer in cut.ends:
        return cut.ends[layer]
    # A list of modules that is not called itself, or the beginning of names that the user gave.
    within = [name for name in names if name.startswith(f"{layer}.")]
    if within and layer not in cut.obstacles:
        return within[-1]
    raise ValueError(_unknown_layer(backbone, parameter, shorten(str(layer), 80), names))


def _warn_single_classifier(backbone: Backbone) -> None:
    if is_single_classifier(backbone) and "warned" not in backbone.prepared:
        backbone.prepared["warned"] = True
        warnings.warn(
            f"Backbone {backbone.name!r} could not be cut ({cut_of(backbone).why_single}): it is a "
            "single stage, and its features are its outputs, one for each of its own classes. "
            "Give its parts as load_backbone(module, stages=[…]) to take features before them.",
            stacklevel=2,
        )


def _unknown_layer(backbone: Backbone, parameter: str, layer: str, names: list[str]) -> str:
    cut = cut_of(backbone)
    if cut.why_single:
        return (
            f"{parameter}={layer!r}: backbone {backbone.name!r} could not be cut "
            f"({cut.why_single}). Give its parts as load_backbone(module, stages=[…]); until then "
            f"{names[0]!r} is its only layer."
        )
    near = difflib.get_close_matches(layer, names, n=5, cutoff=0.3) or names[-5:]
    why = cut.obstacles.get(layer, "")
    if not why and layer in dict(backbone.module.named_modules()):
        why = "the network does not call this module, or calls it inside a single operation"
    why = why and f": {why}"
    return (
        f"{parameter}={layer!r} is not a place where backbone {backbone.name!r} can be cut{why}. "
        f"Nearest: {near}; all: sktransfer.list_layers({backbone.name!r})."
    )


def boundary(backbone: Backbone, trainable: str | int) -> int:
    """Count the stages that stay frozen.

    Parameters
    ----------
    backbone : Backbone
    trainable : "head", "all", "norm", "bias", int or str
        "head" freezes all up to the penultimate layer, "all" nothing; "norm" and "bias" train
        some parameters of all stages. A number trains that many of the last stages that have
        weights (a norm counts with the convolution before it). The name of a layer trains its
        stage and all above.

    Returns
    -------
    int
        How many stages of :func:`stages_of` come before the first that is trained.

    Raises
    ------
    ValueError
        For a name that is no layer below the head, more stages than there are, or a classifier
        that is a single stage and so has no layer below its own outputs.
    """
    names = list(stages_of(backbone))
    top = names.index(penultimate(backbone)) + 1
    if trainable in ("all", "norm", "bias"):
        return 0
    if is_single_classifier(backbone) and (trainable == "head" or isinstance(trainable, Integral)):
        raise ValueError(
            f"trainable={trainable!r}: backbone {backbone.name!r} could not be cut "
            f"({cut_of(backbone).why_single}), so a head would take its outputs, one for each of "
            "its own classes. Give its parts as load_backbone(module, stages=[…]), or "
            "trainable='all'."
        )
    if trainable == "head":
        return top
    if isinstance(trainable, str):
        position = names.index(resolve_layer(backbone, trainable, parameter="trainable"))
        if position >= top:
            raise ValueError(
                f"trainable={trainable!r} belongs to the head; below are {names[:top]}"
            )
        return position
    weighty = weighted_layers(backbone)
    if not 1 <= trainable <= len(weighty):
        raise ValueError(
            f"trainable={trainable}: backbone {backbone.name!r} has {len(weighty)} stages with "
            "weights below its head; give 1 to that number, a layer's name, 'head' or 'all'."
        )
    return weighty[-trainable]
