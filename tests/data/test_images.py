import io
import multiprocessing
import os
import resource
import struct
import threading
import zlib

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from PIL import Image

from sktransfer import PretrainedFeatureExtractor
from sktransfer.data import get_modality
from sktransfer.data.images import as_samples, check_header
from sktransfer.data.texts import as_texts
from tests.support import DATA, tiny_backbone

IMAGE = get_modality("image")
digest, open_image, shorter_side = IMAGE.digest, IMAGE.open, IMAGE.side
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
    texts = ["one", "two", "three"]
    assert as_texts(container(texts)) == texts


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


def test_all_types_of_colour_images_give_the_same_values(tmp_path):
    Image.fromarray(COLOUR).save(tmp_path / "a.png")
    tensor = torch.from_numpy(COLOUR).permute(2, 0, 1)
    for sample in (tmp_path / "a.png", str(tmp_path / "a.png"), COLOUR, tensor):
        opened = open_image(sample)
        assert opened.dtype == np.uint8
        assert np.array_equal(opened, COLOUR)
    assert np.array_equal(open_image(Image.fromarray(COLOUR)), COLOUR)


@pytest.mark.parametrize("dtype", [np.int32, np.int64, np.uint32])
def test_integers_up_to_255_are_converted_to_uint8(dtype):
    opened = open_image(COLOUR.astype(dtype))
    assert opened.dtype == np.uint8
    assert np.array_equal(opened, COLOUR)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_from_0_to_1_stay_floats(dtype):
    image = (COLOUR / 255).astype(dtype)
    opened = open_image(image)
    assert opened.dtype == np.float32
    assert np.array_equal(opened, image.astype(np.float32))


@pytest.mark.parametrize("grey", [GREY, GREY[..., None], Image.fromarray(GREY)])
def test_greyscale_images_get_three_equal_channels(grey):
    assert np.array_equal(open_image(grey), np.repeat(GREY[..., None], 3, axis=2))


def test_black_and_white_becomes_0_and_255(tmp_path):
    Image.fromarray(GREY > 100).save(tmp_path / "a.png")
    white = np.where(GREY > 100, 255, 0)
    for sample in (GREY > 100, tmp_path / "a.png"):
        assert np.array_equal(open_image(sample)[..., 0], white)


@pytest.mark.parametrize("form", ["array", "floats", "image", "file"])
def test_transparent_pixels_are_composed_with_white(form, tmp_path):
    alpha = np.array([0, 255, 100, 200, 1, 128], np.uint8)
    rgba = np.dstack([COLOUR, np.repeat(alpha[:, None], 5, axis=1)])
    Image.fromarray(rgba).save(tmp_path / "a.png")
    sample = {
        "array": rgba,
        "floats": rgba / 255,
        "image": Image.fromarray(rgba),
        "file": tmp_path / "a.png",
    }[form]
    share = rgba[..., 3:] / 255
    wanted = COLOUR * share + 255 * (1 - share)
    opened = open_image(sample) * (255 if form == "floats" else 1)
    assert np.abs(opened - wanted).max() <= (1e-3 if form == "floats" else 1)
    assert np.array_equal(opened[0], np.full((5, 3), 255))  # alpha 0
    np.testing.assert_allclose(opened[1], COLOUR[1], atol=1e-3)  # alpha 255


@pytest.mark.parametrize(
    ("transparency", "second"), [({}, (0, 0, 255)), ({"transparency": 1}, (255, 255, 255))]
)
def test_palette_images_are_converted_to_rgb(transparency, second, tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "a.png", **transparency)
    assert open_image(tmp_path / "a.png").tolist() == [[[255, 0, 0], list(second)]]


