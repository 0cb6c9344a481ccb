import pytest
from sklearn.base import clone
from sklearn.ensemble import BaggingClassifier
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import PretrainedClassifier, PretrainedFeatureExtractor, load_word_vectors
from sktransfer.features import find_network, is_frozen
from tests.support import images, tiny_backbone


def test_the_step_and_those_around_it_are_found():
    X, y = images(8), ["a", "b"] * 4
    extractor = PretrainedFeatureExtractor(tiny_backbone())
    model = make_pipeline(FunctionTransformer(), extractor, LogisticRegression()).fit(X, y)
    found = find_network(model)
    assert found.step is model[1]
    assert len(found.before) == len(found.after) == 1
    assert found.samples(X) is X
    taking = found.on_samples()
    assert taking.predict(X).tolist() == model.predict(X).tolist()
    search = GridSearchCV(model, {"logisticregression__C": [1]}, cv=2)
    assert find_network(search).step is model[1]
    assert find_network(search.fit(X, y)).step is search.best_estimator_[1]


def test_an_estimator_alone_has_no_steps_around_it(tmp_path):
    model = PretrainedClassifier(tiny_backbone(), memory=tmp_path)
    found = find_network(model)
    assert (found.step, found.before, found.after) == (model, None, None)
    copied = found.on_samples()
    assert copied.memory is None
    assert model.memory == tmp_path
    assert found.modality.name == "image"
    texts = PretrainedFeatureExtractor(load_word_vectors({"a": [1.0]}))
    assert find_network(texts).modality.name == "text"


def test_a_threshold_around_the_steps_is_kept():
    X, y = images(8), ["a", "b"] * 4
    inner = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())
    model = FixedThresholdClassifier(inner, threshold=0.9999).fit(X, y)
    found = find_network(clone(model))
    assert found.around is None and not hasattr(found.step, "backbone_")
    found = find_network(model)
    assert (found.step, found.around) == (model.estimator_[0], model)
    behind, features = found.behind(found.samples(X))
    for predicted in (found.on_samples().predict(X), behind.predict(features)):
        assert predicted.tolist() == model.predict(X).tolist() == ["a"] * 8
    frozen = FixedThresholdClassifier(FrozenEstimator(model.estimator_), threshold=0.9999).fit(X, y)
    found = find_network(frozen)
    assert (found.step, found.around) == (model.estimator_[0], frozen)
    assert found.on_samples().predict(X).tolist() == ["a"] * 8
    with pytest.raises(TypeError, match="has no backbone"):
        find_network(BaggingClassifier(LogisticRegression()).fit([[0], [1]], [0, 1]))


def test_a_frozen_estimator_that_predicts_is_found_inside_others():
    frozen = FrozenEstimator(PretrainedClassifier())
    for model in (
        frozen,
        make_pipeline(FunctionTransformer(), frozen),
        FixedThresholdClassifier(frozen),
        GridSearchCV(make_pipeline(frozen), {}),
    ):
        assert is_frozen(model)
    features = FrozenEstimator(PretrainedFeatureExtractor())
    for model in (PretrainedClassifier(), make_pipeline(features, LogisticRegression())):
        assert not is_frozen(model)


def test_an_estimator_without_a_network_is_refused():
    with pytest.raises(TypeError, match="Pipeline has no backbone"):
        find_network(make_pipeline(LogisticRegression()))
