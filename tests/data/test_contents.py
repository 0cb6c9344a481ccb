import base64
import functools
import http.server
import io
import itertools
import os
import pickle
import sys
import tarfile
import tempfile
import threading
import time
import zipfile

import dask.array as da
import fsspec
import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
import zarr
from fastapi import UploadFile
from fsspec.registry import _registry
from PIL import Image
from torchvision import datasets, tv_tensors

from sktransfer import PretrainedFeatureExtractor
from sktransfer.data import get_modality, limits
from sktransfer.data.contents import as_items, read_encoded
from sktransfer.data.images import as_samples
from tests.support import tiny_backbone

IMAGE = get_modality("image")
read_image, digest, open_image, shorter_side = IMAGE.read, IMAGE.digest, IMAGE.open, IMAGE.side
COLOUR = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def encode(image=COLOUR):
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


PNG = encode()


def zipped(form):
    """A member of an archive: a path, or an open file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("folder/a.png", PNG)
    archive = zipfile.ZipFile(buffer)
    return form(archive, "folder/a.png")


def spooled(content=PNG):
    file = tempfile.SpooledTemporaryFile()
    file.write(content)
    return file


def in_memory(name):
    fsspec.filesystem("memory").pipe("/a.png", PNG)
    return name


SAMPLES = {
    "bytes": lambda path: PNG,
    "bytearray": lambda path: bytearray(PNG),
    "memoryview": lambda path: memoryview(PNG),
    "BytesIO": lambda path: io.BytesIO(PNG),
    "open file": lambda path: open(path, "rb"),
    "temporary file": lambda path: spooled(),
    "upload": lambda path: UploadFile(spooled()),
    "open zip member": lambda path: zipped(zipfile.ZipFile.open),
    "zip path": lambda path: zipped(zipfile.Path),
    "Path": lambda path: path,
    "file URL": lambda path: path.as_uri(),
    "home folder": lambda path: f"~/{path.name}",
    "dict with bytes": lambda path: {"bytes": PNG, "path": "elsewhere.png"},
    "dict with a path": lambda path: {"bytes": None, "path": str(path)},
    "data URI": lambda path: "data:image/png;base64," + base64.b64encode(PNG).decode(),
    "fsspec OpenFile": lambda path: fsspec.open(path),
    "fsspec file": lambda path: fsspec.filesystem("file").open(path),
    "fsspec URL": lambda path: in_memory("memory://a.png"),
}


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a b.png").write_bytes(PNG)
    return tmp_path / "a b.png"


@pytest.mark.parametrize("form", SAMPLES)
def test_an_encoded_image_is_that_image_each_time(form, path):
    sample = SAMPLES[form](path)
    assert np.array_equal(open_image(sample), COLOUR)
    assert digest(sample) == digest(path)  # read from its start again
    assert np.array_equal(open_image(sample), COLOUR)
    assert shorter_side(sample) == (None if form == "fsspec URL" else 5)
    if hasattr(opened := getattr(sample, "file", sample), "close"):
        opened.close()


def test_an_open_file_stays_where_it_was():
    file = io.BytesIO(PNG)
    file.seek(7)
    open_image(file)
    assert file.tell() == 7


class File(io.BytesIO):
    def read(self, size=-1):
        return 3


@pytest.mark.parametrize(
    ("sample", "error", "message"),
    [
        (b"", ValueError, r"not an image \(0 bytes\)"),
        (b"a.png", ValueError, r"not an image \(5 bytes\)"),
        (io.StringIO("text"), TypeError, "open it with mode='rb'"),
        ({"bytes": None, "path": None}, TypeError, "expected .* got dict"),
        ("data:image/png;base64", ValueError, "a comma before its content"),
        ("data:image/png;base64,AAAA", ValueError, r"not an image \(3 bytes\)"),
        ("data:image/png;base64,AAA", ValueError, "not base64"),
        (File(), TypeError, "returns no bytes"),
        ("pictures/*.png", FileNotFoundError, "is it a pattern"),
        ("file://server/a.png", ValueError, "file://server is another machine"),
        ("a text that is no file", FileNotFoundError, "is it a text"),
        ("a long text " * 400, OSError, "is it a text"),
        (tempfile.gettempdir(), IsADirectoryError, "load_image_folder"),
    ],
)
def test_errors_state_the_cause(sample, error, message):
    with pytest.raises(error, match=message):
        open_image(sample)


def test_a_stream_that_can_be_read_only_once_is_refused():
    read, write = os.pipe()
    os.close(write)
    with open(read, "rb") as stream, pytest.raises(ValueError, match=r"give its content"):
        open_image(stream)


def test_a_member_that_is_larger_than_an_image_is_not_read_whole(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for sample in (zipped(zipfile.Path), zipped(zipfile.ZipFile.open), PNG):
        with pytest.raises(ValueError, match=r"bytes are more than an image of 10 pixels"):
            open_image(sample)


@pytest.mark.parametrize("difference", [-100, -3, 3])
def test_a_file_that_changes_its_size_is_read_to_its_end(path, difference, monkeypatch):
    real = os.fstat

    def fstat(file):
        status = list(real(file))
        status[6] += difference  # st_size
        return os.stat_result(status)

    monkeypatch.setattr(os, "fstat", fstat)
    assert read_encoded(str(path)).content == PNG


def test_no_file_stays_open(path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1)
    files = set(os.listdir("/dev/fd")) if os.path.isdir("/dev/fd") else set()
    for sample in (path, path.parent):
        with pytest.raises((ValueError, OSError)):
            read_encoded(sample)
    assert not files or set(os.listdir("/dev/fd")) == files


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; ``/slow`` never ends."""

    def do_GET(self):
        if self.path == "/slow":
            time.sleep(5)
        super().do_GET()

    def log_message(self, *args):
        pass


