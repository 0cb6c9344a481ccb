import base64
import functools
import http.server
import io
import itertools
import os
import sys
import tempfile
import threading
import time
import zipfile

import fsspec
import numpy as np
import pytest
from fastapi import UploadFile
from fsspec.registry import _registry
from PIL import Image

from sktransfer.data import digest, limits, open_image
from sktransfer.data.contents import read_encoded
from sktransfer.data.pixels import shorter_side

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
