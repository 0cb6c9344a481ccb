"""Estimators are the same after ``save`` and ``load``, also in a new process."""

import functools
import json
import os
import pickle
import re
import sys
import threading
import zipfile

import numpy as np
import pytest
import safetensors.numpy
import torch
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import VotingClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier, GridSearchCV
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler
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
    register_backbone,
    save,
)
from sktransfer.inspection import saliency
from sktransfer.persistence import inspect_file
from sktransfer.persistence.files import read_archive, write_archive
from sktransfer.persistence.objects import is_loss
from tests.new_process import run_in_new_process
from tests.support import TINY_SIZE, TinyNet, Vectors, run_python, tiny_backbone

rng = np.random.default_rng(0)
IMAGES = list(rng.integers(0, 256, (24, 20, 24, 3), np.uint8))
LABELS = np.array(["ant", "bee", "cat"] * 8)
NUMBERS = rng.normal(size=24)
TEXTS = [f"a {word} film of {i} hours" for i in range(40) for word in ("good", "bad", "long")]
TEXT_LABELS = np.array(["good", "bad", "long"] * 40)
WORDS = {"good": [1.0, 0.0], "bad": [-1.0, 0.5], "film": [0.0, 1.0], "long": [0.3, 0.2]}
TINY = {"tinynet": tiny_backbone}


def tune(**settings):
    return FineTunedClassifier(tiny_backbone(), max_epochs=2, random_state=0, **settings)


