import numpy as np
import pytest
from PIL import Image

from sktransfer.data import Modality, get_modality


def test_words_are_left_out_and_the_rest_stays():
    parts = get_modality("text").parts("It isn't a well-made film, é!")
    assert [parts.text[a:b] for a, b in parts.spans] == [
        "It",
        "isn't",
        "a",
        "well-made",
        "film",
        "é",
    ]
    assert parts.keep(np.ones(6, bool)) == parts.shown
    assert parts.keep(np.arange(6) != 3) == "It isn't a  film, é!"
    assert get_modality("text").parts("…").shape == (0,)


@pytest.mark.parametrize("size", [(30, 41, 3), (5, 9, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_cells_of_an_image_take_its_mean_colour(size, dtype):
    image = np.random.default_rng(0).uniform(0, 1, size)
    image = image.astype(dtype) if dtype == np.float32 else (255 * image).astype(dtype)
    parts = get_modality("image").parts(image)
    kept = np.ones(parts.shape, bool)
    np.testing.assert_array_equal(parts.keep(kept), image)
    kept[0, -1] = False
    changed = parts.keep(kept)
    assert changed.dtype == dtype
    np.testing.assert_array_equal(changed[0, -1], image.mean((0, 1)).astype(dtype))
    np.testing.assert_array_equal(changed[-1], image[-1])


def test_numbers_become_zero_and_other_samples_have_no_parts():
    parts = get_modality("array").parts(np.array([1.0, 2.0], np.float32))
    assert parts.keep(np.array([True, False])).tolist() == [1, 0]
    assert Modality().parts("a") is None


def test_previews_are_pictures_or_short_texts(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (400, 200)).save(path)
    assert get_modality("image").preview(path).size == (160, 80)
    assert get_modality("image").preview(np.zeros((8, 8), np.float32), 4).size == (4, 4)
    assert get_modality("text").preview("word " * 99).endswith("word …")
    assert get_modality("array").preview(np.zeros(3)).startswith("array([0.")
    with pytest.raises(FileNotFoundError):
        get_modality("image").preview(tmp_path / "b.png")
