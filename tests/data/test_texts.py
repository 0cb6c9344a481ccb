import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    load_backbone,
)
from sktransfer.data import as_texts, get_modality, pad_rows, padded_length

TEXTS = ["a", "abc", "abcabc", "b", "abd", "a" * 30]


@pytest.mark.parametrize("shape", [(), (3,)])
@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float16])
def test_rows_that_differ_in_length_are_filled_up_with_zeros(shape, dtype):
    rng = np.random.default_rng(0)
    rows = [rng.integers(1, 9, (n, *shape)).astype(dtype) for n in (2, 5, 1)]
    padded = pad_rows(rows)
    expected = pad_sequence([torch.from_numpy(row) for row in rows], batch_first=True)
    assert padded.dtype == dtype
    np.testing.assert_array_equal(padded, expected)


def test_tokens_of_several_ids_stand_beside_tokens_of_one():
    padded = pad_rows([np.array([1, 2]), np.array([[3, 4, 5]])])
    assert padded.tolist() == [[[1, 0, 0], [2, 0, 0]], [[3, 4, 5], [0, 0, 0]]]


def test_the_length_may_be_given():
    assert pad_rows([np.array([7])], padded_length(1)).tolist() == [[7] + [0] * 7]


def letters(text):
    return torch.tensor([ord(letter) - 96 for letter in text])


def own_backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load_backbone(
            nn.Sequential(nn.Embedding(27, 6, padding_idx=0)), modality="text", preprocess=letters
        )


def test_an_own_function_as_preprocessing_of_texts():
    backbone = own_backbone()
    found = PretrainedFeatureExtractor(backbone).fit(TEXTS).transform(TEXTS)
    weight = backbone.module[0].weight.detach()
    expected = torch.stack([weight[letters(text)].mean(0) for text in TEXTS])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_text_for_which_an_own_function_returns_no_ids_is_a_zero_vector():
    backbone, texts = own_backbone(), ["", *TEXTS, ""]
    extractor = PretrainedFeatureExtractor(backbone).fit(texts)
    found = extractor.transform(texts)
    assert not found[[0, -1]].any()
    np.testing.assert_allclose(found[1:-1], extractor.transform(TEXTS), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["head", "all"])
def test_fine_tuning_with_an_own_preprocessing_of_texts(trainable):
    X, y = TEXTS * 4, ["a", "b", "b", "b", "b", "a"] * 4
    model = FineTunedClassifier(
        own_backbone(), trainable=trainable, max_epochs=60, lr=0.05, random_state=0
    ).fit(X, y)
    assert model.score(X, y) > 0.8
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_batches_of_texts_are_limited_by_tokens():
    text = get_modality("text")
    assert [text.batch_limit((n,), True) for n in (8, 64, 1000)] == [64, 8, 1]
    assert text.batch_limit((8,), False) > text.batch_limit((8,), True)


def test_a_long_item_that_is_no_text_is_shortened():
    with pytest.raises(UnreadableSamplesError) as error:
        as_texts([np.arange(900).reshape(30, 30)])
    assert len(str(error.value)) < 200


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        ("one text", TypeError, r"got one text: 'one text'. Pass \[text\]"),
        (np.full((2, 2), "text"), ValueError, r"one column of texts, got the shape \(2, 2\)"),
        ({"a": "text"}, TypeError, "a list, an array or a column of texts, got <class 'dict'>"),
        ([], ValueError, "minimum of 1 is required"),
        (["text", None, 3.5], UnreadableSamplesError, "2 samples"),
    ],
)
def test_what_is_no_list_of_texts_is_refused(X, error, message):
    with pytest.raises(error, match=message):
        as_texts(X)


def test_a_column_is_a_list_of_texts():
    assert as_texts(np.array([["a"], ["b"]])) == ["a", "b"]


def test_texts_that_are_names_of_image_files_are_warned_of():
    with pytest.warns(UserWarning, match="names of image files, such as 'a/wolf.JPG'") as found:
        as_texts(["a/wolf.JPG", "dog.png"])
        as_texts(["a/wolf.JPG", "dog.png"])  # as transform does after fit
    assert len(found) == 1


@pytest.mark.parametrize("texts", [["see cat.jpg", "dog.png"], ["cat.jpg or dog.png"], ["jpg"]])
def test_texts_that_mention_image_files_are_texts(texts):
    assert as_texts(texts) == texts