def features(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def outputs(model, X):
    methods = ("predict_proba", "decision_function", "predict", "transform")
    return {m: getattr(model, m)(X) for m in methods if hasattr(model, m)}


def assert_same(model, again, X):
    before, after = outputs(model, X), outputs(again, X)
    assert list(before) == list(after)
    for method in before:
        np.testing.assert_array_equal(before[method], after[method], err_msg=method)


MODELS = {
    "components": lambda: features(n_components=3),
    "features": lambda: features(pooling=["avg", "max"], layer=["2", -1]).fit(IMAGES),
    "pipeline": lambda: make_pipeline(features(), StandardScaler(), LogisticRegression()),
    "union": lambda: make_pipeline(make_union(features(), features(layer="2")), LinearSVC()),
    "voting": lambda: VotingClassifier(
        [("a", tune()), ("b", make_pipeline(features(), LogisticRegression()))], voting="soft"
    ),
    "direct": lambda: PretrainedClassifier(tiny_backbone(), class_map={"x": "a", "y": [1, 2]}),
    "learned": lambda: PretrainedClassifier(tiny_backbone(), class_map="learn"),
    "sizes": lambda: PretrainedClassifier(tiny_backbone(), image_size=[16, 24], class_map="learn"),
    "head": tune,
    "mlp": lambda: tune(head="mlp", net_params={"optimizer": torch.optim.SGD}),
    "all": lambda: tune(
        trainable="all", train_batch_norm=True, net_params={"optimizer": torch.optim.NAdam}
    ),
    "rehearsal": lambda: tune(rehearsal=2, class_weight={"ant": 2.0, "bee": 1.0, "cat": 1.0}),
    "on a tuned one": lambda: FineTunedClassifier(
        tune(trainable=1).fit(IMAGES, LABELS), max_epochs=1, random_state=0
    ),
    "on a tuned backbone": lambda: PretrainedFeatureExtractor(
        tune(trainable=1).fit(IMAGES, LABELS).to_backbone()
    ),
    "blend": lambda: TransferClassifier(tiny_backbone(), random_state=0),
    "blend of a pipeline": lambda: TransferClassifier(
        tiny_backbone(), estimator=make_pipeline(StandardScaler(), LogisticRegression())
    ),
    "strategy": lambda: TransferClassifier(tiny_backbone(), strategy="all", max_epochs=1),
    "probe": lambda: TransferClassifier(tiny_backbone(), strategy="features", random_state=0),
}


@functools.cache
def fitted(name):
    return MODELS[name]().fit(IMAGES, LABELS)


DAILY = ("features", "pipeline", "direct", "mlp", "all", "on a tuned backbone", "blend")


@pytest.mark.parametrize(
    "name",
    [n if n in DAILY else pytest.param(n, marks=pytest.mark.sweep) for n in MODELS],
)
def test_predictions_are_the_same_after_loading(name, tmp_path):
    save(fitted(name), tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules=TINY)
    assert_same(fitted(name), again, IMAGES)
    save(again, tmp_path / "again.skt")
    assert_same(again, load(tmp_path / "again.skt", modules=TINY), IMAGES)


def test_a_loaded_model_can_be_cloned_fitted_and_trained_further(tmp_path):
    save(fitted("head"), tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules=TINY)
    assert_same(clone(again).fit(IMAGES, LABELS), fitted("head"), IMAGES)
    again.partial_fit(IMAGES, LABELS)


def test_a_model_loaded_in_inference_mode_predicts_and_is_trained_outside_of_it(tmp_path):
    save(fitted("all"), tmp_path / "model.skt")
    with torch.inference_mode():
        again = load(tmp_path / "model.skt", modules=TINY)
        unpickled = pickle.loads(pickle.dumps(fitted("all")))
    for model in (again, unpickled):
        assert_same(fitted("all"), model, IMAGES)
    assert saliency(again, IMAGES[:1]).maps[0].any()
    again.partial_fit(IMAGES, LABELS)


@pytest.mark.parametrize(
    "model",
    [
        FineTunedRegressor(tiny_backbone(), max_epochs=1, random_state=0),
        TransferRegressor(tiny_backbone(), random_state=0),
    ],
)
@pytest.mark.parametrize(
    "y",
    [NUMBERS, pytest.param(np.column_stack([NUMBERS, NUMBERS**2]), marks=pytest.mark.sweep)],
)
def test_regressors_predict_the_same_after_loading(model, y, tmp_path):
    model = clone(model).fit(IMAGES, y)
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt", modules=TINY), IMAGES)


def test_label_sets_are_predicted_the_same_after_loading(tmp_path):
    model = tune().fit(IMAGES, rng.integers(0, 2, (24, 4)))
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt", modules=TINY), IMAGES)


def test_an_estimator_without_a_fit(tmp_path):
    model = tune(head="mlp", lr=1e-3, class_weight={0: 1.0, 1: 2.0})
    save(model, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules=TINY)
    assert again.get_params()["class_weight"] == {0: 1.0, 1: 2.0}
    assert not hasattr(again, "classes_")


@pytest.mark.parametrize("labels", [[0, 1], [True, False], [1.0, 2.0], ["é", "ß"]])
def test_labels_of_any_type(labels, tmp_path):
    y = np.array(labels * 12)
    model = tune(rehearsal=1).fit(IMAGES, y)
    save(model, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules=TINY)
    assert again.predict(IMAGES).dtype == y.dtype
    assert_same(model, again, IMAGES)
    assert again.to_backbone().label_rows == model.to_backbone().label_rows


def test_all_losses_of_torch_with_their_settings(tmp_path):
    names = {name for name, cls in vars(torch.nn).items() if is_loss(cls)}
    losses = [getattr(torch.nn, name)() for name in names - {"NLLLoss2d"}]  # which is deprecated
    losses.append(torch.nn.HuberLoss(delta=2))
    losses.append(torch.nn.CrossEntropyLoss(torch.tensor([1.0, 2.0]), label_smoothing=0.1))
    assert len(losses) > 15
    backbone = tiny_backbone()
    models = [(f"{i}", FineTunedClassifier(backbone, loss=loss)) for i, loss in enumerate(losses)]
    save(VotingClassifier(models), tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules=TINY)
    for loss, (_, model) in zip(losses, again.estimators, strict=True):
        assert type(model.loss) is type(loss)
        assert str(vars(model.loss)) == str(vars(loss))


def test_a_loss_with_an_attribute_of_the_users_is_refused_before_it_is_written(tmp_path):
    loss = torch.nn.CrossEntropyLoss()
    loss.note = "mine"
    with pytest.raises(
        TypeError, match=r"has \['note'\], which CrossEntropyLoss of torch does not"
    ):
        save(FineTunedClassifier(tiny_backbone(), loss=loss), tmp_path / "model.skt")
    assert not list(tmp_path.iterdir())


VALUES = {
    "#": 1.0,
    "set": {1, 2},
    "nested": (1, (2, "x")),
    "large": 10**30,
    "no text in UTF-8": "é\ud800",
    "numbers": np.arange(6.0).reshape(2, 3).T,
    "texts": np.array(["x", "yy"]),
    "no texts": np.array([], "U3"),
    "a text": np.array("abc"),
    "objects": np.array([["a", None]], object),
    "masked": np.ma.MaskedArray(["a", None], mask=[True, False], dtype=object),
    "float32": np.float32(1.5),
    "str": np.str_("a"),
    "bytes": b"abc",
    "dates": np.array([1, 2], "M8[s]"),
    ("a", 1): None,
    np.int64(3): [1, {"#": 2}],
    True: slice(1, None),
}


@pytest.mark.parametrize(
    "estimator", [LogisticRegression(), FineTunedClassifier()], ids=["theirs", "ours"]
)
def test_parameters_have_their_types_after_loading(estimator, tmp_path):
    save(clone(estimator).set_params(class_weight=VALUES), tmp_path / "model.skt")
    again = load(tmp_path / "model.skt").class_weight
    assert list(again) == list(VALUES)
    for (key, value), (other, expected) in zip(again.items(), VALUES.items(), strict=True):
        assert (type(key), type(value)) == (type(other), type(expected))
        for name in ("dtype", "shape"):
            assert getattr(value, name, None) == getattr(expected, name, None)
        assert repr(value) == repr(expected)
    assert again["numbers"].flags.f_contiguous


def test_estimators_of_sktransfer_need_no_skops(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "skops", None)  # an import raises
    save(fitted("blend"), tmp_path / "model.skt")
    assert_same(fitted("blend"), load(tmp_path / "model.skt", modules=TINY), IMAGES)
    with pytest.raises(ImportError, match="require skops"):
        save(fitted("pipeline"), tmp_path / "model.skt")


def test_the_best_estimator_of_a_search(tmp_path):
    search = GridSearchCV(
        make_pipeline(features(), LogisticRegression()), {"logisticregression__C": [0.1, 1]}, cv=2
    ).fit(IMAGES, LABELS)
    save(search.best_estimator_, tmp_path / "model.skt")
    assert_same(search.best_estimator_, load(tmp_path / "model.skt", modules=TINY), IMAGES)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_the_columns_of_a_search_and_of_a_threshold_are_listed(tmp_path):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"text": TEXTS[:12], "length": np.arange(12) * 1.0})
    model = TransferClassifier({"text": load_word_vectors(WORDS)})
    search = GridSearchCV(model, {"random_state": [0]}, cv=2)
    for around in (search, FixedThresholdClassifier(model, pos_label="b")):
        save(around.fit(table, ["a", "b"] * 6), tmp_path / "model.skt")
        columns = inspect_file(tmp_path / "model.skt")["columns"]
        assert columns == {"text": "text", "length": "number"}
        assert_same(around, load(tmp_path / "model.skt"), table)


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_a_column_transformer_of_texts_and_numbers(tmp_path):
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"text": TEXTS, "length": np.arange(len(TEXTS)) * 1.0})
    columns = ColumnTransformer(
        [
            ("vectors", PretrainedFeatureExtractor(load_word_vectors(WORDS)), "text"),
            ("words", TfidfVectorizer(), "text"),
            ("length", StandardScaler(), ["length"]),
        ]
    )
    model = make_pipeline(columns, LogisticRegression()).fit(table, TEXT_LABELS)
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt"), table)


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
@pytest.mark.parametrize("pooling", ["avg", "idf", "sif", "zipf"])
def test_word_vectors_are_in_the_file(pooling, tmp_path):
    model = PretrainedFeatureExtractor(load_word_vectors(WORDS), pooling=pooling).fit(TEXTS)
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt"), TEXTS)


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_word_vectors_of_a_file_stay_there(tmp_path):
    source = tmp_path / "vectors.txt"
    source.write_text("".join(f"{word} {a} {b}\n" for word, (a, b) in WORDS.items()))
    model = PretrainedFeatureExtractor("word-vectors", weights=str(source)).fit(TEXTS)
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt"), TEXTS)
    save(model, tmp_path / "whole.skt", self_contained=True)
    source.write_text("good 1 2\nbad 3 4\n")
    with pytest.raises(ValueError, match="not those that the model was saved with"):
        load(tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "whole.skt"), TEXTS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_a_blend_of_texts_holds_counts_of_words(tmp_path):
    model = TransferClassifier(load_word_vectors(WORDS), random_state=0).fit(TEXTS, TEXT_LABELS)
    assert model.estimator_.counting and model.estimator_.vectorizers
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt"), TEXTS)


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_tuned_word_vectors(tmp_path):
    model = FineTunedClassifier(load_word_vectors(WORDS), trainable="all", max_epochs=1)
    model.fit(TEXTS, TEXT_LABELS)
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt"), TEXTS)


