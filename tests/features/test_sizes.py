"""Several input sizes: side by side, averaged and chosen."""

import pickle

import joblib
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils._param_validation import InvalidParameterError

from sktransfer import (
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    load_backbone,
    load_word_vectors,
)
from sktransfer.features.choices import candidate_sizes
from sktransfer.features.output import side_of
from tests.new_process import run_in_new_process
from tests.support import TINY_SIZE, TinyNet, Vectors, images, tiny_backbone, tiny_vit

X, SIZES = images(12), [12, 24]
Y = np.arange(12) % 3


def extractor(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def results(model):
    return model.transform(X) if hasattr(model, "transform") else model.predict_proba(X)


# side by side


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"layer": ["2", None]},
        {"pooling": ["avg", "max"]},
        {"layer": ["4", "1"], "pooling": ["max", "flatten"]},
    ],
)
@pytest.mark.parametrize("how", [{}, {"n_jobs": 2, "batch_size": 5}])
def test_features_of_several_sizes_are_those_of_each_side_by_side(settings, how):
    made = extractor(image_size=SIZES, **settings, **how)
    found = made.fit_transform(X)
    alone = [extractor(image_size=size, **settings).fit_transform(X) for size in SIZES]
    assert_allclose(found, np.hstack(alone), rtol=1e-5, atol=1e-6)
    assert made.image_size_ == SIZES
    assert len(made.get_feature_names_out()) == found.shape[1]
    assert_allclose(made.transform(X[3:4]), found[3:4], rtol=1e-5, atol=1e-6)


def test_names_of_features_tell_the_size():
    made = extractor(image_size=SIZES, layer=["2", "4"], pooling=["avg", "max"]).fit(X)
    names = made.get_feature_names_out().tolist()
    assert len(set(names)) == len(names) == 2 * 2 * 2 * 8
    assert names[0] == "tinynet_12_2_avg_0"
    assert names[-1] == "tinynet_24_4_max_7"
    assert extractor(image_size=[24]).fit(X).get_feature_names_out()[0] == "tinynet_24_features_0"
    assert extractor(image_size=24).fit(X).get_feature_names_out()[0] == "tinynet_features_0"


def test_a_table_of_pandas_has_these_names():
    table = extractor(image_size=SIZES).set_output(transform="pandas").fit_transform(X)
    assert table.columns[8] == "tinynet_24_features_0"
    assert table.shape == (12, 16)


def test_each_size_is_stored_as_if_it_were_alone(counted, tmp_path):
    extractor(image_size=SIZES, memory=tmp_path).fit_transform(X)
    extractor(image_size=12, memory=tmp_path).fit_transform(X)
    extractor(image_size=[24, 18, 12], memory=tmp_path).fit_transform(X)
    PretrainedClassifier(tiny_backbone(), image_size=SIZES, memory=tmp_path).fit(X).predict(X)
    assert counted == [12, 12, 12, 12, 12]  # two sizes, a third one, and outputs of two


def test_a_search_over_sizes_runs_each_once(counted, tmp_path):
    pipeline = make_pipeline(extractor(memory=tmp_path), LogisticRegression())
    grid = {"pretrainedfeatureextractor__image_size": [12, 24, SIZES, "auto"]}
    GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, Y)
    assert sum(counted) == 12 * 5  # with the native size, 8 and 20 pixels, which "auto" tries


def test_more_sizes_than_stay_prepared():
    sizes = [12, 14, 16, 18, 20, 22, 24]
    made = extractor(image_size=sizes).fit(X)
    alone = [extractor(image_size=size).fit_transform(X) for size in sizes]
    assert_allclose(made.transform(X), np.hstack(alone), rtol=1e-5, atol=1e-6)


# life of a fitted estimator


@pytest.mark.parametrize("size", [SIZES, "auto"])
def test_a_fitted_extractor_does_not_follow_its_parameter(size):
    made = extractor(image_size=size).fit(X, Y)
    expected, names = made.transform(X), made.get_feature_names_out()
    made.set_params(image_size=[18] if size == "auto" else [18, 20])
    assert_array_equal(made.transform(X), expected)
    assert_array_equal(pickle.loads(pickle.dumps(made)).transform(X), expected)
    assert_array_equal(made.get_feature_names_out(), names)


