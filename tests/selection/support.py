"""Networks for the tests of the choice among strategies."""

import torch
from torch import nn

from sktransfer import load_backbone
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
