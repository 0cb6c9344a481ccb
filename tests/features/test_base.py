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
    load_backbone,
)
from tests.support import images, tiny_backbone

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
        if name in estimator._parameter_constraints
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


@pytest.mark.parametrize("with_store", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        _in_pipeline,
        lambda **settings: _in_pipeline(engine="onnxruntime", **settings),
        lambda **settings: PretrainedClassifier(tiny_backbone(), **settings),
        lambda **settings: FineTunedClassifier(tiny_backbone(), max_epochs=1, **settings),
        lambda **settings: FineTunedClassifier(
            tiny_backbone(), trainable="1", max_epochs=1, **settings
        ),
    ],
)
def test_threads_share_a_fitted_estimator(make, with_store, tmp_path):
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
        for chosen, found in threads.map(predict, range(60)):
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