def test_a_module_of_numbers_and_one_given_as_a_function(tmp_path):
    X = rng.normal(size=(12, 5))
    for backbone, name in ((Vectors(seed=3), "vectors"), (Vectors, "Vectors")):
        model = PretrainedFeatureExtractor(backbone).fit(X)
        save(model, tmp_path / "model.skt")
        assert_same(model, load(tmp_path / "model.skt", modules={name: Vectors}), X)


def test_a_function_as_a_parameter_is_given_by_its_name(tmp_path):
    def middle(x):
        return x.flatten(2).median(2).values

    model = features(layer="2", pooling=middle).fit(IMAGES)
    save(model, tmp_path / "model.skt")
    with pytest.raises(ValueError, match=r"needs the function 'middle'.*modules="):
        load(tmp_path / "model.skt", modules=TINY)
    assert_same(model, load(tmp_path / "model.skt", modules=TINY | {"middle": middle}), IMAGES)


def test_a_head_of_the_users(tmp_path):
    def head(n_features, n_outputs):
        return torch.nn.Sequential(torch.nn.Tanh(), torch.nn.Linear(n_features, n_outputs))

    model = tune(head=head).fit(IMAGES, LABELS)
    save(model, tmp_path / "model.skt")
    modules = TINY | {"head": head, "sequential": lambda: head(8, 3)}
    assert_same(model, load(tmp_path / "model.skt", modules=modules), IMAGES)


