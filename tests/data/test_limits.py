import io

import numpy as np
import pytest
from PIL import Image

from sktransfer.data import limits
from sktransfer.data.pixels import open_image

COLOUR = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)


def progressive() -> bytes:
    file = io.BytesIO()
    Image.fromarray(COLOUR).save(file, "jpeg", progressive=True)
    return file.getvalue()


def with_scans(n: int) -> bytes:
    """Repeat the last scan of a JPEG, which refines one bit, up to n scans."""
    content = progressive()
    start, end = content.rindex(b"\xff\xda"), content.rindex(b"\xff\xd9")
    n_scans = limits._count_scans(content)
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
