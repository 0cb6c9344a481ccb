import numpy as np
import pytest
from scipy.sparse import csr_array, issparse
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from sktransfer.transferability import discriminant, fit_discriminant, indicators, solve_ridge


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


def test_it_is_linear_discriminant_analysis():
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
