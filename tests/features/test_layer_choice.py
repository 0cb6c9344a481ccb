import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline

from sktransfer import (
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    list_layers,
    load_backbone,
    probe_layers,
    rank_backbones,
)
from sktransfer.backbones.layers import penultimate
from sktransfer.features.choices import candidate_layers, choose_layer, clearly_best
from sktransfer.transferability.folds import subsample
from tests.support import TinyNet, Vectors, images, tiny_backbone, tiny_vit

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(60, 12)).astype(np.float32)
Y = np.repeat(["ant", "bee", "cat"], 20)
TOLD = NOISE + 4 * np.eye(12, dtype=np.float32)[np.repeat([0, 1, 2], 20)]


def test_candidates_are_the_ends_of_stages_with_weights():
    assert candidate_layers(tiny_backbone()) == ["4"]
    lite = load_backbone("efficientnet_lite0")
    found = candidate_layers(lite)
    assert found[:2] == ["stem", "blocks.0"]
    assert found[-2:] == ["blocks.15", penultimate(lite)]
    assert len(found) == len(set(found)) == 18


def test_candidates_of_networks_of_other_kinds_are_layers_in_order():
    vit = load_backbone(tiny_vit(), preprocess=tiny_backbone().preprocess, classes=["a", "b", "c"])
    for backbone in (vit, load_backbone(Vectors())):
        found, names = candidate_layers(backbone), list_layers(backbone)
        assert [names.index(name) for name in found] == sorted({*map(names.index, found)})
        assert found[-1] == penultimate(backbone)


def test_one_call_computes_all_layers_and_the_telling_one_is_chosen():
    backbone, calls = tiny_backbone(), []

    def compute(names, rows):
        calls.append(names)
        return {name: (TOLD if name == "2" else NOISE)[rows] for name in names}

    choice = choose_layer(backbone, Y, compute, layers=["0", "2", "4", 2])
    assert calls == [("0", "2", "4")]
    assert choice.layer == "2" and choice.default == "4"
    score, error = choice.score_of("2")
    assert score == choice.scores[1] > 0.9 and 0 <= error < 0.05
    assert "> 2" in repr(choice) and choice.n_features == (12, 12, 12) and choice.is_accuracy


def test_a_layer_on_which_classes_lie_in_a_row_is_judged_by_what_it_tells():
    """Ridge regression on indicators misses most classes between others."""
    y, rng = np.repeat(np.arange(5), 20), np.random.default_rng(0)
    in_a_row, partly = rng.normal(size=(2, 100, 12))
    in_a_row[:, 0] += 5 * y
    partly += 2 * np.eye(12)[y]
    tables = {"0": in_a_row, "2": in_a_row, "4": partly}
    backbone = tiny_backbone()
    choice = choose_layer(backbone, y, lambda names, rows: tables, layers=["0", "2", "4"])
    assert choice.default == "4" and choice.layer in ("0", "2")
    assert choice.score_of("2")[0] > 0.9 > 0.8 > choice.score_of("4")[0]


def test_a_layer_that_may_be_better_by_chance_is_not_chosen():
    gains = np.zeros((4, 50))
    gains[:, :40] = 1
    gains[1, 40] = 1  # one of fifty more, and its neighbours not
    assert clearly_best(gains, 3) == 3
    gains[:3, 40:] = 1
    assert clearly_best(gains, 3) in (0, 1)


def test_without_labels_there_is_no_choice():
    with pytest.raises(ValueError, match="requires y"):
        choose_layer(tiny_backbone(), None, dict)


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="Nearest"):
        choose_layer(tiny_backbone(), Y, dict, layers=["nowhere"])


