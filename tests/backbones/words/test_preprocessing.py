import pickle
import warnings

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer

from sktransfer.backbones.words.word_ids import WordPreprocessing
from sktransfer.backbones.wordvectors import load_word_vectors
from tests.backbones.words.support import VECTORS, WORDS, assert_embedded_as_by_gensim

TEXTS = ["The film is good.", "", "xyzzy", "don't", "it's bad , bad " * 9, "film", "good " * 8]


def test_decomposed_unicode_letters_are_composed():
    P = load_word_vectors(VECTORS).preprocess
    assert P("cafe\u0301").tolist() == P("café").tolist() == [WORDS.index("café") + 1] + [0] * 7


def test_a_tokenizer_of_scikit_learn():
    analyzer = CountVectorizer(stop_words=["the"]).build_analyzer()
    P = load_word_vectors(VECTORS, tokenizer=analyzer).preprocess
    assert P.tokens("The film, don't!") == ["film", "don"]
    assert P("The film, don't!").tolist() == [2] + [0] * 7
    with pytest.raises(TypeError, match="list of str, and gave 3"):
        load_word_vectors(VECTORS, tokenizer=lambda text: [3]).preprocess("a")
    for wrong in (str.lower, len, lambda text: None, str.encode):
        P = load_word_vectors(VECTORS, tokenizer=wrong).preprocess
        for ask in (P, P.tokens, lambda text, P=P: P.check([text], True)):
            with pytest.raises(TypeError, match="tokenizer= must give a list of str"):
                ask("The film")


@pytest.mark.parametrize("kind", [list, tuple, np.array, iter])
def test_a_tokenizer_may_return_any_iterable(kind):
    P = load_word_vectors(VECTORS, tokenizer=lambda text: kind(text.split())).preprocess
    assert P("the film").tolist() == [1, 2] + [0] * 6


def assert_groups_are_whole(P, texts):
    """Each text is in one group, and its row is what it is alone."""
    groups = P.many(texts)
    positions = np.concatenate([place for place, _ in groups])
    assert sorted(positions.tolist()) == list(range(len(texts)))
    assert len({tuple(ids.shape[1:]) for _, ids in groups}) == len(groups)
    for place, ids in groups:
        assert ids.dtype == torch.int64
        assert ids.shape[1] % 8 == 0
        for i, row in zip(place, ids, strict=True):
            alone = type(P)(P.vectors, P.tokenizer)(texts[i])  # without what it remembers
            assert torch.equal(row, alone)


def test_texts_are_grouped_by_shape_and_independent_of_each_other():
    P = load_word_vectors(VECTORS).preprocess
    assert_groups_are_whole(P, TEXTS)
    assert [tuple(P(text).shape) for text in TEXTS] == [(n,) for n in (8, 8, 8, 8, 48, 8, 8)]
    assert P("The film is good.").tolist() == [1, 2, 3, 4, 10, 0, 0, 0]
    assert not P("").any()
    assert P.many([]) == []


def test_ids_stay_the_same_beyond_the_bound_of_the_memo(monkeypatch):
    P = load_word_vectors(VECTORS).preprocess
    first = P.many(TEXTS)
    monkeypatch.setattr("sktransfer.backbones.words.word_ids._MEMO", 2)
    again = P.many(TEXTS)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, again, strict=True))


def test_unknown_words_are_counted_and_reported_when_fitting():
    P = load_word_vectors(VECTORS).preprocess
    assert P.check(["the film", "is xyzzy ?"], True) == {"oov_rate_": 0.25}
    with pytest.warns(UserWarning, match=r"50% of the tokens .* most often \['xyzzy', 'plugh'\]"):
        P.check(["the xyzzy film plugh xyzzy is"], True)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert P.check(["xyzzy"], False) == {}
        assert P.check(["", "..."], True) == {"oov_rate_": 0.0}


def test_unknown_words_get_the_mean_of_their_ngrams(facebook, fasttext):
    backbone = load_word_vectors(facebook)
    P = backbone.preprocess
    assert_embedded_as_by_gensim(backbone, fasttext.wv, ["landlord", "pays"])
    assert_embedded_as_by_gensim(backbone, fasttext.wv, ["landlords", "the", "x", "überlandlady"])
    assert P("landlord pays").ndim == 1
    assert P("landlord payee").shape == (8, 16)  # 12 n-grams of <payee>
    assert P.check(["landlords rule"], True) == {"oov_rate_": 0.0}
    assert_groups_are_whole(P, ["the", "landlords", "pays landlords", "", "a b c", "payee"])
    assert not P("x" * 65).any()


def test_max_words_keeps_all_subwords(facebook, fasttext):
    backbone = load_word_vectors(facebook, max_words=2)
    assert backbone.stages["embedding"].n_words == 2
    assert backbone.stages["embedding"].n_ids == 2 + 50 + 1
    kept = [fasttext.wv.index_to_key[1], "landlords"]
    assert_embedded_as_by_gensim(backbone, fasttext.wv, kept)


def test_texts_with_subwords_are_independent_of_each_other(facebook):
    backbone = load_word_vectors(facebook)
    ids = backbone.preprocess.many(["landlords it", "the payee", "a landlade"])[0][1]
    assert ids.ndim == 3
    table = backbone.stages["embedding"]
    together = table(ids)
    for row, vectors in zip(ids, together, strict=True):
        assert torch.equal(table(row[None])[0], vectors)


def test_the_tokenizer_is_in_the_digest_of_the_preprocessing():
    def digest(tokenizer):
        return load_word_vectors(VECTORS, tokenizer=tokenizer).preprocess.content_digest

    analyzers = [CountVectorizer(**kw).build_analyzer() for kw in ({}, {}, {"lowercase": False})]
    default, a, b, c = digest(None), *map(digest, analyzers)
    assert a == b
    assert len({default, a, c}) == 3


@pytest.mark.slow
def test_glove_has_similar_words_and_contractions(glove):
    table, P = glove.stages["embedding"], glove.preprocess
    good, great, tax = (table(P(word)[None])[0, 0] for word in ("good", "Great", "tax"))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(good, great, dim=0) > 0.7 > 0.5 > cosine(good, tax, dim=0)
    assert P.tokens("It's self-conscious; I can't.") == [
        *("It", "'s", "self-conscious", ";", "I", "ca", "n't", ".")
    ]
    assert P.check(["It's self-conscious; I can't."], True) == {"oov_rate_": 0.0}


def test_the_preprocessing_of_glove_has_a_small_pickle(glove):
    P = pickle.loads(pickle.dumps(glove.preprocess))
    assert len(pickle.dumps(glove.preprocess)) < 1000
    assert isinstance(P, WordPreprocessing)
    assert torch.equal(P("good film"), glove.preprocess("good film"))
