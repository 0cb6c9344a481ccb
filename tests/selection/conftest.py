"""Fixtures that the tests of the choice among strategies share."""

import numpy as np
import pytest

from sktransfer.engines.base import Engine
from sktransfer.selection import study
from tests.support import images


@pytest.fixture(scope="module")
def colours():
    """Two kinds of pictures that are told apart easily, and labels."""
    X = images(48)
    y = np.array(["dark", "light"] * 24)
    X = [(x // 3 if label == "dark" else 255 - x // 3) for x, label in zip(X, y, strict=True)]
    return X, y


@pytest.fixture
def seen(monkeypatch):
    """What went through the network: a recipe and a sample, in order."""
    found = []
    run = Engine.run

    def watched(self, tensors, batch_size):
        recipe = self.recipe
        if recipe.backbone.name != "tail":  # not what is trained on top
            found.extend((recipe.layers, recipe.pooling, t.numpy().tobytes()) for t in tensors)
        return run(self, tensors, batch_size)

    monkeypatch.setattr(Engine, "run", watched)
    return found


@pytest.fixture
def tried(monkeypatch):
    """Names of the strategies in the order in which folds of theirs are judged."""
    names, judge = [], study.Study.judge

    def noting(self, name, folds):
        names.append(name)
        return judge(self, name, folds)

    monkeypatch.setattr(study.Study, "judge", noting)
    return names
