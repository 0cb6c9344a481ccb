import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import Ridge

from sktransfer.transferability.dual import (
    inner_products,
    scale_of,
    solve_large_ridge,
    solve_ridge,
    unit_rows,
)


def rows(n=20, d=40, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)) + 3, rng.normal(size=(n, 2)), rng.uniform(0.2, 3, size=n)


@pytest.mark.parametrize("d", [5, 40])
@pytest.mark.parametrize("penalty", [1e-2, 1.0, 100.0])
def test_it_is_ridge_regression(d, penalty):
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
