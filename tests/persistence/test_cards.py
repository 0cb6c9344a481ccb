import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, model_card
from tests.support import images, tiny_backbone

pytest.importorskip("skops")
X, Y = images(6), ["ant", "bee", "bee"] * 2


def test_a_card_says_what_a_model_is_and_what_it_was_fitted_to():
    model = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())
    scores = {"accuracy": 0.75}
    text = model_card(model.fit(X, Y), X=X, y=Y, scores=scores, data="Insects.").render()
    for part in ("2: ant, bee", "Insects.", "6 samples", "| bee | 4 |", "accuracy", "0.75"):
        assert part in text
    assert "- Name: tinynet" in text
    assert "- Licence of the weights: unknown" in text


def test_the_licence_of_published_weights_is_known(photos):
    tuned = FineTunedClassifier(image_size=32, max_epochs=0).fit(photos, [0, 1])
    on_top = PretrainedFeatureExtractor(tuned.to_backbone()).fit(photos)
    for model in (tuned, on_top):
        text = model_card(model).render()
        assert "- Licence of the weights: Apache License 2.0" in text
        assert "- Name: efficientnet_lite0" in text
    assert "- Licence of the weights: own" in model_card(tuned, licence="own").render()


def test_a_card_without_data_and_scores_says_so():
    model = PretrainedFeatureExtractor(tiny_backbone()).fit(X)
    text = model_card(model, y=np.array([0.5] * 6)).render()
    assert "Not described." in text
    assert "Not given." in text
