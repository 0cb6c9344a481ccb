"""Several columns of samples, missing cells and principal components."""

import pickle

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image
from sklearn.base import clone
from sklearn.decomposition import PCA

from sktransfer import FeatureStore, PretrainedFeatureExtractor, load_word_vectors
from tests.support import images, tiny_backbone

N = 12


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Names of files in two columns."""
    folder = tmp_path_factory.mktemp("files")
    for i, image in enumerate(images(2 * N)):
        Image.fromarray(image).save(folder / f"{i}.png")
    names = [str(folder / f"{i}.png") for i in range(2 * N)]
    return pd.DataFrame({"front": names[:N], "side": names[N:]})


def extractor(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def as_objects(table):
    return table.to_numpy(dtype=object)


@pytest.mark.parametrize(
    "form",
    [
        lambda table: table,
        as_objects,
        lambda table: np.array(table.to_numpy().tolist()),  # strings
        pl.from_pandas,
        pa.Table.from_pandas,
    ],
)
def test_two_columns_give_the_features_of_each_side_by_side(form, table):
    model = extractor().fit(form(table))
    alone = [extractor().fit_transform(table[name].tolist()) for name in table]
    found = model.transform(form(table))
    np.testing.assert_allclose(found, np.hstack(alone), rtol=1e-5, atol=1e-6)
    assert model.n_features_out_ == 16 == len(model.get_feature_names_out())


def test_names_of_features_begin_with_the_column(table):
    model = extractor(n_components=2).fit(table)
    assert model.get_feature_names_out().tolist() == [
        "front_tinynet_pca_0",
        "front_tinynet_pca_1",
        "side_tinynet_pca_0",
        "side_tinynet_pca_1",
    ]
    found = model.set_output(transform="pandas").transform(table)
    assert list(found.columns) == model.get_feature_names_out().tolist()


def test_other_columns_than_in_fit_are_refused(table):
    model = extractor().fit(table)
    for other in (table[["front"]], table.rename(columns={"side": "back"}), table["front"]):
        with pytest.raises(ValueError, match="and in fit it had 2, "):
            model.transform(other)
    assert model.transform(as_objects(table)).shape == (N, 16)


def test_a_table_of_numbers_is_not_taken_apart():
    with pytest.raises(ValueError, match="image_shape"):
        extractor().fit(pd.DataFrame(np.zeros((4, 30))))
    X = pd.DataFrame(np.zeros((4, 30), np.uint8))
    assert extractor(image_shape=(6, 5)).fit_transform(X).shape == (4, 8)


def test_two_columns_of_texts():
    names = ["good", "bad", "film", "a"]
    vectors = load_word_vectors(dict(zip(names, np.eye(4, 6, dtype=np.float32), strict=True)))
    texts = pd.DataFrame({"title": ["good film", "bad"], "body": ["a film", "a bad film"]})
    found = PretrainedFeatureExtractor(vectors).fit_transform(texts)
    assert found.shape == (2, 12)
    assert found[1, :6].tolist() == [0, 1, 0, 0, 0, 0]


def test_an_array_without_a_length_is_a_column():
    zarr = pytest.importorskip("zarr")
    X = np.stack(images(4))
    found = extractor().fit_transform(zarr.array(X))
    np.testing.assert_allclose(found, extractor().fit_transform(X), rtol=1e-5)
    with pytest.raises(TypeError, match="must be a list, an array or a column"):
        extractor().fit(17)


MISSING = [None, np.nan, pd.NA, pd.NaT]


@pytest.mark.parametrize(("missing", "fill"), [("zero", 0), ("nan", np.nan)])
@pytest.mark.parametrize("n_components", [None, 3])
def test_a_missing_cell_is_a_row(missing, fill, n_components, table):
    X = table.astype(object)
    for i, value in enumerate(MISSING):
        X.iloc[i, 1] = value
    model = extractor(missing=missing, n_components=n_components)
    found = model.fit(X).transform(X)
    np.testing.assert_allclose(found, clone(model).fit_transform(X), rtol=1e-4, atol=1e-5)
    half = found.shape[1] // 2
    assert np.array_equal(found[:4, half:], np.full((4, half), fill), equal_nan=True)
    assert np.isfinite(found[:, :half]).all() and np.isfinite(found[4:]).all()
    alone = clone(model).fit(X["side"].tolist()[4:])
    np.testing.assert_allclose(
        found[4:, half:], alone.transform(X["side"].tolist()[4:]), rtol=1e-4, atol=1e-5
    )
    assert found.dtype == np.float32


@pytest.mark.parametrize("value", MISSING[:3])
def test_a_missing_cell_is_an_error_by_default(value, table):
    X = [*table["front"][:2], value]
    with pytest.raises(ValueError, match=r"sample 2.*a missing image|sample 2.*expected"):
        extractor().fit_transform(X)


def test_a_column_may_be_missing_as_a_whole(table):
    X = table.assign(front=None)
    model = extractor(missing="zero").fit(X)
    found = model.transform(X)
    assert not found[:, :8].any() and found[:, 8:].any()
    assert not model.transform(X.assign(side=None)).any()
    with pytest.raises(ValueError, match="0 sample"):
        extractor(missing="zero").fit(X.assign(side=None))


def test_unreadable_and_missing_cells_together(table):
    X = table.astype(object)
    X.iloc[1, 0], X.iloc[2, 0], X.iloc[3, 1] = None, "nowhere.png", b"no image"
    model = extractor(missing="zero", on_error="nan").fit(X)
    found = model.transform(X)
    assert not found[1, :8].any() and np.isnan(found[2, :8]).all() and np.isnan(found[3, 8:]).all()
    assert list(model.bad_samples_) == [2, 3]
    assert model.bad_samples_[2].startswith("column 'front': [Errno 2]")
    with pytest.raises(ValueError, match=r"sample 2, 'nowhere\.png'"):
        model.set_params(on_error="raise").transform(X)


@pytest.mark.parametrize(("n_components", "n"), [(3, 3), (0.9, None), (8, 8)])
def test_principal_components_are_those_of_the_features(n_components, n, table):
    X = table["front"].tolist()
    features = extractor().fit_transform(X)
    model = extractor(n_components=n_components)
    found = model.fit_transform(X)
    wanted = PCA(n_components, svd_solver="full").fit(features)
    assert found.shape == (N, n or wanted.n_components_)
    np.testing.assert_allclose(np.abs(found), np.abs(wanted.transform(features)), atol=1e-4)
    np.testing.assert_allclose(model.transform(X), found, rtol=1e-4, atol=1e-5)
    again = pickle.loads(pickle.dumps(model))
    assert np.array_equal(again.transform(X), model.transform(X))


def test_components_are_learned_in_fit_alone(table):
    X = table["front"].tolist()
    model = extractor(n_components=2).fit(X[:6])
    first = model.transform(X)
    np.testing.assert_allclose(model.transform(X[:1]), first[:1], rtol=1e-4, atol=1e-5)
    assert model.fit(X).pca_[0].n_samples_ == N
    model.set_params(n_components=None).fit(X)
    assert model.transform(X).shape == (N, 8)
    assert not hasattr(model, "pca_")


def test_samples_are_run_once_and_the_store_keeps_the_features(table, tmp_path, counted):
    X, store = table["front"].tolist(), FeatureStore(tmp_path)
    extractor(n_components=2, memory=store).fit_transform(X)
    assert sum(counted) - 1 <= N + 1  # one sample checks the network
    before = sum(counted)
    assert extractor(n_components=5, memory=store).fit_transform(X).shape == (N, 5)
    assert extractor(memory=store).fit_transform(X).shape == (N, 8)
    assert sum(counted) == before


@pytest.mark.slow
def test_more_components_than_samples_are_refused(table):
    with pytest.raises(ValueError, match="n_components=5: 3 samples of 8 features have at most 3"):
        extractor(n_components=5).fit(table["front"][:3].tolist())
