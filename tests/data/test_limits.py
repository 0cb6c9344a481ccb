import io

import numpy as np
import pytest
from PIL import Image

from sktransfer import UnreadableSamplesError, load_image_folder
from sktransfer.data import get_modality, limits

IMAGE = get_modality("image")
digest, open_image, shorter_side = IMAGE.digest, IMAGE.open, IMAGE.side

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def progressive() -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, "jpeg", progressive=True)
    return file.getvalue()


def with_scans(n: int) -> bytes:
    """Repeat the last scan of a JPEG, which refines one bit, up to n scans."""
    content = progressive()
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    n_scans = content.count(b"\xff\xda")
    assert 5 < n_scans < 20
    return content[:end] + content[start:end] * (n - n_scans) + content[end:]


def test_a_jpeg_with_many_scans_is_refused_before_it_is_decoded():
    open_image(with_scans(limits.SCANS))
    for n in (limits.SCANS + 1, 20_000):
        with pytest.raises(ValueError, match="more than 100 scans"):
            open_image(with_scans(n))


def test_other_data_behind_a_jpeg_is_not_counted():
    content = progressive() + b"\xff\xda" * 1000  # such as the film of a moving photograph
    assert np.array_equal(open_image(content), open_image(progressive()))


def test_the_number_of_scans_is_a_setting(monkeypatch):
    monkeypatch.setattr(limits, "SCANS", 3)
    with pytest.raises(ValueError, match="more than 3 scans"):
        open_image(progressive())


def test_without_a_limit_on_pixels_there_is_none_on_bytes(monkeypatch):
    assert limits.max_bytes() == 8 * Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert limits.max_bytes() is None
    limits.check_size(10**15)


def encoded(name: str, size=(50, 40)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOUR).resize(size).save(file, name)
    return file.getvalue()


# Ghostscript runs EPS files, which are programs, where it is installed; this one has no end.
ENDLESS = encoded("EPS").replace(b"%%EndComments", b"%%EndComments\n{} loop")


@pytest.fixture(params=[ENDLESS, encoded("PCX"), encoded("SGI")], ids=["EPS", "PCX", "SGI"])
def refused(request, tmp_path):
    """A file of a format that is not read, and the name of the format."""
    (tmp_path / "a" / "0.jpg").parent.mkdir()
    (tmp_path / "a" / "0.jpg").write_bytes(request.param)
    return tmp_path / "a" / "0.jpg", request.node.callspec.id


def test_files_of_other_formats_are_refused_by_name_and_not_opened(refused):
    path, name = refused
    with Image.open(path) as image:
        for use, sample in ((open_image, path), (open_image, image), (digest, image)):
            with pytest.raises(ValueError, match=f"{name} files are not read: convert it to PNG"):
                use(sample)
    assert shorter_side(path) is None
    with pytest.raises(UnreadableSamplesError, match=f"{name} files are not read"):
        load_image_folder(path.parents[1])


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM", "TIFF", "AVIF"])
def test_files_of_listed_formats_are_read(name):
    assert name in limits.FORMATS
    if name in Image.SAVE:
        assert open_image(encoded(name)).shape == (40, 50, 3)


@pytest.mark.parametrize("name", ["JPEG2000", "ICO", "TGA"])
def test_files_of_rare_listed_formats_are_read(name):
    assert open_image(encoded(name, (32, 32))).shape == (32, 32, 3)


def test_a_photograph_with_further_images_is_read():
    file = io.BytesIO()
    image = Image.fromarray(COLOUR)
    image.save(file, "MPO", save_all=True, append_images=[image])
    assert open_image(file.getvalue()).shape == (40, 50, 3)
    assert open_image(Image.open(file)).shape == (40, 50, 3)


def test_the_formats_are_a_setting(monkeypatch):
    content = encoded("SGI")
    monkeypatch.setattr(limits, "FORMATS", [*limits.FORMATS, "SGI"])
    assert np.array_equal(open_image(content), COLOUR)
    monkeypatch.setattr(limits, "FORMATS", ["PNG"])
    with pytest.raises(ValueError, match=r"JPEG files are not read.*FORMATS.append\('JPEG'\)"):
        open_image(progressive())


def test_a_format_whose_plug_in_is_missing_does_not_disturb_the_others(monkeypatch):
    monkeypatch.setattr(limits, "FORMATS", ["none", *limits.FORMATS])
    assert np.array_equal(open_image(encoded("PNG")), COLOUR)
