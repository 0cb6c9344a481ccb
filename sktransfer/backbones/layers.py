"""Layers by name, what is trained below one, and what one sample shows about each."""

from __future__ import annotations

import dataclasses
import difflib
import warnings
from collections.abc import Callable
from numbers import Integral
from typing import Any

import torch
from torch import nn

from ..data import shorten
from .backbone import Backbone
from .pooling import is_channels_last, pool, token_layout
from .registry import load_backbone
from .stages import cut_of, has_matrix, has_tensors, join_stages, make_single, stages_of
from .weights import first_convolutions


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

    ``layer`` is a name of :func:`list_layers`, the name of a module that ends at such a place
    ("layer4" is the output of its last block), a position among the layers (-1 is the output), or
    None for the penultimate layer. A ``ValueError``, which names ``parameter``, offers the nearest
    names, or says why the network cannot be cut there. Warns once for each backbone, if a
    classifier is a single stage and its outputs are taken for features.
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
    if backbone.runtime is not None and len(names) == 1:
        return (
            f"{parameter}={layer!r}: backbone {backbone.name!r} runs in {backbone.runtime}, and "
            f"{names[0]!r} is its only layer. For another output of the graph: "
            "load_onnx(file, output=…)."
        )
    if cut.why_single:
        return (
            f"{parameter}={layer!r}: backbone {backbone.name!r} could not be cut "
            f"({cut.why_single}). Give its parts as load_backbone(module, stages=[…]); until then "
            f"{names[0]!r} is its only layer."
        )
    near = difflib.get_close_matches(layer, names, n=5, cutoff=0.3) or names[-5:]
    why = cut.obstacles.get(layer, "") or backbone.why_whole
    if not why and layer in dict(backbone.module.named_modules()):
        why = "the network does not call this module, or calls it inside a single operation"
    why = why and f": {why}"
    return (
        f"{parameter}={layer!r} is not a place where backbone {backbone.name!r} can be cut{why}. "
        f"Nearest: {near}; all: sktransfer.list_layers({backbone.name!r})."
    )


def boundary(backbone: Backbone, trainable: str | int) -> int:
    """Count the stages before the first that is trained, which stay frozen.

    "head" freezes all up to the penultimate layer, "all" nothing; "norm", "bias" and "lora" train
    some parameters of all stages. A number trains that many of the last stages that have weights (a
    norm counts with the convolution before it). The name of a layer trains its stage and all above.

    A ``ValueError`` for a name that is no layer below the head, more stages than there are, a
    classifier that is a single stage and so has no layer below its own outputs, or a network that
    PyTorch does not run.
    """
    names = list(stages_of(backbone))
    top = names.index(penultimate(backbone)) + 1
    if backbone.runtime is not None and trainable != "head":
        raise ValueError(
            f"trainable={trainable!r}: backbone {backbone.name!r} runs in {backbone.runtime} and "
            "cannot be trained. Give trainable='head' for its features, or the network as a "
            "torch.nn.Module."
        )
    if trainable in ("all", "norm", "bias", "lora"):
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
            + (backbone.why_whole and f" Its blocks are one stage: {backbone.why_whole}.")
        )
    return weighty[-trainable]


_INSPECTED = 4  # shapes of samples for which the layers of one network stay known
_STEP = 32  # pixels: most networks halve an image five times


@dataclasses.dataclass(frozen=True)
class LayerInfo:
    """What one sample shows about a layer.

    Parameters
    ----------
    shape : tuple of int
        Shape of the activation of one sample, without the batch axis.
    has_tokens : bool
        Whether the activation is ``(length, channels)``.
    has_weights : bool
        Whether the stage that ends at the layer has weights; a norm alone does not count.
    width : int
        Number of features under average pooling, which is the number of channels.
    prefix_tokens : int or None, default=None
        Number of class tokens and registers before the patches at this layer. None if it is not
        known.
    grid : tuple of int, default=None
        Rows and columns of a map, or of patches. None if positions form no rectangle.
    """

    name: str
    shape: tuple[int, ...]
    has_tokens: bool
    has_weights: bool
    width: int
    prefix_tokens: int | None = None
    grid: tuple[int, int] | None = None


