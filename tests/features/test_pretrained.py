import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import softmax
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score
from sklearn.utils._param_validation import InvalidParameterError

from sktransfer import PretrainedClassifier, load_backbone, register_backbone
from tests.new_process import run_in_new_process
from tests.support import TINY_SIZE, TinyNet, Vectors, images, tiny_backbone

X = images(12)
Y = np.array(["b", "a", "c"] * 4)
ANTS_AND_BEES = {"ants": ["ant"], "bees": ["bee"]}


def classifier(**settings):
    return PretrainedClassifier(tiny_backbone(), **settings)


def logits(samples, backbone=None):
    module = (backbone or tiny_backbone()).module
    x = torch.stack([TINY_SIZE(image) for image in samples])
    with torch.inference_mode():
        return module(x).numpy().astype(float)


class Sure(torch.nn.Module):
    """A network whose outputs are given."""

    def forward(self, x):
        return 1 * x


def vectors(n=30, seed=0):
    return np.random.default_rng(seed).normal(size=(n, 5)).astype(np.float32)


# its own classes


def test_without_arguments_photographs_get_their_names(photos):
    made = PretrainedClassifier().fit(photos)
    assert made.predict(photos).tolist() == ["palace", "daisy"]
    assert made.classes_.shape == (1000,)


def test_probabilities_are_the_softmax_of_the_outputs():
    made = classifier().fit(X)
    assert made.classes_.tolist() == ["a", "b", "c"]
    probabilities = made.predict_proba(X)
    np.testing.assert_allclose(probabilities, softmax(logits(X), axis=1), rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert probabilities.dtype == np.float64
    assert (made.predict(X) == made.classes_[logits(X).argmax(axis=1)]).all()


def test_the_classes_of_the_network_keep_its_order():
    backbone = tiny_backbone(classes=["zebra", "ant", "fox"])
    made = PretrainedClassifier(backbone).fit(X)
    assert made.classes_.tolist() == ["zebra", "ant", "fox"]
    assert made.predict(X).tolist() == [["zebra", "ant", "fox"][i] for i in logits(X).argmax(1)]


def test_labels_are_not_needed_and_samples_are_not_opened():
    own = classifier().fit(["not", "files"])
    assert own.classes_.tolist() == ["a", "b", "c"]
    mapped = classifier(class_map={"x": ["a"], "y": ["b"]}).fit(["not", "files"])
    assert mapped.classes_.tolist() == ["x", "y"]


def test_a_network_without_classes_says_what_to_give():
    with pytest.raises(ValueError, match=r"declares no classes: .*classes=\[…\].*'learn'"):
        PretrainedClassifier(tiny_backbone(classes=None)).fit(X)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_the_most_probable_classes_come_first(k):
    made = classifier().fit(X)
    labels, probabilities = made.predict_top_k(X, k)
    assert labels.shape == probabilities.shape == (12, k)
    order = np.argsort(-made.predict_proba(X), axis=1)[:, :k]
    assert np.array_equal(labels, made.classes_[order])
    assert np.array_equal(probabilities, np.sort(made.predict_proba(X))[:, ::-1][:, :k])
    assert np.array_equal(labels[:, 0], made.predict(X))


def test_five_classes_are_the_default(photos):
    labels, _ = PretrainedClassifier().fit(photos).predict_top_k(photos)
    assert labels.shape == (2, 5)
    assert labels[:, 0].tolist() == ["palace", "daisy"]


@pytest.mark.parametrize("k", [0, 4, -1])
def test_more_classes_than_there_are_are_refused(k):
    with pytest.raises(ValueError, match=f"k={k}: give 1 to 3"):
        classifier().fit(X).predict_top_k(X, k)


# your classes by hand


@pytest.mark.parametrize(
    ("mapping", "groups"),
    [
        ({"x": ["a"], "y": ["b"]}, [[0], [1]]),
        ({"x": "a", "y": 2}, [[0], [2]]),
        ({"y": ["b"], "x": ["c", "a"]}, [[0, 2], [1]]),
        ({"x": [0, 1], "y": np.array([2])}, [[0, 1], [2]]),
        ({"x": ["n02"], "y": ["N03", 0]}, [[1], [0, 2]]),
    ],
)
def test_a_label_has_the_share_of_its_classes_among_those_mentioned(mapping, groups):
    settings = {"preprocess": TINY_SIZE, "classes": ["a", "b", "c"]}
    backbone = load_backbone(TinyNet(), **settings)
    backbone.class_ids = ("n01", "n02", "n03")
    made = PretrainedClassifier(backbone, class_map=mapping).fit(X)
    p = softmax(logits(X), axis=1)
    mass = np.column_stack([p[:, group].sum(axis=1) for group in groups])
    wanted = mass / mass.sum(axis=1, keepdims=True)
    assert made.classes_.tolist() == ["x", "y"]
    np.testing.assert_allclose(made.predict_proba(X), wanted, rtol=1e-4)
    assert np.array_equal(made.predict(X), np.array(["x", "y"])[wanted.argmax(axis=1)])


@pytest.mark.parametrize("labels", [("x", "y"), (1, -1), (10, 3), (0.5, 2.5), (True, False)])
def test_labels_of_any_type_are_sorted_and_kept(labels):
    made = classifier(class_map={labels[0]: ["a"], labels[1]: ["b", "c"]}).fit(X)
    assert made.classes_.tolist() == sorted(labels)
    first = sorted(labels).index(labels[0])
    share = softmax(logits(X), axis=1)[:, 0]
    np.testing.assert_allclose(made.predict_proba(X)[:, first], share, rtol=1e-4)


@pytest.mark.parametrize(
    ("source", "place"),
    [("ant", 310), ("Ant", 310), (310, 310), ("n02219486", 310), (np.int64(310), 310)],
)
def test_imagenet_classes_are_known_by_name_position_and_wordnet_id(source, place, photos):
    made = PretrainedClassifier(class_map={"ants": [source], "bees": ["bee"]}).fit(photos)
    by_place = PretrainedClassifier(class_map={"ants": [place], "bees": [309]}).fit(photos)
    assert np.array_equal(made.predict_proba(photos), by_place.predict_proba(photos))


# The dog and the garment.
@pytest.mark.parametrize(("name", "place"), [("Cardigan", 264), ("cardigan", 474)])
def test_names_that_differ_in_capitals_only_are_different_classes(name, place, photos):
    made = PretrainedClassifier(class_map={"x": [name], "y": ["palace"]}).fit(photos)
    by_place = PretrainedClassifier(class_map={"x": [place], "y": ["palace"]}).fit(photos)
    assert np.array_equal(made.predict_proba(photos), by_place.predict_proba(photos))


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"x": ["aa"], "y": ["b"]}, r"class_map\['x'\]: 'aa' is not a class.*Nearest: \['a'"),
        ({"x": ["a"], "y": [3]}, r"class_map\['y'\]: 3 is no class; the network has 3"),
        ({"x": ["a"], "y": [-1]}, r"class_map\['y'\]: -1 is no class"),
        ({"x": ["a"], "y": []}, r"class_map\['y'\] names no class"),
        ({"x": ["a", "b"], "y": ["c", 1]}, "gives the class 'b' of the network to two labels, 'x'"),
        ({}, "names no label"),
        ({1: ["a"], "z": ["b"]}, "must be of one type"),
    ],
)
def test_what_is_no_class_of_the_network_is_refused(mapping, message):
    with pytest.raises(ValueError, match=message):
        classifier(class_map=mapping).fit(X)


