"""Check the poolings of an extractor, and find the layers that they pool."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..backbones import Backbone, resolve_layer, stages_of
from ..engines import POOLINGS
from .word_weights import LEARNED_POOLINGS, takes_weights

__all__ = ["ALL_POOLINGS", "check_poolings", "is_learned", "layer_for", "unlearned"]

ALL_POOLINGS = (*POOLINGS, *LEARNED_POOLINGS)


def is_learned(pooling: str | Callable[..., Any]) -> bool:
    """Tell whether a pooling has weights that are learned from texts."""
    return isinstance(pooling, str) and pooling in LEARNED_POOLINGS


def unlearned(pooling: str | Callable[..., Any]) -> str | Callable[..., Any]:
    """Return the pooling of the same width without learned weights."""
    return "avg" if is_learned(pooling) else pooling


def check_poolings(asked: Sequence[str | Callable[..., Any]], backbone: Backbone) -> None:
    """Check the parameter ``pooling`` for a backbone.

    Parameters
    ----------
    asked : sequence of str or callable
    backbone : Backbone

    Raises
    ------
    ValueError
        For an unknown name, for weights of words where there are no words, and for features whose
        number would depend on the text.
    """
    shown = asked[0] if len(asked) == 1 else list(asked)
    wrong = [p for p in asked if not callable(p) and p not in ALL_POOLINGS]
    if wrong or not asked:
        raise ValueError(f"pooling={shown!r}: give callables or some of {ALL_POOLINGS}.")
    if any(map(is_learned, asked)) and not takes_weights(backbone):
        table = any(hasattr(stage, "with_weights") for stage in stages_of(backbone).values())
        raise ValueError(
            f"pooling={shown!r} weights words, and backbone {backbone.name!r} has "
            f"{'more stages than its' if table else 'no'} word vectors: use 'avg' or 'max'."
        )
    if "flatten" in asked and backbone.modality.has_tokens:
        raise ValueError("pooling='flatten' of texts gives vectors of different lengths.")


def layer_for(
    backbone: Backbone, layer: str | int | None, pooling: Any, tokens: list[str] | None
) -> str:
    """Find a layer for a pooling; for poolings over tokens, one that has tokens.

    Parameters
    ----------
    backbone : Backbone
    layer : str, int or None
        See :func:`resolve_layer`.
    pooling : str or callable
    tokens : list of str or None
        The layers with a vector for each token; None if samples have no tokens.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If the layer gives a single vector, and the pooling is one over tokens.
    """
    found = resolve_layer(backbone, layer)
    if tokens is None or pooling == "avg" or found in tokens:
        return found
    if layer is None and tokens:
        return tokens[-1]
    if callable(pooling):  # it may take a vector
        return found
    raise ValueError(
        f"pooling={pooling!r} pools the tokens of a text, and layer {found!r} of backbone "
        f"{backbone.name!r} gives a single vector: use 'avg' there, or a layer with "
        f"tokens: {tokens}."
    )
