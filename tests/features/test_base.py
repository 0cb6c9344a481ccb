import warnings
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    extract_to,
    load_backbone,
)
from tests.support import Vectors, images, tiny_backbone

X = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
Y = [0, 1] * 6
ESTIMATORS = [
    PretrainedFeatureExtractor,
    PretrainedClassifier,
    FineTunedClassifier,
    TransferClassifier,
]
WRONG = {
    "batch_size": (True, 0, 10**30, 1.5, "many"),
    "n_jobs": (True, 0, 10**30, "all"),
    "image_size": (True, 0, 1.5),
    "memory": (True, 3, ""),
    "device": (True, "", "abacus"),
    "verbose": (-1, 2.5, "loud"),
}


def network():
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    return load_backbone(module, classes=["a", "b", "c"])


# Of TransferClassifier, n_jobs is no parameter.
@pytest.mark.parametrize(
    ("estimator", "name", "value"),
    [
        (estimator, name, value)
        for estimator in ESTIMATORS
        for name, values in WRONG.items()
        for value in values
        if name in estimator().get_params()
    ],
)
def test_a_wrong_parameter_is_named_before_anything_is_computed(estimator, name, value, counted):
    with pytest.raises(ValueError, match=name):
        estimator(network(), **{name: value}).fit(X, Y)
    assert not counted


@pytest.mark.parametrize("name", ["micro_batch_size", "max_epochs", "rehearsal"])
def test_true_is_no_number(name):
    with pytest.raises(InvalidParameterError, match=rf"The '{name}' parameter .* Got True"):
        FineTunedClassifier(network(), **{name: True}).fit(X, Y)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 2**31 - 1), ("n_jobs", 2**15)])
def test_more_than_there_is_to_do_is_as_much_as_there_is(name, value):
    backbone = network()
    plain = PretrainedFeatureExtractor(backbone).fit_transform(X)
    made = PretrainedFeatureExtractor(backbone, **{name: value}).fit_transform(X)
    np.testing.assert_allclose(made, plain, rtol=1e-5, atol=1e-6)


def test_a_batch_of_training_is_no_larger_than_the_rows():
    backbone, settings = network(), {"random_state": 0, "max_epochs": 2}
    one, two = (
        FineTunedClassifier(backbone, batch_size=size, **settings).fit(X, Y)
        for size in (12, 2**31 - 1)
    )
    assert np.array_equal(one.predict_proba(X), two.predict_proba(X))


def _in_pipeline(**settings):
    return make_pipeline(
        PretrainedFeatureExtractor(tiny_backbone(), **settings), LogisticRegression()
    )


SHARED = {
    "features": _in_pipeline,
    "direct": lambda **settings: PretrainedClassifier(tiny_backbone(), **settings),
    "head": lambda **settings: FineTunedClassifier(tiny_backbone(), max_epochs=1, **settings),
    "stage": lambda **settings: FineTunedClassifier(
        tiny_backbone(), trainable="1", max_epochs=1, **settings
    ),
    # A conversion takes seconds: in the sweep only. test_exported.py has threads that share one.
    "converted": lambda **settings: _in_pipeline(engine="onnxruntime", **settings),
}


@pytest.mark.parametrize(
    ("name", "with_store"),
    [
        pytest.param(name, store, marks=[pytest.mark.sweep] * (name == "converted"))
        for name in SHARED
        for store in (False, True)
    ],
)
def test_threads_share_a_fitted_estimator(name, with_store, tmp_path):
    make = SHARED[name]
    photos = [*images(6), *images(6, (31, 18), seed=1), *images(6, (9, 9), seed=2)]
    y = ["ant", "bee", "cat"] * 6
    settings = {"memory": tmp_path} if with_store else {}
    model = make(**settings).fit(photos[:9], y[:9])
    expected = model.predict_proba(photos)
    backbone = (model[0] if hasattr(model, "steps") else model).backbone_
    backbone.prepared.pop("engines", None)  # the first calls come at once, too

    def predict(i):
        chosen = np.random.default_rng(i).permutation(len(photos))[: 1 + i % 7]
        return chosen, model.predict_proba([photos[k] for k in chosen])

    with ThreadPoolExecutor(8) as threads:
        for chosen, found in threads.map(predict, range(32)):
            np.testing.assert_allclose(found, expected[chosen], rtol=1e-4, atol=1e-6)


class Meeting(nn.Module):
    """A network that, once a barrier is set, waits until others run it, too."""

    barriers: list = []

    def forward(self, x):
        for barrier in self.barriers:
            barrier.wait(30)
        return 2 * x


def test_threads_run_a_network_at_the_same_time(monkeypatch):
    model = PretrainedFeatureExtractor(load_backbone(Meeting(), modality="array")).fit(X)
    expected = model.transform(X)
    monkeypatch.setattr(Meeting, "barriers", [Barrier(4)])  # it fails where one waits for another
    with ThreadPoolExecutor(4) as threads:
        for found in threads.map(model.transform, [X] * 4):
            np.testing.assert_array_equal(found, expected)


# -- what estimators and extractions tell scikit-learn's callbacks ---------------------------------


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


@pytest.mark.slow
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
