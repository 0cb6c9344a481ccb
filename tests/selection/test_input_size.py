import numpy as np
import pytest
from PIL import Image

from sktransfer import load_backbone, recommend_strategy
from sktransfer.data import get_modality
from sktransfer.selection.recommendation import note_on_size
from tests.support import TINY_SIZE, Vectors, images, tiny_backbone, tiny_vit


@pytest.mark.parametrize(
    ("side", "noted"), [(16, False), (20, False), (21, True), (40, True)]
)  # 16 pixels are the input, 21 the larger one
def test_images_that_are_larger_than_the_input_are_noted(side, noted):
    note = note_on_size(tiny_backbone(), images(3, (side, side + 9)))
    assert (note is not None) == noted
    if noted:
        assert f"({side} pixels)" in note and "image_size=21" in note and "1.7 times" in note


def test_nothing_is_noted_where_no_other_size_is_possible_or_one_was_asked_for():
    X = images(3, (60, 60))
    vit = load_backbone(tiny_vit(), preprocess=TINY_SIZE)
    assert note_on_size(vit, X) is None
    assert note_on_size(tiny_backbone().with_image_size(12), X) is None
    assert note_on_size(load_backbone(Vectors()), np.zeros((3, 4), np.float32)) is None


def test_a_recommendation_contains_the_note():
    X, y = images(24, (30, 30)), np.arange(24) % 2
    found = recommend_strategy(X, y, tiny_backbone(), max_epochs=0, random_state=0)
    assert "image_size=21" in found.reasons[-1]
    small = recommend_strategy(
        images(24, (16, 16)), y, tiny_backbone(), max_epochs=0, random_state=0
    )
    assert not any("image_size" in reason for reason in small.reasons)


def test_sides_are_those_of_every_form_of_an_image(tmp_path):
    torch = pytest.importorskip("torch")
    path, broken = tmp_path / "a.png", tmp_path / "b.png"
    image = Image.new("RGB", (30, 20))
    image.save(path)
    broken.write_bytes(b"no image")
    modality = get_modality("image")
    forms = [image, path, str(path), np.asarray(image), torch.zeros(3, 20, 30), np.zeros((20, 30))]
    assert [modality.side(form) for form in forms] == [20] * len(forms)
    assert [modality.side(form) for form in (broken, tmp_path / "none.png", np.zeros(3))] == [
        None
    ] * 3
    assert get_modality("text").side("a") is None
