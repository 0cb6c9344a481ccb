"""Run a network in parts, with gradients from a score to a map of positions, or to the input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from ..backbones import Backbone, LayerInfo, inspect_layers, is_channels_last, stages_of
from ..engines import pool
from .scores import NoGradientsError, Read, Scores

__all__ = ["FromInputs", "FromMaps", "as_map"]


class FromInputs(nn.Module):
    """The scores as a function of the preprocessed samples, one tensor for each backbone.

    Parameters
    ----------
    scores : Scores

    Attributes
    ----------
    backbones : list of Backbone
        Of the inputs: the same network at several sizes, or several networks.
    """

    backbones: list[Backbone]

    def __init__(self, scores: Scores):
        super().__init__()
        self.scores = scores
        self.backbones = list({id(read.backbone): read.backbone for read in scores.reads}.values())

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        outputs = {
            id(backbone): _run(backbone, x.clone(), _layers(self.scores.reads, backbone))
            for backbone, x in zip(self.backbones, inputs, strict=True)
        }
        reads = self.scores.reads
        return self.scores.head([_pooled(r, outputs[id(r.backbone)][r.layer]) for r in reads])


class FromMaps(FromInputs):
    """The same scores, with gradients that end at a map before each layer that is read.

    Gradients from one layer that is read do not pass to another, so that the products of gradients
    and activations of all maps can be added.

    Parameters
    ----------
    scores : Scores
    samples : sequence of Tensor
        One preprocessed sample, ``(1, ...)``, for each backbone.

    Attributes
    ----------
    markers : list of torch.nn.Module
        Each returns the map before a layer that is read.
    """

    infos: dict[int, dict[str, LayerInfo]]
    maps: list[str]
    markers: nn.ModuleList

    def __init__(self, scores: Scores, samples: Sequence[torch.Tensor]):
        super().__init__(scores)
        self.infos = {
            id(backbone): inspect_layers(backbone, x)
            for backbone, x in zip(self.backbones, samples, strict=True)
        }
        by_backbone = {id(b): x for b, x in zip(self.backbones, samples, strict=True)}
        self.maps = [self._map_before(r, by_backbone[id(r.backbone)]) for r in scores.reads]
        self.markers = nn.ModuleList(nn.Identity() for _ in scores.reads)

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            found = {
                id(backbone): _run(backbone, x, self._map_names(backbone))
                for backbone, x in zip(self.backbones, inputs, strict=True)
            }
        outputs = []
        for read, name, marker in zip(self.scores.reads, self.maps, self.markers, strict=True):
            x = marker(found[id(read.backbone)][name].detach().requires_grad_())
            outputs.append(_pooled(read, _run(read.backbone, x, [read.layer], name)[read.layer]))
        return self.scores.head(outputs)

    def _map_names(self, backbone: Backbone) -> list[str]:
        pairs = zip(self.scores.reads, self.maps, strict=True)
        return [name for read, name in pairs if read.backbone is backbone]

    def _map_before(self, read: Read, x: torch.Tensor) -> str:
        """Find the last layer with a map at which the gradients are not those of one token."""
        infos = self.infos[id(read.backbone)]
        names = list(infos)
        for name in reversed(names[: names.index(read.layer) + 1]):
            if not _has_map(infos[name], read.backbone):
                continue
            with torch.no_grad():
                start = _run(read.backbone, x, [name])[name]
            start = start.detach().requires_grad_()
            with torch.enable_grad():
                output = _pooled(read, _run(read.backbone, start, [read.layer], name)[read.layer])
                # Not their sum: the two logits of a linear probe cancel each other.
                weight = torch.arange(1.0, 1 + output.shape[1]).sqrt()
                (gradient,) = torch.autograd.grad((output * weight).sum(), start)
            if as_map(gradient, read.backbone).any():
                return name
        raise NoGradientsError(
            f"Backbone {read.backbone.name!r} has no layer with a map before {read.layer!r}."
        )


def _layers(reads: Sequence[Read], backbone: Backbone) -> list[str]:
    return [read.layer for read in reads if read.backbone is backbone]


def _run(
    backbone: Backbone, x: torch.Tensor, layers: Sequence[str], start: str | None = None
) -> dict[str, torch.Tensor]:
    """Run stages up to the last of some layers, from the input or behind a layer."""
    found = {} if start is None else {start: x}
    names = list(stages_of(backbone))
    first = 0 if start is None else names.index(start) + 1
    last = max(names.index(layer) for layer in layers)
    for name in names[first : last + 1]:
        # Stages may work in place: what is kept, and what has gradients, is copied first.
        x = stages_of(backbone)[name](x.clone())
        found[name] = x
    return {layer: found[layer] for layer in layers}


def _pooled(read: Read, activation: torch.Tensor) -> torch.Tensor:
    masked = read.backbone.modality.has_tokens
    return pool(activation, read.pooling, square=_is_square(read.backbone), masked=masked)


def _is_square(backbone: Backbone) -> bool:
    shape = backbone.input_shape
    return shape is not None and shape[-1] == shape[-2]


def _has_map(info: LayerInfo, backbone: Backbone) -> bool:
    """Tell whether an activation has positions in an image."""
    shape = info.shape
    if backbone.modality.has_tokens or len(shape) not in (2, 3):
        return False
    if len(shape) == 2:
        return _grid(shape[0], backbone) is not None
    sides = shape[:2] if is_channels_last(shape, _is_square(backbone)) else shape[1:]
    return min(sides) > 1


def _grid(n_tokens: int, backbone: Backbone) -> tuple[int, int] | None:
    """Return rows and columns of the patches among tokens; other tokens precede them."""
    shape = backbone.input_shape
    if shape is None or len(shape) != 3:
        return None
    for n_patches in range(n_tokens, max(3, n_tokens - 9), -1):
        rows = round(math.sqrt(n_patches * shape[1] / shape[2]))
        columns = round(n_patches / max(1, rows))
        fits = rows * columns == n_patches and rows * shape[2] == columns * shape[1]
        if fits and min(rows, columns) > 1:
            return rows, columns
    return None


def as_map(values: torch.Tensor, backbone: Backbone) -> torch.Tensor:
    """Add the channels of values in the form of an activation, and arrange its positions.

    Parameters
    ----------
    values : Tensor of shape (n, channels, h, w), (n, h, w, channels) or (n, tokens, channels)
    backbone : Backbone

    Returns
    -------
    Tensor of shape (n, h, w)
    """
    if values.ndim == 3:
        grid = _grid(values.shape[1], backbone)
        if grid is None:
            raise NoGradientsError("The tokens of an activation are no grid of patches.")
        return values.sum(2)[:, -math.prod(grid) :].unflatten(1, grid)
    last = is_channels_last(tuple(values.shape[1:]), _is_square(backbone))
    return values.sum(-1 if last else 1)
