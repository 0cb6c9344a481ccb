"""Collections of Dask in, lazily the same out."""

import numpy as np
import pandas as pd
import pytest

from sktransfer import PretrainedFeatureExtractor
from sktransfer.features import FeatureFunction
from tests.support import Vectors, images, tiny_backbone

dask = pytest.importorskip("dask")
da, bag = pytest.importorskip("dask.array"), pytest.importorskip("dask.bag")
dd = pytest.importorskip("dask.dataframe")

N = 7


@pytest.fixture(autouse=True)
def here():
    with dask.config.set(scheduler="synchronous"):
        yield


@pytest.fixture
def paths(tmp_path):
    from PIL import Image

    for i, image in enumerate(images(N)):
        Image.fromarray(image).save(tmp_path / f"{i}.png")
    return [str(tmp_path / f"{i}.png") for i in range(N)]


def fitted(**settings):
    return PretrainedFeatureExtractor(tiny_backbone(), **settings)


def test_dask_arrays_are_transformed_by_chunks(counted):
    X = np.stack(images(N))
    lazy = da.from_array(X, chunks=(3, 10, 10, 3))
    extractor = fitted().fit(lazy)
    counted.clear()
    result = extractor.transform(lazy)
    assert (result.shape, result.dtype, result.chunks) == ((N, 8), np.float32, ((3, 3, 1), (8,)))
    assert not counted
    assert type(result.compute()) is np.ndarray
    np.testing.assert_allclose(result.compute(), extractor.transform(X), rtol=1e-5)
    np.testing.assert_allclose(result[2:4].compute(), extractor.transform(X[2:4]), rtol=1e-5)


def test_arrays_of_paths_and_of_numbers(paths):
    extractor = fitted().fit(paths)
    lazy = da.from_array(np.array(paths, object), chunks=4)
    np.testing.assert_array_equal(extractor.transform(lazy).compute(), extractor.transform(paths))
    X = np.random.default_rng(0).normal(size=(N, 5)).astype(np.float32)
    vectors = PretrainedFeatureExtractor(Vectors()).fit(da.from_array(X, chunks=3))
    unknown = da.from_array(X, chunks=3)
    unknown = unknown[unknown[:, 0] > 0]  # the sizes of the chunks are not known
    result = vectors.transform(unknown)
    assert np.isnan(result.shape[0]) and result.shape[1] == 32
    np.testing.assert_allclose(result.compute(), vectors.transform(X[X[:, 0] > 0]), rtol=1e-5)


@pytest.mark.parametrize("one", [True, False], ids=["column", "frame"])
def test_dask_data_frames_are_transformed_by_partitions(one, paths):
    frame = pd.DataFrame({"path": paths}, index=range(10, 10 + N))
    lazy = dd.from_pandas(frame, npartitions=3)
    X, lazy = (frame["path"], lazy["path"]) if one else (frame, lazy)
    extractor = fitted(on_error="nan").fit(lazy)
    result = extractor.transform(lazy)
    assert list(result.columns) == extractor.get_feature_names_out().tolist()
    assert set(result.dtypes) == {np.dtype(np.float32)}
    found = result.compute()
    assert found.index.tolist() == frame.index.tolist()
    np.testing.assert_allclose(found, extractor.transform(X), rtol=1e-5)
    empty = result[result.iloc[:, 0] > 1e9]
    assert len(empty) == 0


def test_dask_bags_are_transformed_by_partitions(paths):
    lazy = bag.from_sequence(paths, npartitions=2)
    extractor = fitted().fit(lazy)
    result = extractor.transform(lazy)
    np.testing.assert_allclose(np.stack(result.compute()), extractor.transform(paths), rtol=1e-5)


def test_equal_transforms_have_equal_names(paths):
    extractor = fitted().fit(paths)
    lazy = da.from_array(np.array(paths, object), chunks=4)
    assert extractor.transform(lazy).name == extractor.transform(lazy).name
    other = fitted(pooling="max").fit(paths)
    assert extractor.transform(lazy).name != other.transform(lazy).name


def test_what_learns_computes_the_samples(paths):
    lazy = bag.from_sequence(paths, npartitions=2)
    y = [0, 1, 0, 1, 0, 1, 0]
    extractor = fitted(layer="auto").fit(lazy, y)
    expected = fitted(layer="auto").fit(paths, y).layer_choice_.scores
    np.testing.assert_array_equal(extractor.layer_choice_.scores, expected)
    assert FeatureFunction(extractor)([]).shape == (0, extractor.n_features_out_)


def test_a_transformer_that_is_not_fitted_says_so(paths):
    from sklearn.exceptions import NotFittedError

    with pytest.raises(NotFittedError):
        fitted().transform(bag.from_sequence(paths))
