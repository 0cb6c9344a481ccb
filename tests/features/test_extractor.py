import pickle
import tracemalloc
import warnings

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from sktransfer import (
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    load_backbone,
    register_backbone,
)
from sktransfer.backbones.stages import stages_of
from tests.new_process import run_in_new_process
from tests.support import (
    SCIKIT_LEARN,
    TINY_SIZE,
    TinyNet,
    Vectors,
    images,
    tiny_backbone,
    tiny_vit,
)

X = images(6)
Y = np.array([0, 1, 0, 1, 0, 1])


def extractor(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for i, image in enumerate(X):
        Image.fromarray(image).save(folder / f"{i}.png")
    return [str(folder / f"{i}.png") for i in range(len(X))]


# the default


def test_without_arguments_photographs_become_1280_numbers(photos):
    features = PretrainedFeatureExtractor().fit_transform(photos)
    assert features.shape == (2, 1280)
    assert features.dtype == np.float32
    names = PretrainedFeatureExtractor().fit(photos).get_feature_names_out()
    assert names[0] == "efficientnet_lite0_features_0"
    assert names[-1] == "efficientnet_lite0_features_1279"


def test_init_stores_and_loads_nothing():
    estimator = PretrainedFeatureExtractor("no such name", layer="x", memory="nowhere")
    assert estimator.get_params()["backbone"] == "no such name"
    assert set(vars(estimator)) == set(estimator.get_params())


def test_default_layer_is_the_input_of_the_classifier():
    made = extractor().fit(X)
    assert made.layers_ == ["4"]
    x = torch.stack([TINY_SIZE(image) for image in X])
    with torch.inference_mode():
        wanted = torch.nn.Sequential(*list(made.backbone_.module)[:5])(x)
    np.testing.assert_allclose(made.transform(X), wanted, rtol=1e-5, atol=1e-6)


# samples in every form


def test_one_image_in_every_form_gives_the_same_features(files):
    made = extractor().fit(X)
    wanted = made.transform(X)
    stack = np.stack(X)
    forms = {
        "paths": files,
        "series": pd.Series(files),
        "polars": pl.Series(files),
        "frame": pd.DataFrame({"path": files}),
        "object array": np.array(files, dtype=object),
        "strings": np.array(files),
        "images": [Image.fromarray(image) for image in X],
        "array": stack,
        "tensor": torch.from_numpy(stack).permute(0, 3, 1, 2),
        "tensors": [torch.from_numpy(image).permute(2, 0, 1) for image in X],
        "integers": stack.astype(int),
    }
    for samples in forms.values():
        assert np.array_equal(made.transform(samples), wanted)
    for samples in (stack / 255, (stack / 255).astype(np.float32)):
        np.testing.assert_allclose(made.transform(samples), wanted, atol=0.02)  # resized as floats


@pytest.mark.parametrize("shape", [(20, 24, 3), (20, 24)])
def test_flattened_rows_have_a_number_of_features(shape):
    stack = np.stack(X)[..., : len(shape)] if len(shape) == 3 else np.stack(X)[..., 0]
    rows = stack.reshape(len(X), -1)
    made = extractor(image_shape=shape).fit(rows)
    assert made.n_features_in_ == rows.shape[1]
    assert np.array_equal(made.transform(rows), extractor().fit(X).transform(stack))
    with pytest.raises(ValueError, match=rf"expecting {rows.shape[1]} features"):
        made.transform(rows[:, :-1])
    assert not hasattr(extractor().fit(X), "n_features_in_")


def test_digits_work_as_floats_once_they_are_divided_by_16():
    rows = load_digits().data[:5]
    made = extractor(image_shape=(8, 8))
    with pytest.raises(ValueError, match="divide by 16"):
        made.fit_transform(rows)
    assert made.fit_transform(rows / 16).shape == (5, 8)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_number_of_samples(n):
    assert extractor().fit(X[:1]).transform(X[:n]).shape == (n, 8)


@pytest.mark.parametrize("empty", [[], np.zeros((0, 20, 24, 3), np.uint8)])
def test_no_samples_are_refused(empty):
    with pytest.raises(ValueError, match="0 sample"):
        extractor().fit(empty)
    with pytest.raises(ValueError, match="0 sample"):
        extractor().fit(X).transform(empty)


def test_nan_is_refused():
    bad = [X[0] / 255, np.full((20, 24), np.nan)]
    with pytest.raises(UnreadableSamplesError, match=r"sample 1, .*contains NaN"):
        extractor().fit(bad).transform(bad)
    vectors = PretrainedFeatureExtractor(load_backbone(Vectors()))
    with pytest.raises(ValueError, match="NaN"):
        vectors.fit(np.full((3, 4), np.nan))


def test_tensors_for_a_network_on_vectors():
    rows = np.random.default_rng(0).normal(size=(4, 5)).astype(np.float32)
    made = PretrainedFeatureExtractor(Vectors(), layer=-1).fit(rows)
    assert np.array_equal(made.transform(torch.from_numpy(rows)), made.transform(rows))


def test_what_was_given_is_not_changed(files):
    stack, frame, given = np.stack(X), pd.DataFrame({"path": files}), list(files)
    layers = ["2", "4"]
    copies = stack.copy(), frame.copy(), list(given), list(layers)
    for samples in (stack, frame, given):
        extractor(layer=layers).fit(samples).transform(samples)
    assert np.array_equal(stack, copies[0])
    assert frame.equals(copies[1])
    assert (given, layers) == copies[2:]


# layers and poolings


def test_a_list_of_layers_is_the_single_layers_side_by_side():
    layers = ["4", "1", -1, "2"]
    together = extractor(layer=layers).fit(X)
    singles = [extractor(layer=layer).fit(X) for layer in layers]
    tables = [single.transform(X) for single in singles]
    np.testing.assert_allclose(together.transform(X), np.hstack(tables), rtol=1e-5, atol=1e-6)
    assert together.layers_ == ["4", "1", "5", "2"]
    names = [name for single in singles for name in single.get_feature_names_out()]
    assert together.get_feature_names_out().tolist() == names
    assert names[0] == "tinynet_4_0"


def test_a_list_of_layers_takes_one_pass(counted):
    extractor(layer=["1", "2", "4"]).fit(X).transform(X)
    assert counted == [6]


@pytest.mark.parametrize(
    ("pooling", "width"),
    [("avg", 8), ("max", 8), ("flatten", 8 * 7 * 7), (lambda x: x[:, :2, 0, :3], 6)],
)
def test_pooling_decides_the_width(pooling, width):
    made = extractor(layer="2", pooling=pooling).fit(X)
    assert made.transform(X).shape == (6, width)
    assert len(made.get_feature_names_out()) == width


def test_the_first_token_of_a_transformer():
    backbone = load_backbone(tiny_vit(), preprocess=TINY_SIZE)
    features = PretrainedFeatureExtractor(backbone, layer="encoder", pooling="cls")
    x = torch.stack([TINY_SIZE(image) for image in X])
    with torch.inference_mode():
        for name, stage in stages_of(backbone).items():
            x = stage(x)
            if name == "encoder.ln":
                break
    assert x.shape == (6, 5, 12)
    np.testing.assert_allclose(features.fit_transform(X), x[:, 0], rtol=1e-4, atol=1e-5)


def test_another_image_size_gives_other_features_of_the_same_width():
    features = [extractor(image_size=size).fit_transform(X) for size in (None, 16, 24)]
    assert np.array_equal(features[0], features[1])
    assert features[2].shape == (6, 8)
    assert not np.allclose(features[1], features[2])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"layer": "block"}, ValueError, "'block' is not a place where .* can be cut. Nearest"),
        ({"layer": 6}, ValueError, "layer=6: .* has 6 layers"),
        ({"layer": []}, ValueError, r"layer=\[\] names no layer"),
        ({"layer": 1.5}, InvalidParameterError, "'layer' parameter"),
        ({"pooling": "mean"}, InvalidParameterError, "'pooling' parameter .*'avg'"),
        ({"pooling": "cls", "layer": "2"}, ValueError, "no tokens"),
        ({"batch_size": 0}, InvalidParameterError, "'batch_size' parameter"),
        ({"precision": "float16"}, InvalidParameterError, "'precision' parameter"),
        ({"device": "nowhere"}, ValueError, "device='nowhere' cannot be used"),
        ({"memory": 3}, InvalidParameterError, "'memory' parameter"),
        ({"image_size": 0}, InvalidParameterError, "'image_size' parameter"),
        ({"verbose": "loud"}, InvalidParameterError, "'verbose' parameter"),
    ],
)
def test_wrong_parameters_are_refused_in_fit(settings, error, message):
    with pytest.raises(error, match=message):
        extractor(**settings).fit(X)


