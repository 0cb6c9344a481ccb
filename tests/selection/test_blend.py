import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from torch import nn

from sktransfer import TransferClassifier, load_backbone, load_word_vectors
from sktransfer.data import ClassTarget
from sktransfer.features import Output
from sktransfer.selection.blend import Blend, read_samples
from sktransfer.selection.blend_fitting import cross_validate
from sktransfer.selection.candidates import (
    COUNTS,
    ClassifierCandidate,
    LinearCandidate,
    OwnClassesCandidate,
    Tables,
)
from sktransfer.selection.outcomes import Labels
from sktransfer.selection.proposals import BLEND, input_sizes
from sktransfer.transferability import scale_of
from tests.selection.support import deeper_backbone, noted_stage, with_tokens
from tests.support import Vectors, images, tiny_backbone

BACKBONE = tiny_backbone()
LAYERS = {name: Output(BACKBONE, name) for name in ("good", "noise", "logits")}


def labels(y, weight=None):
    weight = np.ones(len(y)) if weight is None else weight
    return Labels(ClassTarget(np.unique(y)), np.asarray(y), weight)


def tables(y, seed=0):
    """Features that tell classes, features that do not, and outputs that do not."""
    rng = np.random.default_rng(seed)
    return {
        LAYERS["good"]: rng.normal(size=(len(y), 6)) + 3 * np.eye(6)[y],
        LAYERS["noise"]: rng.normal(size=(len(y), 50)),
        LAYERS["logits"]: rng.normal(size=(len(y), 8)),
    }


def linear(name, settings=(0.1, 1.0), setting=1.0, *, is_discriminant=False, prior="", reads=None):
    reads = [LAYERS[name]] if reads is None else reads
    return LinearCandidate(
        name, reads, settings, setting, is_discriminant=is_discriminant, prior=prior
    )


def candidates():
    own = OwnClassesCandidate("own classes", [LAYERS["logits"]], 1.0, prior="direct")
    return [linear("good"), linear("noise"), own]


def weights(chosen):
    return {candidate.name: candidate.weight for candidate in chosen}


def test_the_candidate_that_tells_classes_has_most_of_the_weight():
    y = np.arange(60) % 3
    chosen, _, out_of_fold = cross_validate(candidates(), tables(y), labels(y), 0)
    found = weights(chosen)
    assert (out_of_fold.predictions.argmax(1) == y).mean() > 0.9
    assert chosen[0].name == "good" and found["good"] > 0.9
    assert sum(found.values()) == pytest.approx(1) and min(found.values()) >= 0.02


@pytest.mark.slow
@pytest.mark.parametrize("classes", ["abc", None])
def test_maps_given_as_tokens_make_the_same_blend(classes, one_split):
    module, preprocess = deeper_backbone().module, deeper_backbone().preprocess
    network = load_backbone(module, preprocess=preprocess, classes=classes and list(classes))
    X, y = images(30), np.array(["bee", "ant"] * 15)
    models = [
        TransferClassifier(backbone, random_state=0).fit(X[:16], y[:16])
        for backbone in (network, with_tokens(network))
    ]
    assert models[0].members_ == models[1].members_
    expected, found = (model.predict_proba(X[16:]) for model in models)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_of_labels_that_nothing_tells_no_candidate_is_certain():
    rng = np.random.default_rng(0)
    y = rng.permutation(np.arange(200) % 2)
    found = tables(rng.permutation(y))
    chosen, heat, _ = cross_validate(candidates(), found, labels(y), 0)
    # A model that has seen the samples on which it is judged would be right for all of them.
    blend = Blend([candidate.fitted(Tables(found), labels(y)) for candidate in chosen], heat)
    assert np.abs(blend.of_tables(found) - 0.5).mean() < 0.2


def test_what_direct_use_is_known_to_do_counts_where_samples_are_few():
    y = np.arange(12) % 2
    found = tables(y) | {LAYERS["logits"]: 5 * np.eye(8)[y] + tables(y)[LAYERS["logits"]]}
    few = weights(cross_validate(candidates(), found, labels(y), 0)[0])
    assert few["own classes"] > 0.3