def test_a_registered_name_is_a_reference(registry, forget_backbones, tmp_path):
    register_backbone("registered", tiny_backbone)
    model = PretrainedFeatureExtractor("registered").fit(IMAGES)
    save(model, tmp_path / "model.skt")
    assert_same(model, load(tmp_path / "model.skt"), IMAGES)
    del registry["registered"]
    forget_backbones()
    with pytest.raises(ValueError, match="'registered' is not known"):
        load(tmp_path / "model.skt")
    by_name = load(tmp_path / "model.skt", modules={"registered": tiny_backbone})
    assert_same(model, by_name, IMAGES)
    with pytest.raises(ValueError, match="is not the one that was saved"):
        load(tmp_path / "model.skt", modules={"registered": lambda: tiny_backbone(1)})


@pytest.mark.slow
def test_the_default_backbone_by_reference_and_inside(photos, tmp_path):
    model = PretrainedFeatureExtractor(image_size=64).fit(photos)
    save(model, tmp_path / "small.skt")
    save(model, tmp_path / "large.skt", self_contained=True)
    assert (tmp_path / "small.skt").stat().st_size < 50_000
    assert (tmp_path / "large.skt").stat().st_size > 18_000_000
    for name in ("small", "large"):
        assert_same(model, load(tmp_path / f"{name}.skt"), photos)


