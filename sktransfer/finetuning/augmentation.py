"""Augmented views of images, each reproducible from a seed, so that a store can keep them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import xxhash
from sklearn.base import BaseEstimator

from ..backbones import Backbone, seeded
from ..data import Modality, SampleView


class Augmentation(BaseEstimator):
    """Random changes to training images, and how many views of each image there are.

    Parameters
    ----------
    transform : {"light", "strong"} or callable, default="light"
        "light" crops and mirrors; "strong" adds color, geometry and erasing. A callable is given
        a uint8 tensor ``(channels, h, w)``, as torchvision's v2 transforms are.
    n_views : int or None, default=4
        How many fixed views of each image there are; their frozen part is computed once. None
        makes new views in each epoch, which pass the whole network.

    Examples
    --------
    >>> from sktransfer import Augmentation, FineTunedClassifier
    >>> model = FineTunedClassifier(augment=Augmentation("strong", n_views=8))
    >>> model.set_params(augment__n_views=None).augment
    Augmentation(n_views=None, transform='strong')
    """

    def __init__(self, transform: str | Callable[..., Any] = "light", *, n_views: int | None = 4):
        self.transform = transform
        self.n_views = n_views


def make_augment(augment: str | Callable[..., Any], backbone: Backbone) -> Callable[..., Any]:
    """Return the transform that ``augment`` stands for.

    Parameters
    ----------
    augment : {"light", "strong"} or callable
        "light" crops between 60 and 100 % of the area and mirrors; "strong" crops 25 to 100 %,
        mirrors, applies one random colour or geometry change (TrivialAugment, Müller & Hutter
        2021; not for other numbers of channels than three) and erases a patch. A callable is given
        a uint8 tensor ``(channels, h, w)`` and draws from torch's global generator, as
        torchvision's transforms do; only that one is seeded.
    backbone : Backbone
        Its preprocessing is applied after the augmentation.

    Raises
    ------
    ValueError
        If the samples are not images.
    """
    if not backbone.modality.takes_augment:
        noun = backbone.modality.noun
        raise ValueError(f"augment={augment!r} needs images; samples here are {noun}.")
    if callable(augment):
        return augment
    from torchvision.transforms import v2  # its import is slow

    size = getattr(backbone.preprocess, "resize_size", (256, 256))
    n_channels = 3 if backbone.input_shape is None else backbone.input_shape[0]
    if augment == "light":
        crop = v2.RandomResizedCrop(size, scale=(0.6, 1.0), antialias=True)
        return v2.Compose([crop, v2.RandomHorizontalFlip()])
    crop = v2.RandomResizedCrop(size, scale=(0.25, 1.0), antialias=True)
    change = [v2.TrivialAugmentWide()] if n_channels == 3 else []  # it changes colors
    return v2.Compose([crop, v2.RandomHorizontalFlip(), *change, v2.RandomErasing(p=0.25)])


@dataclasses.dataclass(eq=False, repr=False)
class View(SampleView):
    """One augmented view of an image, opened and digested like a sample.

    Parameters
    ----------
    sample : object
        An image in any of its forms.
    modality : Modality
        Opens it.
    augment : callable
        From a uint8 tensor ``(channels, h, w)`` to another. Only torch's generator is seeded:
        random numbers of NumPy or Python differ between calls, and a store keeps the first result.
    key : str
        Identifies the augmentation and the view. The seed is computed from it and the digest
        of the sample.
    """

    sample: Any
    modality: Modality
    augment: Callable[..., Any]
    key: str

    @property
    def bytes_read(self) -> int:
        return getattr(self.sample, "bytes_read", 0)

    def read(self) -> View:
        return View(self.modality.read(self.sample), self.modality, self.augment, self.key)

    def digest(self) -> bytes:
        return xxhash.xxh3_128_digest(self.modality.digest(self.sample) + self.key.encode())

    def open(self) -> np.ndarray:
        image = self.modality.open(self.sample)
        if image.dtype != np.uint8:
            image = (image * 255).round().astype(np.uint8)
        # A copy, since the augmentation may work in place on the user's array.
        tensor = torch.from_numpy(image.copy()).permute(2, 0, 1)
        seed = xxhash.xxh3_64_intdigest(self.digest()) >> 1
        with seeded(seed):
            return _augmented(self.augment, tensor).permute(1, 2, 0).numpy()

    def __repr__(self) -> str:
        return f"View({self.sample!r})"


def _augmented(augment: Callable, image: torch.Tensor) -> torch.Tensor:
    """Apply ``augment`` to an image ``(channels, h, w)``, and name the parameter if it fails."""
    try:
        changed = augment(image)
    except Exception as error:  # of any type, since the user wrote it
        raise ValueError(f"augment={augment!r:.60} failed: {error}") from error
    if not isinstance(changed, torch.Tensor) or changed.ndim != 3:
        raise ValueError(f"augment={augment!r:.60} must return a tensor (channels, h, w).")
    return changed


@dataclasses.dataclass(eq=False)
class Views(Sequence[View]):
    """Views of samples, made when they are asked for: for each key one of each sample.

    Parameters
    ----------
    keys : sequence of str
        As in :class:`View`.
    """

    samples: Sequence[Any]
    modality: Modality
    augment: Callable[..., Any]
    keys: Sequence[str]

    def __len__(self) -> int:
        return len(self.samples) * len(self.keys)

    def __getitem__(self, i: Any) -> Any:
        number, at = divmod(range(len(self))[i], len(self.samples))
        return View(self.samples[at], self.modality, self.augment, self.keys[number])
