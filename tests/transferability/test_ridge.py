import numpy as np
import pytest
from scipy.sparse import csr_array, csr_matrix, issparse
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from sktransfer.data import encode_target
from sktransfer.transferability import (
    discriminant,
    fit_discriminant,
    indicators,
    inner_products,
    make_probe_folds,
    out_of_fold_scores,
    scale_of,
    solve_large_ridge,
    solve_ridge,
    summarise,
    unit_rows,
)

# -- ridge regression from inner products ----------------------------------------------------------


def rows(n=20, d=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 3, rng.normal(size=(n, 2)), rng.uniform(0.2, 3, size=n)


@pytest.mark.parametrize("d", [5, 40])
@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_ridge_regression_from_inner_products_is_that_of_scikit_learn(d, penalty):
    X, target, weight = rows(d=d)
    X_test = rows(7, d, seed=1)[0]
    expected = Ridge(penalty).fit(X, target, weight).predict(X_test)
    found = solve_ridge(X @ X.T, target, weight, penalty).scores(X_test @ X.T)
    np.testing.assert_allclose(found, expected, atol=1e-8)
    mean = X.mean(0)  # centred in another way
    centred = solve_ridge((X - mean) @ (X - mean).T, target, weight, penalty)
    np.testing.assert_allclose(centred.scores((X_test - mean) @ (X - mean).T), expected, atol=1e-8)


def test_equal_rows_and_hardly_any_penalty_are_no_error():
    X, target, _ = rows()
    X[:] = X[0]
    found = solve_ridge(X @ X.T, target, np.ones(20), 1e-14).scores(X @ X.T)
    np.testing.assert_allclose(found, np.tile(target.mean(0), (20, 1)), atol=1e-3)


def test_products_are_centred_and_of_mean_square_one():
    X, _, weight = rows()
    X = unit_rows(X)
    found = inner_products(X)
    assert np.trace(found) == pytest.approx(20) and abs(found.sum()) < 1e-9
    centred = X - X.mean(0)
    np.testing.assert_allclose(found, centred @ centred.T * scale_of(X), atol=1e-12)
    np.testing.assert_allclose(inner_products(csr_matrix(X)), found, atol=1e-12)
    around = X - np.average(X, axis=0, weights=weight)
    assert 1 / scale_of(X, weight) == pytest.approx(np.average((around**2).sum(1), weights=weight))
    assert not inner_products(unit_rows(np.full((4, 3), 0.1))).any()


def test_equal_rows_have_the_scale_zero():
    assert scale_of(unit_rows(np.full((4, 3), 0.1))) == 0.0


def test_the_mean_of_products_is_that_of_blocks_side_by_side():
    blocks = [unit_rows(rows(d=5)[0]), unit_rows(rows(d=30, seed=1)[0])]
    scaled = np.hstack([(b - b.mean(0)) * np.sqrt(scale_of(b)) for b in blocks])
    expected = scaled @ scaled.T / 2
    np.testing.assert_allclose(np.mean([inner_products(b) for b in blocks], axis=0), expected)


@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_conjugate_gradients_solve_the_same(penalty):
    X, target, weight = rows(60)
    X = unit_rows(X)
    blocks = [X[:, :10], csr_matrix(X[:, 10:])]
    found = solve_large_ridge(blocks, target, weight, penalty)
    expected = solve_ridge(X @ X.T, target, weight, penalty)
    np.testing.assert_allclose(found.rows, expected.rows, atol=1e-3 / penalty)
    scores = expected.scores(X @ X.T)
    np.testing.assert_allclose(found.scores(X @ X.T), scores, atol=1e-4 * np.abs(scores).max())


def test_conjugate_gradients_need_few_steps_whatever_the_weights():
    X, target, _ = rows(200)
    X, weight = unit_rows(X), np.geomspace(1e-2, 1e2, 200)
    expected = solve_ridge(X @ X.T, target, weight, 1.0).scores(X @ X.T)
    found = solve_large_ridge([X], target, weight, 1.0, max_iter=60).scores(X @ X.T)
    np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_rows_have_length_one_except_zeros():
    X = rows()[0].astype(np.float32)
    X[3] = 0
    length = np.linalg.norm(unit_rows(X), axis=1)
    np.testing.assert_allclose(length, np.arange(20) != 3)


# -- discriminant analysis -------------------------------------------------------------------------


def fitted(X, codes, penalty=1e-6, weight=None, k=None):
    """Return ridge regression on indicators, and its scores of the rows."""
    target = np.eye(codes.max() + 1 if k is None else k)[codes]
    weight = np.ones(len(codes)) if weight is None else weight
    scores = solve_ridge(X @ X.T, target, weight, penalty).scores(X @ X.T)
    return scores, target, weight


def clusters(counts, centres, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(len(counts)), counts)
    return rng.normal(size=(len(codes), np.shape(centres)[1])) + np.asarray(centres)[codes], codes


TRIANGLE = [[0, 0, 0, 0], [3, 0, 0, 0], [0, 3, 1, 0]]


def test_discriminant_is_linear_discriminant_analysis():
    X, codes = clusters([30, 50, 20], TRIANGLE)
    scores, target, weight = fitted(X, codes)
    coef, intercept = discriminant(scores, target, weight)
    log_share = np.log(np.bincount(codes) / len(codes))
    found = scores @ coef + intercept - log_share
    theirs = LinearDiscriminantAnalysis(solver="lsqr").fit(X, codes)
    expected = theirs.decision_function(X) - np.log(theirs.priors_)
    found, expected = (f - f.mean(axis=1, keepdims=True) for f in (found, expected))
    factor = (found * expected).sum() / (expected**2).sum()
    np.testing.assert_allclose(found, factor * expected, atol=1e-3)


def test_weights_count_as_repeated_rows():
    X, codes = clusters([12, 20, 8], TRIANGLE)
    times = np.random.default_rng(0).integers(1, 4, size=40)
    scores, target, weight = fitted(X, codes, 1.0, times.astype(float))
    coef, intercept = discriminant(scores, target, weight)
    rows = np.repeat(np.arange(40), times)
    repeated = discriminant(*fitted(X[rows], codes[rows], 1.0))
    np.testing.assert_allclose(coef, repeated[0], rtol=1e-6)
    np.testing.assert_allclose(scores @ coef + intercept, scores @ repeated[0] + repeated[1])


def test_classes_in_the_middle_of_a_line_are_found():
    X, codes = clusters([20] * 5, [[4.0 * i, 0] for i in range(5)])
    scores, target, weight = fitted(X, codes)
    assert (scores.argmax(1) == codes).mean() < 0.7
    coef, intercept = discriminant(scores, target, weight)
    assert ((scores @ coef + intercept).argmax(1) == codes).mean() > 0.9


@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_a_class_without_samples_is_the_least_probable(penalty):
    X, codes = clusters([10, 10], [[0.0] * 50, [1.0] * 50])
    scores, target, weight = fitted(X, codes, penalty, k=3)
    coef, intercept = discriminant(scores, target, weight)
    logits = scores @ coef + intercept
    assert np.isfinite(logits).all() and (logits.argmax(1) == codes).all()
    assert (logits[:, 2] < logits[np.arange(20), codes]).all()


def test_one_class_or_equal_rows_tell_nothing():
    for X, codes in ((np.eye(4), np.zeros(4, int)), (np.ones((4, 3)), np.array([0, 1, 1, 1]))):
        scores, target, weight = fitted(X, codes, 1.0)
        coef, intercept = discriminant(scores, target, weight)
        logits = scores @ coef + intercept
        expected = np.log(np.bincount(codes) / 4)
        np.testing.assert_allclose(logits, np.tile(expected, (4, 1)), atol=1e-4)


@pytest.mark.parametrize("as_sparse", [False, True])
def test_fitted_to_features_it_equals_the_map_of_ridge_scores(as_sparse):
    X, codes = clusters([12, 20, 8, 30], [*TRIANGLE, [1, 1, 1, 5]])
    weight = np.random.default_rng(0).uniform(0.5, 2, len(codes))
    target = np.eye(5)[codes]  # the last class has no samples
    ridge = solve_ridge(X @ X.T, target, weight, 3.0)
    coef, intercept = discriminant(ridge.scores(X @ X.T), target, weight)
    expected = ridge.scores(X @ X.T) @ coef + intercept
    given = csr_array(target) if as_sparse else target
    coef, intercept = fit_discriminant(X, given, weight, 3.0)
    np.testing.assert_allclose(X @ coef + intercept, expected, atol=1e-9)


@pytest.mark.parametrize("n_classes", [3, 1001])
def test_indicators_are_sparse_for_many_classes(n_classes):
    found = indicators(np.array([2, 0]), n_classes)
    assert issparse(found) == (n_classes > 1000)
    dense = found.toarray() if issparse(found) else found
    assert dense[0, 2] == dense[1, 0] == dense.sum() / 2 == 1


# -- scores of samples without their fold ----------------------------------------------------------

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(60, 12)).astype(np.float32)
Y = np.repeat(["ant", "bee", "cat"], 20)
TOLD = NOISE + 4 * np.eye(12, dtype=np.float32)[np.repeat([0, 1, 2], 20)]
PENALTIES = "sktransfer.transferability.ridge._PENALTIES"


