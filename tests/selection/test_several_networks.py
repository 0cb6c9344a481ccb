"""Blends of several networks: candidates of all of them, files, graphs and errors."""

import dataclasses
import pickle

import numpy as np
import pytest
from sklearn.base import clone

from sktransfer import (
    TransferClassifier,
    TransferRegressor,
    load,
    load_backbone,
    rank_backbones,
    recommend_strategy,
    save,
    to_onnx,
)
from sktransfer.inspection import saliency
from tests.selection.support import Deeper, deeper_backbone
from tests.support import TINY_SIZE, NotedImages, TinyNet, Vectors, tiny_backbone

pytestmark = pytest.mark.usefixtures("one_split_in_module")

NAMES = {"dark": ["a"], "light": ["b", "c"]}


@pytest.fixture(scope="module")
def fitted(colours):
    networks = [deeper_backbone(), tiny_backbone(1)]
    return TransferClassifier(networks, random_state=0).fit(*colours)


def test_candidates_of_all_networks_are_in_one_blend(fitted, colours):
    X, y = colours
    assert [network.name for network in fitted.backbones_] == ["deeper", "tinynet"]
    assert fitted.backbone_ is fitted.backbones_[0]
    for name in ("deeper, ", "tinynet, "):
        assert any(member.startswith(name) for member in fitted.members_)
    assert fitted.weights_.sum() == pytest.approx(1)
    assert fitted.score(X, y) == 1
    assert set(fitted.execution_["batch_size"]) == {("deeper", 16), ("tinynet", 16)}


@pytest.mark.slow
def test_a_list_of_one_network_is_that_network(colours):
    X, y = colours
    backbone = deeper_backbone()
    settings = {"random_state": 0}
    alone = TransferClassifier(backbone, **settings).fit(X, y)
    listed = TransferClassifier([backbone], **settings).fit(X, y)
    assert listed.members_ == alone.members_ and listed.backbones_ == alone.backbones_
    np.testing.assert_array_equal(listed.predict_proba(X), alone.predict_proba(X))


def test_each_sample_is_opened_once_for_all_networks(colours, counted):
    X, y = colours
    noted = NotedImages()
    settings = {"preprocess": TINY_SIZE, "classes": ["a", "b", "c"], "modality": noted}
    networks = [load_backbone(Deeper(), **settings), tiny_backbone(1, modality=noted)]
    model = TransferClassifier(networks, random_state=0).fit(X, y)
    noted.opened.clear(), counted.clear()
    model.predict(X[:7])
    assert counted == [7, 7] and len(noted.opened) == 7


@pytest.mark.slow
def test_copies_pickles_and_files_predict_the_same(fitted, colours, tmp_path):
    X, y = colours
    expected = fitted.predict_proba(X[:7])
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_allclose(again.predict_proba(X[:7]), expected, atol=1e-12)
    copied = clone(fitted).fit(X, y)
    np.testing.assert_allclose(copied.predict_proba(X[:7]), expected, atol=1e-12)
    save(fitted, tmp_path / "model.skt")
    opened = load(tmp_path / "model.skt", modules={"deeper": Deeper, "tinynet": TinyNet})
    np.testing.assert_allclose(opened.predict_proba(X[:7]), expected, atol=1e-12)
    assert [network.name for network in opened.backbones_] == ["deeper", "tinynet"]


def test_an_image_is_explained_by_all_networks(fitted, colours):
    explained = saliency(fitted, colours[0][:1])
    assert np.isfinite(explained.maps[0]).all() and np.abs(explained.maps[0]).max() > 0


OTHER_CROP = dataclasses.replace(TINY_SIZE, resize=24)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("others", "names"),
    [
        # Of three networks, the first two share an input.
        ([{}, {"preprocess": OTHER_CROP}], {"tinynet_image_16x16", "tinynet_2_image_16x16"}),
        pytest.param([{}], {"image_16x16"}, marks=pytest.mark.sweep),
        pytest.param([{"image_size": 12}], {"image_16x16", "image_12x12"}, marks=pytest.mark.sweep),
    ],
)
def test_a_graph_has_an_input_for_each_way_to_resize(others, names, colours, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("skl2onnx")
    X, y = colours
    networks = [tiny_backbone(i, **other) for i, other in enumerate([{}, *others])]
    model = TransferClassifier(networks, random_state=0).fit(X, y)
    to_onnx(model, tmp_path / "model.onnx", X=X[:4])  # which compares it with the estimator
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert {source.name for source in session.get_inputs()} == names


def test_numbers_are_predicted_by_several_networks(colours):
    X = colours[0]
    y = np.array([x.mean() for x in X])
    model = TransferRegressor([deeper_backbone(), tiny_backbone(1)], random_state=0).fit(X, y)
    assert model.score(X, y) > 0.9 and len(model.backbones_) == 2


def test_the_best_of_a_ranking_are_combined(colours):
    X, y = colours
    networks = {"one": deeper_backbone(), "two": tiny_backbone(1), "three": tiny_backbone(2)}
    best = rank_backbones(X, y, networks, random_state=0).best(2)
    model = TransferClassifier(best, random_state=0).fit(X, y)
    assert len(best) == 2 and model.backbones_ == best


def test_classes_are_mapped_for_each_network(colours):
    X, y = colours
    networks = [deeper_backbone(), tiny_backbone(1)]
    for class_map, mapped in [(NAMES, 2), ([None, NAMES], 1)]:
        model = TransferClassifier(networks, class_map=class_map, random_state=0).fit(X, y)
        own = [m for m in model.estimator_.candidates if "class_map" in m.name]
        assert len(own) <= mapped and all("tinynet" in m.name for m in own) in (True, mapped == 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"backbone": []}, "names no network"),
        ({"backbone": [deeper_backbone(), 5]}, "5 is no network"),
        ({"backbone": [deeper_backbone(), load_backbone(Vectors())]}, "take the same samples"),
        ({"strategy": "features"}, "is for one network"),
        ({"weights": ["default"]}, "weights has 1 entries for 2 networks"),
        ({"class_map": [NAMES]}, "class_map has 1 entries for 2 networks"),
    ],
)
def test_an_error_names_what_does_not_fit(settings, message, colours):
    usual = {"backbone": [deeper_backbone(), tiny_backbone(1)]}
    with pytest.raises(ValueError, match=message):
        TransferClassifier(**usual | settings).fit(*colours)


def test_a_strategy_is_recommended_for_one_network(colours):
    with pytest.raises(ValueError, match="the strategies of one network"):
        recommend_strategy(*colours, [deeper_backbone(), tiny_backbone(1)])
