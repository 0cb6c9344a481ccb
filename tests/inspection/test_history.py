import numpy as np
import pytest

from sktransfer import FineTunedClassifier, TransferClassifier
from sktransfer.inspection import TrainingHistoryDisplay
from tests.support import tiny_backbone


def test_losses_of_a_training_are_drawn_and_the_kept_epoch_is_marked(colours):
    model = FineTunedClassifier(
        tiny_backbone(),
        trainable="all",
        max_epochs=3,
        validation_fraction=0.25,
        patience=3,
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