def scored(features, y):
    _, y = encode_target(y)
    return out_of_fold_scores(features, y, make_probe_folds(y, 0))


def squared_residuals(X, target, folds, weight=None):
    """The squared errors of ridge regression on the test sets of folds."""
    return (1 - out_of_fold_scores(X, target, folds, weight)) * target.var()


@pytest.mark.parametrize("shape", [(30, 50), (50, 8)])
def test_residuals_are_those_of_ridge_regression_that_has_not_seen_the_sample(shape, monkeypatch):
    monkeypatch.setattr(PENALTIES, np.array([0.1]))
    X, target = RNG.normal(size=shape) + 3, RNG.normal(size=shape[0])
    folds = list(KFold(5, shuffle=True, random_state=0).split(X))
    expected = np.empty_like(target)
    for train, test in folds:
        penalty = 0.1 * ((X[train] - X[train].mean(0)) ** 2).sum() / len(train)
        expected[test] = target[test] - Ridge(penalty).fit(X[train], target[train]).predict(X[test])
    found = squared_residuals(X, target, folds)
    np.testing.assert_allclose(found, expected**2, rtol=1e-6, atol=1e-9)


def test_weights_of_residuals_count_as_copies():
    rng = np.random.default_rng(1)
    X, weight = rng.normal(size=(40, 12)), rng.integers(1, 5, 40)
    target = X[:, 0] + 2 * rng.normal(size=40)
    target[weight == 1] *= -1  # so that weights decide which penalty is best
    copies = np.repeat(np.arange(40), weight)
    folds = list(KFold(4).split(X))
    copied = [tuple(np.flatnonzero(np.isin(copies, rows)) for rows in fold) for fold in folds]
    found = squared_residuals(X, target, folds, weight.astype(float))
    expected = squared_residuals(X[copies], target[copies], copied)
    np.testing.assert_allclose(found[copies], expected, atol=1e-9)
    assert np.abs(found - squared_residuals(X, target, folds)).max() > 0.1


