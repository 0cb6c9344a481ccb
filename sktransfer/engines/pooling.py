"""Pool activations into one vector for each sample."""

from __future__ import annotations

from collections.abc import Callable

import torch

__all__ = ["pool"]


def pool(
    activation: torch.Tensor,
    pooling: str | tuple | Callable | None,
    *,
    square: bool = False,
    masked: bool = False,
) -> torch.Tensor:
    """Turn activations into one vector for each sample.

    Parameters
    ----------
    activation : Tensor of shape (n, ...)
        ``(n, channels, height, width)`` from convolutions, ``(n, tokens, channels)`` or
        ``(n, channels)``.
    pooling : {"avg", "max", "flatten", "cls"}, callable, tuple of those or None
        "avg" and "max" go over positions or tokens, "cls" takes the first token, "flatten"
        keeps every number. A callable is given the activation. Several stand side by side.
        None is "avg".
    square : bool, default=False
        Whether images are square, so that ``(n, h, w, channels)``, as Swin's blocks have it,
        can be told from ``(n, channels, h, w)``.
    masked : bool, default=False
        Whether a position whose numbers are all zero holds no token and does not count, as in
        the activations of texts. A text without tokens is a zero vector.

    Returns
    -------
    Tensor of shape (n, n_features)
    """
    if isinstance(pooling, tuple):
        parts = [pool(activation, one, square=square, masked=masked) for one in pooling]
        return torch.cat(parts, dim=1)
    if square and activation.ndim == 4:
        _, a, b, c = activation.shape
        activation = activation.movedim(-1, 1) if a == b != c else activation
    if callable(pooling):
        # A copy: it may work in place, and the next stage is given the same.
        return torch.as_tensor(pooling(activation.clone())).flatten(1)
    if pooling == "flatten" or activation.ndim == 2:
        return activation.flatten(1)
    if pooling == "cls":
        if activation.ndim != 3:
            raise ValueError(
                f"pooling='cls' takes the first token, but the activation at this layer has shape "
                f"{tuple(activation.shape)} and no tokens; use 'avg', 'max' or 'flatten'."
            )
        return activation[:, 0]
    if masked:
        return _pool_tokens(activation, pooling)
    places = tuple(range(2, activation.ndim)) if activation.ndim > 3 else (1,)
    return activation.amax(places) if pooling == "max" else activation.mean(places)


def _pool_tokens(activation: torch.Tensor, pooling: str | None) -> torch.Tensor:
    """Take the mean or maximum over the positions ``(n, length, channels)`` that hold a token."""
    here = (activation != 0).any(-1, keepdim=True)  # (n, length, 1)
    if pooling != "max":
        return activation.sum(1) / here.sum(1).clamp_min(1)
    highest = activation.masked_fill(~here, -torch.inf).amax(1)
    return highest.masked_fill(~here.any(1), 0.0)
