"""What estimators and extractions tell scikit-learn's callbacks."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    extract_to,
    load_backbone,
)
from tests.support import Vectors

callback = pytest.importorskip("sklearn.callback")  # of scikit-learn >= 1.9


class Log:
    """A callback that keeps what it is told."""

    def __init__(self):
        self.events, self.planned = [], []

    def setup(self, estimator, context):
        self.events.append("setup")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(f"begin {context.task_name}")
        self.planned.append(context.max_subtasks)

    def on_fit_task_end(self, estimator, context):
        self.events.append(f"end {context.task_name}")

    def teardown(self, estimator, context):
        self.events.append("teardown")


def told(*tasks):
    """What a log contains for a fit of several tasks."""
    inner = [f"{what} {name}" for name in tasks for what in ("begin", "end")]
    return ["setup", "begin fit", *inner, "end fit", "teardown"]


@pytest.fixture
def rows():
    X = np.random.default_rng(0).normal(size=(40, 7)).astype(np.float32)
    return X, np.where(X[:, 0] > 0, "right", "left")


BACKBONE = load_backbone(Vectors(), classes=[str(i) for i in range(32)])


@pytest.mark.parametrize(
    ("model", "tasks"),
    [
        (PretrainedFeatureExtractor(BACKBONE), []),
        (PretrainedClassifier(BACKBONE, class_map="learn"), []),
        (FineTunedClassifier(BACKBONE, max_epochs=2), ["epoch", "epoch"]),
        (TransferClassifier(BACKBONE), ["compare", "fit"]),
        (TransferClassifier(BACKBONE, strategy="features"), ["compare", "fit"]),
    ],
    ids=["extractor", "direct", "tuned", "blend", "strategy"],
)
def test_a_fit_reports_its_phases(rows, model, tasks):
    log = Log()
    assert model.set_callbacks(log).fit(*rows) is model
    assert log.events == told(*tasks)
    assert not {name for name in vars(model) if name.startswith("_callback")}


def test_a_regressor_reports_its_phases(rows):
    log = Log()
    TransferRegressor(BACKBONE).set_callbacks(log).fit(rows[0], rows[0][:, 0])
    assert log.events == told("compare", "fit")


def test_callbacks_end_after_an_error(rows):
    log = Log()
    with pytest.raises(ValueError, match="X_unlabelled"):
        model = TransferClassifier(BACKBONE, strategy="head").set_callbacks(log)
        model.fit(*rows, X_unlabelled=rows[0])
    assert log.events == ["setup", "begin fit", "teardown"]


def test_a_pipeline_around_an_extractor_reports_all_levels(rows, capsys):
    pytest.importorskip("rich")
    X, y = rows
    model = make_pipeline(PretrainedFeatureExtractor(Vectors()), LogisticRegression())
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error", UserWarning
        )  # scikit-learn's, about a step without callbacks
        model.set_callbacks(callback.ProgressBar(max_propagation_depth=None)).fit(X, y)
    assert "PretrainedFeature" in capsys.readouterr().out


def test_an_extraction_reports_its_partitions(rows, tmp_path):
    X, _ = rows
    log, extractor = Log(), PretrainedFeatureExtractor(Vectors())
    extractor.set_callbacks(log).fit(X)
    fitted, log.events, log.planned = dict(vars(extractor)), [], []
    extract_to(tmp_path / "a", extractor, source=X, partition_size=16)
    partitions = [f"{what} partition" for _ in range(3) for what in ("begin", "end")]
    assert log.events == ["setup", "begin extract", *partitions, "end extract", "teardown"]
    assert log.planned[0] == 3
    assert vars(extractor) == fitted
    log.events, log.planned = [], []  # the number of partitions of an iterator is not known
    extract_to(tmp_path / "b", extractor, source=iter([X[:20], X[20:]]), partition_size=16)
    assert log.planned[0] is None and log.events.count("end partition") == 3
