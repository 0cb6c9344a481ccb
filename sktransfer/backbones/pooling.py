"""Pool the activations of a layer into one vector for each sample."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def pool(
    activation: torch.Tensor,
    pooling: str | Callable[..., Any] | tuple[Any, ...],
    *,
    sides: tuple[int, int] | None = None,
    prefix_tokens: int | None = None,
    masked: bool = False,
) -> torch.Tensor:
    """Turn activations into one vector for each sample.

    Parameters
    ----------
    activation : Tensor of shape (n, ...)
        ``(n, channels, height, width)`` from convolutions, ``(n, tokens, channels)`` or
        ``(n, channels)``.
    pooling : {"avg", "max", "grid", "flatten", "cls", "none"}, callable or tuple of those
        "avg" and "max" go over positions or patches, "grid" gives the means of the four quadrants
        of an image, "cls" takes the class token, "flatten" keeps every number, "none" returns the
        activation as it is. A callable is given the
        activation. Several stand side by side.
    sides : tuple of int, default=None
        Height and width of the image that the network was given. In square images,
        ``(n, h, w, channels)``, as Swin's blocks have it, can be told from ``(n, channels, h, w)``.
        Where tokens are patches, they are arranged in rows and columns in this proportion.
    prefix_tokens : int, default=None
        Number of class tokens and registers that come before the patches. None if it is not known:
        all tokens count, and the first is taken for the class token.
    masked : bool, default=False
        Whether a position whose numbers are all zero holds no token and does not count, as in
        the activations of texts. A text without tokens is a zero vector.

    Returns
    -------
    Tensor of shape (n, n_features)

    Raises
    ------
    ValueError
        For "grid" where positions form no rectangle, and "cls" where there is no class token.
    """
    if pooling == "none":
        return activation
    if isinstance(pooling, tuple) and not callable(pooling):  # a NamedTuple may be
        settings: dict[str, Any] = {"sides": sides, "prefix_tokens": prefix_tokens}
        parts = [pool(activation, each, masked=masked, **settings) for each in pooling]
        return torch.cat(parts, dim=1)
    if is_channels_last(tuple(activation.shape[1:]), sides is not None and sides[0] == sides[1]):
        activation = activation.movedim(-1, 1)
    if callable(pooling):
        return _call_pooling(pooling, activation)
    if activation.ndim == 2:
        return activation
    if activation.ndim == 3 and not masked and pooling != "flatten":
        n_prefix, grid = token_layout(activation.shape[1], sides, prefix_tokens)
        if pooling == "cls":
            if prefix_tokens is not None and not n_prefix and activation.shape[1] > 1:
                raise ValueError(
                    "pooling='cls' takes the class token, but the activation at this layer, of "
                    f"shape {tuple(activation.shape)}, has none: use 'avg', 'max' or 'grid', or a "
                    "layer behind the one that adds it."
                )
        elif n_prefix:
            activation = activation[:, n_prefix:]
        if pooling == "grid" and grid is not None:
            activation = activation.transpose(1, 2).unflatten(2, grid)
    return _BY_NAME[pooling](activation, masked)


def token_layout(
    n_tokens: int, sides: tuple[int, int] | None, prefix_tokens: int | None
) -> tuple[int, tuple[int, int] | None]:
    """Tell how many tokens of an activation come before the patches, and how these are arranged.

    ``sides`` are the height and width of the image; ``prefix_tokens`` the class tokens and
    registers of the network, None if they are not known. They are in some layers only: others have
    the patches alone, or a single vector. Rows and columns of patches are in the proportion of the
    sides; None if there are none.
    """
    before = prefix_tokens or 0
    for n in dict.fromkeys([before, 0] if sides is not None else []):
        grid = _rectangle(n_tokens - n, *sides) if sides is not None else None
        if grid is not None:
            return n, grid
    return (before if n_tokens > before else 0), None


def _rectangle(n: int, height: int, width: int) -> tuple[int, int] | None:
    """Return rows and columns of n patches of an image; they may not cover its last pixels."""
    if n < 1:
        return None
    rows = max(1, round(math.sqrt(n * height / width)))
    columns = n // rows
    is_alike = abs(rows - columns * height / width) < 1
    return (rows, columns) if rows * columns == n and is_alike else None


def is_channels_last(shape: tuple[int, ...], square: bool) -> bool:
    """Tell whether a sample's activation is ``(height, width, channels)``, as in Swin's blocks.

    Where the network's input is not a square image, the two layouts cannot be told apart, and
    channels come first.
    """
    return square and len(shape) == 3 and shape[0] == shape[1] != shape[2]


def _mean(activation: torch.Tensor, masked: bool) -> torch.Tensor:
    if not masked:
        return activation.mean(_positions(activation))
    return activation.sum(1) / _holds_token(activation).sum(1).clamp_min(1)


def _max(activation: torch.Tensor, masked: bool) -> torch.Tensor:
    if not masked:
        return activation.amax(_positions(activation))
    here = _holds_token(activation)
    highest = activation.masked_fill(~here, -torch.inf).amax(1)
    return highest.masked_fill(~here.any(1), 0.0)


def _first_token(activation: torch.Tensor, masked: bool) -> torch.Tensor:
    if activation.ndim != 3:
        raise ValueError(
            f"pooling='cls' takes the first token, but the activation at this layer has shape "
            f"{tuple(activation.shape)} and no tokens; use 'avg', 'max' or 'flatten'."
        )
    return activation[:, 0]


def _flatten(activation: torch.Tensor, masked: bool) -> torch.Tensor:
    return activation.flatten(1)


def _quadrants(activation: torch.Tensor, masked: bool) -> torch.Tensor:
    if activation.ndim != 4:
        raise ValueError(
            "pooling='grid' takes the means of the quadrants of an image, but the activation at "
            f"this layer has shape {tuple(activation.shape)}; use 'avg', 'max' or 'flatten'."
        )
    return nn.functional.adaptive_avg_pool2d(activation, 2).flatten(1)


def _positions(activation: torch.Tensor) -> tuple[int, ...]:
    """Return the axes of positions: of ``(n, tokens, channels)`` or ``(n, channels, ...)``."""
    return tuple(range(2, activation.ndim)) if activation.ndim > 3 else (1,)


def _holds_token(activation: torch.Tensor) -> torch.Tensor:
    """Return which positions of ``(n, length, channels)`` hold a token: ``(n, length, 1)``."""
    return (activation != 0).any(-1, keepdim=True)


# Each takes the activation and whether zeros are padding, and returns ``(n, n_features)``.
_BY_NAME: dict[str, Callable[[torch.Tensor, bool], torch.Tensor]] = {
    "avg": _mean,
    "max": _max,
    "flatten": _flatten,
    "cls": _first_token,
    "grid": _quadrants,
}
POOLINGS = tuple(_BY_NAME)


def _call_pooling(pooling: Callable, activation: torch.Tensor) -> torch.Tensor:
    """Call a function that the user gives as pooling."""
    try:
        # A copy: it may work in place, and the next stage is given the same.
        return torch.as_tensor(pooling(activation.clone())).flatten(1)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # it may raise anything
        shape = tuple(activation.shape)
        raise ValueError(
            f"pooling={pooling!r:.80} failed on an activation of shape {shape}: {error}"
        ) from error
