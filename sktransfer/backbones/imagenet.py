"""The 1,000 ImageNet classes: names and WordNet ids."""

from __future__ import annotations

from collections import Counter
from functools import cache
from importlib import resources

__all__ = ["imagenet_classes", "imagenet_ids", "unique_names"]


@cache
def imagenet_ids() -> tuple[str, ...]:
    """WordNet ids in the order of the outputs, which is their alphabetical order."""
    return tuple(resources.files(__package__).joinpath("imagenet_wnids.txt").read_text().split())


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Names in the order of the outputs, as torchvision's weights declare them."""
    from torchvision.models import ResNet18_Weights

    return unique_names(ResNet18_Weights.DEFAULT.meta["categories"], imagenet_ids())


def unique_names(names, ids) -> tuple[str, ...]:
    """Add the id to names that stand more than once: two classes must not look like one."""
    count = Counter(names)
    pairs = zip(names, ids, strict=True)
    return tuple(name if count[name] == 1 else f"{name} ({i})" for name, i in pairs)