@pytest.mark.sweep
def test_a_network_with_weights_of_a_file(photos, tmp_path):
    net = load_backbone("resnet18", weights=None)
    torch.save(net.module.state_dict(), tmp_path / "weights.pth")
    model = PretrainedFeatureExtractor("resnet18", weights=str(tmp_path / "weights.pth"))
    save(model.fit(photos), tmp_path / "model.skt")
    (tmp_path / "weights.pth").unlink()
    assert_same(model, load(tmp_path / "model.skt"), photos)


def test_a_function_that_makes_another_network(tmp_path):
    save(features().fit(IMAGES), tmp_path / "model.skt")
    with pytest.raises(ValueError, match="needs the function 'tinynet'"):
        load(tmp_path / "model.skt")
    with pytest.raises(ValueError, match="does not fit the network"):
        load(tmp_path / "model.skt", modules={"tinynet": lambda: Vectors()})
    with_softmax = torch.nn.Sequential(*TinyNet(), torch.nn.Softmax(1))
    with (
        pytest.warns(UserWarning, match="makes another network"),
        pytest.raises(ValueError, match="does not compute what it computed"),
    ):
        load(tmp_path / "model.skt", modules={"tinynet": lambda: with_softmax})
    same_outputs = torch.nn.Sequential(*TinyNet(), torch.nn.Identity())
    with pytest.warns(UserWarning, match="makes another network"):
        load(tmp_path / "model.skt", modules={"tinynet": lambda: same_outputs})


def test_the_users_network_is_not_changed(tmp_path):
    save(features().fit(IMAGES), tmp_path / "model.skt")
    other = tiny_backbone(seed=1)
    before = other.fingerprint
    load(tmp_path / "model.skt", modules={"tinynet": lambda: other})
    other.forget_fingerprint()
    assert other.fingerprint == before


def test_a_store_is_not_part_of_a_model(tmp_path):
    model = TransferClassifier(tiny_backbone(), memory=FeatureStore(tmp_path / "store"))
    save(model.fit(IMAGES, LABELS), tmp_path / "model.skt")
    assert load(tmp_path / "model.skt", modules=TINY).memory is None
    assert isinstance(model.memory, FeatureStore)


def test_other_types_must_be_trusted(tmp_path):
    model = make_pipeline(features(), FunctionTransformer(np.log1p), Centre(), LogisticRegression())
    save(model.fit(IMAGES, LABELS), tmp_path / "model.skt")
    with pytest.raises(TypeError, match=r"test_files\.Centre"):
        load(tmp_path / "model.skt", modules=TINY)
    again = load(tmp_path / "model.skt", modules=TINY, trusted=[Centre])
    assert_same(model, again, IMAGES)


class Centre(StandardScaler):
    """A transformer of the user's."""


def test_classes_that_are_not_ours_are_refused(tmp_path):
    class Own(FineTunedClassifier):
        pass

    with pytest.raises(TypeError, match="Save it with joblib"):
        save(Own(tiny_backbone()), tmp_path / "model.skt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("held", "place"),
    [
        (threading.Lock(), r"held.1 \(TypeError: cannot pickle '_thread.lock' object\)"),
        (threading.Event(), r"held.1._cond.*lock"),
        ((i for i in "ab"), "held.1 .*generator"),
        (np, r"held.1 \(TypeError: cannot pickle 'module' object\)"),
    ],
    ids=["lock", "event", "generator", "module"],
)
def test_what_no_file_can_hold_is_refused_by_its_place(held, place, tmp_path):
    scaler = StandardScaler()
    scaler.held = [1, held]
    model = make_pipeline(features(), scaler)
    with pytest.raises(TypeError, match=rf"cannot hold Pipeline.steps.1.1.{place}"):
        save(model, tmp_path / "model.skt")
    tuned = tune(net_params={"iterator_train__collate_fn": held})
    place = "FineTunedClassifier.net_params.iterator_train__collate_fn"
    with pytest.raises(TypeError, match=rf"cannot hold {place}[. ]"):
        save(tuned, tmp_path / "model.skt")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("key", [threading.Lock(), (1, threading.Lock())], ids=["lock", "tuple"])
