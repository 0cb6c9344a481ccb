import warnings

import numpy as np
import pytest
from PIL import Image

from sktransfer import register_backbone
from tests.support import tiny_backbone


@pytest.fixture(autouse=True)
def display():
    """Undo what commands change for their process: how progress and warnings are shown."""
    rich = pytest.importorskip("rich")
    console = rich.get_console()
    before = console.__dict__.copy()
    with warnings.catch_warnings():
        yield
    console.__dict__ = before


@pytest.fixture
def tiny(registry):
    """The name of a small registered network."""
    register_backbone("tiny")(tiny_backbone)
    return "tiny"


def _save(folder, level, n):
    """Write images around a grey level."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(level)
    for i in range(n):
        pixels = np.clip(rng.normal(level, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")


@pytest.fixture
def classes(tmp_path):
    """A folder with twelve images of each of two classes."""
    _save(tmp_path / "data" / "dark", 60, 12)
    _save(tmp_path / "data" / "light", 190, 12)
    return tmp_path / "data"