def pooled_width(layer: LayerInfo, pooling: str | Callable[..., Any]) -> int:
    """Return the number of features that a pooling gives at a layer, without running a network."""
    if pooling in ("avg", "max"):
        return layer.width
    # Rows and columns have the proportion of the sides of the image.
    where: dict[str, Any] = {"sides": layer.grid, "prefix_tokens": layer.prefix_tokens}
    return pool(torch.ones(1, *layer.shape, dtype=torch.float32), pooling, **where).shape[1]


@torch.inference_mode()
def inspect_layers(backbone: Backbone, probe: torch.Tensor) -> dict[str, LayerInfo]:
    """Run the stages one after another on the first sample, check them, and describe their outputs.

    The stages must give what the network gives. A place where the activation has no row for each
    sample (because time steps and batch are swapped there) is not the end of a stage. What is found
    is kept with the backbone, for each shape of a sample; for texts, whose length says nothing
    about the layers, once.

    A ``ValueError`` if stages that the user gave do not compute the network, if the network does
    not return one tensor with a row for each sample, or if it does not take images of the size
    asked for. A traced network whose stages do not compute it (its forward depends on the values in
    its input) becomes a single stage.
    """
    known = backbone.prepared.setdefault("inspected", {})
    key = () if backbone.modality.has_tokens else tuple(probe.shape[1:])
    found = known.get(key)
    if found is None:
        known[key] = found = _inspect(backbone, probe[:1])
        while len(known) > _INSPECTED:
            known.pop(next(iter(known)))
    return found


def _inspect(backbone: Backbone, probe: torch.Tensor) -> dict[str, LayerInfo]:
    try:
        expected = backbone.module(probe.clone())  # a network may change its input
    except Exception as error:
        _check_means(backbone, error)
        if backbone.native_shape is not None:
            raise ValueError(_unfit_size(backbone, error)) from error
        # Samples of any shape reach such a network; torch tells that one does not fit.
        if backbone.input_shape is not None or type(error) not in (RuntimeError, ValueError):
            raise
        raise ValueError(
            f"backbone {backbone.name!r} does not take samples of shape {tuple(probe.shape[1:])}: "
            f"{error!s:.200}"
        ) from error
    if not isinstance(expected, torch.Tensor):
        raise ValueError(
            f"Backbone {backbone.name!r} returns {type(expected).__name__}: give a module that "
            "returns one tensor, such as one around it that chooses."
        )
    # The same sample with other numbers, or with its words in another order.
    other = probe / 2 if probe.is_floating_point() else probe.flip(-1)
    pair = torch.cat([probe, other])
    activations = [(name, "none") for name in stages_of(backbone)]
    alone, both = (backbone.run(x, activations) for x in (probe, pair))
    is_computed = _is_equal(alone[-1], expected)
    # Where the stages compute the network, it need not run again.
    _check_output(backbone, expected, both[-1] if is_computed else backbone.module(pair.clone()))
    if not is_computed:
        if backbone.stages is not None:
            raise ValueError(
                f"The stages of backbone {backbone.name!r}, run in order, do not give the output "
                "of the module. Every step must be in one of them, functions too (nn.Flatten())."
            )
        make_single(backbone, "its forward depends on values, not only on shapes")
        alone = [expected]
    mixed = {i for i in range(len(alone) - 1) if not _has_rows(alone[i], both[i])}
    if mixed:
        if backbone.stages is not None:
            names = [list(backbone.stages)[i] for i in sorted(mixed)]
            raise ValueError(
                f"Stages {names} of backbone {backbone.name!r} do not give a row for each sample: "
                "put each together with the one after it."
            )
        join_stages(backbone, mixed)
        alone = [x for i, x in enumerate(alone) if i not in mixed]
    sides = (probe.shape[2], probe.shape[3]) if probe.ndim == 4 else None
    return _describe_layers(backbone, alone, sides)


def _check_means(backbone: Backbone, error: Exception) -> None:
    """Name the numbers, where a network fails on another number of channels than it takes."""
    mean = getattr(backbone.preprocess, "mean", None)
    for path, layer in first_convolutions(backbone.module).items():
        if mean is not None and len(mean) != layer.in_channels:
            raise ValueError(
                f"the first layer of backbone {backbone.name!r}, {path!r}, takes "
                f"{layer.in_channels} channels, and its preprocessing has {len(mean)} means: give "
                f"ImagePreprocessing with {layer.in_channels} values in mean and std."
            ) from error