def test_a_key_that_no_file_can_hold_is_refused_by_the_place_of_its_dictionary(key, tmp_path):
    scaler = StandardScaler()
    scaler.held = {"a": {key: 1}}
    with pytest.raises(TypeError, match=r"cannot hold a key of Pipeline.steps.1.1.held.a.*lock"):
        save(make_pipeline(features(), scaler), tmp_path / "model.skt")
    tuned = tune(net_params={"module__settings": {key: 1}})
    place = "FineTunedClassifier.net_params.module__settings"
    with pytest.raises(TypeError, match=rf"cannot hold a key of {place}.*lock"):
        save(tuned, tmp_path / "model.skt")
    assert not list(tmp_path.iterdir())


def flipped(images):
    return [image[::-1] for image in images]


def test_a_lambda_is_refused_by_its_place_and_a_function_is_given_by_its_name(tmp_path):
    path = tmp_path / "model.skt"
    step = FunctionTransformer(lambda images: images)
    for model, place in (
        (make_pipeline(step, features()), "Pipeline.steps.0.1.func"),
        (FunctionTransformer(kw_args={"a": [step]}), "FunctionTransformer.kw_args.a.0"),
        (features(pooling=lambda x: x.mean((2, 3))), "PretrainedFeatureExtractor.pooling"),
        (PretrainedFeatureExtractor(lambda: TinyNet()), "PretrainedFeatureExtractor.backbone"),
    ):
        with pytest.raises(TypeError, match=rf"hold {place}[a-z.]*, a lambda, .* with def\."):
            save(model, path)
    assert not list(tmp_path.iterdir())
    model = make_pipeline(FunctionTransformer(flipped), features()).fit(IMAGES)
    save(model, path)
    again = load(path, modules=TINY | {"flipped": flipped})
    np.testing.assert_array_equal(again.transform(IMAGES), model.transform(IMAGES))


def test_a_function_in_a_partial_that_no_process_can_import_is_refused_by_its_place(tmp_path):
    def local(images):
        return images

    for function, named in (
        (lambda images: images, "a lambda"),
        (local, "the function '[a-z_]*.<locals>.local'"),
    ):
        for given, place in (
            (functools.partial(function), "func"),
            (functools.partial(flipped, after=[function]), "keywords.after.0"),
        ):
            message = rf"hold Pipeline.steps.0.1.func.{place}, {named}, .* with def, outside of"
            with pytest.raises(TypeError, match=message):
                save(make_pipeline(FunctionTransformer(given), features()), tmp_path / "model.skt")
        with pytest.raises(TypeError, match=rf"PretrainedFeatureExtractor.pooling.args.0, {named}"):
            save(features(pooling=functools.partial(flipped, function)), tmp_path / "model.skt")
    noted = functools.partial(flipped)
    noted.note = local
    with pytest.raises(TypeError, match=r"hold Pipeline.steps.0.1.func.note, the function"):
        save(make_pipeline(FunctionTransformer(noted), features()), tmp_path / "model.skt")
    assert not list(tmp_path.iterdir())


