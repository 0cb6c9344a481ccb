import pickle

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import make_blobs
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import nn

from sktransfer import TransferClassifier, UnreadableSamplesError, load_backbone, load_word_vectors
from sktransfer.data import ClassTarget
from sktransfer.features import Output
from sktransfer.selection.candidates import LinearCandidate
from sktransfer.selection.outcomes import Labels
from sktransfer.selection.self_training import SELF_TRAINING, balanced, self_train
from tests.selection.support import deeper_backbone
from tests.selection.test_blend import VECTORS, reviews
from tests.support import images

OUTPUT = Output(deeper_backbone(), "2")


def blobs(n, k=3, seed=0, std=2.0):
    X, y = make_blobs(n, 6, centers=k, cluster_std=std, random_state=seed)
    return (X / 10).astype(np.float32), y


def rows_backbone():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 10), nn.Tanh(), nn.Linear(10, 3)]
    return load_backbone(nn.Sequential(*layers).eval(), classes=list("abc"))


def first_of_each(y, n):
    return np.concatenate([np.flatnonzero(y == k)[:n] for k in np.unique(y)])


def model(**settings):
    return TransferClassifier(rows_backbone(), random_state=0, **settings)


def labels(y, weight=None):
    weight = np.ones(len(y)) if weight is None else weight
    return Labels(ClassTarget(np.unique(y)), np.asarray(y), weight)


def coefficients(known, y, new, weight=None):
    chosen = LinearCandidate("one", [OUTPUT], (0.1,), 0.1, is_discriminant=False)
    chosen.weight, chosen.temperature = 1.0, 0.2
    given = {OUTPUT: known}, labels(y, weight), {OUTPUT: new}
    return self_train([chosen], 1.0, *given, 0)[0].coefs[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, pytest.param(2, marks=pytest.mark.sweep), 3])
def test_unlabelled_samples_help_where_labels_are_few(n):
    without, with_them = [], []
    for seed in range(3):
        X, y = blobs(150, seed=seed, std=3.0)
        rows = first_of_each(y, n)
        others = np.setdiff1d(np.arange(100), rows)
        plain = model().fit(X[rows], y[rows])
        without.append(plain.score(X[100:], y[100:]))
        fitted = clone(plain).fit(X[rows], y[rows], X_unlabelled=X[others])
        with_them.append(fitted.score(X[100:], y[100:]))
    assert np.mean(with_them) > np.mean(without)