def test_an_unknown_backbone_is_refused_in_fit():
    with pytest.raises(ValueError, match=r"'resnet_18' is not known. Nearest"):
        PretrainedFeatureExtractor("resnet_18").fit(X)


def test_before_fit_nothing_is_transformed():
    for call in (extractor().transform, extractor().get_feature_names_out):
        with pytest.raises(NotFittedError):
            call(X)


# inside scikit-learn


def test_in_a_pipeline():
    pipeline = make_pipeline(extractor(), StandardScaler(), LogisticRegression()).fit(X, Y)
    by_hand = StandardScaler().fit_transform(extractor().fit_transform(X))
    wanted = LogisticRegression().fit(by_hand, Y).predict_proba(by_hand)
    np.testing.assert_allclose(pipeline.predict_proba(X), wanted)


def test_in_a_feature_union():
    union = FeatureUnion([("a", extractor(layer="1")), ("b", extractor(layer="2", pooling="max"))])
    wanted = [part.fit_transform(X) for _, part in union.transformer_list]
    assert np.array_equal(union.fit_transform(X), np.hstack(wanted))
    assert union.get_feature_names_out()[8] == "b__tinynet_2_0"


@pytest.mark.parametrize("library", ["pandas", "polars"])
@pytest.mark.parametrize("columns", ["path", ["path"]])
def test_images_beside_numbers(library, columns, files):
    if library == "polars" and SCIKIT_LEARN < (1, 9):
        pytest.skip("ColumnTransformer of scikit-learn < 1.9 selects no columns of this polars")
    frame = {"weight": [1.0, 2, 3, 4, 5, 6], "path": files}
    frame = pd.DataFrame(frame) if library == "pandas" else pl.DataFrame(frame)
    table = ColumnTransformer(
        [("image", extractor(), columns), ("number", "passthrough", ["weight"])]
    )
    features = table.fit_transform(frame)
    assert np.array_equal(features[:, :8], extractor().fit(X).transform(X))
    assert features[:, 8].tolist() == [1, 2, 3, 4, 5, 6]
    assert table.get_feature_names_out()[0] == "image__tinynet_features_0"
    pipeline = make_pipeline(table, LogisticRegression()).fit(frame, Y)
    assert pipeline.predict(frame[:2]).shape == (2,)


