import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, cross_val_score
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
from sktransfer.data.targets import encode_target
from sktransfer.features.layer_choice import _decide, candidate_layers, choose_layer
from sktransfer.transferability.folds import make_probe_folds, subsample
from sktransfer.transferability.probes import LinearProbe, _residuals, out_of_fold_scores
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


def judged(features, y):
    y = encode_target(y)
    return out_of_fold_scores(features, y, make_probe_folds(y, 0))


@pytest.mark.parametrize("shape", [(30, 50), (50, 8)])
def test_residuals_are_those_of_ridge_regression_that_has_not_seen_the_sample(shape, monkeypatch):
    monkeypatch.setattr("sktransfer.transferability.probes._PENALTIES", np.array([0.1]))
    X, target = RNG.normal(size=shape) + 3, RNG.normal(size=(shape[0], 2))
    folds = list(KFold(5, shuffle=True, random_state=0).split(X))
    expected = np.empty_like(target)
    for train, test in folds:
        penalty = 0.1 * ((X[train] - X[train].mean(0)) ** 2).sum() / len(train)
        expected[test] = target[test] - Ridge(penalty).fit(X[train], target[train]).predict(X[test])
    np.testing.assert_allclose(_residuals(X, target, folds), expected, rtol=1e-6, atol=1e-9)


def test_the_penalty_with_the_least_error_is_taken():
    target = NOISE[:, :1] * 2.0
    folds = make_probe_folds(target[:, 0], 0)
    assert (_residuals(NOISE, target, folds) ** 2).mean() < 1e-3 * target.var()
    alone = _residuals(RNG.normal(size=(60, 12)), target, folds)  # these tell nothing of it
    assert (alone**2).mean() < 1.2 * target.var()


def test_accuracy_is_high_where_features_tell_and_chance_where_not():
    assert judged(TOLD, Y).mean() > 0.95
    noise = np.mean([judged(RNG.normal(size=(60, 100)), Y).mean() for _ in range(20)])
    assert 0.25 < noise < 0.4


@pytest.mark.parametrize("shape", [(20, 5), (20, 40)])
def test_constant_features_and_repeated_columns_are_no_accident(shape):
    codes = np.repeat([0, 1], 10)
    assert np.isfinite(judged(np.ones(shape), codes)).all()
    column = RNG.normal(size=(20, 1)) + 5 * codes[:, None]
    assert judged(np.repeat(column, shape[1], axis=1), codes).mean() > 0.9


def test_tiny_classes_are_judged_by_the_nearest_mean_without_the_sample():
    features = np.array([[0.0], [1.0], [10.0], [11.0], [0.4]])
    codes = np.array([0, 0, 1, 1, 2])
    # Without itself 0.0 is at 1 from its own class and at 0.4 from the single one, and so on.
    assert judged(features, codes).tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_numbers_are_judged_by_their_explained_variance():
    y = NOISE[:, 0] * 3 + 0.1 * RNG.normal(size=60)
    assert judged(NOISE, y).mean() > 0.95
    assert judged(NOISE[:, 1:], y).mean() < 0.3


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


def test_a_layer_that_may_be_better_by_chance_is_not_chosen():
    names = ("a", "b", "c", "d")
    gains = np.zeros((4, 50))
    gains[:, :40] = 1
    gains[1, 40] = 1  # one of fifty more, and its neighbours not
    assert _decide(gains, names, "d", None, True).layer == "d"
    gains[:3, 40:] = 1
    assert _decide(gains, names, "d", None, True).layer in ("a", "b")


def test_without_labels_there_is_no_choice():
    with pytest.raises(ValueError, match="requires y"):
        choose_layer(tiny_backbone(), None, dict)


def test_an_unknown_layer_is_named():
    with pytest.raises(ValueError, match="Nearest"):
        choose_layer(tiny_backbone(), Y, dict, layers=["nowhere"])


def test_a_choice_among_more_rows_than_are_probed_uses_all_classes():
    y = np.array([0] * 5000 + [1] * 40)
    rows = subsample(y, 1000, 0)
    assert len(rows) == 1000 and (np.diff(rows) > 0).all()
    assert 6 <= (y[rows] == 1).sum() <= 10
    assert (subsample(y, 1000, 0) == rows).all() and (subsample(y, 1000, 1) != rows).any()
    assert (subsample(y[:10], 1000) == np.arange(10)).all()
    assert len(subsample(RNG.normal(size=3000), 1000, 0)) == 1000


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


def test_another_layer_is_taken_where_it_is_clearly_better():
    digits = load_digits()
    X, y = list(digits.images[:100] / 16), digits.target[:100]
    extractor = PretrainedFeatureExtractor(layer="auto", image_size=64).fit(X, y)
    assert extractor.layers_ != [penultimate(extractor.backbone_)]
    assert extractor.layer_choice_.scores.max() > 0.95


def test_the_choice_is_made_on_training_samples_only():
    X, y = labelled(40)
    seen = []

    class Watched(PretrainedFeatureExtractor):
        def _probe_layers(self, samples, y, layers=None, random_state=0):
            seen.append(len(samples))
            return super()._probe_layers(samples, y, layers, random_state)

    model = make_pipeline(Watched(small_backbone(), layer="auto"), LogisticRegression())
    cross_val_score(model, X, y, cv=4)
    assert seen == [30] * 4


