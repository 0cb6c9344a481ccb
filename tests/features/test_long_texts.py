"""Texts that are longer than a network takes: cut off or in chunks, through the estimators."""

import pickle
import warnings

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from sktransfer import (
    FeatureStore,
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    load_backbone,
    load_word_vectors,
    probe_layers,
    recommend_strategy,
)
from tests.backbones import q4_support as q4
from tests.support import tiny_backbone

pytest.importorskip("transformers")

LONG = "the good film and a bad film, the film of the good and the bad"
TEXTS = ["the good film", LONG, "a bad one", "good film", LONG + " fine", "bad"]
Y = ["good", "long", "bad", "good", "long", "bad"]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return q4.write_q4(tmp_path_factory.mktemp("e5") / "small.bin")


def extractor(path, long_texts=None, **settings):
    backbone = load_backbone("e5_small", weights=path, long_texts=long_texts)
    return PretrainedFeatureExtractor(backbone, **settings)


@pytest.mark.filterwarnings("ignore:.*are truncated")
def test_chunks_cover_what_is_cut_off(path):
    cut = extractor(path).fit(TEXTS)
    assert np.array_equal(
        extractor(path, long_texts="truncate").fit_transform(TEXTS), cut.transform(TEXTS)
    )
    whole = extractor(path, long_texts="chunk").fit(TEXTS)
    distance = np.linalg.norm(cut.transform(TEXTS) - whole.transform(TEXTS), axis=1)
    assert (distance[[1, 4]] > 1e-2).all()
    assert distance[[0, 2, 3, 5]].max() == 0
    for pooling in ("avg", "max", "cls"):
        found = extractor(path, long_texts="chunk", layer="layer.0", pooling=pooling)
        assert found.fit_transform(TEXTS).shape == (6, q4.WIDTH)


def test_the_share_that_is_cut_off_is_told_once_and_kept(path):
    with pytest.warns(UserWarning, match=r"2 of 6 texts .*% of all tokens are cut off") as caught:
        cut = extractor(path).fit(TEXTS)
    assert [warning.category for warning in caught].count(UserWarning) == 1
    assert 0.2 < cut.truncated_rate_ < 0.5
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert extractor(path, long_texts="chunk").fit(TEXTS).truncated_rate_ == 0
        assert cut.fit(TEXTS[:1]).truncated_rate_ == 0
        tuned = FineTunedClassifier(cut.backbone_, max_epochs=0).fit(TEXTS[2:4], Y[2:4])
        assert tuned.truncated_rate_ == 0


@pytest.mark.filterwarnings("ignore:.*are truncated")
def test_a_store_tells_the_two_apart(path, tmp_path):
    store = FeatureStore(tmp_path / "store")
    found = [
        extractor(path, long_texts=how, memory=store).fit_transform(TEXTS)
        for how in ("truncate", "chunk", "truncate", "chunk")
    ]
    assert not np.allclose(found[0], found[1])
    assert np.array_equal(found[0], found[2])
    assert np.array_equal(found[1], found[3])


@pytest.mark.filterwarnings("ignore:.*are truncated")
def test_a_backbone_shares_its_weights_and_keeps_what_it_does(path):
    cut = load_backbone("e5_small", weights=path)
    whole = load_backbone("e5_small", weights=path, long_texts="chunk")
    assert whole is not cut
    assert whole.module is cut.module
    assert whole is load_backbone(cut, long_texts="chunk")
    assert load_backbone(whole, long_texts=None) is whole
    assert load_backbone(whole, long_texts="truncate").preprocess.long_texts == "truncate"
    assert PretrainedFeatureExtractor(whole).fit(TEXTS).truncated_rate_ == 0


def test_tuned_networks_see_all_chunks_in_training_and_afterwards(path):
    whole = load_backbone("e5_small", weights=path, long_texts="chunk")
    model = FineTunedClassifier(whole, trainable=1, max_epochs=2, random_state=0).fit(TEXTS, Y)
    expected = model.predict_proba(TEXTS)
    assert np.abs(expected[1] - expected[4]).max() > 1e-6  # they differ behind the 16 tokens
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(TEXTS), expected)
    again = PretrainedFeatureExtractor(model.to_backbone()).fit(TEXTS)
    assert again.truncated_rate_ == 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*are truncated")
def test_a_search_compares_the_two(path):
    model = make_pipeline(extractor(path), LogisticRegression())
    backbones = [extractor(path, how).backbone for how in ("truncate", "chunk")]
    grid = {"pretrainedfeatureextractor__backbone": backbones}
    with joblib.parallel_config("multiprocessing", n_jobs=2):
        search = GridSearchCV(clone(model), grid, cv=2).fit(TEXTS * 2, Y * 2)
    assert len(search.cv_results_["params"]) == 2


def test_word_vectors_take_texts_of_any_length():
    words = load_word_vectors({"good": [1.0, 0.0], "bad": [0.0, 1.0]})
    for how in ("chunk", "truncate"):
        assert load_backbone(words, long_texts=how) is words


def test_samples_that_are_no_texts_and_other_values_are_refused(path):
    with pytest.raises(ValueError, match=r"long_texts='chunk' cannot be applied: .* of texts"):
        load_backbone(tiny_backbone(), long_texts="chunk")
    with pytest.raises(ValueError, match=r"long_texts='split': give 'truncate', 'chunk' or None"):
        load_backbone("e5_small", weights=path, long_texts="split")


@pytest.mark.sweep
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_other_runtimes_give_the_features_of_long_texts_too(runtime, path):
    pytest.importorskip(runtime)
    if runtime == "onnxruntime":
        pytest.importorskip("onnxscript")
    settings = {"long_texts": "chunk", "layer": ["layer.0", "sentence"]}
    texts = [*TEXTS, "the film", LONG * 3]
    expected = extractor(path, engine="torch", **settings).fit_transform(texts)
    found = extractor(path, engine=runtime, **settings).fit_transform(texts)
    assert np.abs(found - expected).max() < 1e-5


def test_the_functions_of_selection_pass_it_on(path):
    whole = load_backbone("e5_small", weights=path, long_texts="chunk")
    model = TransferClassifier(whole, strategy="features", random_state=0)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*are truncated.*")
        assert model.fit(TEXTS * 3, Y * 3).predict(TEXTS).shape == (6,)
        assert len(probe_layers(TEXTS * 3, Y * 3, whole, random_state=0).scores) >= 3
        found = recommend_strategy(TEXTS, Y, whole, random_state=0)
        assert found.strategy is None  # one sample in some classes