def test_a_pandas_frame_comes_out_with_names_and_index(files):
    made = extractor().set_output(transform="pandas").fit(files)
    series = pd.Series(files, index=list("abcdef"))
    # scikit-learn < 1.7 keeps the index of a frame only.
    frame = made.transform(series if SCIKIT_LEARN >= (1, 7) else series.to_frame())
    assert list(frame.columns) == list(made.get_feature_names_out())
    assert list(frame.index) == list("abcdef")
    assert np.array_equal(frame.to_numpy(), extractor().fit(X).transform(X))
    assert set(frame.dtypes) == {np.dtype(np.float32)}


def test_a_polars_frame_comes_out_with_names(files):
    made = extractor().set_output(transform="polars").fit(files)
    frame = made.transform(pl.Series(files))
    assert frame.columns == list(made.get_feature_names_out())
    assert np.array_equal(frame.to_numpy(), extractor().fit(X).transform(X))


def test_a_grid_search_over_layer_pooling_and_backbone(registry, counted, tmp_path):
    for seed in (1, 2):
        register_backbone(f"tiny{seed}", lambda seed=seed: tiny_backbone(seed))
    pipeline = make_pipeline(
        PretrainedFeatureExtractor("tiny1", memory=tmp_path), LogisticRegression()
    )
    name = "pretrainedfeatureextractor"
    grid = {
        f"{name}__backbone": ["tiny1", "tiny2", tiny_backbone(3)],
        f"{name}__layer": np.array([2, -2]),
        f"{name}__pooling": ["avg", "max"],
    }
    search = GridSearchCV(pipeline, grid, cv=2, error_score="raise").fit(X, Y)
    scores = search.cv_results_["mean_test_score"]
    assert len(scores) == 12
    assert np.isfinite(scores).all()
    assert sum(counted) == 12 * 6


