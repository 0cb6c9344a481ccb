"""Likely mistakes get a hint, and no message is longer than 500 characters."""

import warnings

import numpy as np
import pytest
import torch

from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    from_dataset,
    load_backbone,
    load_image_folder,
    load_image_table,
)
from sktransfer.data import as_texts
from tests.support import images, tiny_backbone

X = images(8)
LONG = "photo-" * 200
DEEP = "/" + "/".join(["folder" * 8] * 4)
ONE_HOT = np.eye(2, dtype=int)[[0, 1] * 4]
NORMALISED = (X[0] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]


def extract(*samples):
    return PretrainedFeatureExtractor(tiny_backbone()).fit(X).transform(list(samples))


def fine_tune(y):
    return FineTunedClassifier(tiny_backbone(), max_epochs=1).fit(X, y)


MISTAKES = {
    "missing files": (lambda: extract(*[f"{DEEP}/{i}.jpg" for i in range(50)]), "and at least"),
    "one missing file": (lambda: extract(f"{DEEP}/a.jpg"), "No such file"),
    "texts": (lambda: extract("a nice film", "I did not like it"), "is it a text"),
    "long texts": (lambda: extract(*["a nice film, " * 99] * 9), "is it a text"),
    "a folder among samples": (lambda: extract("/tmp"), "load_image_folder"),
    "a pattern among samples": (lambda: extract("/tmp/*.jpg"), "is it a pattern"),
    "a long data URI": (lambda: extract("data:image/png;base64," + "A" * 9999), "not base64"),
    "a name as bytes": (lambda: extract(b"a.jpg"), "give names of files as str"),
    "bytes": (lambda: extract(bytes(10_000)), r"bytes \(10000\)"),
    "floats to 255": (lambda: extract(X[0] * 1.0), "divide by 255"),
    "normalised": (lambda: extract(NORMALISED), "standard deviations of ImageNet"),
    "floats from -1": (lambda: extract(X[0] / 127.5 - 1), r"\(image \+ 1\) / 2"),
    "channels first": (lambda: extract(X[0].transpose(2, 0, 1)), r"np.moveaxis\(image, 0, -1\)"),
    "channels last": (lambda: extract(torch.zeros(20, 24, 3)), "Tensors have the channels first"),
    "all channels first": (lambda: extract_all(np.zeros((4, 3, 8, 8))), "X.transpose"),
    "one image": (lambda: extract_all(X[0]), r"Pass \[image\]"),
    "a folder": (lambda: extract_all("/tmp"), "load_image_folder"),
    "a pattern": (lambda: extract_all(f"{DEEP}/*.jpg"), "glob"),
    "one-hot labels": (lambda: TransferClassifier(tiny_backbone()).fit(X, ONE_HOT), "argmax"),
    "a hub's name": (lambda: load_backbone("google/vit-base-patch16-224"), "'hf:google/vit"),
    "a long hub's name": (lambda: load_backbone(f"google/{LONG}"), "'hf:google/"),
    "an unknown backbone": (lambda: load_backbone(LONG), "is not known"),
    "an unknown layer": (
        lambda: PretrainedFeatureExtractor(tiny_backbone(), layer=LONG).fit(X),
        "layer=",
    ),
    "images for texts": (lambda: as_texts(X), "expected a text"),
    "a missing folder": (lambda: load_image_folder(DEEP), "No such file"),
    "a column": (lambda: load_image_table(long_table(), image=LONG), "the table has the columns"),
    "a loader": (lambda: from_dataset(iter(X)), "zip"),
    "no classes": (
        lambda: PretrainedClassifier(tiny_backbone(classes=None)).fit(X),
        "declares no classes",
    ),
}


def extract_all(samples):
    return PretrainedFeatureExtractor(tiny_backbone()).fit(samples)


def long_table():
    import pandas as pd

    return pd.DataFrame({f"{LONG}{i}": [1] for i in range(50)})


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_gets_a_hint_of_limited_length(mistake):
    call, hint = MISTAKES[mistake]
    with pytest.raises((ValueError, TypeError, OSError), match=hint) as error:
        call()
    assert len(str(error.value)) <= 500


MASK = np.eye(20, 24, dtype=np.uint8)


@pytest.mark.parametrize(
    ("call", "hint"),
    [
        (lambda: extract(MASK), r"mask.astype\(bool\)"),
        (lambda: extract(MASK.astype(int)), r"mask.astype\(bool\)"),
        (lambda: fine_tune(["a" * 999] * 8), "one class only"),
        (lambda: TransferClassifier(tiny_backbone()).fit(X, [1] * 8), "one class only"),
        (lambda: fine_tune(ONE_HOT), "give y.argmax"),
    ],
)
def test_a_likely_mistake_is_named_in_a_warning(call, hint):
    with pytest.warns(UserWarning, match=hint) as caught:
        call()
    assert all(len(str(warning.message)) <= 500 for warning in caught)


@pytest.mark.parametrize(
    "call",
    [
        lambda: extract(MASK.astype(bool), MASK * 255, MASK * 0, MASK + 1),
        lambda: fine_tune(np.array([[1, 1], [0, 1]] * 4)),
    ],
)
def test_what_is_no_mistake_gives_no_warning(call):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="An image of integers|Each row of y")
        call()
