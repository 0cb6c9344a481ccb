import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from sktransfer import ImagePreprocessing, PretrainedFeatureExtractor, load_backbone
from sktransfer.data import UnreadableSamplesError, get_modality
from tests.support import tiny_backbone

RNG = np.random.default_rng(0)
FIVE = RNG.integers(0, 256, (6, 7, 5), dtype=np.uint8)
MODALITY = get_modality("multichannel")
open_image = get_modality("image").open


def saved(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def tiff(pages, **settings):
    file = io.BytesIO()
    first, *others = [Image.fromarray(page) for page in pages]
    first.save(file, "TIFF", save_all=True, append_images=others, **settings)
    return file.getvalue()


@pytest.mark.parametrize(
    "sample",
    [
        FIVE,
        torch.from_numpy(FIVE).permute(2, 0, 1),
        saved(FIVE),
        tiff(np.moveaxis(FIVE, 2, 0)),
        FIVE.astype(np.int64),
    ],
)
def test_all_forms_of_an_image_of_five_channels_have_the_same_values(sample):
    opened = MODALITY.open(MODALITY.read(sample))
    assert opened.dtype == np.uint8
    assert np.array_equal(opened, FIVE)


def test_deep_pages_and_floats_are_scaled_to_0_to_1():
    deep = RNG.integers(0, 2**16, (6, 7, 5), dtype=np.uint16)
    wanted = np.divide(deep, 65535, dtype=np.float32)
    for sample in (deep, saved(deep), tiff(np.moveaxis(deep, 2, 0)), wanted.astype(np.float64)):
        assert np.array_equal(MODALITY.open(MODALITY.read(sample)), wanted)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "CMYK"])
def test_channels_of_a_file_are_those_that_it_has(mode, tmp_path):
    image = Image.effect_noise((8, 6), 50).convert(mode)
    image.save(tmp_path / "a.tiff")
    wanted = np.asarray(image).reshape(6, 8, -1)
    for sample in (image, tmp_path / "a.tiff"):
        assert np.array_equal(MODALITY.open(MODALITY.read(sample)), wanted)


def test_the_fourth_channel_is_no_transparency():
    image = RNG.integers(0, 256, (6, 7, 4), dtype=np.uint8)
    assert np.array_equal(MODALITY.open(image), image)


def test_two_images_that_differ_in_one_channel_have_two_digests():
    other = FIVE.copy()
    other[0, 0, 4] ^= 1
    digests = {MODALITY.digest(MODALITY.read(x)) for x in (FIVE, other, saved(FIVE), saved(other))}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("sample", "message"),
    [
        (saved(np.array(["a"], object)), "holds objects"),
        (saved(FIVE)[:-3], "fewer numbers"),
        (saved(FIVE).replace(b"(6, 7, 5)", b"(6, 7, ("), "not an array of numbers"),
        (saved(FIVE.astype(complex)), "complex128"),
        (saved(FIVE[0, 0]), r"shape \(5,\) is not an image"),
        (FIVE * 2.0, r"np\.clip|divide by"),
        (tiff([FIVE[..., 0], FIVE[:3, :, 0]]), "pages of different sizes"),
    ],
)
def test_what_is_no_image_is_refused(sample, message):
    with pytest.raises((ValueError, TypeError), match=message):
        MODALITY.open(MODALITY.read(sample))


def test_all_pages_of_a_file_count_for_the_limit_on_pixels(monkeypatch):
    pages = tiff(np.moveaxis(FIVE, 2, 0))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4 * 6 * 7)
    with pytest.raises(ValueError, match="5 pages of 7 x 6 pixels"):
        MODALITY.open(MODALITY.read(pages))


PREPROCESS = ImagePreprocessing(8, 8, (0.5,) * 5, (0.25,) * 5)
PAGES = np.moveaxis(FIVE, 2, 0)


def mixed(*images, **settings):
    file = io.BytesIO()
    images[0].save(file, save_all=True, append_images=images[1:], **settings)
    return file.getvalue()


