"""List the names and WordNet ids of the 1,000 ImageNet classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from importlib import resources


@cache
def imagenet_ids() -> tuple[str, ...]:
    """Return WordNet ids in the order of the outputs, which is alphabetical."""
    return tuple(resources.files(__package__).joinpath("imagenet_wnids.txt").read_text().split())


@cache
def imagenet_classes() -> tuple[str, ...]:
    """Return names in the order of the outputs, as the weights of torchvision list them."""
    text = resources.files(__package__).joinpath("imagenet_names.txt").read_text()
    return unique_names(text.splitlines(), imagenet_ids())


def unique_names(names: Sequence[str], ids: Sequence[str]) -> tuple[str, ...]:
    """Add the id to names that occur more than once, so that classes stay distinct."""
    count = Counter(names)
    pairs = zip(names, ids, strict=True)
    return tuple(name if count[name] == 1 else f"{name} ({i})" for name, i in pairs)