def test_no_more_samples_are_run_than_are_probed(monkeypatch, counted):
    monkeypatch.setattr("sktransfer.features.layer_choice._ROWS", 10)
    PretrainedFeatureExtractor(small_backbone(), layer="auto").fit(*labelled())
    assert counted == [10]


def test_a_sample_that_cannot_be_probed_is_named_by_its_place_among_all(monkeypatch):
    monkeypatch.setattr("sktransfer.features.layer_choice._ROWS", 6)
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


# -- the classifier on features ----------------------------------------------------------------


@pytest.mark.parametrize("shape", [(60, 12), (60, 200)])
def test_the_probe_is_logistic_regression_on_one_scale(shape):
    X = RNG.normal(size=shape) * 5 + np.repeat([0, 1, 2], 20)[:, None]
    probe = LinearProbe(Cs=(0.1,)).fit(X, Y)
    scale = np.sqrt(((X - X.mean(0)) ** 2).mean())
    plain = LogisticRegression(C=0.1, max_iter=1000).fit((X - X.mean(0)) / scale, Y)
    expected = plain.predict_proba((X - X.mean(0)) / scale)
    np.testing.assert_allclose(probe.predict_proba(X), expected, atol=1e-3)
    assert (probe.predict(X) == plain.predict((X - X.mean(0)) / scale)).all()


def test_the_probe_chooses_its_penalty_where_classes_suffice():
    assert LinearProbe(random_state=0).fit(TOLD, Y).C_ == 1.0
    mixed = np.random.default_rng(1).permutation(Y)
    assert LinearProbe(random_state=0).fit(TOLD, mixed).C_ == 0.01
    assert LinearProbe().fit(TOLD[::6], Y[::6]).C_ == 0.1


def test_the_probe_takes_one_class():
    probe = LinearProbe().fit(TOLD[:5], Y[:5])
    assert probe.predict(TOLD[:2]).tolist() == ["ant", "ant"]
    assert probe.predict_proba(TOLD[:2]).tolist() == [[1.0], [1.0]]


def test_of_rare_classes_among_many_samples_five_are_drawn():
    y = np.array([0] * 10_000 + [1] * 7 + [2] * 2)
    rows = subsample(y, 600, 0)
    assert len(rows) == 600 and np.bincount(y[rows]).tolist() == [593, 5, 2]
    many = subsample(np.arange(1000), 600, 0)  # more classes than rows
    assert len(many) == len(set(many)) == 600


def test_a_tiny_class_leaves_the_judgement_of_the_others():
    y = np.append(Y, ["rare", "rare", "single"])
    features = np.vstack([TOLD, RNG.normal(size=(3, 12))])
    hits = judged(features, y)
    assert hits[:60].mean() > 0.95 and hits[-1] == 0.0
    codes = encode_target(y)
    folds = make_probe_folds(codes, 0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(63))
    assert all(not set(train) & set(test) for train, test in folds)
    assert not any({60, 61} <= set(test) for _, test in folds)


def test_layers_are_probed_in_the_order_of_the_network():
    def compute(names, rows):
        return {name: RNG.normal(size=(len(rows), 4)) for name in names}

    for layers in (["4", "0", "2"], ["2", "4", "0"]):
        assert choose_layer(tiny_backbone(), Y, compute, layers=layers).layers == ("0", "2", "4")
    assert choose_layer(tiny_backbone(), Y, compute, layers=["2", "0"]).default == "2"


def test_whole_numbers_are_labels_unless_told():
    y = RNG.permutation(np.arange(100, 160)) * 3.0
    with pytest.warns(UserWarning, match="60 distinct whole numbers"):
        assert encode_target(y).dtype.kind == "i"
    assert encode_target(y, "classification").dtype.kind == "i"
    assert (encode_target(y, "regression") == y).all()
    assert encode_target(np.arange(60), "auto").dtype.kind == "i"  # as an encoder numbers labels
    assert encode_target(y + 0.5).dtype.kind == "f"
    with pytest.raises(ValueError, match="task='other'"):
        encode_target(y, "other")
    with pytest.raises(ValueError, match="NaN"):
        encode_target([1.5, np.nan], "regression")


def test_a_task_that_is_told_is_the_one_that_is_probed():
    X = images(40)
    y = np.array([float(np.sum(x, dtype=np.int64) // 100) for x in X])
    extractor = PretrainedFeatureExtractor(small_backbone(), layer="auto", task="regression")
    assert not extractor.fit(X, y).layer_choice_.is_accuracy
    assert not probe_layers(X, y, small_backbone(), task="regression").is_accuracy
    ranking = rank_backbones(X, y, {"a": small_backbone()}, task="regression")
    shifted = rank_backbones(X, y + 0.5, {"a": small_backbone()})
    assert ranking.scores[0] == pytest.approx(shifted.scores[0], rel=1e-6)


def test_a_probe_that_is_not_fitted_says_so():
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(LinearProbe(), method)(NOISE)
