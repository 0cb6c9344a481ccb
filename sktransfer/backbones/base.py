"""What a backbone is: a network, its own preprocessing and its own classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as F

from .identity import fingerprint

__all__ = ["Backbone", "ImagePreprocessing", "PILPreprocessing", "padded_length"]

_STEP = 8  # lengths of texts are multiples of it, so that a batch finds texts of its length


def padded_length(n_tokens: int) -> int:
    """Return the length to which a text is filled up: a function of that text alone.

    Parameters
    ----------
    n_tokens : int

    Returns
    -------
    int
        The next multiple of 8, at least 8.
    """
    return max(1, -(-n_tokens // _STEP)) * _STEP


@dataclasses.dataclass(frozen=True)
class ImagePreprocessing:
    """Resize the shorter side, crop the centre, scale each channel.

    The values are those that a network's weights were trained with; with others
    the same weights are a worse network.

    Parameters
    ----------
    resize : int
        Length of the shorter side after resizing, in pixels.
    crop : int
        Side of the square that is cut out of the centre, in pixels.
    mean, std : tuple of 3 floats
        Each channel is scaled as ``(x - mean) / std``, with x in [0, 1].
    interpolation : {"bilinear", "bicubic", "nearest"}, default="bilinear"
        How pixels are resampled, always with antialiasing.
    """

    resize: int
    crop: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str = "bilinear"

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        """Turn one image ``(h, w, 3)``, uint8 or float in [0, 1], into ``(3, crop, crop)``."""
        # The permuted view stays channels-last in memory: torchvision resizes such uint8
        # tensors without a copy, within a step or two of Pillow and several times faster.
        # Read-only arrays (memory maps, Pillow's) are copied: torch has no such tensors.
        image = np.require(_middle(image), requirements=["C", "W"])
        x = torch.from_numpy(image).permute(2, 0, 1)  # (3, h, w)
        mode = InterpolationMode(self.interpolation)
        x = F.resize(x, [self.resize], interpolation=mode, antialias=True)
        x = F.center_crop(x, [self.crop, self.crop])
        x = F.to_dtype(x, torch.float32, scale=True)
        return F.normalize(x, self.mean, self.std)

    def with_size(self, image_size: int) -> ImagePreprocessing:
        """Return the same steps for another crop, the resize keeping its proportion to it.

        Parameters
        ----------
        image_size : int
            Side of the square, in pixels.

        Returns
        -------
        ImagePreprocessing
        """
        resize = round(self.resize * image_size / self.crop)
        return dataclasses.replace(self, resize=resize, crop=image_size)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        return (3, self.crop, self.crop)


_THIN = 32  # times the shorter side


def _middle(image: np.ndarray) -> np.ndarray:
    """Cut what no crop reaches off a very long or high image: resized it might fill the memory."""
    height, width = image.shape[:2]
    longest = _THIN * min(height, width)
    top, left = (max(0, side - longest) // 2 for side in (height, width))
    return image[top : height - top, left : width - left]


@dataclasses.dataclass(frozen=True)
class PILPreprocessing:
    """A user's own transform, given a PIL image as torchvision's and timm's transforms expect.

    Parameters
    ----------
    transform : callable
        Takes an RGB ``PIL.Image.Image``, returns a float tensor ``(channels, height, width)``.
    """

    transform: Callable

    def __call__(self, image: np.ndarray) -> torch.Tensor:
        if image.dtype != np.uint8:
            image = (image * 255).round().astype(np.uint8)
        return torch.as_tensor(self.transform(Image.fromarray(image)), dtype=torch.float32)


class Backbone:
    """A pretrained network whose named stages run in order, its preprocessing and its classes.

    Made by :func:`sktransfer.load_backbone`, never changed afterwards, and shared rather than
    copied: ``sklearn.clone`` returns the same object, so that a grid search holds one copy of
    the weights.

    Parameters
    ----------
    name : str
        Stands in feature names and messages.
    module : torch.nn.Module
        The network. It is put into ``eval`` mode and belongs to the backbone from here on.
    kind : {"image", "text", "array"}, default="image"
        What a sample is: an image in any of its forms, a text, or a row of numbers given to
        the network as it is.
    preprocess : callable, default=None
        From one opened sample to one tensor. For texts, ids of tokens, of which 0 is none.
    classes : sequence of str, default=None
        The names of the network's outputs, for networks that are classifiers.
    class_ids : sequence of str, default=None
        A second name for each class: for ImageNet its WordNet id, such as "n02219486".
    stages : mapping of str to torch.nn.Module, default=None
        The network as named steps run in order, for networks that cannot be traced.
    reference : tuple, default=None
        The arguments of ``load_backbone`` that give this backbone again. With one, a pickle
        holds the reference and the fingerprint instead of the weights.
    opaque : tuple of callable, default=()
        Functions that are one operation when the network is traced.
    penultimate : str, default=None
        The layer whose output a classifier takes, where the network does not show it.

    Attributes
    ----------
    fingerprint : str
        SHA-256 of everything that decides an output: the tensors by name, and the code.
    """

    def __init__(
        self,
        name: str,
        module: nn.Module,
        *,
        kind: str = "image",
        preprocess: Callable | None = None,
        classes: Sequence[str] | None = None,
        class_ids: Sequence[str] | None = None,
        stages: Mapping[str, nn.Module] | None = None,
        reference: tuple | None = None,
        opaque: tuple[Callable, ...] = (),
        penultimate: str | None = None,
    ):
        self.name = name
        self.module = module.eval()
        self.kind = kind
        self.preprocess = preprocess
        self.classes = None if classes is None else tuple(map(str, classes))
        self.class_ids = None if class_ids is None else tuple(class_ids)
        self.stages = stages
        self.reference = reference
        self.opaque = opaque
        self.penultimate = penultimate
        self._fingerprint: str | None = None
        # What is prepared from the network (stages, engines, copies of another image size). It
        # lives and dies with the backbone; a global table would keep every network for ever.
        self.prepared: dict = {}

    @property
    def fingerprint(self) -> str:
        if self._fingerprint is None:
            self._fingerprint = fingerprint(self.module, self.stages)
        return self._fingerprint

    @property
    def input_shape(self) -> tuple[int, ...] | None:
        """Shape of one preprocessed sample, where the preprocessing fixes it."""
        return getattr(self.preprocess, "input_shape", None)

    def with_image_size(self, image_size: int | None) -> Backbone:
        """Return this backbone for another input size, sharing the weights.

        Parameters
        ----------
        image_size : int or None
            Side of the square, in pixels; None changes nothing.

        Returns
        -------
        Backbone
        """
        if image_size is None or self.input_shape == (3, image_size, image_size):
            return self
        if not hasattr(self.preprocess, "with_size"):
            raise ValueError(
                f"image_size={image_size} cannot be applied: the preprocessing of backbone "
                f"{self.name!r} is {self.preprocess!r}, which has no size to change."
            )
        sized = self.prepared.setdefault("sized", {})
        if image_size not in sized:
            sized[image_size] = other = object.__new__(type(self))
            other.__dict__.update(self.__dict__, preprocess=self.preprocess.with_size(image_size))
            if self.reference is not None:
                other.reference = (*self.reference[:2], image_size)
        return sized[image_size]

    def __sklearn_clone__(self) -> Backbone:
        return self

    def __deepcopy__(self, memo) -> Backbone:
        return self

    def __getstate__(self) -> dict:
        """Return what a pickle by value holds: all but the reference (there is none)."""
        return self.__dict__ | {"_fingerprint": self.fingerprint, "prepared": {}}

    def __reduce_ex__(self, protocol):
        if self.reference is None:
            return super().__reduce_ex__(protocol)
        return _load_reference, (self.reference, self.fingerprint)

    def __repr__(self) -> str:
        classes = "" if self.classes is None else f", {len(self.classes)} classes"
        return f"<Backbone {self.name!r}: {type(self.module).__name__}{classes}>"


def _load_reference(reference: tuple, fingerprint: str) -> Backbone:
    # At load time, not at import: the registry is built from this module.
    from . import load_backbone

    name, weights, image_size = reference
    backbone = load_backbone(name, weights=weights, image_size=image_size, download=False)
    if backbone.fingerprint != fingerprint:
        raise ValueError(
            f"The weights of backbone {name!r} (weights={weights!r}) on this machine are not those "
            f"that the pickled estimator was fitted with: fingerprint {backbone.fingerprint[:12]}, "
            f"expected {fingerprint[:12]}. Install the same weights, or fit again."
        )
    return backbone
