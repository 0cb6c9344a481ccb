import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold

from sktransfer.data import ClassTarget, IndicatorTarget, NumericTarget, encode_target
from sktransfer.transferability.folds import make_probe_folds
from sktransfer.transferability.probes import (
    GlobalScaler,
    LinearProbe,
    RidgeProbe,
    _residuals,
    out_of_fold_scores,
    solve_probe,
    summarise,
)

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(60, 12)).astype(np.float32)
Y = np.repeat(["ant", "bee", "cat"], 20)
TOLD = NOISE + 4 * np.eye(12, dtype=np.float32)[np.repeat([0, 1, 2], 20)]


# -- scores of rows that a model has not seen --------------------------------------------------


def scored(features, y):
    y = encode_target(y)
    return out_of_fold_scores(features, y, make_probe_folds(y, 0))


@pytest.mark.parametrize("shape", [(30, 50), (50, 8)])
def test_residuals_are_those_of_ridge_regression_that_has_not_seen_the_sample(shape, monkeypatch):
    monkeypatch.setattr("sktransfer.transferability.probes._PENALTIES", np.array([0.1]))
    X, target = RNG.normal(size=shape) + 3, RNG.normal(size=(shape[0], 2))
    folds = list(KFold(5, shuffle=True, random_state=0).split(X))
    expected = np.empty_like(target)
    for train, test in folds:
        penalty = 0.1 * ((X[train] - X[train].mean(0)) ** 2).sum() / len(train)
        expected[test] = target[test] - Ridge(penalty).fit(X[train], target[train]).predict(X[test])
    np.testing.assert_allclose(_residuals(X, target, folds), expected, rtol=1e-6, atol=1e-9)


def test_weights_of_residuals_count_as_copies():
    rng = np.random.default_rng(1)
    X, weight = rng.normal(size=(40, 12)), rng.integers(1, 5, 40)
    target = X[:, :2] + 2 * rng.normal(size=(40, 2))
    target[weight == 1] *= -1  # so that weights decide which penalty is best
    copies = np.repeat(np.arange(40), weight)
    folds = list(KFold(4).split(X))
    copied = [tuple(np.flatnonzero(np.isin(copies, rows)) for rows in fold) for fold in folds]
    found = _residuals(X, target, folds, weight.astype(float))
    expected = _residuals(X[copies], target[copies], copied)
    np.testing.assert_allclose(found[copies], expected, atol=1e-9)
    assert np.abs(found - _residuals(X, target, folds)).max() > 0.1


def test_weights_of_the_probe_of_numbers_and_of_scores_count_as_copies():
    rng = np.random.default_rng(2)
    X, weight = rng.normal(size=(60, 5)), rng.integers(1, 9, 60)
    copies = np.repeat(np.arange(60), weight)
    y = X[:, 0] + 2 * rng.normal(size=60)
    found = RidgeProbe().fit(X, y, sample_weight=weight.astype(float)).predict(X)
    np.testing.assert_allclose(found, RidgeProbe().fit(X[copies], y[copies]).predict(X))
    codes = (y > 0).astype(int)
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
    target = NOISE[:, :1] * 2.0
    folds = make_probe_folds(target[:, 0], 0)
    assert (_residuals(NOISE, target, folds) ** 2).mean() < 1e-3 * target.var()
    alone = _residuals(RNG.normal(size=(60, 12)), target, folds)  # these tell nothing of it
    assert (alone**2).mean() < 1.2 * target.var()


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
    codes = encode_target(y)
    folds = make_probe_folds(codes, 0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(63))
    assert all(not set(train) & set(test) for train, test in folds)
    assert not any({60, 61} <= set(test) for _, test in folds)


@pytest.mark.parametrize("shape", [(60, 12), (60, 200)])
def test_the_probe_is_logistic_regression_on_one_scale(shape):
    X = RNG.normal(size=shape) * 5 + np.repeat([0, 1, 2], 20)[:, None]
    probe = LinearProbe(Cs=(0.1,)).fit(X, Y)
    scale = np.sqrt(((X - X.mean(0)) ** 2).mean())
    plain = LogisticRegression(C=0.1, max_iter=1000).fit((X - X.mean(0)) / scale, Y)
    expected = plain.predict_proba((X - X.mean(0)) / scale)
    np.testing.assert_allclose(probe.predict_proba(X), expected, atol=1e-3)
    assert (probe.predict(X) == plain.predict((X - X.mean(0)) / scale)).all()


def test_the_probe_chooses_its_penalty_where_classes_suffice():
    assert LinearProbe(random_state=0).fit(TOLD, Y).C_ == 1.0
    mixed = np.random.default_rng(1).permutation(Y)
    assert LinearProbe(random_state=0).fit(TOLD, mixed).C_ == 0.01
    assert LinearProbe().fit(TOLD[::6], Y[::6]).C_ == 0.1


def test_the_probe_takes_one_class():
    probe = LinearProbe().fit(TOLD[:5], Y[:5])
    assert probe.predict(TOLD[:2]).tolist() == ["ant", "ant"]
    assert probe.predict_proba(TOLD[:2]).tolist() == [[1.0], [1.0]]


