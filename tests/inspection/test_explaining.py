import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    UnreadableSamplesError,
    from_dataset,
    load_backbone,
    load_word_vectors,
)
from sktransfer.inspection import ConfusionDisplay, SaliencyDisplay, saliency
from sktransfer.inspection.explaining import overlay
from sktransfer.inspection.gradients import FromInputs, FromMaps, scores_of
from tests.selection.support import make_table, networks
from tests.support import TINY_SIZE, Vectors, images, tiny_backbone, tiny_swin, tiny_vit

attr = pytest.importorskip("captum.attr")

WORDS = {"good": [2.0, 0.1], "bad": [-2.0, 0.1], "film": [0.1, 1.0], "a": [0.0, 0.5]}
TEXTS = ["good film", "bad film", "a good film", "a bad film"]

pytestmark = pytest.mark.usefixtures("one_split_in_module")


@pytest.fixture
def direct(colours):
    return PretrainedClassifier(tiny_backbone()).fit(colours[0])


@pytest.fixture
def texts():
    vectors = {word: np.array(v, np.float32) for word, v in WORDS.items()}
    extractor = PretrainedFeatureExtractor(load_word_vectors(vectors))
    return make_pipeline(extractor, LogisticRegression()).fit(TEXTS, ["yes", "no"] * 2)


def test_where_a_mean_over_positions_follows_the_map_is_that_of_gradcam(direct):
    X = images(2)
    x = torch.stack([direct.backbone_.open(image) for image in X])
    module = FromMaps(scores_of(direct), [x[:1]])
    assert module.maps == ["2"]  # after the last convolution and its activation
    known = attr.LayerGradCam(module, module.markers[0]).attribute(x, target=1)
    own = attr.LayerGradientXActivation(module, module.markers[0]).attribute(x, target=1).sum(1)
    np.testing.assert_allclose(own.detach(), known[:, 0].detach(), rtol=1e-4)
    found = saliency(direct, X, target="b")
    large = torch.nn.functional.interpolate(own.detach()[:, None], (16, 16), mode="bilinear")[:, 0]
    for values, expected in zip(found.maps, large, strict=True):
        np.testing.assert_allclose(np.corrcoef(values.ravel(), expected.ravel())[0, 1], 1)


@pytest.mark.parametrize("image_size", [16, [16, 24]])
def test_integrated_gradients_add_up_to_the_difference_of_scores(colours, image_size):
    X, y = colours
    extractor = PretrainedFeatureExtractor(tiny_backbone(), image_size=image_size)
    model = make_pipeline(extractor, LogisticRegression()).fit(X, y)
    found = saliency(model, X[:2], target="dark", method="integrated_gradients", n_steps=100)
    module = FromInputs(scores_of(model))
    for sample, values in zip(X, found.maps, strict=False):
        inputs = [b.open(sample)[None] for b in module.backbones]
        score, origin = (module(*some)[0, 0] for some in (inputs, [0 * x for x in inputs]))
        np.testing.assert_allclose(values.sum(), (score - origin).item(), rtol=0.05)
    assert found.shown[0].shape == (*found.maps[0].shape, 3)


def test_a_bright_square_is_found_by_all_methods():
    rng = np.random.default_rng(0)
    X = [rng.integers(0, 40, (32, 32, 3)).astype(np.uint8) for _ in range(24)]
    y = np.array(["plain", "square"] * 12)
    for image in X[1::2]:
        image[4:12, 20:28] = [250, 240, 30]
    blend = TransferClassifier(tiny_backbone(image_size=32), random_state=0).fit(X, y)
    model = make_pipeline(
        PretrainedFeatureExtractor(tiny_backbone(image_size=32)), LogisticRegression()
    ).fit(X, y)
    for estimator, method in [
        (model, "gradcam"),
        (model, "integrated_gradients"),
        (model, "occlusion"),
        (blend, "gradcam"),
        (blend, "occlusion"),
    ]:
        found = saliency(estimator, X[1:2], method=method)
        assert found.targets == ["square"]
        side = len(found.maps[0]) // 8
        cells = found.maps[0].reshape(8, side, 8, side).mean((1, 3))
        inside = np.zeros((8, 8), bool)
        inside[1:3, 5:] = True  # the network is given a crop
        assert cells[inside].mean() > np.quantile(cells[~inside], 0.9), method


