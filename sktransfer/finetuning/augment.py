"""Augmented views of images, each fixed by a seed, so that they can be kept like samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import xxhash
from torchvision.transforms import v2

from ..backbones import Backbone, seeded
from ..data import digest, open_image

__all__ = ["View", "make_augment"]


def make_augment(augment: str | Callable, backbone: Backbone) -> Callable:
    """Make a transform of what a user gives as ``augment``.

    Parameters
    ----------
    augment : {"light", "strong"} or callable
        "light" crops between 60 and 100 % of the area and mirrors; "strong" crops 25 to 100 %,
        mirrors, applies one random colour or geometry change (TrivialAugment, Müller & Hutter
        2021) and erases a patch. A callable is given a uint8 tensor ``(3, h, w)`` and draws from
        torch's global generator, as torchvision's transforms do; no other is seeded.
    backbone : Backbone
        Its own preprocessing follows the augmentation.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If samples are no images.
    """
    if backbone.kind != "image":
        raise ValueError(f"augment={augment!r} needs images; samples here are {backbone.kind}s.")
    if callable(augment):
        return augment
    size = getattr(backbone.preprocess, "resize", 256)
    if augment == "light":
        crop = v2.RandomResizedCrop((size, size), scale=(0.6, 1.0), antialias=True)
        return v2.Compose([crop, v2.RandomHorizontalFlip()])
    crop = v2.RandomResizedCrop((size, size), scale=(0.25, 1.0), antialias=True)
    steps = [crop, v2.RandomHorizontalFlip(), v2.TrivialAugmentWide(), v2.RandomErasing(p=0.25)]
    return v2.Compose(steps)


class View:
    """One augmented view of a sample. It is opened and digested as a sample of its own.

    Parameters
    ----------
    sample : object
        As in :mod:`sktransfer.data`.
    augment : callable
        From a uint8 tensor ``(3, h, w)`` to another. Only torch's generator is seeded: what is
        drawn from numpy's or Python's differs from call to call, and is kept as first drawn.
    key : str
        What ``augment`` does and which view this is. With the sample's digest it fixes what is
        drawn.
    """

    def __init__(self, sample, augment: Callable, key: str):
        self.sample = sample
        self.augment = augment
        self.key = key

    def view_digest(self) -> bytes:
        return xxhash.xxh3_128_digest(digest(self.sample) + self.key.encode())

    def open_view(self) -> np.ndarray:
        image = open_image(self.sample)
        if image.dtype != np.uint8:
            image = (image * 255).round().astype(np.uint8)
        tensor = torch.from_numpy(np.require(image, requirements="W")).permute(2, 0, 1)
        seed = xxhash.xxh3_64_intdigest(self.view_digest()) >> 1
        with seeded(seed):
            tensor = self.augment(tensor)
        return tensor.permute(1, 2, 0).numpy()

    def __repr__(self) -> str:
        return f"View({self.sample!r})"
