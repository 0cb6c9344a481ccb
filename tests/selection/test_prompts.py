"""Classes that texts describe, in blends, strategies and trained heads."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    TransferClassifier,
    load,
    load_backbone,
    load_word_vectors,
    save,
)

VECTORS = {"good": [1.0, 0.0], "bad": [-1.0, 0.5], "film": [0.0, 1.0], "book": [0.2, 1.0]}
WORDS = load_word_vectors(VECTORS)
PROMPTS = {"+": "good film", "-": ["bad", "bad book"]}
X = ["good film", "bad film", "good book", "bad book", "film good good", "bad bad"]
Y = np.array(["+", "-"] * 3)


def test_prompts_have_the_prior_of_a_given_class_map():
    model = TransferClassifier(WORDS, prompts=PROMPTS, random_state=0).fit(X, Y)
    assert model.members_[0] == "prompts"
    assert "normalized (logistic)" in model.members_
    one_each = TransferClassifier(WORDS, prompts=PROMPTS, random_state=0).fit(X[:2], Y[:2])
    assert one_each.members_[0] == "prompts"
    assert_allclose(one_each.weights_[0], 0.5)
    assert one_each.predict(X).tolist() == Y.tolist()


def test_prompts_count_as_much_as_eight_samples():
    wrong = np.where(Y == "+", "-", "+")
    few = TransferClassifier(WORDS, prompts=PROMPTS, random_state=0).fit(X, wrong)
    assert dict(zip(few.members_, few.weights_, strict=True))["prompts"] >= 8 / 16
    many = TransferClassifier(WORDS, prompts=PROMPTS, random_state=0).fit(X * 10, [*wrong] * 10)
    assert dict(zip(many.members_, many.weights_, strict=True))["prompts"] < 0.3
    assert many.predict(X).tolist() == wrong.tolist()


def test_a_network_with_prompts_is_a_backbone_of_the_blend():
    given = TransferClassifier(load_backbone(WORDS, prompts=PROMPTS), random_state=0).fit(X, Y)
    model = TransferClassifier(WORDS, prompts=PROMPTS, random_state=0).fit(X, Y)
    assert given.members_ == model.members_
    several = TransferClassifier([WORDS, WORDS], prompts=[None, PROMPTS], random_state=0).fit(X, Y)
    assert sum("prompts" in name for name in several.members_) == 1


def test_a_blend_with_prompts_is_the_same_in_a_file(tmp_path):
    pytest.importorskip("skops")
    model = TransferClassifier(WORDS, prompts=PROMPTS, random_state=0).fit(X, Y)
    save(model, tmp_path / "model.skt")
    for again in (load(tmp_path / "model.skt"), pickle.loads(pickle.dumps(model))):
        assert_allclose(again.predict_proba(X), model.predict_proba(X), atol=1e-12)


@pytest.mark.parametrize("strategy", ["direct", "head"])
def test_strategies_begin_with_prompts(strategy):
    model = TransferClassifier(WORDS, prompts=PROMPTS, strategy=strategy, max_epochs=0)
    zero_shot = PretrainedClassifier(WORDS, prompts=PROMPTS).fit(X)
    assert_allclose(model.fit(X, Y).predict_proba(X), zero_shot.predict_proba(X), atol=1e-6)


def test_a_head_begins_with_prompts():
    zero_shot = PretrainedClassifier(WORDS, prompts=PROMPTS).fit(X)
    model = FineTunedClassifier(WORDS, head_init=PROMPTS, max_epochs=0).fit(X, Y)
    assert_allclose(model.predict_proba(X), zero_shot.predict_proba(X), atol=1e-6)
    more = np.array(["+", "-", "+", "-", "?", "?"])  # of which no text tells
    model = FineTunedClassifier(WORDS, head_init=PROMPTS, max_epochs=0, random_state=0)
    model.fit(X, more)
    found = model.predict_proba(X)[:, :2]
    expected = zero_shot.predict_proba(X)
    assert_allclose(found / found.sum(axis=1, keepdims=True), expected, atol=1e-6)
    trained = FineTunedClassifier(
        WORDS, head_init=PROMPTS, trainable="all", max_epochs=1, random_state=0
    ).fit(X, Y)
    assert trained.predict(X).tolist() == Y.tolist()
    assert_allclose(pickle.loads(pickle.dumps(trained)).predict_proba(X), trained.predict_proba(X))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": {"+": "good", "a": "bad"}}, "prompts names no classes of the network for '-'"),
        ({"prompts": PROMPTS, "class_map": {"+": 0, "-": 1}}, "class_map and prompts both say"),
        ({"prompts": PROMPTS, "strategy": "features"}, "prompts are not used by strategy='feat"),
        ({"prompts": [PROMPTS]}, "prompts is a list, one for each network"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        TransferClassifier(WORDS, **settings).fit(X, Y)


def test_a_head_that_is_described_by_texts_of_other_labels_is_refused():
    with pytest.raises(ValueError, match=r"head_init describes the labels .*none of them is in y"):
        FineTunedClassifier(WORDS, head_init={0: "good", 1: "bad"}).fit(X, Y)


@pytest.mark.parametrize("head", ["mlp", lambda n_in, n_out: torch.nn.Bilinear(n_in, 1, n_out)])
def test_texts_begin_a_linear_head_only(head):
    with pytest.raises(ValueError, match=r"head_init describes .* give head='linear'"):
        FineTunedClassifier(WORDS, head=head, head_init=PROMPTS).fit(X, Y)


def test_label_sets_have_no_texts():
    sets = np.array([[1, 1], [0, 1]] * 3)
    with pytest.raises(ValueError, match=r"head_init describes .*label sets .*have no texts"):
        FineTunedClassifier(WORDS, head_init=PROMPTS).fit(X, sets)
