import numpy as np
import pytest
from matplotlib import pyplot as plt

from sktransfer.inspection import ConfusionDisplay
from sktransfer.inspection.confusion import most_confused

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