@pytest.mark.parametrize("network", [tiny_vit, tiny_swin])
def test_tokens_and_channels_last_are_arranged_as_maps(network, colours):
    backbone = load_backbone(network(), preprocess=TINY_SIZE, classes=["a", "b", "c"])
    found = saliency(PretrainedClassifier(backbone).fit(colours[0]), colours[0][:1])
    assert found.method == "gradcam"
    assert found.maps[0].shape == (16, 16)
    assert np.ptp(found.maps[0]) > 0


def test_the_weight_of_a_word_is_what_the_prediction_loses_without_it(texts):
    found = saliency(texts, ["a good, good film", "", "?!"], target="yes")
    words = found.words(0)
    assert [word for word, _ in words] == ["a", "good", "good", "film"]
    weights = np.array([weight for _, weight in words])
    assert weights.argsort()[-2:].tolist() in ([1, 2], [2, 1])
    odds = [np.diff(np.log(texts.predict_proba([t])[0])).item() for t in ("a good, good film",)]
    without = np.diff(np.log(texts.predict_proba(["a , good film"])[0])).item()
    np.testing.assert_allclose(weights[1], odds[0] - without, rtol=1e-6)
    assert found.words(1) == found.words(2) == []
    assert found.method == "occlusion"


def test_texts_of_a_blend_with_counts_of_words_are_explained():
    rng = np.random.default_rng(0)
    vectors = {w: rng.normal(size=8).astype(np.float32) for w in ["the", "film", "was", "so"]}
    X = [f"{' '.join(rng.choice(list(vectors), 4))} {w}" for w in ["great", "awful"] * 30]
    model = TransferClassifier(load_word_vectors(vectors), random_state=0).fit(X, ["+", "-"] * 30)
    found = saliency(model, ["the film was great"])
    assert found.targets == ["+"]
    assert max(found.words(0), key=lambda pair: pair[1])[0] == "great"


def test_models_without_gradients_are_explained_by_occlusion(colours):
    X, y = colours
    extractor = PretrainedFeatureExtractor(tiny_backbone())
    model = make_pipeline(extractor, RandomForestClassifier(5, random_state=0)).fit(X, y)
    assert saliency(model, X[:1]).method == "occlusion"
    with pytest.raises(TypeError, match="no decision_function"):
        saliency(model, X[:1], method="gradcam")


def test_other_modalities_tables_and_searches():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(20, 6)).astype(np.float32)
    y = X[:, 2] > 0
    model = FineTunedClassifier(load_backbone(Vectors()), max_epochs=1).fit(X, y)
    found = saliency(model, X[:2])
    assert [values.shape for values in found.maps] == [(6,), (6,)]
    assert SaliencyDisplay(found).plot().ax_[0].patches
    digits = load_digits()
    X, y = digits.data[:40] / 16, digits.target[:40] % 2
    model = PretrainedClassifier(tiny_backbone(), class_map="learn", image_shape=(8, 8))
    found = saliency(model.fit(X, y), X[:1], method="occlusion")
    assert found.maps[0].shape == (8, 8)
    assert found.targets == [model.predict(X[:1])[0]]


