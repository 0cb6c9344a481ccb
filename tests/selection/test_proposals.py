import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torchvision.models import VisionTransformer

from sktransfer import load_backbone, load_word_vectors
from sktransfer.backbones import inspect_layers
from sktransfer.features import Output, candidate_layers
from sktransfer.selection.candidates import COUNTS, ClassifierCandidate
from sktransfer.selection.proposals import BLEND, Layout, input_sizes, propose_candidates
from sktransfer.transferability import LinearProbe
from tests.backbones import q4_support as q4
from tests.selection.support import deeper_backbone
from tests.support import TINY_SIZE, Vectors, random_backbone, tiny_backbone, tiny_vit


def layout(backbone, sizes=(None,), sample=None, **settings):
    probe = torch.randn(1, *backbone.input_shape) if sample is None else sample
    return Layout(backbone, inspect_layers(backbone, probe), sizes, **settings)


def test_images_have_several_sizes_where_the_network_takes_them():
    assert input_sizes(random_backbone("resnet18"), None) == (96, 128, 288)


@pytest.mark.parametrize("asked", [160, 224])
def test_a_size_that_is_asked_for_is_the_only_one(asked):
    backbone = random_backbone("resnet18").with_image_size(asked)
    assert input_sizes(backbone, asked) == (None,)
    if asked != 224:  # of a backbone that was loaded for another size
        assert input_sizes(backbone, None) == (None,)


@pytest.mark.parametrize(
    "backbone",
    [
        tiny_backbone(),  # of few pixels
        load_backbone(Vectors()),
        load_word_vectors({"a": [1.0, 2.0]}),
        load_backbone(tiny_vit(), preprocess=tiny_backbone().preprocess),
    ],
)
def test_small_networks_and_those_of_other_samples_have_one_size(backbone):
    assert input_sizes(backbone, None) == (None,)


def test_a_network_that_takes_its_own_size_only_has_one():
    settings = {"num_layers": 1, "num_heads": 1, "hidden_dim": 8, "mlp_dim": 8, "num_classes": 3}
    module = VisionTransformer(image_size=224, patch_size=56, **settings)
    preprocess = dataclasses.replace(TINY_SIZE, resize=224, crop=224)
    assert input_sizes(load_backbone(module, preprocess=preprocess), None) == (None,)


@pytest.mark.slow
def test_candidates_are_layers_at_all_sizes_and_direct_use_is_at_the_largest():
    backbone = load_backbone("efficientnet_lite0")
    candidates = {m.name: m for m in propose_candidates(layout(backbone, (128, 288)))}
    assert len(candidates) == 9 + 1
    grid = candidates["later layer, 128 + 288 pixels"]
    small, large = (backbone.with_image_size(size) for size in (128, 288))
    assert grid.reads == tuple(Output(one, "blocks.13", "grid") for one in (small, large))
    assert [m.name for m in candidates.values() if m.prior == "direct"] == [
        "own classes, 288 pixels"
    ]
    last = candidates["last layers, 128 + 288 pixels"].reads
    assert Output(small, "blocks.15", "grid") in last
    assert Output(large, "head", ("avg", "max")) in last


def test_no_two_candidates_are_the_same():
    for backbone in (deeper_backbone(), tiny_backbone()):
        made = [(type(m), m.reads) for m in propose_candidates(layout(backbone))]
        assert len(set(made)) == len(made) > 1


def test_deep_networks_have_no_more_candidates_than_others():
    layers = {}
    for n in (10, 60):
        backbone = load_backbone(nn.Sequential(*(nn.Linear(4, 4) for _ in range(n))))
        layers[n] = layout(backbone, sample=torch.ones(1, 4)).layers(range(18))
    assert layers[10] == [str(i) for i in range(7, -1, -1)]
    assert 15 < len(layers[60]) <= 18
    assert layers[60][0] == "57" and int(layers[60][-1]) < 6  # of all depths


def test_poolings_follow_the_shape_of_a_layer():
    own = load_backbone(tiny_vit(), preprocess=tiny_backbone().preprocess)
    poolings = {block.pooling for m in propose_candidates(layout(own)) for block in m.reads}
    assert poolings == {"avg", ("avg", "max"), ("cls", "avg"), "grid"}
    vectors = load_backbone(Vectors())
    candidates = propose_candidates(layout(vectors, sample=torch.randn(1, 6)))
    assert {block.pooling for m in candidates for block in m.reads} == {"avg"}
    words = load_word_vectors({"a": [1.0, 2.0], "b": [0.0, 1.0]})
    candidates = propose_candidates(layout(words, sample=words.open("a b")[None]))
    assert {b.pooling for m in candidates for b in m.reads if b != COUNTS} == {"avg"}