def test_a_probe_that_is_not_fitted_says_so():
    for method in ("predict", "predict_proba"):
        with pytest.raises(NotFittedError):
            getattr(LinearProbe(), method)(NOISE)


@pytest.mark.parametrize("probe", [LinearProbe(), RidgeProbe()])
def test_another_number_of_features_is_refused(probe):
    probe.fit(NOISE, np.arange(60) % 2)
    name = type(probe).__name__
    with pytest.raises(ValueError, match=f"X has 5 features, but {name} is expecting 12"):
        probe.predict(NOISE[:, :5])


# -- the linear model that a head begins with --------------------------------------------------


@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_solved_probe_is_logistic_regression_with_weights(n_classes):
    rng = np.random.default_rng(0)
    X, codes = rng.normal(size=(80, 5)) * 7 + 3, rng.integers(n_classes, size=80)
    X[:, 0] += codes * 5
    weight = rng.uniform(0.1, 3, 80) * np.where(codes == 0, 4.0, 1.0)
    coef, intercept = solve_probe(X, codes, weight, ClassTarget(np.arange(n_classes)))
    mean = np.average(X, axis=0, weights=weight)
    scale = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight).mean())
    Z = (X - mean) / scale
    model = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit(Z, codes, sample_weight=weight)
    logits = X @ coef.T + intercept
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, model.predict_proba(Z), atol=1e-3)


def test_the_solved_probe_of_several_labels_is_one_model_a_label():
    indicator = np.column_stack([Y == "ant", Y != "bee", Y == "dog"]).astype(np.float32)
    coef, intercept = solve_probe(TOLD, indicator, np.ones(60), IndicatorTarget(3))
    for i in (0, 1):
        probe = LinearProbe((0.1,)).fit(TOLD, indicator[:, i].astype(int))
        np.testing.assert_allclose(coef[i], probe.coef_[0], atol=1e-3)
        np.testing.assert_allclose(intercept[i], probe.intercept_[0], atol=1e-3)
    assert not coef[2].any() and intercept[2] == -20  # no sample has it


def test_the_solved_probe_of_numbers_is_ridge_regression():
    y = NOISE[:, :2] * [3.0, -2.0] + 1
    target = NumericTarget(y)
    coef, intercept = solve_probe(TOLD, target.encode(y), np.ones(60), target)
    Z = GlobalScaler().fit_transform(TOLD)
    expected = Ridge(alpha=10).fit(Z, target.encode(y)).predict(Z)
    np.testing.assert_allclose(TOLD @ coef.T + intercept, expected, atol=1e-4)


def test_an_absent_class_of_the_solved_probe_is_never_predicted():
    codes = np.repeat([0, 2, 0], 20)
    coef, intercept = solve_probe(TOLD, codes, np.ones(60), ClassTarget(np.arange(3)))
    assert set((TOLD @ coef.T + intercept).argmax(1)) <= {0, 2}


# -- coefficients and scale --------------------------------------------------------------------


@pytest.mark.parametrize("Cs", [(0.1,), (0.01, 0.1, 1.0)])
@pytest.mark.parametrize("n_features", [12, 200])
def test_coefficients_are_those_of_the_features_as_they_are_given(Cs, n_features):
    X = np.hstack([TOLD, RNG.normal(size=(60, n_features - 12))]) * 5 + 3
    probe = LinearProbe(Cs, random_state=0).fit(X, Y)
    logits = X @ probe.coef_.T + probe.intercept_
    found = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, probe.predict_proba(X), atol=1e-9)
    ridge = RidgeProbe().fit(X, X[:, :2])
    np.testing.assert_allclose(X @ ridge.coef_.T + ridge.intercept_, ridge.predict(X), atol=1e-9)


def test_weights_of_the_probe_count_as_copies():
    weight = RNG.integers(1, 4, 60)
    copies = np.repeat(np.arange(60), weight)
    weighted = LinearProbe((0.1,)).fit(TOLD, Y, weight.astype(float))
    copied = LinearProbe((0.1,)).fit(TOLD[copies], Y[copies])
    np.testing.assert_allclose(weighted.coef_, copied.coef_, atol=1e-3)


@pytest.mark.parametrize("weight", [None, np.linspace(1, 2, 10)])
def test_constant_features_have_no_scale(weight):
    # The mean of ten times 0.1 is not 0.1, by a bit that must not be divided by itself.
    scaler = GlobalScaler().fit(np.full((10, 3), 0.1), sample_weight=weight)
    assert scaler.scale_ == 1.0 and (scaler.mean_ == 0.1).all()
    assert scaler.transform(np.full((1, 3), 0.2)) == pytest.approx(0.1)


@pytest.mark.parametrize("factor", [1, 1e-3])
def test_the_scale_is_the_root_of_the_mean_variance(factor):
    X = NOISE * np.arange(1, 13, dtype=np.float32) * np.float32(factor)
    scaler = GlobalScaler().fit(X)
    scaled = scaler.transform(X)
    assert scaled.dtype == scaler.mean_.dtype == np.float64
    assert scaled.mean(0) == pytest.approx(0, abs=1e-12)
    assert scaled.var(0).mean() == pytest.approx(1)
    np.testing.assert_allclose(scaled.var(0) / scaled.var(0)[0], X.var(0) / X.var(0)[0], rtol=1e-5)


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