def test_an_unknown_imagenet_class_offers_the_nearest(photos):
    with pytest.raises(ValueError, match=r"'ladybird' is not a class.*'ladybug'"):
        PretrainedClassifier(class_map={"x": ["ladybird"], "y": ["bee"]}).fit(photos)


def test_positions_serve_a_network_that_names_no_classes():
    backbone = tiny_backbone(classes=None)
    made = PretrainedClassifier(backbone, class_map={"x": [0], "y": [1, 2]}).fit(X)
    wanted = softmax(logits(X), axis=1)[:, 0]
    np.testing.assert_allclose(made.predict_proba(X)[:, 0], wanted, rtol=1e-4)


def test_a_position_beyond_the_outputs_is_refused_in_fit():
    backbone = tiny_backbone(classes=None)
    with pytest.raises(ValueError, match="3 is no class"):
        PretrainedClassifier(backbone, class_map={"x": [0], "y": [3]}).fit(X)


def test_tiny_probabilities_are_shared_without_rounding_to_nothing():
    rows = np.array([[900, 0, 1, 2]], np.float32)
    backbone = load_backbone(Sure(), classes=list("abcd"))
    made = PretrainedClassifier(backbone, class_map={"x": ["b"], "y": ["c", "d"]}).fit(rows)
    wanted = np.array([1, np.e + np.e**2]) / (1 + np.e + np.e**2)
    np.testing.assert_allclose(made.predict_proba(rows), [wanted], rtol=1e-5)


