import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import BlendDisplay, TransferClassifier, TransferRegressor
from tests.support import images, tiny_backbone

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def pictures():
    return images(12), np.arange(12) % 2


def test_members_are_drawn_in_order_with_their_weights():
    display = BlendDisplay(["a", "b"], [0.75, 0.25])
    assert not hasattr(display, "ax_")
    ax = display.plot().ax_
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["a", "b"]
    assert [bar.get_width() for bar in display.bars_] == [0.75, 0.25]
    assert [text.get_text() for text in ax.texts] == ["0.75", "0.25"]
    assert ax.yaxis_inverted()
    assert display.figure_ is ax.figure


@pytest.mark.parametrize("kind", [TransferClassifier, TransferRegressor])
def test_the_blend_of_an_estimator_or_pipeline_is_drawn(kind, pictures):
    X, y = pictures
    model = kind(tiny_backbone(), random_state=0).fit(X, y)
    ax = plt.figure().add_subplot()
    display = BlendDisplay.from_estimator(make_pipeline(FunctionTransformer(), model), ax=ax)
    assert display.ax_ is ax
    assert display.members == model.members_
    np.testing.assert_array_equal([bar.get_width() for bar in display.bars_], model.weights_)


def test_estimators_without_a_blend_are_refused(pictures):
    forced = TransferClassifier(tiny_backbone(), strategy="features").fit(*pictures)
    for model in (forced, TransferClassifier()):
        with pytest.raises(TypeError, match="TransferClassifier has no blend"):
            BlendDisplay.from_estimator(model)
