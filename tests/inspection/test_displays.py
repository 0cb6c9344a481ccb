"""Plots of confusions, of features and of trainings."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.decomposition import PCA

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer.inspection import ConfusionDisplay, FeatureMapDisplay, TrainingHistoryDisplay
from sktransfer.inspection.displays import far_apart, most_confused
from tests.support import images, tiny_backbone

WORDS = ["ant", "bee", "cat"]


def test_the_most_certain_wrong_predictions_come_first():
    y, predicted = ["ant", "bee", "cat", "bee"], ["bee", "bee", "ant", "cat"]
    table = [[0.4, 0.6, 0], [0, 1, 0], [0.9, 0.1, 0], [0, 0.1, 0.9]]
    assert most_confused(y, predicted, table, WORDS).tolist() == [2, 3, 0]
    # A label that is no class of the model has the probability 0.
    assert most_confused(["dog", "bee"], ["ant", "ant"], [[0.6, 0.4, 0]] * 2, WORDS)[0] == 0


def test_without_probabilities_the_most_frequent_confusions_come_first():
    y, predicted = ["ant", "cat", "cat", "ant"], ["bee", "ant", "ant", "ant"]
    assert most_confused(y, predicted).tolist() == [1, 2, 0]
    assert most_confused(["a"], ["a"]).tolist() == []


def test_the_matrix_has_all_labels_and_predictions():
    display = ConfusionDisplay.from_predictions(["ant", "cat"], ["bee", "cat"])
    assert display.labels.tolist() == WORDS
    assert display.matrix.tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert display.preview_axes_ == []
    assert display.figure_ is display.ax_.figure


def test_wrong_predictions_are_shown_beside_the_matrix(pipeline, colours):
    display = ConfusionDisplay.from_estimator(pipeline, *colours)
    assert np.trace(display.matrix) == 22
    assert sorted(display.titles) == ["dark, not light", "light, not dark"]
    assert [len(ax.images) for ax in display.preview_axes_] == [1, 1]
    assert display.ax_.get_xlabel() == "prediction"


def test_given_axes_are_divided(pipeline, colours):
    figure, (_, right) = plt.subplots(1, 2)
    display = ConfusionDisplay.from_estimator(pipeline, *colours, n_samples=1, ax=right)
    assert display.figure_ is figure
    assert len(display.preview_axes_) == 1
    place = display.ax_.get_subplotspec().get_topmost_subplotspec()
    assert place == right.get_subplotspec()
    with pytest.raises(ValueError, match="grid of axes"):
        ConfusionDisplay([[1]], ["a"], ["text"], ["t"]).plot(figure.add_axes((0, 0, 1, 1)))


def test_a_text_with_mathematical_signs_is_drawn_as_it_is():
    display = ConfusionDisplay([[0, 1], [0, 0]], ["a", "b"], ["costs $5_$ or $^"], ["a, not b"])
    display.plot().figure_.canvas.draw()
    assert display.preview_axes_[0].texts[0].get_text() == "costs $5_$ or $^"


def test_a_missing_label_is_named():
    with pytest.raises(ValueError, match="missing"):
        ConfusionDisplay.from_predictions(["a", None], ["a", "a"])


@pytest.fixture
def extractor(colours):
    return PretrainedFeatureExtractor(tiny_backbone()).fit(colours[0])


def test_each_label_is_a_colour_and_some_samples_are_pictures(extractor, colours):
    X, y = colours
    display = FeatureMapDisplay.from_estimator(extractor, X, y, n_previews=5)
    assert [p.get_label() for p in display.points_] == ["dark", "light"]
    assert sum(len(p.get_offsets()) for p in display.points_) == len(X)
    assert len(display.previews_) == 5
    assert display.positions.shape == (24, 2)


def test_many_samples_are_placed_by_their_neighbours(extractor):
    X = images(40)
    display = FeatureMapDisplay.from_estimator(extractor, X, np.linspace(0, 1, 40))
    assert display.positions.shape == (40, 2)
    assert display.points_[0].get_array().size == 40
    again = FeatureMapDisplay.from_estimator(extractor, X)
    np.testing.assert_array_equal(display.positions, again.positions)


def test_a_projection_can_be_given_and_one_sample_has_a_place(extractor, colours):
    display = FeatureMapDisplay.from_estimator(extractor, colours[0], projection=PCA(2))
    expected = PCA(2).fit_transform(extractor.transform(colours[0]))
    np.testing.assert_allclose(display.positions, expected, rtol=1e-4, atol=1e-4)
    assert FeatureMapDisplay.from_estimator(extractor, colours[0][:1]).positions.tolist() == [
        [0, 0]
    ]


def test_pictures_are_far_from_each_other():
    positions = np.array([[0, 0], [0, 0.1], [5, 0], [0, 5.0]])
    assert set(far_apart(positions, 3)) in ({0, 2, 3}, {1, 2, 3})
    assert len(far_apart(np.zeros((4, 2)), 3)) == 1


def test_losses_of_a_training_are_drawn_and_the_kept_epoch_is_marked(colours):
    model = FineTunedClassifier(
        tiny_backbone(),
        trainable="all",
        max_epochs=3,
        validation_fraction=0.25,
        random_state=0,
    ).fit(*colours)
    display = TrainingHistoryDisplay.from_estimator(model)
    assert [line.get_label() for line in display.lines_] == ["training", "hold-out set"]
    expected = [row["train_loss"] for row in model.history_]
    np.testing.assert_array_equal(display.lines_[0].get_ydata(), expected)
    assert display.best_epoch == model.best_epoch_
    assert display.ax_.get_ylabel() == "loss"


def test_the_training_of_one_strategy_is_drawn(colours):
    model = TransferClassifier(tiny_backbone(), strategy="head", max_epochs=2).fit(*colours)
    display = TrainingHistoryDisplay.from_estimator(model)
    assert len(display.lines_[0].get_xdata()) == 2
    assert display.best_epoch is None


def test_an_estimator_without_training_is_named(pipeline):
    with pytest.raises(TypeError, match="PretrainedFeatureExtractor has no history"):
        TrainingHistoryDisplay.from_estimator(pipeline)
