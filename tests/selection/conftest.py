"""Fixtures that the tests of the choice among strategies share."""

import numpy as np
import pytest

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
def tried(monkeypatch):
    """Names of the strategies in the order in which folds of theirs are judged."""
    names, judge = [], study.Study.judge

    def noting(self, name, folds):
        names.append(name)
        return judge(self, name, folds)

    monkeypatch.setattr(study.Study, "judge", noting)
    return names