def test_weights_of_scores_count_as_copies():
    rng = np.random.default_rng(2)
    X, weight = rng.normal(size=(60, 5)), rng.integers(1, 9, 60)
    copies = np.repeat(np.arange(60), weight)
    codes = (X[:, 0] + 2 * rng.normal(size=60) > 0).astype(int)
    folds = list(KFold(4).split(X))
    copied = [tuple(np.flatnonzero(np.isin(copies, rows)) for rows in fold) for fold in folds]
    hits = out_of_fold_scores(X, codes, folds, weight.astype(float))
    assert (hits[copies] == out_of_fold_scores(X[copies], codes[copies], copied)).all()
    assert (hits != out_of_fold_scores(X, codes, folds)).any()


def test_the_nearest_mean_is_that_of_weighted_samples():
    rng = np.random.default_rng(0)
    features, codes = rng.normal(size=(11, 3)), np.array([0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5])
    features += codes[:, None] * 0.5
    for weight in (rng.uniform(0.1, 3, 11), np.ones(11)):
        expected = []
        for i, code in enumerate(codes):
            others = np.flatnonzero(np.arange(11) != i)
            groups = [others[codes[others] == c] for c in range(6)]
            means = [
                np.average(features[g], axis=0, weights=weight[g]) if len(g) else np.full(3, np.inf)
                for g in groups
            ]
            nearest = np.argmin([((features[i] - mean) ** 2).sum() for mean in means])
            expected.append(float(nearest == code))
        found = out_of_fold_scores(features, codes, [], weight)
        assert found.tolist() == expected
        assert 0 < found.mean() < 1
    assert out_of_fold_scores(features, codes, []).tolist() == expected


def test_the_penalty_with_the_least_error_is_taken():
    target = NOISE[:, 0] * 2.0
    folds = make_probe_folds(target, 0)
    assert squared_residuals(NOISE, target, folds).mean() < 1e-3 * target.var()
    others = RNG.normal(size=(60, 12))  # these tell nothing of it
    assert squared_residuals(others, target, folds).mean() < 1.2 * target.var()