@pytest.mark.slow
def test_folds_in_two_processes_score_as_in_one(tmp_path):
    pipeline = make_pipeline(
        PretrainedFeatureExtractor(Vectors(), memory=tmp_path), LogisticRegression()
    )
    rows = np.random.default_rng(0).normal(size=(40, 7))
    y = np.where(rows[:, 0] > 0, "right", "left")
    one = cross_validate(pipeline, rows, y, cv=2, error_score="raise")
    two = cross_validate(pipeline, rows, y, cv=2, error_score="raise", n_jobs=2)
    assert np.array_equal(one["test_score"], two["test_score"])


def test_a_progress_bar_of_scikit_learn_reaches_a_search_around_it(capsys):
    pytest.importorskip("rich")
    callback = pytest.importorskip("sklearn.callback")
    pipeline = make_pipeline(extractor(), LogisticRegression())
    search = GridSearchCV(pipeline, {"logisticregression__C": [1, 10]}, cv=2)
    search.set_callbacks(callback.ProgressBar()).fit(X, Y)
    assert "GridSearchCV" in capsys.readouterr().out


def test_verbose_draws_a_bar(capsys):
    extractor(verbose=1).fit(X).transform(X)
    out = capsys.readouterr().err
    assert "tinynet features" in out
    assert f"{len(X)}/{len(X)}" in out


def test_the_html_representation_names_the_estimator_and_loads_nothing(registry):
    registry["vgg19"] = pytest.fail  # the loader
    html = make_pipeline(PretrainedFeatureExtractor("vgg19"), LogisticRegression())._repr_html_()
    assert "PretrainedFeatureExtractor" in html
    assert "vgg19" in html


def test_metadata_routing_knows_nothing_to_request():
    assert str(extractor().get_metadata_routing()) == "{}"


def test_tags_tell_what_a_sample_is():
    tags = PretrainedFeatureExtractor().__sklearn_tags__().input_tags
    assert (tags.two_d_array, tags.three_d_array, tags.string) == (False, True, True)
    for estimator in (
        PretrainedFeatureExtractor(image_shape=(8, 8)),
        PretrainedFeatureExtractor(Vectors()),
        PretrainedFeatureExtractor(load_backbone(Vectors())),
    ):
        tags = estimator.__sklearn_tags__().input_tags
        assert (tags.two_d_array, tags.three_d_array, tags.string) == (True, False, False)


@pytest.mark.parametrize("name", ["glove_6b_50d", "minilm_l6_v2", "word-vectors", "hf:folder"])
def test_names_of_text_backbones_say_that_samples_are_texts(name):
    tags = PretrainedFeatureExtractor(name).__sklearn_tags__().input_tags
    assert (tags.two_d_array, tags.three_d_array, tags.string) == (False, False, True)


