"""How many threads BLAS has in the functions of small arrays, and afterwards."""

import threading

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from threadpoolctl import ThreadpoolController, threadpool_info, threadpool_limits

from sktransfer import PretrainedFeatureExtractor
from sktransfer.data import ClassTarget, class_target
from sktransfer.features import Output
from sktransfer.selection.blend_fitting import cross_validate
from sktransfer.selection.candidates import ClassifierCandidate
from sktransfer.selection.outcomes import Labels, fit
from sktransfer.transferability import (
    LinearProbe,
    RidgeProbe,
    h_score,
    logme,
    make_folds,
    one_thread_if_small,
    out_of_fold_scores,
    probe_score,
    small_in_one_thread,
    solve_probe,
    transrate,
)
from tests.support import images, tiny_backbone

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(24, 5)), np.arange(24) % 2
LARGE = np.broadcast_to(0.0, (2**21 + 1,))


def n_threads():
    return {
        library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"
    }


@pytest.fixture(autouse=True)
def two_threads():
    with threadpool_limits(2, user_api="blas"):
        yield
        assert n_threads() == {2}


def test_small_arrays_have_one_thread_and_large_ones_as_many_as_before():
    for small in [(), (X,), ({"a": X, "b": X},), ([1, 2], None, "text")]:
        with one_thread_if_small(*small):
            assert n_threads() == {1}
        assert n_threads() == {2}
    for large in [(LARGE,), (X, LARGE), ({"a": X, "b": LARGE},)]:
        with one_thread_if_small(*large):
            assert n_threads() == {2}


def test_the_number_is_set_back_after_an_error():
    @small_in_one_thread
    def divide(array):
        assert n_threads() == {1}
        return 1 / 0

    with pytest.raises(ZeroDivisionError):
        divide(X)
    assert n_threads() == {2}


def test_arguments_by_name_count():
    assert small_in_one_thread(lambda a: n_threads())(a=LARGE) == {2}


def test_one_thread_of_python_at_a_time_sets_the_number():
    entered, left = threading.Event(), threading.Event()

    def enter():
        with one_thread_if_small(X):
            entered.set()
            left.wait(5)

    thread = threading.Thread(target=enter)
    with one_thread_if_small(X):
        with one_thread_if_small(X):
            assert n_threads() == {1}
        assert n_threads() == {1}
        thread.start(), entered.wait(5)
    assert n_threads() == {2}
    left.set(), thread.join()
    assert n_threads() == {2}


def choose():
    output = Output(tiny_backbone(), "2")
    candidate = ClassifierCandidate("m", [output], LogisticRegression())
    outcome = Labels(ClassTarget(np.arange(2)), Y, np.ones(len(Y)))
    cross_validate([candidate], {output: X}, outcome, 0)


CALLS = {
    "LinearProbe": lambda: LinearProbe().fit(X, Y),
    "RidgeProbe": lambda: RidgeProbe().fit(X, Y),
    "predict": lambda: FITTED.predict(X),
    "predict_proba": lambda: FITTED.predict_proba(X),
    "solve_probe": lambda: solve_probe(X, Y, np.ones(len(Y)), class_target(Y, len(Y))[0]),
    "out_of_fold_scores": lambda: out_of_fold_scores(X, Y, make_folds(Y, 2)),
    "logme": lambda: logme(X, Y),
    "h_score": lambda: h_score(X, Y),
    "transrate": lambda: transrate(X, Y),
    "probe_score": lambda: probe_score(X, Y),
    "cross_validate": choose,
    "classifier": lambda: fit(LogisticRegression(), X, Y, None),
    "classifier with weights": lambda: fit(LogisticRegression(), X, Y, np.ones(len(Y))),
}
FITTED = LinearProbe().fit(X, Y)


@pytest.fixture
def limited(monkeypatch):
    """The numbers of threads that are set."""
    found, limit = [], ThreadpoolController.limit

    def noted(self, *, limits=None, **settings):
        found.append(limits)
        return limit(self, limits=limits, **settings)

    monkeypatch.setattr(ThreadpoolController, "limit", noted)
    return found


@pytest.mark.parametrize("name", CALLS)
def test_linear_algebra_of_features_is_limited(name, limited):
    CALLS[name]()
    assert set(limited) == {1}


def test_the_classifier_of_a_pipeline_is_limited_and_its_network_is_not():
    seen = {}

    class Noted(LogisticRegression):
        def fit(self, X, y):
            seen["classifier"] = n_threads()
            return super().fit(X, y)

    class Extractor(PretrainedFeatureExtractor):
        def fit_transform(self, X, y=None):
            seen["network"] = n_threads()
            return super().fit_transform(X, y)

    pictures = images(6)
    model = make_pipeline(Extractor(tiny_backbone()), Noted())
    assert fit(model, pictures, np.arange(6) % 2, None) is model
    assert seen == {"classifier": {1}, "network": {2}}
    assert model.predict(pictures).shape == (6,)


def test_principal_components_are_limited(limited):
    PretrainedFeatureExtractor(tiny_backbone(), n_components=2).fit(images(6))
    assert limited