# your classes learned


def by_the_formula(theta, y, new, smoothing):
    """Nguyen et al. 2020, equation 2, as it stands in the docstring, term by term."""
    labels = sorted(set(y))
    n_source = theta.shape[1]
    conditional = np.zeros((n_source, len(labels)))
    for z in range(n_source):
        for k, label in enumerate(labels):
            mass = sum(theta[i, z] for i in range(len(y)) if y[i] == label)
            frequency = sum(yi == label for yi in y) / len(y)
            all_mass = sum(theta[i, z] for i in range(len(y)))
            conditional[z, k] = (mass + smoothing * frequency) / (all_mass + smoothing)
    predicted = np.zeros((len(new), len(labels)))
    for i in range(len(new)):
        for k in range(len(labels)):
            predicted[i, k] = sum(conditional[z, k] * new[i, z] for z in range(n_source))
    return conditional, predicted


@pytest.mark.parametrize("smoothing", [0, 0.5, 1.0, 10])
def test_learned_classes_follow_the_formula(smoothing):
    rows, new, y = vectors(30), vectors(7, seed=1), np.random.default_rng(0).choice(list("yxz"), 30)
    backbone = load_backbone(Vectors(4))
    theta, theta_new = (
        softmax(backbone.module(torch.from_numpy(part)).detach().numpy().astype(float), axis=1)
        for part in (rows, new)
    )
    conditional, predicted = by_the_formula(theta, y, theta_new, smoothing)
    made = PretrainedClassifier(backbone, class_map="learn", smoothing=smoothing).fit(rows, y)
    np.testing.assert_allclose(made.conditional_, conditional, rtol=1e-4)
    np.testing.assert_allclose(made.predict_proba(new), predicted, rtol=1e-4)
    assert np.array_equal(made.predict(new), np.array(list("xyz"))[predicted.argmax(axis=1)])


def test_strong_smoothing_gives_the_overall_frequencies():
    y = ["x"] * 10 + ["y"] * 20
    backbone = load_backbone(Vectors())
    made = PretrainedClassifier(backbone, class_map="learn", smoothing=1e9).fit(vectors(), y)
    np.testing.assert_allclose(made.predict_proba(vectors()), [[1 / 3, 2 / 3]] * 30, atol=1e-6)


def test_a_class_of_the_network_that_no_sample_resembles_follows_the_frequencies():
    rows = np.array([[1000, 0, 0], [0, 1000, 0], [0, 1000, 0]], np.float32)
    made = PretrainedClassifier(load_backbone(Sure()), class_map="learn").fit(rows, [1, 2, 2])
    np.testing.assert_allclose(made.conditional_[2], [1 / 3, 2 / 3])
    plain = PretrainedClassifier(load_backbone(Sure()), class_map="learn", smoothing=0)
    assert np.isfinite(plain.fit(rows, [1, 2, 2]).predict_proba(rows)).all()


@pytest.mark.parametrize(
    "names",
    [("no", "yes"), (-1, 1), (0, 7), (3, 10**6), (False, True), (1.0, 2.0)],
)
@pytest.mark.parametrize("container", [list, np.array, pd.Series])
def test_learned_labels_of_any_type_are_kept(names, container):
    rows = vectors(40)
    positive = rows[:, 0] > 0
    y = container([names[int(value)] for value in positive])
    made = PretrainedClassifier(load_backbone(Vectors()), class_map="learn").fit(rows, y)
    assert made.classes_.tolist() == sorted(names)
    assert made.classes_.dtype == np.asarray(y).dtype
    assert set(made.predict(rows).tolist()) <= set(names)
    assert made.score(rows, y) > 0.8


