"""Fixtures that the tests of the choice among strategies share."""

import numpy as np
import pytest

from tests.selection.support import judge_once
from tests.support import images


@pytest.fixture(scope="module")
def colours():
    """Two kinds of pictures that are told apart easily, and labels."""
    X = images(48)
    y = np.array(["dark", "light"] * 24)
    X = [(x // 3 if label == "dark" else 255 - x // 3) for x, label in zip(X, y, strict=True)]
    return X, y


@pytest.fixture
def one_split(monkeypatch):
    """Strategies and blends are judged on one split in a test."""
    judge_once(monkeypatch)


@pytest.fixture(scope="module")
def one_split_in_module():
    """Strategies and blends are judged on one split in all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        judge_once(patch)
        yield
