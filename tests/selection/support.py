"""Networks for the tests of the choice among strategies."""

import math

import torch
from torch import nn

from sktransfer import load_backbone
from sktransfer.backbones import Backbone, stages_of
from tests.support import TinyNet, tiny_backbone


class Deeper(TinyNet):
    """Four convolutions with batch norm, three classes: every strategy is possible."""

    def __init__(self):
        super().__init__()
        for i in range(3):
            self.insert(3, _block(i))


def _block(seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())


def deeper_backbone():
    settings = {"preprocess": tiny_backbone().preprocess, "classes": ["a", "b", "c"]}
    return load_backbone(Deeper(), **settings)


class OnTokens(nn.Module):
    """A stage with tokens in the place of square maps."""

    def __init__(self, stage):
        super().__init__()
        self.stage = stage

    def forward(self, x):
        if x.ndim == 3:
            side = math.isqrt(x.shape[1])
            x = x.transpose(1, 2).unflatten(2, (side, side))
        x = self.stage(x)
        return x.flatten(2).transpose(1, 2) if x.ndim == 4 else x


def with_tokens(backbone):
    """The same network, whose maps ``(n, channels, h, w)`` are tokens ``(n, h * w, channels)``."""
    stages = {name: OnTokens(stage) for name, stage in stages_of(backbone).items()}
    module = nn.Sequential(*stages.values())
    about = {"preprocess": backbone.preprocess, "classes": backbone.classes}
    return Backbone(backbone.name, module, stages=stages, **about)