@pytest.fixture
def server(path, loopback):
    """The address of a server of this machine with the file ``a b.png``."""
    handler = functools.partial(Handler, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_url_is_fetched(server, path):
    assert np.array_equal(open_image(f"{server}/a%20b.png"), COLOUR)
    assert digest(f"{server}/a%20b.png") == digest(path)
    with pytest.raises(FileNotFoundError):
        open_image(f"{server}/none.png")


@pytest.mark.slow
def test_a_slow_server_is_not_waited_for(server, monkeypatch):
    monkeypatch.setattr(limits, "SECONDS", 0.3)
    with pytest.raises(TimeoutError, match=r"not read within 0\.3 seconds"):
        open_image(f"{server}/slow")


def file_of_size(n_bytes: int) -> bytes:
    """An image in a file of about this size."""
    side = round((n_bytes / 3) ** 0.5)
    pixels = np.random.default_rng(n_bytes).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return encode(pixels)


class InPieces(http.server.BaseHTTPRequestHandler):
    """Serves a file of the size in its name, some thousand bytes at a time."""

    def do_GET(self):
        content = file_of_size(int(self.path.strip("/")))
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        cuts = np.random.default_rng(len(content)).integers(0, len(content), 4)
        for start, stop in itertools.pairwise([0, *sorted(cuts.tolist()), len(content)]):
            self.wfile.write(content[start:stop])
            time.sleep(0.005)  # the reader gets what has arrived

    def log_message(self, *args):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("n_files", [5, pytest.param(200, marks=pytest.mark.sweep)])
def test_urls_whose_content_arrives_in_pieces_are_read_to_their_end(n_files, loopback):
    sizes = np.linspace(20_000, 500_000, n_files).astype(int).tolist()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), InPieces) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        contents = [read_encoded(f"{address}/{size}").content for size in sizes]
        server.shutdown()
    pairs = zip(contents, sizes, strict=True)
    assert not [size for content, size in pairs if content != file_of_size(size)]


class Short(io.BytesIO):
    """A file that returns a few bytes of what is asked for, as unbuffered files may."""

    def read(self, size=-1):
        return super().read(7 if size is None or size < 0 else min(size, 7))


@pytest.mark.parametrize("limit", [10_000, None])
def test_an_open_file_with_short_reads_is_read_to_its_end(limit, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    file = Short(PNG)
    assert np.array_equal(open_image(file), COLOUR)
    assert file.tell() == 0


def test_short_reads_do_not_pass_the_limit_on_bytes(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ValueError, match="bytes are more than an image of 10 pixels"):
        open_image(Short(PNG))


class Bucket(http.server.BaseHTTPRequestHandler):
    """A server with the protocol of S3 and one object."""

    def do_HEAD(self):
        self.send_response(200)
        self.send_header("Content-Length", str(len(PNG)))
        self.send_header("ETag", '"x"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()

    def do_GET(self):
        self.do_HEAD()
        self.wfile.write(PNG)

    def log_message(self, *args):
        pass


@pytest.mark.slow
def test_an_object_of_s3_is_fetched(monkeypatch, loopback):
    pytest.importorskip("s3fs")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}"
        monkeypatch.setitem(fsspec.config.conf, "s3", {"anon": True, "endpoint_url": address})
        assert np.array_equal(open_image("s3://bucket/a.png"), COLOUR)
        server.shutdown()


@pytest.mark.parametrize(("url", "missing"), [("http://a/b.png", "fsspec"), ("s3://a/b", "s3fs")])
def test_the_error_names_the_extra(url, missing, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(_registry, "s3", raising=False)
    with pytest.raises(ImportError, match=r"pip install 'sktransfer\[remote\]'"):
        open_image(url)


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


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