@pytest.mark.slow
def test_pickles_give_the_same_in_a_new_process(tmp_path):
    made = [
        PretrainedFeatureExtractor(image_size=[48, 32]),
        PretrainedClassifier(image_size=[48, 32], class_map="learn"),
        extractor(image_size="auto"),
    ]
    expected = [results(model.fit(X, Y)) for model in made]
    (tmp_path / "models.pkl").write_bytes(pickle.dumps((made, X, expected)))
    run_in_new_process(
        """
import pickle, sys
import numpy as np
models, X, expected = pickle.load(open(sys.argv[1], "rb"))
for model, wanted in zip(models, expected, strict=True):
    run = model.transform if hasattr(model, "transform") else model.predict_proba
    np.testing.assert_allclose(run(X), wanted, rtol=1e-5, atol=1e-6)
""",
        tmp_path / "models.pkl",
    )


def test_clones_and_second_fits():
    made = extractor(image_size=SIZES).fit(X)
    twin = clone(made)
    assert twin.image_size == SIZES and not hasattr(twin, "image_size_")
    made.set_params(image_size="auto").fit(X, Y)
    assert made.image_size_ in (8, 16, 20, 24) and hasattr(made, "size_choice_")
    made.set_params(image_size=None).fit(X)
    assert made.image_size_ == 16 and not hasattr(made, "size_choice_")
    assert made.transform(X).shape == (12, 8)


def test_scores_in_processes():
    pipeline = make_pipeline(extractor(image_size=SIZES), LogisticRegression())
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        assert cross_val_score(pipeline, X, Y, cv=2, error_score="raise").shape == (2,)


# the mean of direct use


CLASS_MAPS = [None, {"x": ["a", "c"], "y": [1]}, "learn"]


@pytest.mark.parametrize("class_map", CLASS_MAPS)
def test_direct_use_averages_probabilities_over_sizes(class_map):
    def model(size):
        return PretrainedClassifier(tiny_backbone(), class_map=class_map, image_size=size)

    both = model(SIZES).fit(X, Y)
    found = both.predict_proba(X)
    assert_allclose(found.sum(axis=1), 1)
    assert_array_equal(both.predict(X), both.classes_[found.argmax(axis=1)])
    assert_allclose(both.predict_proba(X[:1]), found[:1], rtol=1e-5, atol=1e-6)
    parts = [model(size).fit(X, Y) for size in SIZES]
    if class_map == "learn":
        for part in parts:
            part.conditional_ = both.conditional_
    assert_allclose(found, np.mean([part.predict_proba(X) for part in parts], axis=0), atol=1e-6)


def test_what_is_learned_from_several_sizes_is_learned_from_their_mean():
    made = PretrainedClassifier(
        tiny_backbone(), class_map="learn", smoothing=0, image_size=SIZES
    ).fit(X, Y)
    theta = PretrainedClassifier(tiny_backbone(), image_size=SIZES).fit(X).predict_proba(X)
    counts = theta.T @ np.eye(3)[Y]
    assert_allclose(made.conditional_, counts / counts.sum(axis=1, keepdims=True), rtol=1e-6)


# the choice of a size


def small_dots(n, side=48):
    """Images whose label is the number of single bright pixels, which a small input loses."""
    rng, found = np.random.default_rng(0), []
    for i in range(n):
        image = np.zeros((side, side, 3), np.uint8)
        rows, columns = rng.integers(0, side, (2, 3 + 6 * (i % 2)))
        image[rows, columns] = 255
        found.append(image)
    return found, np.where(np.arange(n) % 2, "many", "few")


@pytest.mark.slow
@pytest.mark.parametrize("layer", [None, "auto"])
def test_the_size_is_chosen_by_a_linear_probe(layer):
    dots, y = small_dots(80)
    made = extractor(image_size="auto", layer=layer).fit(dots, y)
    choice = made.size_choice_
    assert choice.sizes == (8, 16, 20, 24) and choice.default == 16
    assert made.image_size_ == choice.size == 24
    assert choice.scores[3] > choice.scores[1]
    assert "> 24" in repr(choice)
    assert hasattr(made, "layer_choice_") == (layer == "auto")
    expected = extractor(image_size=24, layer=made.layers_[0]).fit_transform(dots)
    assert_allclose(made.transform(dots), expected, rtol=1e-5, atol=1e-6)
    assert made.get_feature_names_out()[0].startswith("tinynet_24_")


