"""Messages that show the line to write: rows, streams, loaders, tables of several columns."""

import numpy as np
import pandas as pd
import pytest
from torch.utils.data import DataLoader

from sktransfer import FineTunedClassifier, PretrainedClassifier, from_dataset
from sktransfer.data import (
    as_samples,
    as_texts,
    check_columns,
    check_labels,
    describe_columns,
    get_modality,
    table_columns,
)
from tests.support import images, tiny_backbone

open_image = get_modality("image").open
IMAGES = images(4)
ROWS = [{"image": x, "text": f"text {i}", "label": i % 2} for i, x in enumerate(IMAGES)]


class Stream:
    """A dataset that can only be iterated, as the streaming ones of Hugging Face."""

    def __iter__(self):
        return iter(ROWS)


def test_images_and_labels_are_taken_out_of_rows_streams_and_loaders():
    for rows in (ROWS, list(Stream()), DataLoader(ROWS, batch_size=2).dataset):
        X, y = from_dataset(rows)
        assert y.tolist() == [0, 1, 0, 1]
        np.testing.assert_array_equal(open_image(X[1]), IMAGES[1])


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda: from_dataset(Stream()), r"from_dataset\(list\(dataset\)\)"),
        (lambda: from_dataset(DataLoader(ROWS)), r"from_dataset\(loader.dataset\)"),
        (lambda: as_samples(DataLoader(ROWS)), r"from_dataset\(loader.dataset\)"),
        (lambda: as_samples(Stream()), r"list\(X\)"),
        (lambda: open_image(ROWS[0]), r"from_dataset\(rows\)"),
        (lambda: as_texts(ROWS), r"\[row\['text'\] for row in X\]"),
        (lambda: as_texts(Stream()), r"\[row\['text'\] for row in X\]"),
        (lambda: as_texts([["ant"], ["bee"]]), r"got \['ant'\]; .* X = \[row\[0\] for row in X\]"),
        (lambda: check_labels(pd.Series([["ant"], ["bee"]])), r"y = \[row\[0\] for row in y\]"),
        (lambda: as_texts(DataLoader(ROWS)), r"\[row\['text'\] for row in loader.dataset\]"),
        (lambda: open_image(np.zeros(8000)), r"load_backbone\(module, modality='array'\)"),
    ],
)
def test_the_line_to_write_is_shown(call, line):
    with pytest.raises((TypeError, ValueError), match=line):
        call()


@pytest.mark.parametrize(
    ("cells", "kind", "expected"),
    [
        ([True, None, "unknown", False], "category", ["True", None, "unknown", "False"]),
        ([False, True, "true"], "category", ["False", "true", "true"]),
        ([True, None, False], "number", [1, None, 0]),
        ([np.True_, None, np.False_], "number", [1, None, 0]),
        ([np.True_, "true"], "category", ["true", "true"]),
        ([True, 3, 2.5], "number", [1, 3, 2.5]),
    ],
)
def test_booleans_are_numbers_but_for_those_beside_texts(cells, kind, expected):
    X = pd.DataFrame({"garden": pd.Series(cells, dtype=object)})
    kinds = describe_columns(table_columns(X), {})
    assert kinds == {"garden": kind}
    found = check_columns(X, kinds).cells[:, 0]
    assert [None if cell != cell else cell for cell in found] == expected


def test_a_text_among_numbers_is_named():
    X = pd.DataFrame({"price": pd.Series([1, True, "cheap"], dtype=object)})
    kinds = describe_columns(table_columns(X), {})
    with pytest.raises(ValueError, match="Column 'price' has numbers in fit, and 'cheap' in row 2"):
        check_columns(X, kinds)


@pytest.mark.parametrize("kind", [FineTunedClassifier, PretrainedClassifier])
def test_estimators_of_one_column_show_what_takes_several(kind):
    X = pd.DataFrame({"photo": ["a.jpg", "b.jpg"], "text": ["a film", "a book"], "price": [1, 2]})
    line = r"X\['photo'\]; TransferClassifier\(backbone=\{'photo': 'efficientnet_lite0', 'text'"
    with pytest.raises(ValueError, match=line):
        kind(tiny_backbone()).fit(X, ["a", "b"])