def test_shares_of_classes_become_those_of_the_labels():
    p = np.random.default_rng(0).dirichlet([8, 1, 1], size=50)
    found = balanced(p, np.array([0, 0, 1, 2]))
    np.testing.assert_allclose(found.mean(0), [0.5, 0.25, 0.25], atol=1e-3)
    np.testing.assert_allclose(found.sum(1), 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*of the tokens have no vector")
def test_counts_of_unlabelled_texts_are_sparse_features(one_split):
    texts, names = reviews(80)
    fitted = TransferClassifier(load_word_vectors(VECTORS), random_state=0)
    fitted.fit(texts[:50], names[:50], X_unlabelled=texts[50:])
    assert any("counts" in name and "unlabelled" in name for name in fitted.members_)
    assert fitted.score(texts[50:], names[50:]) > 0.9


def test_weights_of_labels_are_those_of_unlabelled_samples():
    X, y = blobs(60)
    rows = first_of_each(y, 2)
    one, ten = (coefficients(X[rows], y[rows], X, np.full(6, w)) for w in (1.0, 10.0))
    alone = coefficients(X[rows], y[rows], X[rows][:1], np.full(6, 10.0))
    # Ten times all weights are a tenth of the penalty; ten times those of the labels are not.
    assert np.abs(ten - one).max() > 0 and not np.allclose(ten, alone)


def test_unlabelled_samples_pass_the_network_once(counted):
    X, y = blobs(40)
    model().fit(X[:10], y[:10], X_unlabelled=X[10:])
    assert sum(counted) == 40


def test_no_more_unlabelled_samples_are_used_than_are_needed(counted, monkeypatch):
    X, y = blobs(60)
    monkeypatch.setitem(SELF_TRAINING, "most", 20)
    model().fit(X[:10], y[:10], X_unlabelled=X[10:])
    assert sum(counted) == 10 + 20


@pytest.mark.slow
def test_unlabelled_samples_of_other_shares_have_less_weight():
    X, y = blobs(200, 2, std=1.0)
    rows = first_of_each(y, 8)
    others = np.setdiff1d(np.arange(200), rows)
    skewed = np.concatenate([others[y[others] == 0], others[y[others] == 1][:3]])

    def share(unlabelled):
        fitted = model().fit(X[rows], y[rows], X_unlabelled=unlabelled)
        new = [name.endswith("with unlabelled samples") for name in fitted.members_]
        assert fitted.weights_.sum() == pytest.approx(1)
        assert (np.diff(fitted.weights_) <= 0).all()
        return fitted.weights_[new].sum(), fitted.score(X, y)

    (even, _), (odd, accuracy) = share(X[others]), share(X[skewed])
    assert even > odd and accuracy > 0.9


def test_minus_one_is_a_label_like_any_other(one_split):
    X, y = blobs(60, 2)
    y = np.where(y == 0, -1, 7)
    fitted = model().fit(X[:10], y[:10], X_unlabelled=X[10:])
    assert fitted.classes_.tolist() == [-1, 7] and set(fitted.predict(X)) == {-1, 7}


@pytest.mark.parametrize("strategy", ["features", "direct"])
def test_a_single_strategy_refuses_unlabelled_samples(strategy):
    X, y = blobs(20)
    with pytest.raises(ValueError, match=f"X_unlabelled.*auto.*'{strategy}'"):
        model(strategy=strategy).fit(X, y, X_unlabelled=X)


def test_a_classifier_without_weights_refuses_unlabelled_samples(one_split):
    X, y = blobs(20)
    with pytest.raises(ValueError, match="does not accept sample_weight"):
        model(estimator=KNeighborsClassifier(2)).fit(X, y, X_unlabelled=X)
    fitted = model(estimator=LogisticRegression()).fit(X, y, X_unlabelled=X)
    assert fitted.predict_proba(X).shape == (20, 3)


def test_unlabelled_samples_are_checked():
    X, y = blobs(20)
    with pytest.raises(ValueError, match=r"X_unlabelled: .* features"):
        model().fit(X, y, X_unlabelled=X[:, :4])
    bad = X.copy()
    bad[3, 0] = np.nan
    with pytest.raises(ValueError, match=r"X_unlabelled: .* NaN"):
        model().fit(X, y, X_unlabelled=bad)
    with pytest.raises(ValueError, match=r"X_unlabelled: .* 0 sample"):
        model().fit(X, y, X_unlabelled=X[:0])


def test_an_unreadable_unlabelled_sample_is_named_by_its_position_among_all(monkeypatch):
    monkeypatch.setitem(SELF_TRAINING, "most", 3)
    fitted, n = TransferClassifier(deeper_backbone(), random_state=0), 8
    with pytest.raises(UnreadableSamplesError, match="3 samples of X_unlabelled") as error:
        unlabelled = [f"missing{i}.png" for i in range(n)]
        fitted.fit(images(6), list("abcabc"), X_unlabelled=unlabelled)
    assert max(i for i, _, _ in error.value.problems) >= 3
    assert all(sample == f"missing{i}.png" for i, sample, _ in error.value.problems)
    assert str(pickle.loads(pickle.dumps(error.value))) == str(error.value)


@pytest.mark.slow
def test_one_unlabelled_sample_one_class_and_a_second_fit(one_split):
    X, y = blobs(30)
    fitted = model().fit(X[:10], y[:10], X_unlabelled=X[10:11])
    assert fitted.predict_proba(X).shape == (30, 3)
    with pytest.warns(UserWarning, match="one class only"):
        one = model().fit(X[:5], ["a"] * 5, X_unlabelled=X)
    assert one.predict(X[:1]).tolist() == ["a"]
    again = fitted.fit(X[:10], y[:10]).predict_proba(X)
    np.testing.assert_array_equal(again, model().fit(X[:10], y[:10]).predict_proba(X))


@pytest.mark.slow
def test_a_fit_with_unlabelled_samples_is_pickled_and_repeatable(one_split):
    X, y = blobs(40)
    fitted = model().fit(X[:10], y[:10], X_unlabelled=X[10:])
    again = clone(fitted).fit(X[:10], y[:10], X_unlabelled=X[10:])
    np.testing.assert_array_equal(fitted.predict_proba(X), again.predict_proba(X))
    opened = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(fitted.predict_proba(X), opened.predict_proba(X))
