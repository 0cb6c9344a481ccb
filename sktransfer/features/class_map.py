"""A map from labels to the classes of a network that mean them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from scipy.special import logsumexp

from ..backbones import Backbone

__all__ = ["mapped_logits", "resolve_class_map"]


def mapped_logits(logits: np.ndarray, groups: Iterable[Sequence[int]]) -> np.ndarray:
    """Return the logit of each label: that of the sum of the probabilities of its classes.

    Parameters
    ----------
    logits : ndarray of shape (n_samples, n_source_classes)
    groups : iterable of n_labels sequences of int
        The classes of each label, by position.

    Returns
    -------
    ndarray of shape (n_samples, n_labels)
    """
    return np.column_stack([logsumexp(logits[:, list(group)], axis=1) for group in groups])


def resolve_class_map(
    class_map: Mapping[Any, Any], backbone: Backbone, n_outputs: int
) -> dict[Any, list[int]]:
    """Turn names, WordNet ids and positions of classes into positions.

    Parameters
    ----------
    class_map : mapping of label to class or list of classes
    backbone : Backbone
    n_outputs : int
        Number of its outputs.

    Returns
    -------
    dict of label to list of int
        The labels sorted.

    Raises
    ------
    ValueError
        For names that the network does not have, a class that two labels name, or labels of
        several types.
    """
    places: dict = {}
    for names in (backbone.class_ids, backbone.classes):
        places = {name.lower(): i for i, name in enumerate(names or ())} | places
    for names in (backbone.class_ids, backbone.classes):  # as written goes before lower case
        places |= {name: i for i, name in enumerate(names or ())}
    if not class_map:
        raise ValueError("class_map={} names no label.")
    labels = np.unique(np.array(list(class_map))).tolist()
    if set(labels) != set(class_map):  # an array of both 1 and "z" is one of texts
        raise ValueError(
            f"Labels of class_map must be of one type, all texts or all numbers: {list(class_map)}."
        )
    resolved = {}
    for label in labels:
        sources = class_map[label]
        sources = [sources] if isinstance(sources, str | Integral) else list(sources)
        if not sources:
            raise ValueError(f"class_map[{label!r}] names no class of the network.")
        # A class may be named twice, by its name and its position; it counts once.
        found = [_position_of(source, label, places, n_outputs) for source in sources]
        resolved[label] = list(dict.fromkeys(found))
    _check_once(resolved, backbone)
    return resolved


def _check_once(resolved: dict[Any, list[int]], backbone: Backbone) -> None:
    """Raise an error if two labels have a class in common, whose probability would count twice."""
    label_of: dict[int, Any] = {}
    for label, positions in resolved.items():
        for position in positions:
            other = label_of.setdefault(position, label)
            if other != label:
                name = backbone.classes[position] if backbone.classes else position
                raise ValueError(
                    f"class_map gives the class {name!r} of the network to two labels, {other!r} "
                    f"and {label!r}: leave it to one of them."
                )


def _position_of(source, label, places: dict, n_outputs: int | None) -> int:
    if isinstance(source, Integral):
        if 0 <= int(source) and (n_outputs is None or int(source) < n_outputs):
            return int(source)
        raise ValueError(
            f"class_map[{label!r}]: {source} is no class; the network has {n_outputs}."
        )
    for name in (str(source), str(source).lower()):
        if name in places:
            return places[name]
    near = difflib.get_close_matches(str(source).lower(), places, n=5, cutoff=0.4)
    raise ValueError(
        f"class_map[{label!r}]: {source!r} is not a class of the network. Nearest: {near}"
    )
