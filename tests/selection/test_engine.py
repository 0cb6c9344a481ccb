"""What chooses and combines runs its networks with the library that is asked for."""

import pickle

import numpy as np
import pytest
from sklearn.base import clone

from sktransfer import (
    LayerProbeDisplay,
    TransferClassifier,
    TransferRegressor,
    probe_layers,
    rank_backbones,
    recommend_strategy,
)
from sktransfer.engines import ENGINES, TorchEngine
from sktransfer.features import Output
from sktransfer.selection import COUNTS, Blend
from sktransfer.selection.candidates import LinearCandidate
from tests.selection.support import deeper_backbone
from tests.support import images

pytestmark = pytest.mark.usefixtures("one_split_in_module")

X, Y = images(24), np.repeat(["a", "b"], 12)
NUMBERS = np.array([image.mean() for image in X])
QUICK = {"max_epochs": 1, "random_state": 0}
FIXED = {"max_epochs": 0, "random_state": 0}  # nothing is trained


class Other(TorchEngine):
    """Stands for another library, without its conversions, and counts samples."""

    runtime = "openvino"
    layout = "runtime"
    n_samples = 0

    def run(self, tensors, batch_size="auto"):
        tensors = list(tensors)
        type(self).n_samples += len(tensors)
        return super().run(tensors, batch_size)


@pytest.fixture
def other(monkeypatch):
    class OfThisTest(Other):
        pass

    monkeypatch.setitem(ENGINES, "openvino", OfThisTest)
    return OfThisTest


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["auto", "direct", "features", "early", "last"])
def test_a_classifier_predicts_the_same_with_each_strategy(strategy, other):
    expected = TransferClassifier(deeper_backbone(), strategy=strategy, **QUICK).fit(X, Y)
    assert other.n_samples == 0
    model = TransferClassifier(deeper_backbone(), strategy=strategy, engine="openvino", **QUICK)
    model.fit(X, Y)
    found = model.predict_proba(X)
    assert other.n_samples > 0
    assert model.execution_ == expected.execution_ | {"engine": "openvino", "layout": "runtime"}
    np.testing.assert_allclose(found, expected.predict_proba(X), atol=1e-4)
    again = pickle.loads(pickle.dumps(model))
    assert again.execution_["engine"] == clone(model).engine == "openvino"
    np.testing.assert_allclose(again.predict_proba(X), found, atol=1e-6)
    other.n_samples = 0
    assert model.set_params(engine="torch").execution_["engine"] == "torch"
    np.testing.assert_allclose(model.predict_proba(X), found, atol=1e-4)
    assert other.n_samples == 0


def test_a_regressor_predicts_the_same(other):
    expected = TransferRegressor(deeper_backbone(), random_state=0).fit(X, NUMBERS)
    model = TransferRegressor(deeper_backbone(), engine="openvino", random_state=0)
    model.fit(X, NUMBERS)
    assert other.n_samples > 0
    assert model.execution_ == expected.execution_ | {"engine": "openvino", "layout": "runtime"}
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=1e-4)


@pytest.mark.slow
def test_a_blend_has_a_batch_size_for_each_input_size(other):
    model = TransferClassifier(deeper_backbone(), engine="openvino", **QUICK).fit(X, Y)
    backbone = deeper_backbone()
    reads = [Output(backbone.with_image_size(size), "2") for size in (16, 900)]
    candidate = LinearCandidate("a", reads, (1.0,), 1.0, is_discriminant=True)
    model.estimator_ = Blend([candidate], 1.0, classes=model.classes_)
    assert model.execution_["engine"] == "openvino"
    sizes = model.execution_["batch_size"]
    assert list(sizes) == [16, 900]
    assert sizes[16] > sizes[900] >= 1
    candidate = LinearCandidate("counts", [COUNTS], (1.0,), 1.0, is_discriminant=True)
    model.estimator_ = Blend([candidate], 1.0, classes=model.classes_)
    assert model.execution_ == {}


@pytest.mark.slow
def test_functions_run_the_library_they_are_given(other):
    backbone, few = deeper_backbone(), slice(8, 16)
    recommended = recommend_strategy(X[few], Y[few], backbone, **FIXED)
    probed = probe_layers(X, Y, backbone, random_state=0)
    ranked = rank_backbones(X, Y, {"a": backbone, "b": backbone}, random_state=0)
    assert other.n_samples == 0
    again = recommend_strategy(X[few], Y[few], backbone, engine="openvino", **FIXED)
    assert [e.accuracy for e in again.table] == [e.accuracy for e in recommended.table]
    others = [other.n_samples]
    choice = probe_layers(X, Y, backbone, engine="openvino", random_state=0)
    np.testing.assert_allclose(choice.scores, probed.scores)
    others.append(other.n_samples)
    best = rank_backbones(X, Y, {"a": backbone, "b": backbone}, engine="openvino", random_state=0)
    np.testing.assert_allclose(best.scores, ranked.scores)
    others.append(other.n_samples)
    model = TransferClassifier(backbone, strategy="features", engine="openvino").fit(X, Y)
    before = other.n_samples
    LayerProbeDisplay.from_estimator(model, X, Y)
    others += [before, other.n_samples]
    assert np.all(np.diff(others) > 0)


@pytest.mark.parametrize("model", [TransferClassifier, TransferRegressor])
def test_an_unknown_library_and_one_that_cannot_run_are_refused(model, other):
    with pytest.raises(ValueError, match="'engine' parameter"):
        model(deeper_backbone(), engine="fast").fit(X, NUMBERS)
    other.packages = ("no_such_package",)
    with pytest.raises(ImportError, match="needs no_such_package"):
        model(deeper_backbone(), engine="openvino").fit(X, NUMBERS)