def test_nothing_can_be_judged_with_one_sample_of_a_class():
    y = np.arange(6)
    chosen, heat, out_of_fold = cross_validate(candidates(), tables(y), labels(y), 0)
    assert np.isnan(out_of_fold.predictions).all()
    assert weights(chosen) == {"own classes": 0.5, "good": 0.25, "noise": 0.25}
    assert heat == 1.0 and {one.setting for one in chosen} == {1.0}


def test_the_strategy_features_begins_with_a_tenth_of_the_pseudo_samples():
    good = linear("good", (0.1,), 0.1, is_discriminant=True)
    known = linear("good", (0.1,), 0.1, is_discriminant=True, prior="features")
    known.name = "features"
    y = np.arange(60) % 3
    chosen, *_ = cross_validate([good, good, known], tables(y), labels(y), 0)
    assert weights(chosen)["features"] == pytest.approx(0.1)


def test_one_sample_of_a_class_has_no_variance_for_a_discriminant():
    y = np.arange(6)
    found, given = [], tables(y)
    for is_discriminant in (False, True):
        proposed = linear("good", is_discriminant=is_discriminant)
        (chosen,), *_ = cross_validate([proposed], given, labels(y), 0)
        fitted = chosen.fitted(Tables(given), labels(y))
        found.append(Blend([fitted], 1.0).of_tables(given))
    np.testing.assert_array_equal(*found)


def test_equal_samples_are_in_one_fold():
    rng = np.random.default_rng(0)
    y = rng.integers(2, size=40)
    one = tables(y)
    rows = np.repeat(np.arange(40), 5)
    twice = {block: table[rows] for block, table in one.items()}
    found = cross_validate(candidates(), twice, labels(y[rows]), 0)
    expected = cross_validate(candidates(), one, labels(y, np.full(40, 5.0)), 0)
    assert found[1] == expected[1]
    assert [(c.weight, c.setting, c.temperature) for c in found[0]] == [
        (c.weight, c.setting, c.temperature) for c in expected[0]
    ]
    np.testing.assert_array_equal(found[2].predictions, expected[2].predictions[rows])


@pytest.mark.parametrize(("is_discriminant", "atol"), [(False, 1e-4), (True, 1e-3)])
def test_more_samples_are_fitted_without_their_products(is_discriminant, atol):
    """Ten copies of 210 samples weigh as much as each of these with ten times its weight."""
    y = np.arange(210) % 3
    weight = np.random.default_rng(0).uniform(0.5, 2, size=210)
    few, many = tables(y), {read: np.tile(t, (10, 1)) for read, t in tables(y).items()}
    model = linear(
        "both",
        (0.1,),
        0.1,
        is_discriminant=is_discriminant,
        reads=[LAYERS["good"], LAYERS["noise"]],
    )
    model.weight, given = 1.0, labels(np.tile(y, 10), np.tile(weight, 10))
    found = Blend([model.fitted(Tables(many), given)], None).of_tables(few)
    expected = Blend([model.fitted(Tables(few), labels(y, 10 * weight))], None).of_tables(few)
    if is_discriminant:  # a class without samples has half of one; constants do not matter
        found, expected = (f - f.mean(axis=1, keepdims=True) for f in (found, expected))
    np.testing.assert_allclose(found, expected, atol=10 * atol)
    assert (found.argmax(1) == y).mean() > 0.9


def test_a_class_between_others_is_predicted():
    """Ridge regression on indicators gives a class in the middle of a line no largest score."""
    y = np.arange(60) % 5
    rng = np.random.default_rng(0)
    along = np.column_stack([np.ones(60), y / 4, np.zeros((60, 4))])
    found = {LAYERS["good"]: along + rng.normal(0, 0.05, size=along.shape)}
    right = {}
    for is_discriminant in (False, True):
        proposed = linear("good", is_discriminant=is_discriminant)
        *_, out_of_fold = cross_validate([proposed], found, labels(y), 0)
        right[is_discriminant] = (out_of_fold.predictions.argmax(1) == y).mean()
    assert right[False] < 0.8 < 0.85 < right[True]


