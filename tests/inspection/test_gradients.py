"""The scores with gradients are those of the estimators."""

import numpy as np
import pytest
import torch
from scipy.special import expit, softmax
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier, RidgeCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import Normalizer, StandardScaler
from sklearn.svm import SVC, LinearSVC

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
)
from sktransfer.inspection.gradients import FromInputs, FromMaps, NoGradientsError, scores_of
from tests.support import tiny_backbone

pytestmark = pytest.mark.usefixtures("one_split_in_module")

MAP = {"dark": ["a", "b"], "light": "c"}


def run(model, X) -> tuple[np.ndarray, np.ndarray]:
    """The scores by gradients from the inputs, and from maps."""
    scores = scores_of(model)
    module = FromInputs(scores)
    samples = [[b.open(x) for x in X] for b in module.backbones]
    inputs = [torch.stack(one) for one in samples]
    maps = FromMaps(scores, [x[:1] for x in inputs])
    return module(*inputs).detach().numpy(), maps(*inputs).detach().numpy()


def extractor(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


LOGITS = {
    "direct": PretrainedClassifier(tiny_backbone()),
    "mapped": PretrainedClassifier(tiny_backbone(), class_map=MAP),
    "tuned": FineTunedClassifier(tiny_backbone(), trainable="all", max_epochs=1, random_state=0),
    "linear": make_pipeline(extractor(), LogisticRegression()),
    "several layers": make_pipeline(
        extractor(layer=["2", "4"], pooling=["max", "avg"], image_size=[16, 24]),
        StandardScaler(),
        PCA(5),
        LogisticRegression(),
    ),
    "unit rows": make_pipeline(extractor(), StandardScaler(), Normalizer(), LogisticRegression()),
    "one strategy": TransferClassifier(tiny_backbone(), strategy="features", random_state=0),
}


@pytest.mark.parametrize("name", LOGITS)
def test_logits_give_the_probabilities_of_the_estimator(name, colours):
    X, y = colours
    model = LOGITS[name].fit(X, y)
    for logits in run(model, X[:5]):
        np.testing.assert_allclose(softmax(logits, 1), model.predict_proba(X[:5]), atol=1e-5)


@pytest.mark.parametrize("name", ["tuned", "linear", "unit rows", "one strategy"])
def test_three_classes_have_three_logits(name, colours):
    X, y = colours[0], np.array(["a", "b", "c"] * 8)
    model = LOGITS[name].fit(X, y)
    for logits in run(model, X[:5]):
        np.testing.assert_allclose(softmax(logits, 1), model.predict_proba(X[:5]), atol=1e-5)


def test_three_classes_of_a_blend_have_three_odds(colours):
    X, y = colours[0], np.array(["a", "b", "c"] * 8)
    model = TransferClassifier(tiny_backbone(), random_state=0).fit(X, y)
    for odds in run(model, X[:5]):
        np.testing.assert_allclose(expit(odds), model.predict_proba(X[:5]), atol=1e-4)


def test_logarithms_of_probabilities_of_learned_classes(colours):
    X, y = colours
    model = PretrainedClassifier(tiny_backbone(), class_map="learn").fit(X, y)
    for logs in run(model, X[:5]):
        np.testing.assert_allclose(np.exp(logs), model.predict_proba(X[:5]), atol=1e-5)


@pytest.mark.parametrize("estimator", [None, LogisticRegression()])
@pytest.mark.parametrize("image_size", [None, 24])
def test_odds_of_a_blend_give_its_probabilities(colours, estimator, image_size):
    X, y = colours
    model = TransferClassifier(
        tiny_backbone(), estimator=estimator, image_size=image_size, random_state=0
    ).fit(X, y)
    for odds in run(model, X[:5]):
        np.testing.assert_allclose(expit(odds), model.predict_proba(X[:5]), atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        TransferRegressor(tiny_backbone(), random_state=0),
        FineTunedRegressor(tiny_backbone(), max_epochs=1, random_state=0),
        make_pipeline(extractor(), RidgeCV()),
    ],
    ids=["blend", "tuned", "linear"],
)
def test_numbers_follow_the_predictions(model, colours):
    X = colours[0]
    model.fit(X, [image.mean() for image in X])
    for numbers in run(model, X[:6]):  # standardised, or as they are
        assert np.corrcoef(numbers[:, 0], model.predict(X[:6]))[0, 1] > 1 - 1e-6


@pytest.mark.parametrize("last", [LinearSVC(), RidgeClassifier()])
def test_two_columns_are_made_of_one_score(last, colours):
    X, y = colours
    model = make_pipeline(extractor(), last).fit(X, y)
    scores = run(model, X[:5])[0]
    np.testing.assert_allclose(
        scores[:, 1] - scores[:, 0], model.decision_function(X[:5]), atol=1e-4
    )


@pytest.mark.parametrize("last", [GaussianNB(), RandomForestClassifier(5), SVC()])
def test_models_that_are_not_linear_have_no_gradients(last, colours):
    with pytest.raises(NoGradientsError, match=r"no decision_function|not linear"):
        scores_of(make_pipeline(extractor(), last).fit(*colours))
