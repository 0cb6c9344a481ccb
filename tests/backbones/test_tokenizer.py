import json
import pickle
import warnings

import numpy as np
import pytest
import torch

from sktransfer import PretrainedFeatureExtractor, TransferClassifier, UnreadableSamplesError
from sktransfer.backbones.fingerprint import describe
from sktransfer.backbones.text_encoders import TokenizerPreprocessing
from sktransfer.data.texts import padded_length
from tests.backbones.encoder_support import (
    TEXTS,
    add_sentence,
    load,
    run,
    token_vectors,
    transformers,
    write_folder,
)


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_ids_are_those_of_the_tokenizer_plus_one(family, folders):
    preprocess = load(folders[family]).preprocess
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[family])
    for text in TEXTS:
        known = tokenizer(text)["input_ids"]
        ids = preprocess(text)
        assert ids.dtype == torch.int64
        assert ids.tolist() == [i + 1 for i in known] + [0] * (
            padded_length(len(known)) - len(known)
        )


def test_texts_of_one_length_are_together_whatever_their_order(folders):
    preprocess = load(folders["bert"]).preprocess
    groups = preprocess.many(TEXTS)
    assert [ids.shape[1] for _, ids in groups] == [8, 24]
    assert sorted(np.concatenate([positions for positions, _ in groups])) == list(range(len(TEXTS)))
    for positions, ids in groups:
        for i, row in zip(positions, ids, strict=True):
            assert torch.equal(row, preprocess(TEXTS[i]))
    backwards = [ids.flip(0) for _, ids in preprocess.many(TEXTS[::-1])]
    assert all(torch.equal(a, b) for a, (_, b) in zip(backwards, groups, strict=True))
    assert preprocess.many([]) == []