def test_cmyk_becomes_rgb(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    image.save(tmp_path / "a.jpg", quality=100)
    opened = open_image(tmp_path / "a.jpg")
    assert np.abs(opened.astype(int) - [255, 0, 0]).max() <= 2
    assert np.array_equal(open_image(image)[0, 0], [255, 0, 0])


def test_16_bit_images_keep_all_values(tmp_path):
    deep = np.array([[0, 1, 255, 256], [257, 32768, 65534, 65535]], np.uint16)
    Image.fromarray(deep).save(tmp_path / "a.png")
    wanted = np.repeat((deep / 65535).astype(np.float32)[..., None], 3, axis=2)
    for sample in (tmp_path / "a.png", deep, Image.open(tmp_path / "a.png")):
        assert np.array_equal(open_image(sample), wanted)


@pytest.mark.parametrize(("orientation", "turns"), [(1, 0), (3, 2), (6, 3), (8, 1)])
def test_the_exif_orientation_is_applied(orientation, turns, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(COLOUR).save(tmp_path / "plain.jpg", quality=95)
    Image.fromarray(COLOUR).save(tmp_path / "turned.jpg", quality=95, exif=exif)
    plain = np.asarray(Image.open(tmp_path / "plain.jpg"))
    assert np.array_equal(open_image(tmp_path / "turned.jpg"), np.rot90(plain, turns))


@pytest.mark.data
def test_a_gif_and_photographs_of_a_data_set_are_read(hymenoptera):
    files, _ = hymenoptera["train"]
    assert open_image(DATA / "hymenoptera/train/ants/imageNotFound.gif").shape == (300, 300, 3)
    assert len({digest(file) for file in files}) == len(files) == 245


def write(path, content):
    path.write_bytes(content)
    return path


def cut_short(path):
    Image.effect_noise((64, 64), 50).save(path)
    return write(path, path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda p: write(p / "a.jpg", b""), ValueError, r"not an image \(0 bytes\)"),
        (lambda p: write(p / "a.jpg", b"<html>"), ValueError, r"not an image \(6 bytes\)"),
        (lambda p: cut_short(p / "a.jpg"), ValueError, "damaged image"),
        (lambda p: cut_short(p / "a.png"), ValueError, "damaged image"),
        (lambda p: p, IsADirectoryError, "Is a directory"),
        (lambda p: p / "none.jpg", FileNotFoundError, "No such file"),
        (lambda p: np.full((6, 5), np.nan), ValueError, "NaN or infinity"),
        (lambda p: np.full((6, 5), np.inf), ValueError, "NaN or infinity"),
        (lambda p: np.full((6, 5), -0.5), ValueError, "from -0.5 to -0.5"),
        (lambda p: np.zeros((6, 5, 2)), ValueError, "2 channels"),
        (lambda p: torch.zeros(5, 6, 5), ValueError, "5 channels.*Tensors have the channels first"),
        (lambda p: np.zeros(30), ValueError, r"shape \(30,\) is not an image"),
        (lambda p: np.zeros((0, 5, 3)), ValueError, r"shape \(0, 5, 3\) is not an image"),
        (lambda p: np.zeros((6, 5), complex), TypeError, "complex128"),
        (lambda p: None, TypeError, "a missing image"),
        (lambda p: float("nan"), TypeError, "a missing image"),
        (lambda p: 17, TypeError, "expected a path, an image or an array, got int"),
    ],
)
def test_errors_state_the_cause(make, error, message, tmp_path):
    with pytest.raises(error, match=message):
        open_image(make(tmp_path))


@pytest.mark.parametrize(
    ("high", "divisor"), [(16, 16), (17, 255), (255, 255), (256, 4095), (4095, 4095), (4096, 65535)]
)
def test_an_error_about_the_range_proposes_a_divisor(high, divisor):
    image = np.array([[0.0, high]])
    with pytest.raises(ValueError, match=rf"float64 values from 0 to {high}:.*divide by {divisor}"):
        open_image(image)
    assert open_image(image / divisor).max() <= 1


def test_equal_samples_have_one_digest(tmp_path):
    first, second = (write(tmp_path / name, b"same") for name in ("a.jpg", "b.jpg"))
    assert digest(first) == digest(str(second))
    tensor = torch.from_numpy(COLOUR).permute(2, 0, 1)
    arrays = (COLOUR, np.asfortranarray(COLOUR), COLOUR[::-1][::-1], tensor)
    assert len({digest(sample) for sample in (*arrays, Image.fromarray(COLOUR))}) == 1
    assert len(digest(COLOUR)) == 16


def test_different_samples_have_different_digests(tmp_path):
    zeros = np.zeros((4, 6), np.uint8)
    samples = [
        zeros,
        zeros.reshape(6, 4),
        zeros.astype(np.int8),
        zeros.astype(np.float32),
        zeros.view(np.uint16),
        zeros + np.eye(4, 6, dtype=np.uint8),
        write(tmp_path / "a", b""),
        write(tmp_path / "b", zeros.tobytes()),
    ]
    assert len({digest(sample) for sample in samples}) == len(samples)