def test_one_label_only_is_always_predicted():
    made = PretrainedClassifier(load_backbone(Vectors()), class_map="learn")
    with pytest.warns(UserWarning, match="one class only"):
        made.fit(vectors(), ["x"] * 30)
    assert set(made.predict(vectors(5))) == {"x"}


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, "requires y"),
        ([1, 2], "inconsistent numbers of samples"),
        (np.linspace(0, 1, 12), "Unknown label type"),
        (np.ones((12, 2)), "1d array"),
    ],
)
def test_wrong_labels_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        classifier(class_map="learn").fit(X, y)


def test_learning_opens_each_sample_once_and_predicting_from_memory_none(counted, tmp_path):
    made = classifier(class_map="learn", memory=tmp_path).fit(X, Y)
    made.predict(X)
    made.predict_proba(X)
    classifier(memory=tmp_path).fit(X).predict(X)
    assert counted == [12]


# inside scikit-learn


def test_scores_as_any_classifier():
    made = classifier(class_map="learn")
    scores = cross_val_score(made, X, Y, cv=2, error_score="raise")
    predicted = cross_val_predict(made, X, Y, cv=2)
    folds = (predicted[:6] == Y[:6]).mean(), (predicted[6:] == Y[6:]).mean()
    assert scores.mean() == pytest.approx(np.mean(folds))


def test_a_grid_search_over_the_mapping(counted, tmp_path):
    grid = {"class_map": ["learn", {"a": 0, "b": 1, "c": 2}], "smoothing": [0, 1]}
    search = GridSearchCV(classifier(memory=tmp_path), grid, cv=2, error_score="raise").fit(X, Y)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert sum(counted) == 12


def test_a_clone_shares_the_weights():
    made = classifier().fit(X)
    assert clone(made).fit(X).backbone_.module is made.backbone_.module


def test_a_second_fit_forgets_the_first():
    made = classifier(class_map="learn").fit(X, Y)
    assert made.classes_.tolist() == ["a", "b", "c"]
    made.set_params(class_map={"x": ["a"], "y": ["b"]}).fit(X)
    assert made.classes_.tolist() == ["x", "y"]
    made.set_params(class_map=None).fit(X)
    assert made.predict_proba(X).shape == (12, 3)
    assert not hasattr(made, "conditional_")


def test_tags_ask_for_labels_only_where_they_are_learned():
    assert not classifier().__sklearn_tags__().target_tags.required
    assert classifier(class_map="learn").__sklearn_tags__().target_tags.required


@pytest.mark.parametrize("settings", [{"class_map": "guess"}, {"smoothing": -1}, {"class_map": 3}])
def test_wrong_parameters_are_refused_in_fit(settings):
    with pytest.raises(InvalidParameterError):
        classifier(**settings).fit(X, Y)


def test_before_fit_nothing_is_predicted():
    for call in (classifier().predict, classifier().predict_proba, classifier().predict_top_k):
        with pytest.raises(NotFittedError):
            call(X)


def test_no_samples_are_refused():
    with pytest.raises(ValueError, match="0 sample"):
        classifier().fit([])
    with pytest.raises(ValueError, match="0 sample"):
        classifier().fit(X).predict([])


def test_a_samples_probabilities_depend_on_it_alone():
    made = classifier(class_map="learn").fit(X, Y)
    alone = np.vstack([made.predict_proba([image]) for image in X])
    np.testing.assert_allclose(alone, made.predict_proba(X), rtol=1e-5)


def test_a_class_named_twice_counts_once():
    twice = classifier(class_map={"x": ["a", 0, "a"], "y": ["b"]}).fit(X)
    once = classifier(class_map={"x": ["a"], "y": ["b"]}).fit(X)
    assert np.array_equal(twice.predict_proba(X), once.predict_proba(X))