# -- in the classifier ---------------------------------------------------------------------------


def blobs(n, k=3, seed=0):
    X, y = make_blobs(n, 6, centers=k, cluster_std=3, random_state=seed)
    return (X / 10).astype(np.float32), y


def rows_backbone():
    layers = [nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 3)]
    return load_backbone(nn.Sequential(*layers).eval(), classes=list("abc"))


@pytest.mark.slow
def test_more_samples_than_are_judged_are_all_fitted(monkeypatch):
    X, y = blobs(300)
    monkeypatch.setitem(BLEND, "rows", 90)
    model = TransferClassifier(rows_backbone(), random_state=0).fit(X, y)
    assert model.score(X, y) > 0.8
    weight = np.ones(300)
    weight[5] = 0
    other = clone(model).fit(X, y, sample_weight=weight)
    assert not np.array_equal(other.predict_proba(X), model.predict_proba(X))


@pytest.mark.slow
def test_a_sample_passes_once_at_each_size(colours, monkeypatch):
    stage, _, shapes = noted_stage()

    def n_passed():
        sides = {shape[-1] for shape in shapes}
        return {side: sum(len_ for len_, *_, own in shapes if own == side) for side in sides}

    monkeypatch.setitem(BLEND, "least_size", 1)
    monkeypatch.setitem(BLEND, "multiple", 2)
    backbone = deeper_backbone(stage)
    assert input_sizes(backbone, None) == (6, 10, 20)
    model = TransferClassifier(backbone, random_state=0).fit(*colours)
    # The first one passes a few times more, to be inspected and compared.
    assert n_passed().keys() == {6, 10, 16, 20}
    assert all(48 <= n_passed()[side] < 60 for side in (6, 10, 20))
    assert any("6 + 10 + 20 pixels" in name for name in model.members_)
    shapes.clear()
    model.predict(colours[0][:5])
    assert all(5 <= n < 10 for n in n_passed().values())


@pytest.mark.parametrize("k", [2, 12])
def test_probabilities_are_calibrated(k):
    X, y = blobs(1200, k)
    model = TransferClassifier(load_backbone(Vectors()), random_state=0).fit(X[:300], y[:300])
    found, right = model.predict_proba(X[300:]), model.predict(X[300:]) == y[300:]
    assert found.max(1).mean() == pytest.approx(right.mean(), abs=0.05)


@pytest.mark.slow
def test_balanced_classes_reach_every_candidate():
    X, y = blobs(200, 2)
    rows = np.r_[np.flatnonzero(y == 0)[:6], np.flatnonzero(y == 1)]
    settings = {"random_state": 0}
    plain = TransferClassifier(rows_backbone(), **settings).fit(X[rows], y[rows])
    balanced = clone(plain).set_params(class_weight="balanced").fit(X[rows], y[rows])
    by_hand = clone(plain).fit(X[rows], y[rows], np.where(y[rows] == 0, 106 / 12, 106 / 200))
    np.testing.assert_allclose(balanced.predict_proba(X), by_hand.predict_proba(X), atol=1e-9)
    assert balanced.predict_proba(X)[:, 0].mean() > plain.predict_proba(X)[:, 0].mean() + 0.02
    with pytest.raises(ValueError, match="sample_weight"):
        plain.set_params(class_weight={0: -1.0}).fit(X[rows], y[rows])


@pytest.mark.slow
@pytest.mark.parametrize("own", [KNeighborsClassifier(3), LinearSVC(), LogisticRegression()])
def test_the_users_classifier_is_in_the_blend(own, colours):
    model = TransferClassifier(deeper_backbone(), estimator=own, random_state=0).fit(*colours)
    assert model.predict_proba(colours[0]).shape == (48, 2) and model.score(*colours) > 0.9


