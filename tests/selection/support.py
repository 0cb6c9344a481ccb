"""Networks and tables for the tests of the choice among strategies."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from sktransfer import load_backbone, load_word_vectors
from sktransfer.backbones import Backbone, stages_of
from sktransfer.selection.outcomes import JUDGING
from sktransfer.selection.strategies import RULES
from tests.support import TinyNet, tiny_backbone


def tried_in(recommendation):
    """The names of the strategies of which predictions were judged."""
    return {estimate.name for estimate in recommendation.table if estimate.n_judged}


def judge_once(patch):
    """Judge strategies and blends on one split, not on five if samples are few: it is faster."""
    patch.setitem(RULES, "splits", 1)
    patch.setitem(JUDGING, "splits", 1)


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


def deeper_backbone(first=None):
    """A backbone of four convolutions, behind another stage if there is one."""
    settings = {"preprocess": tiny_backbone().preprocess, "classes": ["a", "b", "c"]}
    network = Deeper()
    if first is not None:
        network.insert(0, first)
    return load_backbone(network, **settings)


def noted_stage():
    """A stage that changes nothing, and the shapes of its batches: in training, and otherwise."""
    trained, others = [], []

    class Noted(nn.Module):
        def forward(self, x):
            if len(x):  # a condition, so that this is not traced
                (trained if self.training else others).append(tuple(x.shape))
            return x

    return Noted(), trained, others


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


WORDS = ["good", "bad", "film", "book", "the", "a"]


def word_vectors():
    return load_word_vectors(dict(zip(WORDS, np.eye(6), strict=True)))


def make_table(n=64, seed=0):
    """Three columns of which each decides one of three bits, and one that decides none."""
    pd = pytest.importorskip("pandas")
    rng = np.random.default_rng(seed)
    bits = rng.integers(2, size=(n, 3))
    images = [rng.integers(100, size=(16, 16, 3), dtype=np.uint8) + 155 * b for b in bits[:, 0]]
    table = pd.DataFrame(
        {
            "photo": [Image.fromarray(image.astype(np.uint8)) for image in images],
            "text": [
                f"the {('good', 'bad')[b]} {WORDS[2 + i % 2]}" for i, b in enumerate(bits[:, 1])
            ],
            "price": 10.0 * bits[:, 2] + rng.normal(size=n) + 50,
            "colour": rng.choice(["red", "green"], n),
        },
        index=rng.permutation(n) + 1000,
    )
    return table, bits


def networks():
    return {"photo": tiny_backbone(), "text": word_vectors()}
