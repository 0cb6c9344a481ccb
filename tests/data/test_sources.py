import io
import pickle
import tarfile
import tempfile

import dask.array as da
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import zarr
from PIL import Image
from torchvision import datasets, tv_tensors

from sktransfer import PretrainedFeatureExtractor
from sktransfer.data import digest, open_image, read_image
from sktransfer.data.images import as_samples
from sktransfer.data.sources import as_items
from tests.support import tiny_backbone

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


def encode(image):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


ENCODED = [encode(image) for image in IMAGES]


class Images:
    """A data set that counts how often each sample is opened."""

    def __init__(self, form=lambda image: image):
        self.form, self.opened = form, []

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, i):
        self.opened.append(i)
        return self.form(IMAGES[i])


def in_hdf5(chunks=None, encoded=False):
    file = h5py.File(io.BytesIO(), "w")
    if not encoded:
        return file.create_dataset("x", data=IMAGES, chunks=chunks)
    stored = file.create_dataset("x", len(IMAGES), dtype=h5py.vlen_dtype(np.uint8))
    for i, content in enumerate(ENCODED):
        stored[i] = np.frombuffer(content, np.uint8)
    return stored


def in_zarr():
    return zarr.array(IMAGES, chunks=(3, 4, 5, 3))


def in_memmap():
    with tempfile.TemporaryFile() as file:
        return np.memmap(file, np.uint8, shape=IMAGES.shape) + IMAGES


def as_tensors(images):
    return torch.from_numpy(images).permute(0, 3, 1, 2)


CONTAINERS = {
    "dataset": Images,
    "dataset of tuples": lambda: Images(lambda image: (image, 1)),
    "dataset of dictionaries": lambda: Images(lambda image: {"label": 1, "image": image}),
    "dataset of PIL images": lambda: Images(Image.fromarray),
    "dataset of tensors": lambda: Images(lambda image: torch.from_numpy(image).permute(2, 0, 1)),
    "dataset of encoded images": lambda: Images(lambda image: {"bytes": encode(image)}),
    "TensorDataset": lambda: torch.utils.data.TensorDataset(as_tensors(IMAGES)),
    "Subset": lambda: torch.utils.data.Subset(Images(), range(7)),
    "h5py": in_hdf5,
    "h5py, chunks": lambda: in_hdf5((4, 6, 5, 3)),
    "h5py, encoded": lambda: in_hdf5(encoded=True),
    "zarr": in_zarr,
    "dask": lambda: da.from_array(IMAGES, chunks=(3, 6, 5, 3)),
    "dask, uneven": lambda: da.from_array(IMAGES, chunks=((1, 4, 2), 3, 5, 3)),
    "tv_tensors": lambda: tv_tensors.Image(as_tensors(IMAGES)),
    "list of tv_tensors": lambda: [tv_tensors.Image(t) for t in as_tensors(IMAGES)],
    "pyarrow, binary": lambda: pa.array(ENCODED),
    "pyarrow, dictionaries": lambda: pa.table({"x": [{"bytes": c, "path": ""} for c in ENCODED]}),
    "pyarrow, chunks of tensors": lambda: pa.chunked_array(
        [pa.FixedShapeTensorArray.from_numpy_ndarray(part) for part in (IMAGES[:3], IMAGES[3:])]
    ),
    "pandas, bytes": lambda: pd.DataFrame({"x": ENCODED}),
    "object array, bytes": lambda: np.array(ENCODED, object)[:, None],
    "memmap": in_memmap,
}


@pytest.mark.parametrize("form", CONTAINERS)
def test_each_container_has_the_same_images(form):
    samples = as_samples(CONTAINERS[form]())
    assert len(samples) == len(IMAGES)
    for sample, image in zip(samples, IMAGES, strict=True):
        assert np.array_equal(open_image(sample), image)
    if "encoded" not in form and "bytes" not in form and "pyarrow" not in form:
        assert digest(samples[2]) == digest(IMAGES[2])


def test_samples_are_opened_one_by_one_and_once():
    X = Images()
    extractor = PretrainedFeatureExtractor(tiny_backbone()).fit(X)
    before = len(X.opened)
    assert before <= 1  # to check the network
    features = extractor.transform(X)
    assert X.opened[before:] == list(range(7))
    np.testing.assert_allclose(features, extractor.transform(list(IMAGES)), rtol=1e-5)