# memory and second fits


@pytest.mark.parametrize("backbone", ["efficientnet_lite0", tiny_backbone()])
def test_ten_fitted_clones_hold_one_copy_of_the_weights(backbone, photos):
    estimator = PretrainedFeatureExtractor(backbone, image_size=32)
    clones = [clone(estimator).fit(photos) for _ in range(10)]
    pointers = {tuple(p.data_ptr() for p in made.backbone_.module.parameters()) for made in clones}
    assert len(pointers) == 1


def test_fits_of_a_search_hold_one_copy_of_the_weights():
    pipeline = make_pipeline(extractor(), LogisticRegression())
    results = cross_validate(pipeline, X, Y, cv=3, return_estimator=True)
    modules = {id(made[0].backbone_.module) for made in results["estimator"]}
    assert len(modules) == 1


def test_a_second_fit_starts_anew():
    made = extractor(layer="2").fit(X)
    first = made.transform(X)
    made.set_params(layer=["1", "4"], backbone=tiny_backbone(1)).fit(X[:2])
    assert made.layers_ == ["1", "4"]
    assert made.transform(X).shape == (6, 16)
    again = made.set_params(layer="2", backbone=extractor().backbone).fit(X)
    assert np.array_equal(again.transform(X), first)


def test_fit_ignores_labels_and_looks_at_no_more_than_one_sample():
    with_labels = extractor().fit([X[0], "not a file"], ["a", None])
    assert np.array_equal(with_labels.transform(X), extractor().fit(X).transform(X))


def test_a_module_changed_after_fit_does_not_change_the_fitted_estimator():
    module = TinyNet()
    backbone = load_backbone(module, preprocess=TINY_SIZE)
    made = PretrainedFeatureExtractor(backbone).fit(X)
    first = made.transform(X)
    with torch.no_grad():
        module[0].weight.zero_()
    assert np.array_equal(made.transform(X), first)


@pytest.mark.slow
def test_a_weights_file(tmp_path):
    backbone = load_backbone("efficientnet_lite0")
    state = {k: v.clone() for k, v in backbone.module.state_dict().items()}
    state["head.bn.bias"] += 1
    torch.save(state, tmp_path / "a.pth")
    settings = {"image_size": 32, "weights": tmp_path / "a.pth"}
    plain = PretrainedFeatureExtractor(image_size=32).fit(X).transform(X)
    moved = PretrainedFeatureExtractor(**settings).fit(X).transform(X)
    assert (moved >= plain - 1e-5).all()
    assert (moved > plain + 1e-3).any()


def test_random_weights_say_so():
    with pytest.warns(UserWarning, match="initialised at random and knows nothing"):
        PretrainedFeatureExtractor("squeezenet1_1", weights=None, image_size=32).fit(X)


# pickles


CASES = {
    "by name": lambda folder: PretrainedFeatureExtractor(image_size=32),
    "several layers": lambda folder: PretrainedFeatureExtractor(
        image_size=32, layer=["blocks.3", -1], pooling="max"
    ),
    "with a store": lambda folder: PretrainedFeatureExtractor(image_size=32, memory=folder),
    "own backbone": lambda folder: extractor(layer="2"),
    "weights of a file": lambda folder: PretrainedFeatureExtractor(
        "squeezenet1_1", weights=local_weights(folder), image_size=64
    ),
}
REOPEN = """
import sys, joblib, pickle, numpy as np
from tests.support import images
folder = sys.argv[1]
for i in range(int(sys.argv[2])):
    a = pickle.load(open(f"{folder}/{i}.pickle", "rb"))
    b = joblib.load(f"{folder}/{i}.joblib")
    np.save(f"{folder}/{i}.npy", [a.transform(images(6)), b.transform(images(6))])
"""