@pytest.mark.parametrize("pages", [PAGES, PAGES.astype(np.uint16) * 257, PAGES / np.float32(255)])
def test_a_network_for_rgb_warns_of_pages_that_may_be_channels(pages):
    with pytest.warns(UserWarning, match=r"5 pages of one channel.*channels=5\)"):
        opened = open_image(tiff(pages))
    assert opened.shape == (6, 7, 3)
    with pytest.warns(UserWarning, match=r"give arrays, np.dstack\(pages\)"):
        open_image(tiff(pages[:3]))


def test_an_opened_tiff_warns_of_its_pages_and_stays_as_it_is(tmp_path):
    path = tmp_path / "pages.tiff"
    path.write_bytes(tiff(PAGES))
    with Image.open(path) as image:
        with pytest.warns(UserWarning, match=r"5 pages of one channel.*channels=5\)"):
            opened = open_image(image)
        assert np.array_equal(opened[..., 0], PAGES[0]) and image.tell() == 0
        image.putpixel((0, 0), 7)
        with pytest.warns(UserWarning, match="5 pages of one channel"):
            assert open_image(image)[0, 0, 0] == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path.unlink()
        assert open_image(image)[0, 0, 0] == 7
        path.write_bytes(tiff(PAGES))
        with Image.open(path) as image:
            image.seek(2)  # a page that the user has chosen
            assert np.array_equal(open_image(image)[..., 0], PAGES[2])


GREY = Image.fromarray(PAGES[0])


@pytest.mark.parametrize(
    "file",
    [
        mixed(*[GREY.convert("RGB")] * 5, format="TIFF"),
        mixed(*[GREY.convert("1")] * 5, format="TIFF"),
        mixed(*[Image.fromarray(page) for page in PAGES], format="GIF"),
        mixed(GREY, GREY.resize((3, 3)), format="TIFF"),
        mixed(GREY, GREY.convert("RGB"), format="TIFF"),
        mixed(GREY, format="TIFF"),
    ],
)
def test_other_files_of_several_pages_are_their_first_page_without_a_warning(file):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_image(file).shape == (6, 7, 3)
        assert open_image(Image.open(io.BytesIO(file))).shape == (6, 7, 3)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((7, 5, 1), "; of one image, give [image]"),
        ((5, 7, 9), "; the channels are first: give np.moveaxis(image, 0, -1)"),
        ((6, 7, 3), ""),
    ],
)
def test_another_number_of_channels_has_the_hint_that_fits(shape, hint):
    with pytest.raises(ValueError) as caught:
        PREPROCESS(np.zeros(shape, np.uint8))
    assert str(caught.value) == (
        f"an image of shape {shape} has {shape[2]} instead of 5 channels{hint}"
    )


def test_a_network_of_another_number_of_channels_than_the_preprocessing_is_named():
    network = torch.nn.Sequential(torch.nn.Conv2d(4, 2, 3), torch.nn.Flatten())
    backbone = load_backbone(network, preprocess=PREPROCESS, name="sea")
    with pytest.raises(ValueError, match=r"'sea', '0', takes 4 channels, and .* has 5 means"):
        PretrainedFeatureExtractor(backbone).fit([FIVE])


def test_a_saved_array_is_an_image_for_usual_networks():
    assert np.array_equal(open_image(saved(FIVE[..., :3])), FIVE[..., :3])


@pytest.mark.parametrize(
    "X",
    [
        np.stack([FIVE, FIVE]),
        [FIVE, FIVE],
        torch.from_numpy(np.stack([FIVE, FIVE])).permute(0, 3, 1, 2),
        np.stack([FIVE, FIVE]).transpose(0, 3, 1, 2),
    ],
)
def test_a_network_for_rgb_says_how_to_use_more_channels(X):
    with pytest.raises(
        (ValueError, UnreadableSamplesError),
        match=r'backbone=load_backbone\("efficientnet_lite0", channels=5\)',
    ):
        PretrainedFeatureExtractor(tiny_backbone()).fit_transform(X)


def test_a_table_of_flattened_images_says_how_to_use_more_channels():
    extractor = PretrainedFeatureExtractor(tiny_backbone(), image_shape=(6, 7, 5))
    with pytest.raises(ValueError, match=r"channels=5\)"):
        extractor.fit_transform(FIVE.reshape(1, -1))