def test_steps_before_the_network_are_applied(colours):
    X, y = colours
    darker = FunctionTransformer(lambda X: [x // 2 for x in X])
    model = make_pipeline(
        darker, PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression()
    ).fit(X, y)
    found = saliency(model, X[:2])
    assert found.targets == model.predict(X[:2]).tolist()
    np.testing.assert_allclose(found.maps[0], saliency(model[1:], [X[0] // 2]).maps[0])


def test_samples_of_a_dataset_are_opened(direct, colours):
    X = colours[0][:2]
    samples, _ = from_dataset([(image, 0) for image in X])
    for method in ("gradcam", "occlusion"):
        found = saliency(direct, samples, method=method).maps
        np.testing.assert_array_equal(found, saliency(direct, X, method=method).maps)


def test_numbers_are_explained(colours):
    X, _ = colours
    model = TransferRegressor(tiny_backbone(), random_state=0).fit(X, [x.mean() for x in X])
    for method in ("gradcam", "occlusion"):
        found = saliency(model, X[:1], method=method)
        assert found.targets == [0]
        assert found.method == method


def test_the_estimator_and_the_backbone_are_not_changed(colours, tmp_path):
    X, y = colours
    model = FineTunedClassifier(
        tiny_backbone(), trainable="head", max_epochs=1, memory=tmp_path, random_state=0
    ).fit(X, y)
    before, n_files = model.predict_proba(X[:4]), len(list(tmp_path.rglob("*")))
    with torch.inference_mode():
        for method in ("gradcam", "integrated_gradients", "occlusion"):
            saliency(model, images(1, seed=9), method=method, n_steps=4)
    assert len(list(tmp_path.rglob("*"))) == n_files
    np.testing.assert_array_equal(model.predict_proba(X[:4]), before)
    assert not any(p.grad is not None for p in model.backbone_.module.parameters())


def test_a_blend_fitted_in_inference_mode_is_explained_outside_of_it(colours):
    X, y = colours
    with torch.inference_mode():
        model = TransferClassifier(tiny_backbone(), random_state=0).fit(X, y)
    assert saliency(model, X[:1]).maps[0].any()


def test_wrong_arguments_are_named(direct, colours):
    with pytest.raises(ValueError, match="method='lime'"):
        saliency(direct, colours[0][:1], method="lime")
    with pytest.raises(ValueError, match="'d' is no label"):
        saliency(direct, colours[0][:1], target="d")
    with pytest.raises(ValueError, match="2 labels for 1 samples"):
        saliency(direct, colours[0][:1], target=["a", "b"])
    with pytest.raises(UnreadableSamplesError, match=r"no\.jpg"):
        saliency(direct, ["no.jpg"])
    with pytest.raises(TypeError, match="has no backbone"):
        saliency(LogisticRegression(), colours[0])


def test_an_estimator_that_is_not_fitted_is_refused_as_by_scikit_learn(colours):
    X, y = colours
    steps = make_pipeline(PretrainedFeatureExtractor(tiny_backbone()), LogisticRegression())
    search = GridSearchCV(steps, {"logisticregression__C": [1]}, cv=2)
    threshold = FixedThresholdClassifier(steps, threshold=0.5)
    for model in (steps, search, threshold, PretrainedClassifier(tiny_backbone())):
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            saliency(model, X[:1])
        with pytest.raises(NotFittedError, match="is not fitted yet"):
            ConfusionDisplay.from_estimator(model, X[:2], y[:2])


def test_without_captum_the_message_says_what_to_install(direct, colours, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(ImportError, match=r"pip install 'sktransfer\[inspect\]'"):
        saliency(direct, colours[0][:1])


def test_pictures_are_coloured_and_words_marked(direct, texts, colours):
    found = saliency(direct, colours[0][:6])
    display = SaliencyDisplay(found).plot()
    assert [ax.get_title() for ax in display.ax_] == found.targets
    assert all(len(ax.images) == 1 for ax in display.ax_)
    picture = overlay(found, 0)
    assert picture.shape == (16, 16, 3)
    hottest = np.unravel_index(found.maps[0].argmax(), (16, 16))
    assert picture[hottest][0] > picture[hottest][2]
    display = SaliencyDisplay.from_estimator(texts, ["a good $film$ " * 8])
    display.figure_.canvas.draw()
    words = [text.get_text() for text in display.ax_[0].texts]
    assert words == ["a", "good", "film"] * 8


@pytest.mark.slow
def test_the_columns_of_a_row_are_left_out_one_by_one():
    X, bits = make_table(36)
    model = TransferClassifier(networks(), random_state=0).fit(X, bits[:, 2])
    found = saliency(model, X[:4])
    assert found.method == "occlusion" and [m.shape for m in found.maps] == [(4,)] * 4
    for i in range(4):
        lines = found.words(i)
        assert [line.split(":")[0] for line, _ in lines] == list(X)
        assert lines[1][0] == f"text: {X['text'].iloc[i]}"
        assert max(lines, key=lambda line: line[1])[0].startswith("price: ")
    assert found.targets == model.predict(X[:4]).tolist()
    np.testing.assert_allclose(saliency(model, X[1:2]).maps[0], found.maps[1], atol=1e-6)
    gaps = X[:1].assign(photo=None, price=np.nan)
    shown = saliency(model.set_params(on_error="mean"), gaps).shown
    assert shown[0].splitlines()[0] == "photo: missing"
    for method in ("gradcam", "integrated_gradients"):
        with pytest.raises(TypeError, match="method='occlusion', which leaves out columns"):
            saliency(model, X[:1], method=method)
    assert len(SaliencyDisplay.from_estimator(model, X[:2]).ax_) == 2


def test_the_columns_of_a_row_add_to_a_number():
    X, bits = make_table(36)
    model = TransferRegressor(networks(), random_state=0).fit(X, 8.0 * bits[:, 0] + bits[:, 2])
    (values,) = saliency(model, X[:1]).maps
    assert np.abs(values).argmax() == 0
