"""Load networks for images from folders in the format of transformers.

There is no code for a family: the class is the one that the configuration names, the stages are
found by recording what an image passes (``chains.py``), and the preprocessing is compared with that
of the library. What differs stands in the table ``_EXCEPTIONS``.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..data import get_modality
from .backbone import Backbone
from .chains import cut_by_recording
from .model_folders import (
    IMAGE_FILES,
    class_names,
    explained,
    load_network,
    origin_of,
    quiet,
    read_json,
)
from .preprocessing import ProcessorPreprocessing
from .stages import Cut, has_tensors
from .weights import copy_sharing_tensors

# What a network returns, by the names of transformers: the first of these that there is.
_OUTPUTS = ("logits", "image_embeds", "pooler_output", "last_hidden_state")


def _all_patches(patches: torch.Tensor, noise: Any = None) -> tuple[torch.Tensor, None, None]:
    return patches, None, None


# By ``model_type`` of the configuration: "replace" a method, or name the "way out".
_EXCEPTIONS: dict[str, dict[str, Any]] = {
    "vit_mae": {"replace": ("embeddings.random_masking", _all_patches)},
    "siglip2": {"way_out": "use weights for one size, such as google/siglip2-base-patch16-224"},
}


def load_image_folder(name: str, folder: Path, weights: str | None) -> Backbone:
    """Load a network for images from a folder.

    Parameters
    ----------
    name : str
        Of the backbone, for messages; "hf:" and the path of the folder, or its name on the hub.
    folder : Path
    weights : {"default", None}
        None for random initialisation.

    Returns
    -------
    Backbone
        Of a classifier, with its classes. Of a network for images and texts, that for images.

    Raises
    ------
    ValueError
        If the folder has no settings of its images, or a network that takes more than an image.
    """
    settings = read_json(folder / "config.json")
    if settings is None:
        raise ValueError(f"backbone {name!r}: {str(folder)!r} has no config.json.")
    family = str(settings.get("model_type"))
    exception = _EXCEPTIONS.get(family, {})
    if "way_out" in exception:
        raise _refusal(name, family, "it takes more than an image", exception["way_out"])
    model: Any = load_network(name, folder, weights, _class_of(name, settings), True)
    if "replace" in exception:
        path, method = exception["replace"]
        owner, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(owner), attribute, method)
    preprocess, shape = _preprocessing(name, folder, family)
    network = _one_tensor(name, family, model, shape)
    patch = getattr(model.config, "patch_size", None)
    patch = patch if isinstance(patch, int) else None
    return Backbone(
        module=network,
        preprocess=preprocess,
        classes=class_names(model.config) if network.output == "logits" else None,
        cutter=_cut,
        resize=_for_size,
        patch_size=patch,
        prefix_tokens=_prefix_tokens(model, shape, patch),
        **origin_of(name, folder, weights),
    )


_OWN_MODULE = (
    "load it with transformers and give a module that takes images: load_backbone(module, "
    "preprocess=…)"
)


def _refusal(name: str, family: str, why: str, way_out: str = _OWN_MODULE) -> ValueError:
    return ValueError(
        f"backbone {name!r}: a network of the family {family!r} cannot be used, since {why}. "
        f"For images, {way_out}."
    )


def _class_of(name: str, settings: dict) -> str:
    """Name the class of transformers that reads the tower for images, or classifies them."""
    import transformers

    named = str((settings.get("architectures") or [""])[0])
    if named.endswith(("ForImageClassification", "ModelWithProjection")):
        names = [named]
    elif "vision_config" in settings:
        tower = named.removesuffix("Model") + "VisionModel"
        names = [f"{tower}WithProjection", tower]
        if not any(hasattr(transformers, tower) for tower in names):
            family = str(settings.get("model_type"))
            why = "transformers has no part of it that takes images alone"
            raise _refusal(name, family, why, "use a folder of its image encoder, if there is one")
    else:
        return "AutoModel"
    networks = (getattr(transformers, name, None) for name in names)
    return next(
        (
            network.__name__
            for network in networks
            if isinstance(network, type) and issubclass(network, transformers.PreTrainedModel)
        ),
        "AutoModel",
    )


class _OneTensor(nn.Module):
    """A network of transformers as a function of images that returns one tensor."""

    def __init__(self, model: nn.Module, output: str):
        super().__init__()
        self.model = model
        self.output = output
        # Positions are interpolated, where images have another size than those of the training.
        takes = inspect.signature(model.forward).parameters
        self.options = dict.fromkeys({"interpolate_pos_encoding"} & set(takes), True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.model(pixel_values=x, return_dict=True, **self.options)[self.output]
        return y.flatten(1) if self.output == "pooler_output" else y


@torch.no_grad()
def _one_tensor(name: str, family: str, model: nn.Module, shape: tuple[int, ...]) -> _OneTensor:
    """Find out what a network returns, by running it on one image."""
    x = torch.zeros(1, *shape)
    try:
        with quiet():
            found = model(pixel_values=x, return_dict=True)
        output = next(key for key in _OUTPUTS if found.get(key) is not None)
        network = _OneTensor(model, output)
        network(x)
    except Exception as error:  # the code of the family may raise anything
        why = f"it does not run on one image alone ({type(error).__name__}: {error!s:.200})"
        raise _refusal(name, family, why) from error
    return network


@torch.no_grad()
def _prefix_tokens(model: Any, shape: tuple[int, ...], patch: int | None) -> int | None:
    """Count the tokens that are no patches; None for networks without tokens."""
    found = model(pixel_values=torch.zeros(1, *shape), return_dict=True)
    if found.get("logits") is not None:  # a classifier, around an encoder
        found = model.base_model(pixel_values=torch.zeros(1, *shape), return_dict=True)
    last = found.get("last_hidden_state")
    if patch is None or last is None or last.ndim != 3:
        return None
    return max(0, last.shape[1] - (shape[1] // patch) * (shape[2] // patch))


def _for_size(module: nn.Module, image_size: int) -> nn.Module:
    """Return a copy with the same tensors: some networks remember the size of an image."""
    return copy_sharing_tensors(module)


def _cut(backbone: Backbone) -> Cut:
    """Cut a network at the size of a backbone, and name the input of its classifier."""
    network: Any = backbone.module
    shape = backbone.input_shape
    if shape is None:
        why = "its image processor gives images of several sizes"
        return Cut({"output": network}, why_single=why)
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    cut = cut_by_recording(network, x)
    names = list(cut.stages)
    cut.head_input = names[-1]
    if network.output == "logits" and len(names) > 1:
        last = max(i for i, stage in enumerate(cut.stages.values()) if has_tensors(stage))
        cut.head_input = names[max(0, last - 1)]
    return cut


# -- preprocessing ---------------------------------------------------------------------------------

_RESAMPLED = {0: "nearest", 2: "bilinear", 3: "bicubic"}  # the numbers of Pillow
_LEVEL = 1.01 / 255  # by which two equal preprocessings differ at most


def _preprocessing(name: str, folder: Path, family: str) -> tuple[Any, tuple[int, ...]]:
    """Return the preprocessing of a folder, and the shape of an image behind it."""
    from transformers import AutoImageProcessor

    problem = f"{str(folder / 'preprocessor_config.json')!r} cannot be read by transformers"
    with quiet(), explained(name, problem):
        processor = AutoImageProcessor.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    if getattr(processor, "do_normalize", None) and 0 in np.ravel(processor.image_std):
        file = next(folder / file for file in IMAGE_FILES if (folder / file).is_file())
        raise ValueError(f"{str(file)!r}: image_std={processor.image_std} has a zero.")
    theirs = _ByProcessor(processor)
    try:
        with quiet():
            shapes = [tuple(theirs(image).shape) for image in _EXAMPLES]
    except Exception as error:  # the code of the family may raise anything
        file = folder / "preprocessor_config.json"
        why = f"{str(file)!r} makes no tensor of an image ({type(error).__name__}: {error!s:.100})"
        raise _refusal(name, family, why) from error
    if len(shapes[0]) != 3:
        why = f"its image processor makes a tensor of shape {shapes[0]} of an image"
        raise _refusal(name, family, why)
    if len(set(shapes)) > 1:
        return theirs, shapes[0]
    theirs.input_shape = shapes[0]
    return _own_steps(processor, theirs) or theirs, shapes[0]


class _ByProcessor:
    """The preprocessing of an image processor of transformers."""

    def __init__(self, processor: Any):
        self.processor = processor
        self.content_digest = hashlib.sha256(processor.to_json_string().encode()).hexdigest()
        self.input_shape: tuple[int, ...] | None = None  # where it is the same for all images

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        opened = get_modality("image").for_transform(image)
        made = self.processor(images=opened, return_tensors="pt")["pixel_values"][0]
        return made.to(torch.float32)

    def __repr__(self) -> str:
        return f"<preprocessing by {type(self.processor).__name__} of transformers>"


def _own_steps(processor: Any, theirs: _ByProcessor) -> ProcessorPreprocessing | None:
    """Return our steps that do what an image processor does, to one level of 255, if there are."""
    sizes = _sizes(processor)
    mode = _RESAMPLED.get(int(getattr(processor, "resample", 2) or 0))
    if sizes is None or mode is None:
        return None
    resize, crop, crop_mode = sizes
    # What it does to colors shows on a black and a white image.
    low, high = (theirs(np.full((*crop, 3), level, np.uint8)).mean((1, 2)) for level in (0, 255))
    found = -low / (high - low), 1 / (high - low)
    stated = [tuple(getattr(processor, key, None) or ()) for key in ("image_mean", "image_std")]
    is_stated = all(len(values) == 3 for values in stated)
    is_stated = is_stated and np.allclose(stated, torch.stack(found), atol=1e-4)
    mean, std = stated if is_stated else (tuple(values.tolist()) for values in found)
    steps = ProcessorPreprocessing(resize, crop, mean, std, mode, crop_mode)
    for image in _EXAMPLES:
        expected, ours = theirs(image), steps(image)
        if expected.shape != ours.shape:
            return None
        scale = torch.tensor(std)[:, None, None]
        if not bool(((expected - ours).abs() * scale.abs() <= _LEVEL).all()):
            return None
    return steps


def _sizes(processor: Any) -> tuple[Any, tuple[int, int], str] | None:
    """Return to what size a processor resizes, what it crops, and how aspect ratios are treated."""
    size, crop = (dict(getattr(processor, key, None) or {}) for key in ("size", "crop_size"))
    crops = bool(getattr(processor, "do_center_crop", False)) and "height" in crop
    edge, fraction = size.get("shortest_edge"), getattr(processor, "crop_pct", None)
    if edge and fraction and edge < 384:  # ConvNeXt's; larger images are squashed
        return int(edge / fraction), (edge, edge), "center"
    if edge and fraction:
        return (edge, edge), (edge, edge), "squash"
    if edge and crops and not size.get("longest_edge"):
        return edge, (crop["height"], crop["width"]), "center"
    if size.get("height") and size.get("width"):
        side = size["height"], size["width"]
        return side, (crop["height"], crop["width"]) if crops else side, "squash"
    return None


def _examples() -> Sequence[np.ndarray]:
    """Return images of several shapes: smooth colors, edges and noise."""
    rng = np.random.default_rng(0)
    images = []
    for height, width in ((431, 640), (500, 333), (97, 150)):
        y, x = np.mgrid[:height, :width]
        waves = [np.sin(x / a) + np.cos(y / b) for a, b in ((31, 17), (9, 53), (71, 23))]
        smooth = 127 + 50 * np.stack(waves, -1)
        noise = rng.uniform(-20, 20, smooth.shape)
        images.append(np.clip(smooth + noise, 0, 255).astype(np.uint8))
    return images


_EXAMPLES = _examples()
