"""Few labels, classes of different sizes, and weights, in a blend."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.semi_supervised import SelfTrainingClassifier

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, TransferClassifier
from sktransfer.data import ClassTarget
from sktransfer.features import Output
from sktransfer.selection.blend import Blend
from sktransfer.selection.blend_fitting import cross_validate
from sktransfer.selection.candidates import LinearCandidate, OwnClassesCandidate, Tables
from sktransfer.selection.outcomes import Labels
from tests.selection.support import deeper_backbone
from tests.selection.test_self_training import blobs, first_of_each, model


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_labels_of_each_class(n):
    X, y = blobs(90, 4)
    names = np.array(["north", "east", "south", "west"])[y]
    rows = first_of_each(y, n)
    fitted = model().fit(X[rows], names[rows])
    assert fitted.classes_.tolist() == sorted(set(names))
    proba = fitted.predict_proba(X)
    assert np.isfinite(proba).all() and proba.sum(1) == pytest.approx(1)
    assert fitted.score(X, names) > 0.6
    assert fitted.weights_.sum() == pytest.approx(1)


@pytest.mark.slow
@pytest.mark.parametrize("with_unlabelled", [False, True])
def test_one_sample_beside_large_classes(with_unlabelled):
    X, y = blobs(90, 3, std=1.0)
    rows = np.concatenate([np.flatnonzero(y < 2), np.flatnonzero(y == 2)[:1]])
    unlabelled = X if with_unlabelled else None
    fitted = model().fit(X[rows], y[rows], X_unlabelled=unlabelled)
    proba = fitted.predict_proba(X)
    assert proba.shape == (90, 3) and np.isfinite(proba).all()
    assert (fitted.predict(X[y < 2]) == y[y < 2]).mean() > 0.9


# -- weights -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_weight_of_two_is_a_sample_given_twice():
    X, y = blobs(60)
    rng = np.random.default_rng(0)
    twice = rng.choice(60, 20, replace=False)
    weight = np.ones(60)
    weight[twice] = 2
    weighted = model().fit(X, y, sample_weight=weight).predict_proba(X)
    rows = np.concatenate([np.arange(60), twice])
    repeated = model().fit(X[rows], y[rows]).predict_proba(X)
    np.testing.assert_allclose(weighted, repeated, atol=0.01)
    plain = model().fit(X, y).predict_proba(X)
    assert np.abs(weighted - plain).max() > 10 * np.abs(weighted - repeated).max()


@pytest.mark.slow
@pytest.mark.parametrize("with_unlabelled", [False, True])
def test_samples_of_weight_zero_have_no_influence(with_unlabelled):
    X, y = blobs(60)
    unlabelled = blobs(30, seed=1)[0] if with_unlabelled else None
    weight = np.r_[np.ones(40), np.zeros(20)]
    wrong = np.where(weight > 0, y, (y + 1) % 3)
    found = model().fit(X, wrong, weight, X_unlabelled=unlabelled).predict_proba(X)
    alone = model().fit(X[:40], y[:40], X_unlabelled=unlabelled).predict_proba(X)
    np.testing.assert_allclose(found, alone, atol=1e-9)


@pytest.mark.parametrize("kind", ["linear", "own classes"])
def test_weights_reach_each_kind_of_candidate(kind):
    rng = np.random.default_rng(0)
    y, output = np.arange(60) % 2, Output(deeper_backbone(), "2")
    tables = {output: rng.normal(size=(60, 5)) + y[:, None]}
    weight = np.where(y == 0, 5.0, 1.0)
    if kind == "linear":
        proposed = LinearCandidate("a", [output], (0.1,), 0.1, is_discriminant=False)
    else:
        proposed = OwnClassesCandidate("a", [output], 1.0)
    proposed.weight = 1.0

    def mean_score(weight):
        labels = Labels(ClassTarget(np.array([0, 1])), y, weight)
        fitted = Blend([proposed.fitted(Tables(tables), labels)], None)
        folds = [(np.arange(30), np.arange(30, 60)), (np.arange(30, 60), np.arange(30))]
        judged = proposed.out_of_fold(Tables(tables), labels, folds)[0]
        return fitted.of_tables(tables)[:, 0].mean(), judged[:, 0].mean()

    assert np.all(np.subtract(mean_score(weight), mean_score(np.ones(60))) > 0.1)


def test_weights_reach_temperatures_and_weights_of_candidates():
    from tests.selection.test_blend import LAYERS, candidates

    rng = np.random.default_rng(0)
    y = np.arange(80) % 2
    told = np.arange(80) < 40  # which samples one layer tells, the others the other layer
    good = rng.normal(size=(80, 6)) + 3 * np.eye(6)[y] * told[:, None]
    other = rng.normal(size=(80, 50)) + 3 * np.eye(50)[y] * ~told[:, None]
    tables = {LAYERS["good"]: good, LAYERS["noise"]: other, LAYERS["logits"]: np.zeros((80, 8))}

    def found(weight):
        labels = Labels(ClassTarget(np.array([0, 1])), y, weight)
        chosen, heat, _ = cross_validate(candidates(), tables, labels, 0)
        return {candidate.name: candidate for candidate in chosen}, heat

    first, first_heat = found(np.where(told, 1.0, 0.05))
    second, second_heat = found(np.where(told, 0.05, 1.0))
    assert first["good"].weight > 0.8 and second["noise"].weight > 0.5
    assert first["good"].temperature < found(np.ones(80))[0]["good"].temperature
    assert first_heat != second_heat


@pytest.mark.slow
@pytest.mark.parametrize("class_weight", ["balanced", {"rare": 10.0, "usual": 1.0}])
@pytest.mark.parametrize("estimator", [None, LogisticRegression()])
def test_a_rare_class_is_found_with_class_weights(class_weight, estimator):
    X, y = blobs(300, 2, std=6.0)
    rows = np.r_[np.flatnonzero(y == 0)[:10], np.flatnonzero(y == 1)[:100]]
    test = np.setdiff1d(np.arange(300), rows)
    names = np.where(y == 0, "rare", "usual")
    plain = model(estimator=estimator).fit(X[rows], names[rows])
    fair = clone(plain).set_params(class_weight=class_weight).fit(X[rows], names[rows])
    recalls = [(m.predict(X[test][y[test] == 0]) == "rare").mean() for m in (plain, fair)]
    assert recalls[1] > recalls[0] + 0.05
    assert (fair.predict_proba(X)[:, 0] > plain.predict_proba(X)[:, 0]).mean() > 0.7


# -- self-training of scikit-learn ---------------------------------------------------------------


def flat(colours):
    """Images as rows of a table, names as labels, half of them missing."""
    X, y = colours
    known = np.array(y, object)
    known[10:] = -1
    return np.stack([x.ravel() for x in X]), known


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "given"),
    [
        (lambda b: TransferClassifier(b, random_state=0), "paths"),
        (
            lambda b: make_pipeline(PretrainedFeatureExtractor(b), LogisticRegression(C=1e6)),
            "table",
        ),
        (lambda b: FineTunedClassifier(b, max_epochs=3, random_state=0), "table"),
    ],
    ids=["blend", "features", "head"],
)
def test_the_self_training_of_scikit_learn(make, given, colours, tmp_path):
    X, known = flat(colours)
    if given == "table":
        as_images = FunctionTransformer(lambda rows: rows.reshape(-1, *colours[0][0].shape))
        base, rows = make_pipeline(as_images, make(deeper_backbone())), X
    else:
        # Columns of text and arrays of images are not accepted by SelfTrainingClassifier itself.
        files = np.array(_saved(colours[0], tmp_path), object)
        rows = np.arange(len(files))[:, None]
        chosen = FunctionTransformer(lambda rows: files[rows.ravel().astype(int)])
        base = make_pipeline(chosen, make(deeper_backbone()))
    fitted = SelfTrainingClassifier(base, threshold=0.6, max_iter=3).fit(rows, known)
    assert (fitted.labeled_iter_ > 0).any() and fitted.classes_.tolist() == ["dark", "light"]
    assert fitted.score(rows, np.array(colours[1])) > 0.9


def _saved(X, folder):
    from PIL import Image

    paths = [str(folder / f"{i}.png") for i in range(len(X))]
    for x, path in zip(X, paths, strict=True):
        Image.fromarray(x).save(path)
    return paths
