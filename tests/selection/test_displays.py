import sys

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import (
    BlendDisplay,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    load_backbone,
)
from sktransfer.selection.ranking import probe_layers
from sktransfer.selection.recommendation import StrategyEstimate, decide
from tests.new_process import run_in_new_process
from tests.support import TinyNet, images, tiny_backbone

matplotlib = pytest.importorskip("matplotlib")
matplotlib.use("Agg")

from matplotlib import pyplot as plt  # noqa: E402

from sktransfer.selection.displays import BackboneRankingDisplay, LayerProbeDisplay, StrategyDisplay  # noqa: E402


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture
def pictures():
    return images(12), np.arange(12) % 2


def drawn_points(ax):
    """All numbers of the lines with markers, by axis."""
    lines = [line for line in ax.lines if line.get_marker() in ("o", "s")]
    return [np.column_stack(line.get_data()) for line in lines]


def test_layers_are_drawn_in_order_with_the_chosen_one_marked():
    display = LayerProbeDisplay(["a", "b", "c"], [0.5, 0.9, 0.7], [0.1, 0.1, 0.1], chosen="b")
    assert not hasattr(display, "ax_")
    ax = display.plot().ax_
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["a", "b", "c"]
    points, mark = drawn_points(ax)
    assert points[:, 1].tolist() == [0.5, 0.9, 0.7]
    assert mark.tolist() == [[1.0, 0.9]]
    assert display.figure_ is ax.figure


def test_what_was_probed_is_what_is_drawn(pictures):
    backbone = load_backbone(TinyNet(), preprocess=tiny_backbone().preprocess)
    choice = probe_layers(*pictures, backbone, layers=["0", "1", "4"])
    display = LayerProbeDisplay.from_choice(choice)
    np.testing.assert_array_equal(drawn_points(display.ax_)[0][:, 1], choice.scores)
    assert display.ax_.get_ylabel() == "accuracy of a probe"


def test_numbers_to_regress_on_are_named(pictures):
    y = np.linspace(0, 1, 12) + 0.01
    choice = probe_layers(pictures[0], y, tiny_backbone(), layers=["0", "4"])
    assert LayerProbeDisplay.from_choice(choice).ax_.get_ylabel() == "R² of a probe"


@pytest.mark.parametrize("fit", [False, True])
def test_an_estimator_lends_its_backbone(pictures, fit):
    extractor = PretrainedFeatureExtractor(tiny_backbone())
    if fit:
        extractor.fit(pictures[0])
    _, ax = plt.subplots()
    display = LayerProbeDisplay.from_estimator(extractor, *pictures, layers=["1", "4"], ax=ax)
    assert display.ax_ is ax and list(display.layers) == ["1", "4"]


def test_an_estimator_lends_its_pooling_also_from_within_a_pipeline(pictures):
    extractor = PretrainedFeatureExtractor(tiny_backbone(), pooling="flatten", layer="2")
    model = make_pipeline(extractor, LogisticRegression())
    display = LayerProbeDisplay.from_estimator(model, *pictures, layers=["1", "2"], random_state=0)
    wide = probe_layers(
        *pictures, tiny_backbone(), layers=["1", "2"], pooling="flatten", random_state=0
    )
    np.testing.assert_array_equal(display.scores, wide.scores)
    with pytest.raises(TypeError, match="no backbone"):
        LayerProbeDisplay.from_estimator(LogisticRegression(), *pictures)


def test_networks_are_drawn_best_first_from_the_top(pictures):
    display = BackboneRankingDisplay.from_backbones(
        *pictures, {"one": tiny_backbone(), "two": tiny_backbone(1)}, score="logme"
    )
    ax = display.ax_
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list(display.names)
    assert display.scores[0] >= display.scores[1]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]
    assert ax.get_xlabel() == "logme"


def recommendation(confident=True):
    errors = 0.01 if confident else 0.3
    table = [
        StrategyEstimate("features", 0.0, 0.0, 40, 0.8),
        StrategyEstimate("all", 0.1, errors, 0, 0.9),
    ]
    return decide(table, [], "", {})


def test_a_recommendation_is_drawn_with_what_was_tried_apart_from_rules():
    display = recommendation().plot()
    assert isinstance(display, StrategyDisplay)
    tried, by_rule = drawn_points(display.ax_)
    assert tried.tolist() == [[0.0, 0.0]] and by_rule.tolist() == [[0.1, 1.0]]
    labels = {t.get_text(): t.get_fontweight() for t in display.ax_.get_yticklabels()}
    assert labels == {"features": "normal", "all": "bold"}
    assert display.ax_.get_title() == "recommended: all; features are right for 0.80"


def test_no_recommendation_is_said_to_be_none():
    assert recommendation(False).plot().ax_.get_title().startswith("no recommendation")


def test_without_matplotlib_the_error_says_what_to_install(monkeypatch):
    for name in ("matplotlib", "matplotlib.pyplot"):
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed
    with pytest.raises(ImportError, match="pip install"):
        LayerProbeDisplay(["a"], [1.0]).plot()


@pytest.mark.slow
def test_the_module_is_imported_without_matplotlib():
    code = "import sys, sktransfer.selection.displays; print('matplotlib' in sys.modules)"
    assert run_in_new_process(code).strip() == "False"


def test_a_pipelines_earlier_steps_are_applied(pictures):
    X, y = pictures
    other = images(12, seed=1)  # what the step makes of X
    extractor = PretrainedFeatureExtractor(tiny_backbone(), layer="auto")
    step = FunctionTransformer(lambda X: other)
    display = LayerProbeDisplay.from_estimator(make_pipeline(step, extractor).fit(X, y), X, y)
    expected = LayerProbeDisplay.from_estimator(extractor.fit(other, y), other, y)
    assert np.array_equal(display.scores, expected.scores)
    assert display.chosen == extractor.layers_[0]


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