@pytest.mark.parametrize("dtype", ["m8[s]", "M8[s]", complex, object, "U3"])
def test_an_array_without_numbers_is_refused_by_its_type(dtype):
    for use in (open_image, digest):
        with pytest.raises(TypeError, match="is not an image"):
            use(np.zeros((6, 5), dtype))


@pytest.mark.parametrize("sample", [17, ["a.jpg"]])
def test_digest_refuses_other_types(sample):
    with pytest.raises(TypeError, match="expected a path, an image or an array"):
        digest(sample)


def test_the_byte_order_does_not_change_the_image():
    dark = np.arange(48, dtype=np.uint16).reshape(4, 4, 3)
    assert np.array_equal(open_image(dark.astype(">u2")), open_image(dark.astype("<u2")))
    light = np.linspace(0, 1, 48).reshape(4, 4, 3)
    assert np.array_equal(open_image(light.astype(">f4")), open_image(light.astype("<f4")))


def png(path, width, height):
    """Write a grey PNG that announces a size and ends after a few pixels."""

    def chunk(name, content):
        whole = name + content
        return struct.pack(">I", len(content)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    content = chunk(b"IDAT", zlib.compress(bytes(100)))
    return write(path, b"\x89PNG\r\n\x1a\n" + header + content + chunk(b"IEND", b""))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("width", [10_000, 20_000])  # above the limit, above twice the limit
def test_more_pixels_than_pillows_limit_are_refused_by_the_header(width, tmp_path):
    path = png(tmp_path / "a.png", width, 10_000)
    for use in (open_image, *([check_header] if width == 20_000 else [])):
        with pytest.raises(ValueError, match=r"too many pixels .*raise PIL.Image.MAX_IMAGE_PIXELS"):
            use(path)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    "given", [lambda path: path, lambda path: Image.open(io.BytesIO(path.read_bytes()))]
)
def test_the_limit_on_pixels_is_the_one_that_pillow_has_now(given, tmp_path, monkeypatch):
    image = np.zeros((10, 12, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 119)
    with pytest.raises(ValueError, match="12 x 10 pixels, the limit is 119"):
        open_image(given(tmp_path / "a.png"))
    for limit in (120, None):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert np.array_equal(open_image(given(tmp_path / "a.png")), image)


def test_the_shorter_side_needs_no_pixels_and_is_none_where_it_is_not_known(tmp_path):
    path = png(tmp_path / "a.png", 70, 50)  # it ends after a few pixels
    assert shorter_side(path) == shorter_side(path.read_bytes()) == 50
    assert shorter_side(Image.new("L", (7, 5))) == 5
    assert shorter_side(np.zeros((9, 4, 3), np.uint8)) == shorter_side(np.zeros((4, 9))) == 4
    assert shorter_side(torch.zeros(3, 6, 8)) == 6
    for unknown in (tmp_path / "none.png", b"no image", "https://host/a.png", np.zeros(5), None):
        assert shorter_side(unknown) is None


def test_a_file_longer_than_any_image_within_the_limit_is_not_read(tmp_path, monkeypatch):
    path = write(tmp_path / "a.png", bytes(8 * 100 + 1))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    for use in (open_image, digest):
        with pytest.raises(ValueError, match="801 bytes are more than an image of 100 pixels"):
            use(path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("use", [open_image, digest])
def test_a_pipe_is_refused_without_waiting(use, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Timer(2, lambda: os.close(os.open(path, os.O_RDWR | os.O_NONBLOCK)))
    writer.daemon = True
    writer.start()  # lets code that waits go on
    with pytest.raises(ValueError, match="not a regular file"):
        use(path)
    writer.cancel()


def test_a_device_is_refused():
    with pytest.raises(ValueError, match="not a regular file"):
        open_image(os.devnull)


def test_conversion_to_rgb_copies_no_whole_image(tmp_path):
    path = tmp_path / "a.png"
    Image.new("P", (4000, 4000)).save(path, transparency=0, compress_level=1)
    assert peak_of(lambda: open_image(path)) < 13 * 4000**2  # 1 decoded, 3 RGB, strips


def peak_of(action) -> int:
    """Return the bytes by which a child process grows at most while it runs an action."""

    def measure(end):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        action()
        end.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)

    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=measure, args=(sender,))
    child.start()
    assert receiver.poll(60)
    peak = receiver.recv() * 1024
    child.join()
    return peak


@pytest.mark.parametrize(
    ("mode", "info"), [("RGBA", {}), ("LA", {}), ("P", {"transparency": 1}), ("CMYK", {})]
)
def test_conversion_in_strips_gives_the_same_pixels(mode, info, monkeypatch):
    rng = np.random.default_rng(0)
    shape = (37, 23, len(Image.new(mode, (1, 1)).getbands()))
    values = rng.integers(0, 3 if mode == "P" else 256, shape, dtype=np.uint8)
    image = Image.fromarray(values.squeeze(), None if mode in ("RGBA", "LA") else mode)
    image.info |= info
    whole = open_image(image)
    monkeypatch.setattr("sktransfer.data.images._STRIP", 23 * 5)
    assert np.array_equal(open_image(image), whole)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_conversion_of_arrays_in_strips_gives_the_same_pixels(dtype, monkeypatch):
    values = RNG.integers(0, 2 if dtype == np.float32 else 256, (37, 23, 4)).astype(dtype)
    whole = open_image(values)
    monkeypatch.setattr("sktransfer.data.images._STRIP", 23 * 5)
    assert np.array_equal(open_image(values), whole)
    assert whole.dtype == dtype


def test_an_image_that_does_not_fit_into_memory_is_an_error_with_its_size():
    class Huge(Image.Image):
        def load(self):
            raise MemoryError

    huge = Image.new("RGB", (5, 6))
    huge.__class__ = Huge
    with pytest.raises(MemoryError, match="not enough memory to decode 5 x 6 pixels"):
        open_image(huge)


def test_premultiplied_grey_is_opened_as_grey_with_alpha():
    premultiplied = Image.fromarray(np.dstack([GREY, GREY[::-1]])).convert("La")
    assert np.array_equal(open_image(premultiplied), open_image(premultiplied.convert("LA")))


@pytest.mark.filterwarnings("ignore::PendingDeprecationWarning")
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_matrix_is_an_array(dtype):
    image = (GREY / 255).astype(dtype)
    matrix = np.asmatrix(image)
    (sample,) = as_samples([matrix])
    opened = open_image(sample)
    assert type(opened) is np.ndarray
    assert np.array_equal(opened, open_image(image))
    assert digest(matrix) == digest(image)


def test_masked_values_are_refused_and_an_empty_mask_is_accepted():
    image = np.ma.array(GREY, mask=GREY > 100)
    for use in (open_image, digest):
        with pytest.raises(ValueError, match="the array has masked values: replace them"):
            use(image)
        assert np.array_equal(use(np.ma.array(GREY, mask=False)), use(GREY))
    with pytest.raises(ValueError, match="X has masked values"):
        as_samples(image[None])


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_damaged_exif_data_do_not_matter(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    Image.fromarray(COLOUR).save(path, exif=b"Exif\0\0" + bytes(range(1, 200)))
    assert np.array_equal(open_image(path), np.asarray(Image.open(path).convert("RGB")))


def test_an_array_of_one_dimension_is_no_image_whatever_its_values():
    with pytest.raises(ValueError, match=r"shape \(16000,\) is not an image"):
        open_image(np.linspace(-1000, 1000, 16000))


SOUNDS = r"ounds and the like need a network of your own: .*modality='array'\)"


def test_sounds_in_rows_or_channels_are_told_of_the_networks_that_take_them():
    clips = np.linspace(-1, 1, 32000).reshape(2, 16000)
    with pytest.raises(ValueError, match=SOUNDS):
        as_samples(clips)
    for stereo in (clips, clips.T):
        with pytest.raises(ValueError, match=SOUNDS):
            open_image(stereo)
    with pytest.raises(ValueError) as wide:
        open_image(np.linspace(-1, 1, 40000).reshape(20, 2000))
    assert "ounds" not in str(wide.value)


def test_negative_values_are_an_error_with_a_line_that_scales_them():
    image = np.array([[-1000, 0], [500, 2000]], np.int16)
    with pytest.raises(ValueError, match=r"np\.clip\(\(image - \(-1000\)\) / 3000, 0, 1\)"):
        open_image(image)
    assert open_image(np.clip((image - (-1000)) / 3000, 0, 1)).max() == 1
