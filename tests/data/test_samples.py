import gc
import pickle
import sys

import numpy as np
import pytest
from PIL import Image

from sktransfer.data.samples import (
    MissingSampleError,
    UnreadableSamplesError,
    digest_array,
    shorten,
)

COLOUR = np.zeros((6, 5, 3), np.uint8)
GREY = np.zeros((6, 5), np.uint8)


def test_the_message_lists_ten_samples_with_positions_and_causes():
    problems = [(3 * i, f"{i}.jpg", ValueError(f"cause {i}")) for i in range(13)]
    message = str(UnreadableSamplesError(problems))
    assert "13 samples could not be read" in message
    assert "sample 27, '9.jpg': cause 9" in message
    assert "10.jpg" not in message
    assert "3 more" in message


def test_arrays_and_images_are_described_by_type_and_shape():
    why = ValueError("too dark")
    message = str(UnreadableSamplesError([(0, COLOUR, why), (2, Image.fromarray(GREY), why)]))
    assert "sample 0, ndarray (6, 5, 3): too dark" in message
    assert "sample 2, Image (5, 6): too dark" in message


def test_a_long_name_loses_its_middle():
    path = "folder/" * 60 + "name.jpg"
    message = str(UnreadableSamplesError([(0, path, ValueError("cause"))]))
    assert "'folder/" in message and "name.jpg': cause" in message
    assert "…" in message and path not in message
    assert [len(shorten("x" * n, 20)) for n in (19, 20, 21, 500)] == [19, 20, 20, 20]
    assert shorten("abcdefgh", 7) == "abc…fgh"


def test_the_error_can_be_pickled():
    error = UnreadableSamplesError([(4, "a.jpg", ValueError("0 bytes"))])
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is UnreadableSamplesError
    assert str(copy) == str(error) == "1 sample could not be read:\n  sample 4, 'a.jpg': 0 bytes"
    assert copy.problems[0][:2] == (4, "a.jpg")


@pytest.mark.parametrize("settings", [{}, {"remedy": "give --on-error mean"}], ids=["own", "given"])
def test_the_error_of_a_missing_cell_says_what_to_do_also_from_another_process(settings):
    error = MissingSampleError("texts", **settings)
    copy = pickle.loads(pickle.dumps(error))
    remedy = settings.get("remedy", "give on_error='mean'")
    assert f"leave the row out, or {remedy}, which takes the mean of the texts" in str(error)
    assert str(copy) == str(error) and copy.noun == "texts"


def test_a_cause_without_a_message_is_described_by_its_type():
    message = str(UnreadableSamplesError([(0, "a.png", MemoryError())]))
    assert message == "1 sample could not be read:\n  sample 0, 'a.png': MemoryError"


@pytest.mark.slow
def test_a_digest_leaves_nothing_with_the_array():
    arrays = list(np.zeros((1000, 4, 4, 3), np.uint8))
    gc.collect()
    before = sys.getallocatedblocks()
    assert len({digest_array(array) for array in arrays}) == 1
    assert sys.getallocatedblocks() - before < 500
