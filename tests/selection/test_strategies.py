import dataclasses

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    StrategyDisplay,
    TransferClassifier,
    load_backbone,
    recommend_strategy,
)
from sktransfer.finetuning import training_length
from sktransfer.selection.strategies import STRATEGIES, Strategy, available_strategies
from sktransfer.selection.study import Study, Timing
from sktransfer.selection.transfer import strategy_task
from tests.finetuning.conftest import network, vectors
from tests.selection.support import deeper_backbone
from tests.support import Vectors, random_backbone, tiny_backbone

pytestmark = pytest.mark.usefixtures("one_split_in_module")


def test_strategies_are_those_that_the_network_allows():
    assert available_strategies(deeper_backbone()) == list(STRATEGIES)
    assert available_strategies(tiny_backbone()) == ["direct", "features", "head", "all"]
    assert "direct" not in available_strategies(load_backbone(Vectors()))
    assert available_strategies(random_backbone("resnet18")) == list(STRATEGIES)


def test_the_last_stages_are_two_where_there_are_more():
    assert STRATEGIES["last"].trainable(deeper_backbone()) == 2
    assert STRATEGIES["last"].trainable(load_backbone(Vectors())) == 1
    assert STRATEGIES["all"].trainable(tiny_backbone()) == "all"


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "trainable"), [("head", "head"), ("last", 2), ("all", "all")])
def test_a_strategy_trains_as_the_estimator_does_by_default(strategy, trainable):
    backbone = load_backbone(nn.Sequential(*network(), nn.ReLU(), nn.Linear(4, 4)))
    X, y = vectors()
    model = TransferClassifier(backbone, strategy=strategy, random_state=0).fit(X[:48], y[:48])
    tuned = FineTunedClassifier(backbone, trainable=trainable, random_state=0).fit(X[:48], y[:48])
    found = model.estimator_
    assert found.lr_ == tuned.lr_
    assert len(found.history_) == len(tuned.history_) == 40  # passes of three steps
    assert found.net_.batch_size == tuned.net_.batch_size == 16


def test_the_time_of_a_strategy_is_that_of_its_passes(colours):
    def seconds(**settings):
        model = TransferClassifier(deeper_backbone(), random_state=0, **settings)
        study = Study(strategy_task(model, *colours))
        study.timing = Timing(0.0, {"all": 1.0})
        return study.seconds("all")

    assert seconds() == 40 * 48
    assert seconds(max_epochs=3) == 3 * 48
    assert seconds(batch_size=4) == 10 * 48


def test_a_head_of_many_classes_takes_the_time_of_its_larger_steps():
    n_classes = 1001
    X, y = np.random.default_rng(0).normal(size=(2 * n_classes, 4)), np.arange(2 * n_classes) // 2
    model = TransferClassifier(load_backbone(Vectors()), random_state=0)
    study = Study(strategy_task(model, X.astype(np.float32), y))
    study.timing = Timing(0.0, {"head": 1.0})
    _, n_epochs = training_length(len(y), "auto", "auto", large_head=True)
    assert study.seconds("head") == n_epochs * len(y)


class Brightness(ClassifierMixin, BaseEstimator):
    """Classify by the mean brightness of a picture, without a network."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.means_ = [np.mean([x.mean() for x in X[y == c]]) for c in self.classes_]
        return self

    def predict_proba(self, X):
        return -np.abs([[x.mean() - mean for mean in self.means_] for x in X])

    def predict(self, X):
        return self.classes_[self.predict_proba(X).argmax(axis=1)]


class BrightnessOfLists(Brightness):
    """The same for lists of pictures."""

    def fit(self, X, y):
        return super().fit(np.array(X), np.asarray(y))


@pytest.fixture
def toy(monkeypatch):
    """One record in the table, and nothing else."""
    record = Strategy(
        "toy",
        "the brightness of a picture",
        make=lambda task, rows: BrightnessOfLists(),
        prior=lambda evidence: (0.1, 0.2),
    )
    monkeypatch.setitem(STRATEGIES, "toy", record)


def test_a_strategy_is_one_record(toy, colours):
    X, y = colours
    backbone = tiny_backbone()
    found = recommend_strategy(X, y, backbone, max_epochs=0, random_state=0)
    estimate = found.table[-1]
    assert estimate.name == "toy" and estimate.n_judged == 48
    assert estimate.accuracy > 0.9 and estimate.seconds > 0
    assert "toy" in repr(found) and "<td>toy</td>" in found._repr_html_()
    model = TransferClassifier(backbone, strategy="toy").fit(X, y)
    assert isinstance(model.estimator_, Brightness) and model.score(X, y) > 0.9
    assert "toy" in available_strategies(backbone)


def test_the_plot_shows_a_new_strategy(toy, colours):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    display = recommend_strategy(*colours, tiny_backbone(), max_epochs=0, random_state=0).plot()
    assert isinstance(display, StrategyDisplay)
    assert "toy" in [label.get_text() for label in display.ax_.get_yticklabels()]


@pytest.mark.slow
def test_a_strategy_can_be_recommended_for_its_prior_alone(toy, colours, monkeypatch):
    for name in list(STRATEGIES):
        certain = (0.5, 0.0) if name == "toy" else (0.0, 0.0)
        record = STRATEGIES[name]
        changed = {"prior": lambda evidence, certain=certain: certain}
        monkeypatch.setitem(STRATEGIES, name, dataclasses.replace(record, **changed))
    found = recommend_strategy(*colours, deeper_backbone(), max_epochs=1, random_state=0)
    assert found.strategy == "toy"