def labelled(n=24):
    """Pictures whose label is told by their brightness."""
    y = np.array(["dark", "light"] * (n // 2))
    X = [x // 3 + 150 * (label == "light") for x, label in zip(images(n), y, strict=True)]
    return X, y


def small_backbone():
    return load_backbone(TinyNet(), preprocess=tiny_backbone().preprocess)


def test_an_extractor_chooses_its_layer_from_labels_in_fit():
    X, y = labelled()
    extractor = PretrainedFeatureExtractor(small_backbone(), layer="auto").fit(X, y)
    choice = extractor.layer_choice_
    assert extractor.layers_ == [choice.layer]
    assert list(choice.layers) == candidate_layers(extractor.backbone_)
    fixed = PretrainedFeatureExtractor(small_backbone(), layer=choice.layer).fit(X)
    np.testing.assert_array_equal(extractor.transform(X), fixed.transform(X))
    assert extractor.get_feature_names_out()[0] == f"tinynet_{choice.layer}_0"
    np.testing.assert_array_equal(clone(extractor).fit(X, y).layer_choice_.scores, choice.scores)


@pytest.mark.slow
def test_another_layer_is_taken_where_it_is_clearly_better():
    digits = load_digits()
    X, y = list(digits.images[:100] / 16), digits.target[:100]
    extractor = PretrainedFeatureExtractor(layer="auto", image_size=64).fit(X, y)
    assert extractor.layers_ != [penultimate(extractor.backbone_)]
    assert extractor.layer_choice_.scores.max() > 0.95


def test_the_choice_is_made_on_training_samples_only(counted):
    X, y = labelled(40)
    extractor = PretrainedFeatureExtractor(small_backbone(), layer="auto")
    cross_val_score(make_pipeline(extractor, LogisticRegression()), X, y, cv=4)
    assert set(counted) == {30, 10}  # of the samples for testing no run has others beside it


def test_no_more_samples_are_run_than_are_probed(monkeypatch, counted):
    monkeypatch.setattr("sktransfer.features.choices.N_ROWS", 10)
    PretrainedFeatureExtractor(small_backbone(), layer="auto").fit(*labelled())
    assert counted == [10]


def test_a_sample_that_cannot_be_probed_is_named_by_its_place_among_all(monkeypatch):
    monkeypatch.setattr("sktransfer.features.choices.N_ROWS", 6)
    X, y = labelled()
    chosen = subsample(y, 6, 0)
    X[chosen[3]] = "nowhere.png"
    with pytest.raises(UnreadableSamplesError, match=rf"sample {chosen[3]}, 'nowhere.png'"):
        PretrainedFeatureExtractor(small_backbone(), layer="auto").fit(X, y)


def test_a_choice_needs_labels_of_the_same_number():
    X, y = labelled()
    with pytest.raises(ValueError, match="requires y"):
        PretrainedFeatureExtractor(small_backbone(), layer="auto").fit(X)
    with pytest.raises(ValueError, match="inconsistent"):
        PretrainedFeatureExtractor(small_backbone(), layer="auto").fit(X, y[1:])


def test_numbers_choose_a_layer_too():
    X = [x // 3 for x in images(24)]
    y = np.array([x.mean() for x in X]) + 0.01
    extractor = PretrainedFeatureExtractor(small_backbone(), layer="auto").fit(X, y)
    assert not extractor.layer_choice_.is_accuracy


def test_layers_are_probed_in_the_order_of_the_network():
    def compute(names, rows):
        return {name: RNG.normal(size=(len(rows), 4)) for name in names}

    for layers in (["4", "0", "2"], ["2", "4", "0"]):
        assert choose_layer(tiny_backbone(), Y, compute, layers=layers).layers == ("0", "2", "4")
    assert choose_layer(tiny_backbone(), Y, compute, layers=["2", "0"]).default == "2"


@pytest.mark.slow
def test_a_task_that_is_told_is_the_one_that_is_probed():
    X = images(40)
    y = np.array([float(np.sum(x, dtype=np.int64) // 100) for x in X])
    extractor = PretrainedFeatureExtractor(small_backbone()).fit(X)
    assert not extractor.score_layers(X, y, task="regression").is_accuracy
    assert not probe_layers(X, y, small_backbone(), task="regression").is_accuracy
    ranking = rank_backbones(X, y, {"a": small_backbone()}, task="regression")
    shifted = rank_backbones(X, y + 0.5, {"a": small_backbone()})
    assert ranking.scores[0] == pytest.approx(shifted.scores[0], rel=1e-6)