@pytest.mark.parametrize("form", ["h5py", "h5py, chunks", "zarr", "dask", "dask, uneven"])
def test_an_array_on_disk_is_not_read_as_a_whole(form):
    samples = as_samples(CONTAINERS[form]())
    assert [type(sample).__name__ for sample in samples] == ["Item"] * 7


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_a_chunk_is_read_once_for_its_rows(size):
    read = []

    class Stored:
        shape, dtype, chunks = IMAGES.shape, IMAGES.dtype, (size, 6, 5, 3)

        def __len__(self):
            return len(IMAGES)

        def __getitem__(self, rows):
            read.append(rows)
            return IMAGES[rows]

    assert np.array_equal([read_image(sample).sample for sample in as_samples(Stored())], IMAGES)
    assert [rows.start for rows in read] == list(range(0, 7, size))


def test_the_size_of_a_sample_in_memory_is_known():
    assert read_image(as_items(Images())[0]).bytes_read == 90
    assert read_image(as_items(Images(Image.fromarray))[0]).bytes_read == 90
    assert read_image(as_items(Images(encode))[0]).bytes_read == len(ENCODED[0])


def test_items_are_pickled_with_one_dataset():
    items = pickle.loads(pickle.dumps(as_samples(da.from_array(IMAGES, chunks=(3, 6, 5, 3)))))
    assert items[0].dataset is items[1].dataset
    assert np.array_equal(open_image(items[4]), IMAGES[4])


def test_an_image_folder_of_torchvision(tmp_path):
    for i, image in enumerate(IMAGES):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "ab"[i % 2] / f"{i}.png")
    samples = as_samples(datasets.ImageFolder(tmp_path))
    assert [repr(sample) for sample in samples[:1]] == ["item 0 of ImageFolder"]
    assert np.array_equal(open_image(samples[1]), IMAGES[2])


@pytest.mark.filterwarnings("ignore:unclosed file.*shard.tar:ResourceWarning")  # by webdataset
def test_webdataset_by_its_loop(tmp_path):
    wds = pytest.importorskip("webdataset")
    with tarfile.open(tmp_path / "shard.tar", "w") as archive:
        for i, content in enumerate(ENCODED):
            for name, part in ((f"{i}.png", content), (f"{i}.cls", b"%d" % i)):
                info = tarfile.TarInfo(name)
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
    dataset = wds.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False)
    X, y = zip(*dataset.to_tuple("png", "cls"), strict=True)
    assert [int(label) for label in y] == list(range(7))
    assert np.array_equal([open_image(sample) for sample in as_samples(X)], IMAGES)
    with pytest.raises(TypeError, match="Collect its images"):
        as_samples(dataset)


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (torch.utils.data.DataLoader(Images()), r"from_dataset\(loader.dataset\)"),
        (iter(ENCODED), r"list\(X\)"),
        (17, "must be a list, an array or a column"),
        ({"a": IMAGES}, "must be a list, an array or a column"),
        (ENCODED[0], r"one image: bytes \(\d+\)\. Pass \[image\]"),
        (io.BytesIO(ENCODED[0]), "one image: BytesIO"),
        ({"bytes": ENCODED[0], "path": "a.png"}, "one image: 'a.png'"),
        (tempfile.gettempdir(), r"X is a folder, .*load_image_folder\(folder\)"),
        ("photos/*.jpg", r"X is a pattern, .*glob"),
        ("photos.csv", r"X is a table, .*load_image_table"),
    ],
)
def test_what_is_no_list_of_images_is_refused_with_a_hint(X, message):
    with pytest.raises(TypeError, match=message):
        as_samples(X)


@pytest.mark.parametrize("form", [np.asarray, zarr.array, da.asarray])
def test_channels_first_get_a_hint(form):
    with pytest.raises(ValueError, match=r"The channels are first: give X\.transpose"):
        as_samples(form(np.moveaxis(IMAGES, -1, 1)))


def test_an_unreadable_item_is_named():
    X = Images(lambda image: image if image is IMAGES[0] else b"x")
    message = r"sample 1, item 1 of Images: not an image \(1 bytes\)"
    with pytest.raises(ValueError, match=message):
        PretrainedFeatureExtractor(tiny_backbone()).fit(IMAGES).transform(
            [as_items(IMAGES)[0], as_items(X)[1]]
        )