def test_accuracy_is_high_where_features_tell_and_chance_where_not():
    assert scored(TOLD, Y).mean() > 0.95
    noise = np.mean([scored(RNG.normal(size=(60, 100)), Y).mean() for _ in range(20)])
    assert 0.25 < noise < 0.4


@pytest.mark.parametrize("shape", [(20, 5), (20, 40)])
def test_constant_features_and_repeated_columns_are_no_accident(shape):
    codes = np.repeat([0, 1], 10)
    assert np.isfinite(scored(np.ones(shape), codes)).all()
    column = RNG.normal(size=(20, 1)) + 5 * codes[:, None]
    assert scored(np.repeat(column, shape[1], axis=1), codes).mean() > 0.9


def test_tiny_classes_are_scored_by_the_nearest_mean_without_the_sample():
    features = np.array([[0.0], [1.0], [10.0], [11.0], [0.4]])
    codes = np.array([0, 0, 1, 1, 2])
    # Without itself 0.0 is at 1 from its own class and at 0.4 from the single one, and so on.
    assert scored(features, codes).tolist() == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_numbers_are_scored_by_their_explained_variance():
    y = NOISE[:, 0] * 3 + 0.1 * RNG.normal(size=60)
    assert scored(NOISE, y).mean() > 0.95
    assert scored(NOISE[:, 1:], y).mean() < 0.3


def test_a_tiny_class_leaves_the_judgement_of_the_others():
    y = np.append(Y, ["rare", "rare", "single"])
    features = np.vstack([TOLD, RNG.normal(size=(3, 12))])
    hits = scored(features, y)
    assert hits[:60].mean() > 0.95 and hits[-1] == 0.0
    _, codes = encode_target(y)
    folds = make_probe_folds(codes, 0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(63))
    assert all(not set(train) & set(test) for train, test in folds)
    assert not any({60, 61} <= set(test) for _, test in folds)


def test_the_standard_error_is_that_of_as_many_samples_as_weights_amount_to():
    differences = np.array([1.0, 0, -1, 1, 0, 0, 1, 1])
    mean, error = summarise(differences)
    assert mean == pytest.approx(3 / 8)
    assert error == pytest.approx(np.sqrt((differences.var() + 1 / 8) / 8))
    assert summarise(differences, np.full(8, 3.0)) == pytest.approx((mean, error))
    weight = np.where(np.arange(8) < 5, 1.0, 1e-9)
    assert summarise(differences, weight) == pytest.approx(summarise(differences[:5]), rel=1e-6)
    assert summarise(differences[:0]) == ()


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_a_summary_does_not_depend_on_the_scale_of_weights(scale):
    differences, weight = np.array([1.0, 0, -1, 1, 0]), np.array([1.0, 2, 1, 1, 3])
    found = summarise(differences, weight * scale)
    np.testing.assert_allclose(found, summarise(differences, weight))


def in_a_row(n_features, distance=4.0, n_classes=5, seed=0):
    """Classes whose means lie along a line."""
    rng = np.random.default_rng(seed)
    codes = rng.permutation(np.repeat(np.arange(n_classes), 20))
    X = rng.normal(size=(len(codes), n_features))
    X[:, 0] += distance * codes
    return X, codes


@pytest.mark.parametrize(("n_features", "distance"), [(3, 4.0), (150, 8.0)])
def test_classes_between_others_are_found(n_features, distance):
    X, codes = in_a_row(n_features, distance)
    hits = scored(X, codes)
    for code in range(5):  # ridge regression on indicators finds none of some in the middle
        assert hits[codes == code].mean() >= 0.8


def test_labels_are_predicted_by_discriminant_analysis(monkeypatch):
    monkeypatch.setattr(PENALTIES, np.array([1e-9]))
    X, codes = in_a_row(4, distance=1.5)
    folds = make_probe_folds(codes, 0)
    expected = cross_val_predict(LinearDiscriminantAnalysis(), X, codes, cv=folds)
    assert (out_of_fold_scores(X, codes, folds) == (expected == codes)).all()


@pytest.mark.slow
def test_the_penalty_with_the_least_log_loss_is_taken(monkeypatch):
    X, codes = in_a_row(150)
    best, accuracies = scored(X, codes).mean(), []
    for penalty in (1e-4, 1.0):
        monkeypatch.setattr(PENALTIES, np.array([penalty]))
        accuracies.append(scored(X, codes).mean())
    assert accuracies[0] + 0.1 < best and best > accuracies[1] - 0.05