@pytest.mark.slow
@pytest.mark.parametrize("own", [LinearSVC(), LogisticRegression()])
@pytest.mark.parametrize("n", [4, 30])
def test_the_users_classifier_with_one_sample_of_a_class(own, n, colours):
    X, y = colours[0][: n + 1], np.array(["often"] * n + ["once"])
    model = TransferClassifier(deeper_backbone(), estimator=own, random_state=0).fit(X, y)
    found = model.predict_proba(X)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    assert found[-1, 1] > found[:-1, 1].mean()  # of "once"


def test_a_classifier_without_probabilities_or_scores_is_refused(colours):
    class Silent(KNeighborsClassifier):
        predict_proba = property()

    model = TransferClassifier(deeper_backbone(), estimator=Silent())
    with pytest.raises(ValueError, match="neither predict_proba nor decision_function"):
        model.fit(*colours)


def test_a_blend_is_pickled_with_its_network_once(colours, one_split):
    model = TransferClassifier(deeper_backbone(), random_state=0).fit(*colours)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(colours[0]), model.predict_proba(colours[0]))
    assert all(output.backbone is again.backbone_ for output in again.estimator_.outputs)


@pytest.mark.slow
def test_a_class_of_one_sample_among_others(colours):
    X, y = colours
    y = np.where(np.arange(48) == 7, "other", y)
    model = TransferClassifier(deeper_backbone(), random_state=0).fit(X, y)
    assert model.classes_.tolist() == ["dark", "light", "other"]
    assert model.predict_proba(images(3)).shape == (3, 3) and model.score(X, y) > 0.9


@pytest.mark.slow
def test_a_blend_of_many_classes_predicts_all_of_them():
    X, y = blobs(400, 100)
    model = TransferClassifier(load_backbone(Vectors()), random_state=0).fit(X, y)
    assert model.predict_proba(X[:4]).shape == (4, 100)
    assert model.score(X, y) > 0.05


# -- texts ---------------------------------------------------------------------------------------


def reviews(n, seed=0):
    """Texts of which the vectors of words tell one half of the labels, and counts the other.

    The number in each is in no other text.
    """
    rng = np.random.default_rng(seed)
    y = rng.integers(4, size=n)
    first, second = (np.array(pair) for pair in (["good", "bad"], ["qwe", "asd"]))
    return [f"{first[c // 2]} film {second[c % 2]} {10_000 * seed + i}" for i, c in enumerate(y)], y


VECTORS = {"good": [1.0, 0.0, 0.0], "bad": [-1.0, 0.2, 0.0], "film": [0.0, 1.0, 0.0]}


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
@pytest.mark.parametrize("n", [80, 2400])
def test_texts_are_told_by_their_words_too(n):
    X, y = reviews(n)
    model = TransferClassifier(load_word_vectors(VECTORS), random_state=0).fit(X, y)
    assert any("counts" in name for name in model.members_)
    again = pickle.loads(pickle.dumps(model))
    test, y_test = reviews(100, seed=1)
    assert again.score(test, y_test) > 0.95
    assert again.predict(["", "nothing known"]).shape == (2,)


@pytest.mark.parametrize("blocks", [(COUNTS,), (COUNTS, "features")])
def test_words_of_a_fold_alone_are_unknown_in_it(blocks):
    """Members are judged by rows as a vectorizer of the fold's training texts makes them."""
    X = [f"good film m{i % 3} " + f"w{i} " * (i % 2) for i in range(12)]
    train, test = np.arange(8), np.arange(8, 12)
    every = TfidfVectorizer(use_idf=False).fit(X)
    of_fold = TfidfVectorizer(use_idf=False).fit(X[:8])
    features = np.random.default_rng(0).normal(size=(12, 4))
    found = Tables({COUNTS: every.transform(X), "features": features})
    shares = (1 / len(blocks),) * len(blocks)
    products = found.between(blocks, shares, test, train)
    expected = (of_fold.transform(X[8:]) @ of_fold.transform(X[:8]).T).toarray()
    expected = scale_of(every.transform(X)) * expected / len(blocks)
    if len(blocks) == 2:
        expected = expected + found.products(("features",), (1.0,))[np.ix_(test, train)] / 2
    # Constants for each row and column, such as means, do not change what is predicted.
    difference = products - expected
    constants = difference.mean(0) + difference.mean(1, keepdims=True) - difference.mean()
    np.testing.assert_allclose(difference, constants, atol=1e-9)
    before = found.products(blocks, shares)[np.ix_(test, train)]
    assert np.ptp(before - products - (before - products).mean(0), axis=0).max() > 0.1