def _is_equal(found, expected: torch.Tensor) -> bool:
    same = isinstance(found, torch.Tensor) and found.shape == expected.shape
    return same and torch.allclose(found, expected, rtol=1e-4, atol=1e-5, equal_nan=True)


def _has_rows(alone, both) -> bool:
    """Tell whether one sample gives one row, and two samples give two."""
    pair = isinstance(alone, torch.Tensor) and isinstance(both, torch.Tensor)
    return pair and min(alone.ndim, both.ndim) > 0 and (len(alone), len(both)) == (1, 2)


def _describe_layers(
    backbone: Backbone, outputs: list, sides: tuple[int, int] | None
) -> dict[str, LayerInfo]:
    is_square = sides is not None and sides[0] == sides[1]
    infos = {}
    for (name, stage), x in zip(stages_of(backbone).items(), outputs, strict=True):
        shape = tuple(x.shape[1:])
        has_tokens, prefix, grid = len(shape) == 2, backbone.prefix_tokens, None
        last = has_tokens or is_channels_last(shape, is_square)
        width = shape[-1 if last else 0] if shape else 1
        if has_tokens:
            n_prefix, grid = token_layout(shape[0], sides, prefix)
            prefix = None if prefix is None else n_prefix
        elif len(shape) == 3:
            grid = shape[:2] if last else shape[1:]
        infos[name] = LayerInfo(name, shape, has_tokens, has_matrix(stage), width, prefix, grid)
    return infos


def _check_output(backbone: Backbone, alone: torch.Tensor, both: Any) -> None:
    if not _has_rows(alone, both):
        raise ValueError(
            f"Backbone {backbone.name!r} returns shape {tuple(both.shape)} for a batch of two: "
            "a row for each sample is needed, first."
        )
    if not both.is_floating_point() or not both.isfinite().all():
        return
    if (both[0] - alone[0]).norm() > 1e-2 * alone.norm() + 1e-6:
        warnings.warn(
            f"Backbone {backbone.name!r} gives other numbers for a sample in another batch, as "
            "batch norm without running statistics does, or what draws at random: so will its "
            "features.",
            stacklevel=2,
        )


def _unfit_size(backbone: Backbone, error: Exception) -> str:
    """Say that a network does not take images of the size asked for, and one that it takes."""
    native, size = max(backbone.native_shape[1:]), backbone.preprocess.input_shape[-1]
    # Those of one kind can be large, such as a message with a whole shape in it.
    why = f"{type(error).__name__}: {error}"[:200]
    return (
        f"image_size={size}: backbone {backbone.name!r} does not take images of this size "
        f"({why}).{_sizes_taken(backbone, size, native)} its weights were made for {native}."
    )


def _sizes_taken(backbone: Backbone, size: int, native: int) -> str:
    """Name the smallest square image that a network takes, or those next to a larger size.

    Networks that take multiples of a patch are tried at multiples of it first; from the smallest
    of these that is taken, bisection goes down.
    """
    step = size_step(backbone)
    steps = [*range(step, native, step), native]
    least = next((side for side in steps if takes_size(backbone, side)), None)
    if least is None:
        return ""
    if size > least:
        near = [side for side in (size // step * step, -(-size // step) * step) if side != size]
        taken = [side for side in near if 0 < side <= 4096 and takes_size(backbone, side)]
        taken = taken or [native]
        return f" It takes {' and '.join(map(str, taken))};"
    below = max(0, least - step)
    while least - below > 1 and not least == native > step:  # one size only
        middle = (least + below) // 2
        least, below = (middle, below) if takes_size(backbone, middle) else (least, middle)
    return f" The least that it takes is {least};"


def size_step(backbone: Backbone, about: int = _STEP) -> int:
    """Return the number of pixels nearest to ``about`` of which sizes to try are multiples.

    It is a multiple of the side of a patch, if the network is divided into patches.
    """
    patch = backbone.patch_size
    return about if patch is None else patch * max(1, round(about / patch))


@torch.inference_mode()
def takes_size(backbone: Backbone, size: int) -> bool:
    """Tell whether a network whose preprocessing takes sizes runs on square images of one."""
    shape: Any = backbone.native_shape or backbone.input_shape
    module = backbone.with_image_size(size).module
    try:
        output = module(torch.zeros(1, shape[0], size, size, dtype=torch.float32))
    except Exception:  # whatever the network raises
        return False
    return bool(output.isfinite().all())