def test_a_failing_write_leaves_the_earlier_file(tmp_path, monkeypatch):
    path = tmp_path / "model.skt"
    save(fitted("head"), path)
    before = path.read_bytes()

    def fail(handle):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        save(fitted("all"), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.skt"]


def nested(depth):
    return [nested(depth - 1)] if depth else []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([0] * 8 + nested(520), "nested too deeply"),
        pytest.param([0] * (2**22 + 2), "4,194,304 values in its JSON", marks=pytest.mark.sweep),
        pytest.param(
            tuple(np.array([str(i)]) for i in range(50_000)), "50001 parts", marks=pytest.mark.sweep
        ),
    ],
    ids=["deep values", "many values", "many arrays"],
)
def test_what_load_would_refuse_for_its_size_is_not_saved(value, message, tmp_path):
    path = tmp_path / "model.skt"
    save(LogisticRegression(), path)
    before = path.read_bytes()
    with pytest.raises((TypeError, ValueError), match=message):
        save(LogisticRegression(class_weight=value), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.skt"]


def test_a_file_holds_no_pickle(tmp_path):
    model = make_pipeline(FunctionTransformer(), fitted("blend"))
    save(model, tmp_path / "model.skt")
    with zipfile.ZipFile(tmp_path / "model.skt") as archive:
        names = archive.namelist()
        assert {name.rpartition(".")[2] for name in names} == {"json", "skops", "safetensors"}
        contents = json.loads(archive.read("contents.json"))
    assert contents["estimator"] == "Pipeline(FunctionTransformer, TransferClassifier)"
    assert contents["classes"] == ["ant", "bee", "cat"]


def test_later_major_versions_warn(tmp_path):
    save(fitted("head"), tmp_path / "model.skt")
    contents, parts = read_archive(tmp_path / "model.skt")
    contents["versions"]["torch"] = "99.1"
    del contents["sha256"]
    write_archive(tmp_path / "model.skt", contents, parts)
    here = re.escape(torch.__version__)
    message = rf"model\.skt' was saved with torch 99\.1 \(here: {here}\)"
    with pytest.warns(UserWarning, match=message):
        load(tmp_path / "model.skt", modules=TINY)


@pytest.mark.sweep
@pytest.mark.integration
def test_predictions_in_a_new_process(tmp_path):
    models = {name: fitted(name) for name in ("pipeline", "sizes", "all", "blend")}
    for name, model in models.items():
        save(model, tmp_path / f"{name}.skt")
    run_python(f"""
import numpy as np
from sktransfer import load
from tests.persistence.test_files import IMAGES, TINY
for name in {list(models)}:
    model = load(r"{tmp_path}/" + name + ".skt", modules=TINY)
    np.save(r"{tmp_path}/" + name, model.predict_proba(IMAGES))
""")
    for name, model in models.items():
        found = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(found, model.predict_proba(IMAGES))


@pytest.mark.slow
def test_networks_of_timm_with_a_classifier_that_they_were_published_without(tmp_path):
    pytest.importorskip("timm")
    from tests.backbones import timm_networks

    module = timm_networks.tiny_dinov3()
    assert module.num_classes == 0
    module.reset_classifier(3)
    torch.save(module.state_dict(), tmp_path / "weights.pth")
    given = {"backbone": "timm:tiny_dinov3", "weights": tmp_path / "weights.pth"}
    tuned = FineTunedClassifier(**given, trainable=1, max_epochs=1, random_state=0)
    backbone = load_backbone(given["backbone"], weights=given["weights"])
    assert backbone.classes == ("0", "1", "2")
    models = {
        "given": PretrainedClassifier(**given).fit(IMAGES),
        "backbone": PretrainedClassifier(backbone, image_size=48).fit(IMAGES),
        "probe": TransferClassifier(**given, strategy="features").fit(IMAGES, LABELS),
        "tuned": tuned.fit(IMAGES, LABELS),
    }
    kinds = {"given": (False, True), "backbone": (True,), "probe": (False,), "tuned": (False,)}
    files = {f"{name}{kind:d}": models[name] for name in models for kind in kinds[name]}
    for name, model in files.items():
        save(model, tmp_path / f"{name}.skt", self_contained=name.endswith("1"))
    run_in_new_process(f"""
import numpy as np
from sktransfer import load
from tests.backbones import timm_networks
from tests.persistence.test_files import IMAGES
for name in {list(files)}:
    model = load(r"{tmp_path}/" + name + ".skt")
    np.save(r"{tmp_path}/" + name, model.predict_proba(IMAGES))
""")
    for name, model in files.items():
        found = np.load(tmp_path / f"{name}.npy")
        np.testing.assert_array_equal(found, model.predict_proba(IMAGES))
    heads = load(tmp_path / "given0.skt").backbone_.heads
    assert heads == backbone.heads


FACTOR = 2.0


class Hidden(TinyNet):
    """A network that uses a number which no description of its code shows."""

    def forward(self, x):
        return super().forward(x) * globals()["FACTOR"]


def tiny_hidden():
    return load_backbone(Hidden(), preprocess=TINY_SIZE)


def test_a_file_is_refused_where_the_given_network_computes_something_else(tmp_path, monkeypatch):
    backbone = tiny_hidden()
    model = PretrainedFeatureExtractor(backbone).fit(IMAGES)
    save(model, tmp_path / "model.skt")
    modules = {"hidden": Hidden}
    assert_same(model, load(tmp_path / "model.skt", modules=modules), IMAGES)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    with pytest.raises(ValueError, match="does not compute what it computed"):
        load(tmp_path / "model.skt", modules=modules)


def test_a_small_file_whose_objects_share_others_many_times_is_refused_at_once(tmp_path):
    objects = [{"kind": "tuple", "items": []}]
    objects += [{"kind": "tuple", "items": [{"#": i}, {"#": i}]} for i in range(60)]
    table = {"objects": [*objects, {"kind": "set", "items": [{"#": 60}]}], "estimator": {"#": 61}}
    contents = {"versions": {}, "estimator": "", "classes": None, "networks": [], "modules": []}
    parts = {"estimator.json": json.dumps(table).encode()}
    parts["arrays.safetensors"] = safetensors.numpy.save({})
    write_archive(tmp_path / "small.skt", contents, parts)
    with pytest.raises(ValueError, match="refer to each other more than"):
        load(tmp_path / "small.skt")


def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path):
    model = make_pipeline(features(), LogisticRegression()).fit(IMAGES, LABELS)
    path = tmp_path / "model.skt"
    save(model, path)
    path.chmod(0o600)
    save(model, path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_classes_that_are_dates_can_be_saved(tmp_path):
    dates = np.array(["2020-01-01", "2021-01-01"], "M8[D]")[np.arange(len(IMAGES)) % 2]
    model = make_pipeline(features(), LogisticRegression()).fit(IMAGES, dates)
    save(model, tmp_path / "dates.skt")
    assert (
        load(tmp_path / "dates.skt", modules=TINY).predict(IMAGES).tolist()
        == model.predict(IMAGES).tolist()
    )


def test_tensors_with_a_lazy_sign_or_conjugate_keep_their_values(tmp_path):
    model = make_pipeline(features(), LogisticRegression()).fit(IMAGES, LABELS)
    conjugate = (1j * torch.ones(2)).conj()
    negative = conjugate.imag
    assert negative.is_neg() and conjugate.is_conj()
    model[0].kept_ = [negative, conjugate]
    save(model, tmp_path / "signs.skt")
    first, second = load(tmp_path / "signs.skt", modules=TINY)[0].kept_
    assert first.tolist() == [-1, -1]
    assert second.tolist() == [-1j, -1j]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:weights=None")
def test_a_file_holds_a_network_of_another_number_of_classes(tmp_path):
    state = load_backbone("squeezenet1_1", weights=None).module.state_dict()
    last = [key for key in state if state[key].shape[:1] == (1000,)]
    torch.save(state | {key: state[key][:7].clone() for key in last}, tmp_path / "seven.pth")
    model = PretrainedFeatureExtractor("squeezenet1_1", weights=tmp_path / "seven.pth").fit(IMAGES)
    save(model, tmp_path / "model.skt", self_contained=True)
    (tmp_path / "seven.pth").unlink()
    assert_allclose(
        load(tmp_path / "model.skt").transform(IMAGES), model.transform(IMAGES), rtol=1e-5
    )