@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_words_of_few_texts_are_not_counted():
    model = TransferClassifier(load_word_vectors(VECTORS), random_state=0).fit(*reviews(39))
    assert not any("counts" in name for name in model.members_)


@pytest.mark.slow
def test_words_are_weighted_by_rank_in_a_blend(one_split, tmp_path):
    """Of the words of a text, the one that tells its label has a rank over 9,000."""
    matrix = np.random.default_rng(0).normal(size=(10_001, 3))
    matrix[9_000:9_500, 0], matrix[9_500:, 0] = 9, -9
    backbone = load_word_vectors(([f"w{i}" for i in range(10_001)], matrix))
    y = np.repeat([0, 1], 15)
    X = [f"w{i} w{9_000 + 500 * label + i}" for i, label in enumerate(y)]
    model = TransferClassifier(backbone, memory=tmp_path, random_state=0).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    assert any("zipf" in name for name in again.members_)
    assert again.score(["w3 w9100", "w3 w9700"], [0, 1]) == 1
    assert again.execution_["engine"] == "torch"
    unlabelled = ["w0 w9400", "w1 w9900"] * 10
    model.fit(X, y, X_unlabelled=unlabelled)
    assert model.predict(unlabelled[:2]).tolist() == [0, 1]


def test_texts_without_words_are_no_error():
    X, y = ["?", "!", ".", ";"] * 25, [0, 1] * 50
    model = TransferClassifier(load_word_vectors(VECTORS), random_state=0).fit(X, y)
    assert not any("counts" in name for name in model.members_)


# -- the forward ---------------------------------------------------------------------------------


def given_to(blend, samples):
    """Return what a blend reads of samples, as tensors that take gradients."""
    run = {"device": "auto", "engine": "auto", "memory": None, "verbose": 0}
    read = read_samples(samples, blend.outputs, {}, run)
    return [torch.from_numpy(read[o]).double().requires_grad_() for o in blend.outputs]


@pytest.mark.parametrize(
    "own", [None, LinearSVC(), make_pipeline(StandardScaler(), LogisticRegression())]
)
def test_the_forward_gives_the_probabilities_and_has_gradients(own, colours, one_split):
    X, y = colours
    model = TransferClassifier(deeper_backbone(), estimator=own, random_state=0).fit(X, y)
    inputs = given_to(model.estimator_, X[:4])
    found = model.estimator_(inputs)
    np.testing.assert_allclose(found.detach().numpy(), model.predict_proba(X[:4]), atol=1e-9)
    found[:, 0].sum().backward()
    assert any(x.grad is not None and x.grad.abs().max() > 0 for x in inputs)
    assert all(x.grad is None or x.grad.isfinite().all() for x in inputs)


@pytest.mark.slow
def test_a_classifier_that_is_not_linear_is_called_with_arrays(colours, one_split):
    X, y = colours
    own = KNeighborsClassifier(3)
    model = TransferClassifier(deeper_backbone(), estimator=own, random_state=0).fit(X, y)
    kinds = [c for c in model.estimator_.candidates if isinstance(c, ClassifierCandidate)]
    assert kinds and not any(candidate.is_linear for candidate in kinds)
    found = model.estimator_(given_to(model.estimator_, X[:4])).detach().numpy()
    np.testing.assert_allclose(found, model.predict_proba(X[:4]), atol=1e-9)
