import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer.data.images import as_samples
from sktransfer.data.texts import as_texts
from tests.support import tiny_backbone

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (6, 5), dtype=np.uint8)
PATHS = ["b.jpg", "a.jpg", "c.jpg"]


def object_array(samples):
    array = np.empty(len(samples), object)
    array[:] = samples
    return array


@pytest.mark.parametrize(
    "container",
    [
        list,
        tuple,
        object_array,
        np.array,  # <U5
        lambda paths: np.array(paths)[:, None],
        lambda paths: object_array(paths)[:, None],
        pd.Series,
        lambda paths: pd.Series(paths, dtype=object, index=[7, 7, 7]),
        lambda paths: pd.DataFrame({"path": paths}),
        pl.Series,
        lambda paths: pl.DataFrame({"path": paths}),
    ],
)
def test_a_column_of_paths_is_a_list_in_its_order(container):
    assert as_samples(container(PATHS)) == PATHS


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 6, 5), (4, 6, 5, 1), (4, 6, 5, 3), (4, 6, 5, 4)])
def test_an_array_of_images_is_split_along_its_first_axis(shape, dtype):
    X = RNG.integers(0, 2, shape).astype(dtype)
    samples = as_samples(X)
    assert len(samples) == 4
    assert all(np.array_equal(sample, row) for sample, row in zip(samples, X, strict=True))


def test_images_of_different_sizes_stay_as_they_came():
    X = [COLOUR, GREY, Image.fromarray(COLOUR), torch.zeros(3, 4, 4), "a.jpg"]
    assert all(a is b for a, b in zip(as_samples(X), X, strict=True))
    assert all(a is b for a, b in zip(as_samples(object_array(X)), X, strict=True))


def test_a_tensor_of_images_has_its_channels_first():
    X = torch.from_numpy(RNG.integers(0, 256, (4, 3, 6, 5), dtype=np.uint8))
    samples = as_samples(X)
    assert len(samples) == 4
    assert np.array_equal(samples[1], X[1].permute(1, 2, 0))


def test_a_tensor_of_grey_images_holds_as_many_samples_as_rows():
    X = torch.from_numpy(RNG.integers(0, 256, (7, 6, 5), dtype=np.uint8))
    samples = as_samples(X)
    assert len(samples) == 7
    assert np.array_equal(samples[1], X[1])


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 3)])
def test_flattened_rows_are_reshaped_to_image_shape(shape):
    images = RNG.integers(0, 256, (4, *shape), dtype=np.uint8)
    rows = images.reshape(4, -1)
    for X in (rows, list(rows)):
        assert np.array_equal(as_samples(X, image_shape=shape), images)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ([], ValueError, "0 sample"),
        (np.zeros((0, 6, 5)), ValueError, "0 sample"),
        (
            "a.jpg",
            TypeError,
            r"X must be a list .* one image: 'a.jpg'\. Pass \[image\]",
        ),
        (Image.fromarray(COLOUR), TypeError, "one image"),
        ({"a.jpg"}, TypeError, "a list, an array or a column"),
        (np.zeros((4, 30)), ValueError, r"\(4, 30\).*image_shape"),
        (np.zeros((4, 3, 6, 5)), ValueError, r"\(4, 3, 6, 5\).*\(n, h, w, channels\)"),
        (pd.DataFrame({"a": PATHS, "b": PATHS}), ValueError, "one column"),
    ],
)
def test_other_types_and_shapes_of_x_are_refused(X, error, message):
    with pytest.raises(error, match=message):
        as_samples(X)


@pytest.mark.parametrize("image", [COLOUR, torch.zeros(3, 6, 5)])
def test_a_single_colour_image_is_refused(image):
    with pytest.raises((TypeError, ValueError), match="one image"):
        as_samples(image)


def test_rows_that_do_not_fit_image_shape_are_refused():
    with pytest.raises(ValueError, match=r"30 values.*image_shape=\(6, 6\) needs 36"):
        as_samples(np.zeros((4, 30)), image_shape=(6, 6))


def test_a_tensor_of_one_grey_image_is_one_sample():
    assert [np.shape(sample) for sample in as_samples(torch.rand(1, 28, 27))] == [(28, 27)]


@pytest.mark.parametrize(
    "container",
    [
        pa.array,
        lambda paths: pa.array(paths, pa.large_string()),
        lambda paths: pa.chunked_array([paths[:1], paths[1:]]),
        lambda paths: pa.table({"path": paths}),
        lambda paths: pa.RecordBatch.from_pydict({"path": paths}),
    ],
)
def test_a_column_of_pyarrow_is_a_list_in_its_order(container):
    assert as_samples(container(PATHS)) == PATHS
    assert as_texts(container(PATHS)) == PATHS


def test_a_table_of_pyarrow_must_have_one_column():
    with pytest.raises(ValueError, match=r"one column of samples, got \['a', 'b'\]"):
        as_samples(pa.table({"a": PATHS, "b": PATHS}))


def test_a_tensor_array_of_pyarrow_holds_images():
    images = RNG.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
    assert np.array_equal(as_samples(pa.FixedShapeTensorArray.from_numpy_ndarray(images)), images)


@pytest.mark.parametrize(
    "shape",
    [[1], [6, 5, 2], [0, 30], [-6, -5], (6.0, 5), ["a", "b"], [[6, 5]], [6, 5, 3, 1], [True, 30]],
)
def test_an_invalid_image_shape_is_named_in_the_error(shape):
    extractor = PretrainedFeatureExtractor(tiny_backbone(), image_shape=shape)
    with pytest.raises(ValueError, match=r"image_shape=.*give \(height, width\) or"):
        extractor.fit(np.zeros((4, 30)))


@pytest.mark.parametrize("X", [np.zeros((4, 30)), [GREY, GREY], [1, 2], ["a.jpg", "b.jpg"]])
def test_an_error_about_x_names_image_shape(X):
    with pytest.raises(ValueError, match=r"image_shape=\(1, 2\)"):
        PretrainedFeatureExtractor(tiny_backbone(), image_shape=[1, 2]).fit(X)