def test_without_a_clear_difference_the_native_size_stays():
    made = extractor(image_size="auto").fit(X, Y)
    assert made.image_size_ == 16
    assert made.backbone_.native_shape is None


def test_regression_targets_choose_a_size_too():
    dots, y = small_dots(60)
    made = extractor(image_size="auto").fit(dots, (y == "many") + 0.5)
    assert not made.size_choice_.is_accuracy


def test_the_layer_is_chosen_for_all_sizes_of_a_list():
    made = extractor(image_size=SIZES, layer="auto").fit(X, Y)
    assert made.layer_choice_.n_features == tuple(16 for _ in made.layer_choice_.layers)
    assert made.transform(X).shape == (12, 16)


def test_sizes_need_a_target():
    assert extractor(image_size="auto").__sklearn_tags__().target_tags.required
    assert not extractor(image_size=SIZES).__sklearn_tags__().target_tags.required
    with pytest.raises(ValueError, match="y"):
        extractor(image_size="auto").fit(X)


@pytest.mark.parametrize(
    ("native", "sides"),
    [(224, [128, 224, 288, 320]), (260, [160, 260, 320, 384]), (4, [4]), (32, [20, 32, 40, 44])],
)
def test_sizes_around_the_native_one_are_tried(native, sides):
    backbone = load_backbone(tiny_backbone().module, preprocess=TINY_SIZE.with_size(native))
    assert [side_of(one) for one in candidate_sizes(backbone)] == sides


def test_a_network_of_one_size_keeps_it():
    vit = load_backbone(tiny_vit(), preprocess=TINY_SIZE, classes=list("abc"))
    made = PretrainedFeatureExtractor(vit, image_size="auto").fit(X, Y)
    assert made.size_choice_.sizes == (16,)
    assert made.image_size_ == 16


# errors


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        ([12, 24, 12], ValueError, r"image_size=\[12, 24, 12\]: give each size once"),
        ([12, True], ValueError, r"image_size=\[12, True\]: True is no size"),
        ([12, 0], ValueError, r"image_size=\[12, 0\]: 0 is no size"),
        ([12, 8.0], ValueError, r"8\.0 is no size"),
        ([12, "auto"], ValueError, "'auto' is no size"),
        ([], ValueError, r"image_size=\[\] names no size"),
        ([12, 1], ValueError, "image_size=1: backbone 'tinynet' does not take images of this size"),
        ([12, 5000], ValueError, "image_size=5000: give 1 to 4096 pixels"),
        ("large", InvalidParameterError, "'image_size' parameter"),
        ((12, 24), InvalidParameterError, "'image_size' parameter"),
    ],
)
def test_sizes_that_are_refused(size, error, message):
    with pytest.raises(error, match=message):
        extractor(image_size=size).fit(X, Y)


def test_a_network_of_one_size_refuses_another_by_its_number():
    vit = load_backbone(tiny_vit(), preprocess=TINY_SIZE, classes=list("abc"))
    for estimator in (PretrainedFeatureExtractor, PretrainedClassifier):
        with pytest.raises(ValueError, match=r"image_size=24: .* It takes 16"):
            estimator(vit, image_size=[16, 24]).fit(X)


def fixed_size(image):
    """A preprocessing whose size cannot be changed from outside."""
    return TINY_SIZE(np.array(image))


@pytest.mark.parametrize(("size", "named"), [(SIZES, "12"), ("auto", "'auto'")])
def test_samples_without_a_size_refuse_it(size, named):
    words = load_word_vectors((["a", "b"], np.eye(2, 5, dtype=np.float32)))
    vectors, own = load_backbone(Vectors()), load_backbone(TinyNet(), preprocess=fixed_size)
    pairs = [(words, ["a", "b"] * 3), (vectors, np.zeros((6, 4), np.float32)), (own, X[:6])]
    for backbone, samples in pairs:
        with pytest.raises(ValueError, match=f"image_size={named} cannot be applied"):
            PretrainedFeatureExtractor(backbone, image_size=size).fit(samples, Y[:6])


def test_direct_use_chooses_no_size():
    with pytest.raises(InvalidParameterError, match="'image_size' parameter"):
        PretrainedClassifier(tiny_backbone(), image_size="auto").fit(X)