def local_weights(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        state = load_backbone("squeezenet1_1", weights=None).module.state_dict()
    torch.save(state, folder / "a.pth")
    return folder / "a.pth"


@pytest.fixture(scope="module")
def reopened(tmp_path_factory):
    """For each case the estimator, its pickle, and its features in a new process, twice."""
    folder = tmp_path_factory.mktemp("pickles")
    fitted = [make(folder).fit(X) for make in CASES.values()]
    for i, made in enumerate(fitted):
        (folder / f"{i}.pickle").write_bytes(pickle.dumps(made))
        joblib.dump(made, folder / f"{i}.joblib")
    (folder / "a.pth").unlink()
    run_in_new_process(REOPEN, folder, len(CASES))
    pickles = [(folder / f"{i}.pickle").read_bytes() for i in range(len(CASES))]
    features = [np.load(folder / f"{i}.npy") for i in range(len(CASES))]
    return dict(zip(CASES, zip(fitted, pickles, features, strict=True), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_a_pickle_gives_the_same_bits_in_a_new_process(case, reopened):
    made, _, (pickled, dumped) = reopened[case]
    features = made.transform(X)
    assert np.array_equal(pickled, features)
    assert np.array_equal(dumped, features)


@pytest.mark.parametrize("case", ["by name", "several layers", "with a store"])
def test_a_named_backbone_is_not_in_the_pickle(case, reopened):
    assert len(reopened[case][1]) < 100_000


def test_an_own_module_is_in_the_pickle_once():
    made = PretrainedFeatureExtractor(Vectors()).fit(np.ones((3, 4)))
    n_bytes = sum(p.numel() * 4 for p in Vectors().parameters())
    assert n_bytes < len(pickle.dumps(made)) < 1.5 * n_bytes
    copy = pickle.loads(pickle.dumps(made))
    assert np.array_equal(copy.transform(np.ones((3, 4))), made.transform(np.ones((3, 4))))


def test_an_own_module_changed_after_fit_is_pickled_as_it_was():
    made = PretrainedFeatureExtractor(Vectors()).fit(np.ones((3, 4)))
    first = made.transform(np.ones((3, 4)))
    with torch.no_grad():
        made.backbone.w1.zero_()
    copy = pickle.loads(pickle.dumps(made))
    assert np.array_equal(copy.transform(np.ones((3, 4))), first)


def test_an_unfitted_extractor_pickles():
    copy = pickle.loads(pickle.dumps(PretrainedFeatureExtractor("vgg19", layer="features")))
    assert copy.get_params()["layer"] == "features"
    assert not hasattr(copy, "backbone_")


@pytest.mark.slow
def test_bfloat16_is_near_float32_and_stored_apart(photos, tmp_path):
    made = PretrainedFeatureExtractor(memory=tmp_path, precision="bfloat16", image_size=64)
    rough = made.fit(photos).transform(photos)
    exact = made.set_params(precision="float32").fit(photos).transform(photos)
    error = np.linalg.norm(rough - exact) / np.linalg.norm(exact)
    assert 1e-4 < error < 0.1


def test_a_pooling_that_is_set_after_fit_waits_for_the_next(files):
    made = extractor(layer=0).fit(files)
    expected = made.transform(files)
    assert np.array_equal(made.set_params(pooling="max").transform(files), expected)
    assert not np.array_equal(made.fit(files).transform(files), expected)


class Wide(nn.Module):
    """16 kB of features of a sample."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 4000))

    def forward(self, x):
        return x[:, :1] * self.scale


@pytest.mark.slow
@pytest.mark.parametrize("n_repeated", [0, 1000])
def test_transform_needs_little_more_memory_than_its_output(n_repeated):
    X = np.random.default_rng(0).normal(size=(2000, 4)).astype(np.float32)
    X[2000 - n_repeated :] = X[:n_repeated]
    extractor = PretrainedFeatureExtractor(load_backbone(Wide())).fit(X)
    extractor.transform(X[:2])
    tracemalloc.start()
    features = extractor.transform(X)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert features.nbytes < peak < 1.3 * features.nbytes
