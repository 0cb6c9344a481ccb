import numpy as np
import pytest
from scipy.special import softmax
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge

from sktransfer.data import ClassTarget, IndicatorTarget, NumericTarget
from sktransfer.transferability import fit_discriminant, indicators, probes
from sktransfer.transferability.probes import (
    GlobalScaler,
    LinearProbe,
    RidgeProbe,
    solve_probe,
)

RNG = np.random.default_rng(0)
NOISE = RNG.normal(size=(60, 12)).astype(np.float32)
Y = np.repeat(["ant", "bee", "cat"], 20)
TOLD = NOISE + 4 * np.eye(12, dtype=np.float32)[np.repeat([0, 1, 2], 20)]


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


def test_samples_without_weight_do_not_decide_on_the_penalty():
    X, mixed = np.vstack([TOLD, TOLD]), np.random.default_rng(1).permutation(Y)
    weight = np.repeat([1.0, 0.0], 60)
    assert LinearProbe(random_state=0).fit(X, np.hstack([Y, mixed]), weight).C_ == 1.0
    assert LinearProbe(random_state=0).fit(X, np.hstack([mixed, Y]), weight).C_ == 0.01


@pytest.mark.parametrize("weight", [None, np.linspace(1, 3, 60)])
@pytest.mark.parametrize(("Cs", "C"), [((0.01, 1.0), 0.1), ((2.0,), 2.0)])
def test_the_probe_of_many_classes_is_discriminant_analysis(Cs, C, weight, monkeypatch):
    monkeypatch.setattr(probes, "MANY_CLASSES", 2)
    probe = LinearProbe(Cs).fit(NOISE, Y, weight)
    Z = GlobalScaler().fit(NOISE, sample_weight=weight).transform(NOISE)
    target = indicators(np.repeat([0, 1, 2], 20), 3)
    weight = np.ones(60) if weight is None else weight
    coef, intercept = fit_discriminant(Z, target, weight, 1 / C)
    assert probe.C_ == C
    np.testing.assert_allclose(probe.predict_proba(NOISE), softmax(Z @ coef + intercept, axis=1))


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


def test_weights_of_the_probe_of_numbers_count_as_copies():
    rng = np.random.default_rng(2)
    X, weight = rng.normal(size=(60, 5)), rng.integers(1, 9, 60)
    copies = np.repeat(np.arange(60), weight)
    y = X[:, 0] + 2 * rng.normal(size=60)
    found = RidgeProbe().fit(X, y, sample_weight=weight.astype(float)).predict(X)
    np.testing.assert_allclose(found, RidgeProbe().fit(X[copies], y[copies]).predict(X))


@pytest.mark.parametrize("weight", [None, np.linspace(1, 2, 10)])
def test_constant_features_have_no_scale(weight):
    # The mean of ten times 0.1 is not 0.1, by a bit that must not be divided by itself.
    scaler = GlobalScaler().fit(np.full((10, 3), 0.1), sample_weight=weight)
    assert scaler.scale_ == 1.0 and (scaler.mean_ == 0.1).all()
    assert scaler.transform(np.full((1, 3), 0.2)) == pytest.approx(0.1)


def test_a_constant_feature_beside_others_is_scaled_to_zero():
    X = np.column_stack([np.full(10, 0.1), np.arange(10.0)])
    assert not GlobalScaler().fit_transform(X)[:, 0].any()


@pytest.mark.parametrize("factor", [1, 1e-3])
def test_the_scale_is_the_root_of_the_mean_variance(factor):
    X = NOISE * np.arange(1, 13, dtype=np.float32) * np.float32(factor)
    scaler = GlobalScaler().fit(X)
    scaled = scaler.transform(X)
    assert scaled.dtype == scaler.mean_.dtype == np.float64
    assert scaled.mean(0) == pytest.approx(0, abs=1e-12)
    assert scaled.var(0).mean() == pytest.approx(1)
    np.testing.assert_allclose(scaled.var(0) / scaled.var(0)[0], X.var(0) / X.var(0)[0], rtol=1e-5)