def test_thousands_of_texts_are_one_list(folders):
    preprocess = load(folders["bert"]).preprocess
    texts, alone = TEXTS * (5000 // len(TEXTS)), [preprocess(text) for text in TEXTS]
    groups = preprocess.many(texts)
    assert [ids.shape[1] for _, ids in groups] == [8, 24]
    assert sorted(np.concatenate([positions for positions, _ in groups])) == list(range(len(texts)))
    for positions, ids in groups:
        assert torch.equal(ids, torch.stack([alone[i % len(TEXTS)] for i in positions]))


def test_a_text_without_any_token_is_zeros():
    from tokenizers import Tokenizer, models

    preprocess = TokenizerPreprocessing(Tokenizer(models.WordLevel({"a": 0}, "a")).to_str(), 16)
    assert torch.equal(preprocess(""), torch.zeros(8, dtype=torch.int64))


def test_a_text_that_is_no_unicode_is_named(folder):
    texts = ["a cat", "half \ud83d a pair", "caf\u00e9 \U0001f600"]
    extractor = PretrainedFeatureExtractor(f"hf:{folder}").fit(texts[::2])
    with pytest.raises(UnreadableSamplesError, match=r"(?s)1 sample .*sample 1, .*lone surrogate"):
        extractor.transform(texts)
    with pytest.raises(UnreadableSamplesError, match=r"(?s)1 sample .*sample 0, .*lone surrogate"):
        extractor.fit(texts[1:])  # the layers are inspected on the first
    labels = TransferClassifier(f"hf:{folder}")
    with pytest.raises(UnreadableSamplesError, match=r"(?s)X_unlabelled .*1, .*lone surrogate"):
        labels.fit(texts[::2], [0, 1], X_unlabelled=texts)
    assert np.isfinite(extractor.transform(texts[2:])).all()


@pytest.mark.parametrize("fitting", [True, False])
def test_texts_cut_off_are_counted_in_a_warning(fitting, folder):
    add_sentence(folder, {"pooling_mode": "mean"}, max_seq_length=12)
    preprocess = load(folder).preprocess
    fits, long = "cat " * 10, "cat " * 11  # two special tokens beside them
    problem = r"3 of 5 texts are longer than the 12 tokens .* 5\.66% of all tokens are cut off"
    with pytest.warns(UserWarning, match=problem) as caught:
        found = preprocess.check([long, fits, long, "", long], fitting)
    assert found == {"truncated_rate_": pytest.approx(3 / (3 * 13 + 12 + 2))}
    assert [warning.category for warning in caught].count(UserWarning) == 1
    assert torch.equal(preprocess(long), preprocess(fits))
    assert (preprocess(long) > 0).sum() == 12


def test_texts_that_fit_are_not_warned_of(folder):
    add_sentence(folder, {"pooling_mode": "mean"}, max_seq_length=12)
    preprocess = load(folder).preprocess
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = preprocess.check(["cat " * 10, "", "ünïcödé " * 10], True)
    assert found == {"truncated_rate_": 0.0}
    assert caught == []


def test_chunks_of_a_long_text_begin_at_multiples_of_the_padded_length(folder):
    add_sentence(folder, {"pooling_mode": "mean"}, max_seq_length=12)
    cut = load(folder).preprocess
    whole = cut.with_long_texts("chunk")
    assert whole.chunk_length == 16
    long, words = "the cat sat on a mat and dog ran home " * 2 + "a dog", 22
    ids = whole(long)
    assert ids.shape == (40,)  # two full chunks, each padded, and two words
    parts = [ids[:16], ids[16:32], ids[32:]]
    assert torch.equal(parts[0], cut(long))
    assert torch.equal(parts[2], cut("a dog"))
    assert torch.equal(parts[1][1:11], cut("the cat sat on a mat and dog ran home")[1:11])
    assert (ids > 0).sum() == words + 3 * 2
    assert [row.tolist() for _, rows in whole.many(["cat", long]) for row in rows] == [
        cut("cat").tolist(),
        ids.tolist(),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert whole.check([long], True) == {"truncated_rate_": 0.0}


def test_characters_are_replaced_before_the_tokenizer_is_asked(folders):
    one = load(folders["bert"]).preprocess
    settings = {"characters": {ord("K"): "c", ord("!"): "", ord("_"): " a "}}
    other = TokenizerPreprocessing(one.tokenizer, one.max_length, **settings)
    assert torch.equal(other("the !Kat_mat"), one("the cat a mat"))
    assert torch.equal(other.with_long_texts("chunk")("Kat"), one("cat"))


# RoBERTa's kin begin to count positions behind the id for padding: two of them are not for texts.
@pytest.mark.parametrize(("family", "n"), [("bert", 30), ("mpnet", 33), ("roberta", 34)])
def test_padded_texts_are_not_longer_than_the_network_allows(family, n, tmp_path):
    write_folder(tmp_path, family, max_position_embeddings=n)
    backbone = load(tmp_path)
    longest = {"bert": 24, "mpnet": 24, "roberta": 32}[family]
    assert backbone.preprocess.max_length == longest
    (row,) = run(backbone, ["cat " * 50])
    expected = token_vectors(tmp_path, "cat " * 50, max_length=longest).mean(0)
    torch.testing.assert_close(row, expected, rtol=1e-5, atol=1e-5)


def test_lower_case_and_prompt_of_the_folder_are_used(folder):
    before = load(folder).preprocess
    add_sentence(folder, {"pooling_mode": "mean"}, do_lower_case=True)
    own = {"prompts": {"query": "a dog "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(own))
    assert torch.equal(load(folder).preprocess("The CAT"), before("a dog the cat"))


def test_settings_of_the_preprocessing_are_told_apart(folders):
    one = load(folders["bert"]).preprocess
    again, other = load(folders["bert"]).preprocess, load(folders["roberta"]).preprocess
    shorter = TokenizerPreprocessing(one.tokenizer, 16)
    prompted = TokenizerPreprocessing(one.tokenizer, one.max_length, "a ")
    chunked = one.with_long_texts("chunk")
    replaced = TokenizerPreprocessing(one.tokenizer, one.max_length, characters={65: "B"})
    assert describe(one) == describe(again) == describe(chunked.with_long_texts("truncate"))
    all_ = (one, other, shorter, prompted, chunked, replaced)
    assert len({describe(p) for p in all_}) == len(all_)


def test_preprocessing_pickles_its_settings(folders):
    preprocess = load(folders["bert"]).preprocess
    unused = pickle.dumps(preprocess)
    expected = preprocess(TEXTS[0])
    assert pickle.dumps(preprocess) == unused
    twin = pickle.loads(unused)
    assert torch.equal(twin(TEXTS[0]), expected)
    assert twin.content_digest == preprocess.content_digest