# pickles


CASES = {
    "none": lambda: PretrainedClassifier(image_size=32),
    "by hand": lambda: PretrainedClassifier(image_size=32, class_map=ANTS_AND_BEES),
    "learned": lambda: PretrainedClassifier(image_size=32, class_map="learn"),
    "own": lambda: classifier(class_map="learn"),
}
REOPEN = """
import sys, joblib, pickle, numpy as np
from tests.support import images
folder = sys.argv[1]
for i in range(int(sys.argv[2])):
    a = pickle.load(open(f"{folder}/{i}.pickle", "rb"))
    b = joblib.load(f"{folder}/{i}.joblib")
    X = images(12)
    assert (a.predict(X) == b.predict(X)).all()
    np.save(f"{folder}/{i}.npy", [a.predict_proba(X), b.predict_proba(X)])
"""


@pytest.fixture(scope="module")
def reopened(tmp_path_factory):
    """For each case the classifier, its pickle, and probabilities in a new process, twice."""
    folder = tmp_path_factory.mktemp("pickles")
    fitted = [make().fit(X, Y) for make in CASES.values()]
    for i, made in enumerate(fitted):
        (folder / f"{i}.pickle").write_bytes(pickle.dumps(made))
        joblib.dump(made, folder / f"{i}.joblib")
    run_in_new_process(REOPEN, folder, len(CASES))
    pickles = [(folder / f"{i}.pickle").read_bytes() for i in range(len(CASES))]
    results = [np.load(folder / f"{i}.npy") for i in range(len(CASES))]
    return dict(zip(CASES, zip(fitted, pickles, results, strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_a_pickle_gives_the_same_bits_in_a_new_process(case, reopened):
    made, pickled, results = reopened[case]
    assert all(np.array_equal(result, made.predict_proba(X)) for result in results)
    assert len(pickled) < 200_000  # 1,000 names, no weights


def test_a_pickle_refuses_other_weights(registry):
    register_backbone("mine", lambda: tiny_backbone(1))
    pickled = pickle.dumps(PretrainedClassifier("mine", class_map="learn").fit(X, Y))
    register_backbone("mine", lambda: tiny_backbone(2))
    with pytest.raises(ValueError, match=r"backbone 'mine' .* are not those"):
        pickle.loads(pickled)


# real photographs


@pytest.fixture(scope="module")
def outputs(tmp_path_factory):
    """A store that these tests share: the outputs of the network are the same."""
    return tmp_path_factory.mktemp("outputs")


def _by_name(hymenoptera, outputs, **settings):
    made = PretrainedClassifier(class_map=ANTS_AND_BEES, memory=outputs, **settings)
    return made.fit(hymenoptera["train"][0])


def _learned(hymenoptera, outputs, **settings):
    made = PretrainedClassifier(class_map="learn", memory=outputs, **settings)
    return made.fit(*hymenoptera["train"])


@pytest.mark.data
@pytest.mark.parametrize("make", [_by_name, _learned])
def test_a_few_ants_are_told_from_bees(make, hymenoptera, outputs):
    few = {part: (files[::8], labels[::8]) for part, (files, labels) in hymenoptera.items()}
    made = make(few, outputs, image_size=128)
    paths, labels = few["val"]
    assert made.score(paths, labels) >= 16 / len(labels)  # of 20
    with Image.open(paths[0]) as image:
        image.load()
        assert made.predict([image]) == made.predict(paths[:1])


@pytest.mark.data
@pytest.mark.sweep
@pytest.mark.parametrize(("make", "n_right"), [(_by_name, 147), (_learned, 146)])
def test_ants_are_told_from_bees(make, n_right, hymenoptera, outputs):
    score = make(hymenoptera, outputs).score(*hymenoptera["val"])
    assert score >= n_right / 153  # 149 and 148 when written


def test_as_many_classes_as_outputs():
    backbone = load_backbone(torch.nn.Linear(2, 3), classes=["a", "b"])
    with pytest.raises(ValueError, match="declares 2 classes and has 3 outputs"):
        PretrainedClassifier(backbone).fit(np.zeros((4, 2)))
