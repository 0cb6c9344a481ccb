"""Fixtures that the tests of inspection share."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import PretrainedFeatureExtractor
from tests.selection.support import judge_once
from tests.support import images, tiny_backbone

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="package")
def colours():
    """Dark and light pictures, and labels of which two are wrong: those of samples 3 and 10."""
    y = np.array(["dark", "light"] * 12)
    X = images(24)
    X = [(x // 3 if label == "dark" else 255 - x // 3) for x, label in zip(X, y, strict=True)]
    y[[3, 10]] = ["dark", "light"]
    return X, y


@pytest.fixture
def pipeline(colours):
    """Features and a linear classifier, fitted."""
    model = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())
    return model.fit(*colours)


@pytest.fixture(scope="module")
def one_split_in_module():
    """Strategies and blends are judged on one split in all tests of a file."""
    with pytest.MonkeyPatch.context() as patch:
        judge_once(patch)
        yield