@pytest.mark.slow
def test_class_tokens_are_read_in_the_last_four_blocks_and_patches_in_all():
    pytest.importorskip("timm")
    backbone = random_backbone("timm:vit_tiny_patch16_224")
    candidates = {m.name: m.reads for m in propose_candidates(layout(backbone))}
    both = ("cls", "avg")
    assert candidates["norm (class token and mean)"] == (Output(backbone, "norm", both),)
    blocks = ["norm", "blocks.10", "blocks.9", "blocks.8"]
    assert candidates["last blocks"] == tuple(Output(backbone, block, both) for block in blocks)
    poolings = {x.layer: x.pooling for reads in candidates.values() for x in reads}
    assert {poolings[f"blocks.{i}"] for i in (3, 5, 6, 7)} == {"grid"}
    assert Output(backbone, "norm", ("avg", "max")) in candidates["head_drop (mean and maximum)"]


@pytest.mark.slow
def test_patches_without_a_class_token_are_read_like_a_map():
    pytest.importorskip("timm")
    backbone = random_backbone("timm:vit_relpos_small_patch16_224")
    poolings = {x.layer: x.pooling for m in propose_candidates(layout(backbone)) for x in m.reads}
    assert {poolings[f"blocks.{i}"] for i in (3, 5, 6, 8, 10)} == {"grid"}
    assert not any("class token" in m.name for m in propose_candidates(layout(backbone)))


def test_texts_have_means_of_the_last_layers_side_by_side(tmp_path, monkeypatch):
    monkeypatch.setitem(BLEND, "last_of_tokens", (2, 3, 9))
    texts = load_backbone("e5_small", weights=q4.write_q4(tmp_path / "small.bin"))
    candidates = propose_candidates(layout(texts, sample=texts.open("the film")[None]))
    layers = [
        [b.layer for b in m.reads] for m in candidates if COUNTS not in m.reads and not m.prior
    ]
    first, *others = candidate_layers(texts)
    assert layers == [others[-1:], others[-2:], [first, *others]]
    assert {b.pooling for m in candidates for b in m.reads if b != COUNTS} == {"avg"}


def test_texts_are_counted_too():
    words = load_word_vectors({"a": [1.0, 2.0], "b": [0.0, 1.0]})
    candidates = propose_candidates(layout(words, sample=words.open("a b")[None]))
    on_network = [m.reads for m in candidates if COUNTS not in m.reads and not m.prior]
    counted = [m.reads for m in candidates if COUNTS in m.reads]
    assert set(counted) == {(COUNTS,), *((*blocks, COUNTS) for blocks in on_network)}


@pytest.mark.parametrize("n_words", [9_999, 10_000])
def test_words_are_weighted_by_rank_in_a_table_of_many(n_words):
    words = load_word_vectors((list(map(str, range(n_words))), np.ones((n_words, 2))))
    candidates = propose_candidates(layout(words, sample=words.open("1 2")[None]))
    weighted = [m for m in candidates if getattr(m.reads[0], "pooling", None) == "zipf"]
    (known,) = [m for m in candidates if m.prior == "features"]
    assert len(weighted) == (3 if n_words == 10_000 else 0)  # alone, with counts, and this one:
    assert (known in weighted) == (n_words == 10_000)


def test_a_classifier_of_the_users_is_fitted_on_single_layers():
    own = LogisticRegression()
    candidates = propose_candidates(layout(deeper_backbone(), classifier=own))
    on_features = [m for m in candidates if not m.prior]
    assert on_features
    assert all(isinstance(m, ClassifierCandidate) for m in on_features)
    assert all(m.estimator is own for m in on_features)
    assert all(len(m.reads) == 1 for m in on_features)


@pytest.mark.slow
def test_a_network_without_classes_has_the_strategy_features_as_a_candidate():
    own = load_backbone(tiny_vit(), preprocess=tiny_backbone().preprocess)
    (known,) = [m for m in propose_candidates(layout(own)) if m.prior == "features"]
    assert known.reads == (Output(own, layout(own).head),)
    assert isinstance(known.estimator, LinearProbe)
    for other in (
        layout(load_backbone("efficientnet_lite0")),
        layout(own, classifier=LogisticRegression()),
        layout(own, is_labels=False),
    ):
        assert not any(m.prior == "features" for m in propose_candidates(other))


def test_labels_have_discriminants_and_numbers_ridge_regressions():
    for is_labels in (True, False):
        candidates = propose_candidates(layout(deeper_backbone(), is_labels=is_labels))
        assert {m.is_discriminant for m in candidates if not m.prior} == {is_labels}


@pytest.mark.slow
def test_numbers_have_no_direct_use():
    candidates = propose_candidates(layout(deeper_backbone(), is_labels=False))
    assert not any(m.prior == "direct" for m in candidates)
