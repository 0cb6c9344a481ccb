import contextlib
import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest
import sklearn
from scipy.integrate import trapezoid
from scipy.optimize import minimize
from scipy.stats import entropy, multivariate_normal, norm
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.covariance import ledoit_wolf
from sklearn.datasets import load_diabetes, load_digits, load_iris
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.fixes import parse_version

from sktransfer.transferability.predictions import (
    explained_share,
    free_energy,
    gaussian_divergence,
    leep,
    nce,
    prediction_entropy,
)
from sktransfer.transferability.scores import (
    h_score,
    logme,
    make_transferability_scorer,
    probe_score,
    transrate,
)


def task(n_samples=60, n_features=8, n_classes=3, shift=2.0, seed=0):
    """Classes in turn, each moved its own way by `shift` times a standard deviation."""
    rng = np.random.default_rng(seed)
    y = np.arange(n_samples) % n_classes
    ways = np.linalg.qr(rng.normal(size=(max(n_features, n_classes),) * 2))[0][:n_classes]
    return rng.normal(size=(n_samples, n_features)) + shift * ways[y, :n_features], y


def softmax_rows(n_samples, n_classes, seed=0):
    return np.random.default_rng(seed).dirichlet(np.ones(n_classes) / 2, size=n_samples)


def tiny_score(features, y, power=1):
    """A score of a user's own; here, and not inside a test, so that it can be pickled."""
    return float(np.abs(features).mean() ** power), "what comes after is not the score"


h_score_raw = partial(h_score, shrinkage=False)
transrate_published = partial(transrate, centre_classes=False)


def probe_mean(features, y):
    # Splits depend on the order of rows and of labels; the score of all samples does not.
    every = np.arange(len(y))
    return probe_score(features, y, cv=[(every, every)])[0]


def nce_of_argmax(features, y):
    return nce(np.argmax(np.asarray(features), axis=1), y)


def leep_of_softmax(features, y):
    features = np.asarray(features, dtype=np.float64)
    weights = np.exp(features - features.max(1, keepdims=True))
    return leep(weights / weights.sum(1, keepdims=True), y)


FEATURE_SCORES = {
    "logme": logme,
    "h_score": h_score,
    "h_score_raw": h_score_raw,
    "transrate": transrate,
    "transrate_published": transrate_published,
}
ALL_SCORES = FEATURE_SCORES | {
    "leep": leep_of_softmax,
    "nce": nce_of_argmax,
    "probe_score": probe_mean,
}
each_feature_score = pytest.mark.parametrize("score", FEATURE_SCORES.values(), ids=FEATURE_SCORES)
each_score = pytest.mark.parametrize("score", ALL_SCORES.values(), ids=ALL_SCORES)


# LogME


def best_evidence(features, target):
    """Maximise the density of the targets over alpha and beta, from the covariance they imply."""
    n = len(target)

    def negative(logs):
        alpha, beta = np.exp(np.clip(logs, -30, 30))
        covariance = np.eye(n) / beta + features @ features.T / alpha
        return -multivariate_normal.logpdf(target, np.zeros(n), covariance, allow_singular=True)

    starts = [[a, b] for a, b in ((-2.0, 4.0), (3.0, 0.0))]
    options = {"xatol": 1e-7, "fatol": 1e-10, "maxiter": 2000}
    found = [minimize(negative, s, method="Nelder-Mead", options=options).fun for s in starts]
    return -min(found) / n


@pytest.mark.parametrize("shape", [(30, 4), (12, 30), (20, 1)])
@pytest.mark.parametrize("shift", [0.0, 1.0])
def test_logme_is_the_maximum_of_the_evidence(shape, shift):
    features, y = task(*shape, n_classes=2, shift=shift)
    expected = np.mean([best_evidence(features, (y == c).astype(float)) for c in (0, 1)])
    assert logme(features, y) == pytest.approx(expected, abs=1e-6)


def test_logme_of_numbers_is_the_maximum_of_the_evidence_averaged_over_targets():
    rng = np.random.default_rng(1)
    features = rng.normal(size=(25, 3))
    targets = features @ rng.normal(size=(3, 2)) + [0.1, 1] * rng.normal(size=(25, 2))
    each = [best_evidence(features, column) for column in targets.T]
    assert logme(features, targets) == pytest.approx(np.mean(each), abs=1e-6)
    assert logme(features, targets[:, 0]) == pytest.approx(each[0], abs=1e-6)


def test_logme_takes_whole_numbers_for_classes_unless_told():
    features, y = load_diabetes(return_X_y=True)
    assert set(y % 1) == {0}
    assert logme(features, y + 0.5, task="regression") == logme(features, y + 0.5)
    one_hot = (y[:50, None] == np.unique(y[:50])).astype(float)
    is_older = parse_version(sklearn.__version__) < parse_version("1.7")  # and does not warn
    many = pytest.warns(UserWarning, match="number of unique classes")
    with contextlib.nullcontext() if is_older else many:
        as_classes = logme(features[:50], y[:50])
    assert as_classes == pytest.approx(logme(features[:50], one_hot, task="regression"))
    assert logme(features[:50], y[:50], task="regression") < as_classes - 1


def test_logme_of_an_indicator_matrix_is_the_mean_over_labels_that_vary():
    features, y = task(n_classes=3)
    labels = np.column_stack([y == 0, y > 0, np.zeros_like(y)]).astype(int)
    each = [logme(features, labels[:, i], task="regression") for i in range(2)]
    assert logme(features, labels) == pytest.approx(np.mean(each))


def test_logme_without_useful_features_is_that_of_the_targets_alone():
    y = np.repeat([0, 1], 30)
    alone = -np.log(2 * np.pi * np.e * 0.5) / 2  # the best Gaussian at 0, for either class
    assert logme(np.zeros((60, 3)), y) == pytest.approx(alone, abs=1e-7)
    for seed in range(20):
        noise = np.random.default_rng(seed).normal(size=(60, 5))
        assert alone - 1e-9 <= logme(noise, y) < alone + 0.1
    assert alone == pytest.approx(-1.07, abs=0.005)  # as the docstring says


def test_logme_of_features_that_hold_the_labels_is_finite_and_the_largest():
    y = np.repeat([0, 1], 30)
    exact = np.eye(2)[y]
    nearly = exact + 1e-3 * np.random.default_rng(0).normal(size=(60, 2))
    assert logme(task(60, 8, 2)[0], y) < logme(nearly, y) < logme(exact, y) < 10.5
    square = np.random.default_rng(0).normal(size=(60, 60))  # fits every target, and means nothing
    assert logme(square, y) < 0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_logme_does_not_change_with_rotation_and_scale(scale):
    features, y = task(40, 10)
    rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(10, 10)))[0]
    assert logme(scale * features @ rotation, y) == pytest.approx(logme(features, y), abs=1e-9)


# H-score


def brute_h_score(features, y, shrunk):
    means = {c: features[y == c].mean(0) for c in np.unique(y)}
    between = np.cov(np.array([means[label] for label in y]).T, bias=True)
    if not shrunk:
        # The smallest eigenvalue may be 0 but for rounding, which differs between BLAS libraries.
        inverse = np.linalg.pinv(np.cov(features.T, bias=True), rcond=1e-10, hermitian=True)
        return np.trace(inverse @ between)
    covariance, alpha = ledoit_wolf(features)
    return np.trace(np.linalg.inv(covariance) @ ((1 - alpha) * between))


@pytest.mark.parametrize("shape", [(60, 8), (20, 50), (30, 30), (100, 4)])
@pytest.mark.parametrize("spread", [0, 1])
@pytest.mark.parametrize("shrinkage", [True, False])
def test_h_score_is_the_trace_of_its_definition(shape, spread, shrinkage):
    features, y = task(*shape)
    features = features * np.arange(1, shape[1] + 1) ** spread
    expected = brute_h_score(features, y, shrinkage)
    assert h_score(features, y, shrinkage=shrinkage) == pytest.approx(expected, rel=1e-9)
    assert 0 <= expected <= 2 + 1e-9


def test_only_the_raw_h_score_is_at_its_maximum_for_noise_with_few_samples():
    noise, y = task(40, 100, n_classes=4, shift=0)
    informative = task(40, 100, n_classes=4, shift=20)[0]
    assert h_score_raw(noise, y) == pytest.approx(3)  # n_classes - 1
    assert h_score_raw(informative, y) == pytest.approx(3)
    assert h_score(noise, y) < 1 < 2 < h_score(informative, y)


def test_h_score_of_one_feature_is_the_correlation_ratio():
    features, y = task(50, 1, n_classes=2)
    expected = np.corrcoef(features[:, 0], y)[0, 1] ** 2
    assert h_score(features, y) == pytest.approx(expected)
    assert h_score_raw(features, y) == pytest.approx(expected)


# TransRate


def brute_transrate(features, y, eps, centre_classes):
    def rate(z):
        n, d = z.shape
        return np.linalg.slogdet(np.eye(d) + z.T @ z / (n * eps))[1] / 2

    z = features - features.mean(0)
    z = z / np.sqrt(np.trace(z.T @ z) / len(z))
    total = rate(z)
    for c in np.unique(y):
        group = z[y == c]
        total -= (y == c).mean() * rate(group - group.mean(0) * centre_classes)
    return total


@pytest.mark.parametrize("shape", [(60, 8), (12, 50), (31, 1)])
@pytest.mark.parametrize("eps", [1e-4, 0.1])
@pytest.mark.parametrize("centre_classes", [True, False])
def test_transrate_is_the_difference_of_its_log_determinants(shape, eps, centre_classes):
    features, y = task(*shape)
    expected = brute_transrate(features, y, eps, centre_classes)
    found = transrate(features, y, eps=eps, centre_classes=centre_classes)
    assert found == pytest.approx(expected, rel=1e-9)
    assert transrate(7 * features - 3, y, eps=eps, centre_classes=centre_classes) == pytest.approx(
        found
    )


def test_the_published_transrate_does_not_see_two_balanced_means():
    noise, y = task(400, 3, n_classes=2, shift=0)
    moved = noise + 5 * (y == 1)[:, None]
    assert transrate(moved, y) > transrate(noise, y) + 1
    assert transrate_published(moved, y) < transrate_published(noise, y) + 0.1


# LEEP and NCE


def test_leep_is_what_loops_give():
    theta, y = softmax_rows(20, 4), np.array(list("abcab" * 4))
    total = 0.0
    for i in range(20):
        expected = 0.0
        for z in range(4):
            of_label = sum(theta[j, z] for j in range(20) if y[j] == y[i])
            expected += of_label / sum(theta[j, z] for j in range(20)) * theta[i, z]
        total += np.log(expected)
    assert leep(theta, y) == pytest.approx(total / 20, rel=1e-12)
    assert total < 0


def test_leep_of_certain_predictions_is_nce():
    source, y = np.arange(30) % 4, np.arange(30) % 3 // 2
    assert leep(np.eye(5)[source], y) == pytest.approx(nce(source, y))  # one class is never seen


def test_leep_is_zero_at_best_and_minus_the_entropy_without_information():
    y = np.array([0, 1, 1, 0, 1])
    assert leep(np.eye(2)[y], y) == 0
    assert leep(np.ones((5, 1)), y) == pytest.approx(-entropy([2, 3]))
    assert leep(np.full((5, 3), 1 / 3), y) == pytest.approx(-entropy([2, 3]))


def test_leep_of_half_precision_softmax_is_that_of_double():
    theta, y = softmax_rows(50, 300), np.arange(50) % 2
    assert leep(theta.astype(np.float16), y) == pytest.approx(leep(theta, y), abs=1e-3)
    assert leep(theta * 1.005, y) == pytest.approx(leep(theta, y), abs=1e-12)


@pytest.mark.parametrize("n_source", [1, 3, 10])
def test_nce_is_mutual_information_less_entropy(n_source):
    rng = np.random.default_rng(0)
    source, y = rng.integers(n_source, size=80), rng.integers(4, size=80)
    expected = mutual_info_score(source, y) - entropy(np.bincount(y))
    assert nce(source, y) == pytest.approx(expected)
    assert nce(source.astype(str), y) == pytest.approx(expected)
    assert nce((-source).tolist(), y) == pytest.approx(expected)  # another order of names


def test_nce_is_zero_where_source_labels_tell_the_label():
    y = np.array(["a", "b", "b", "c"])
    assert nce([3, 5, 5, -1], y) == 0
    assert nce(range(4), y) == 0  # and for labels that never repeat
    assert nce([0, 0, 0, 0], y) == pytest.approx(-entropy([1, 2, 1]))


# The probe


def test_the_probe_tells_signal_from_noise_with_its_error():
    features, y = task(150, 10, shift=3)
    mean, error = probe_score(features, y)
    assert mean > 0.95 and 0 < error < 0.03
    mean, error = probe_score(np.random.default_rng(0).normal(size=(150, 10)), y)
    assert abs(mean - 1 / 3) < 4 * error < 0.4


def test_the_probe_is_regularised_logistic_regression_under_one_scale():
    digits = load_digits()
    X, y = digits.data[:200], digits.target[:200]
    folds = list(KFold(4).split(X))
    expected = []
    for train, test in folds:
        centred = X - X[train].mean(0)
        Z = centred / np.sqrt((centred[train] ** 2).mean())
        model = LogisticRegression(C=0.1, max_iter=1000).fit(Z[train], y[train])
        expected.append(model.score(Z[test], y[test]))
    mean, error = probe_score(X, y, cv=folds)
    assert mean == pytest.approx(np.mean(expected))
    assert error == pytest.approx(np.std(expected, ddof=1) / 2)
    assert probe_score(X * 1e4 + 7, y, cv=folds)[0] == pytest.approx(mean)


def test_the_probe_of_numbers_is_r2():
    X, y = load_diabetes(return_X_y=True)
    mean, _ = probe_score(X, y, task="regression")
    assert 0.4 < mean < 0.55
    assert probe_score(X, y + 0.5)[0] == pytest.approx(mean)  # a fraction needs no word
    assert probe_score(X, np.column_stack([y, -y]) + 0.5)[0] == pytest.approx(mean)
    error = probe_score(X, y, task="regression", scoring="neg_mean_absolute_error")[0]
    assert -60 < error < -30
    assert np.isfinite(probe_score(X[:4], y[:4] + 0.5)[0])


def test_the_probe_allows_rare_classes():
    features, y = task(60, 4, n_classes=2, shift=6)
    y = np.where(y == 0, "common", "other").astype(object)
    y[5] = "once"
    every, _ = probe_score(features, y)
    assert 0.9 < every < 1  # the single one is an error
    assert probe_score(features[:4], y[:4])[0] == 1  # two of each are two folds
    with pytest.raises(ValueError, match="two classes with at least two samples"):
        probe_score(features[[0, 2, 4, 5]], y[[0, 2, 4, 5]])


def test_the_probe_is_the_same_each_time_unless_told():
    features, y = task(90, 5, shift=1)
    assert probe_score(features, y) == probe_score(features, y)
    assert len({probe_score(features, y, random_state=seed)[0] for seed in range(5)}) > 1
    state = np.random.get_state()[1].copy()
    probe_score(features, y)
    assert (np.random.get_state()[1] == state).all()


def test_the_probe_of_one_split_has_no_error():
    features, y = task()
    mean, error = probe_score(features, y, cv=[(np.arange(30), np.arange(30, 60))])
    assert mean > 0.5 and np.isnan(error)


# All scores of features


@each_feature_score
@pytest.mark.parametrize("shape", [(60, 8), (60, 1)])
def test_informative_features_score_above_noise(score, shape):
    wins = 0
    for seed in range(10):
        # Three classes in other numbers: for two in equal ones the published TransRate is blind.
        noise, y = task(*shape, shift=0, seed=seed)
        wins += score(noise + 3.0 * y[:, None], y) > score(noise, y)
    assert wins == 10


@pytest.mark.parametrize("score", [logme, h_score, lambda f, y: probe_score(f, y)[0]])
def test_informative_features_score_above_noise_with_more_features_than_samples(score):
    for seed in range(5):
        noise, y = task(40, 200, n_classes=2, shift=0, seed=seed)
        informative, _ = task(40, 200, n_classes=2, shift=12, seed=seed)
        assert score(informative, y) > score(noise, y)


@each_score
def test_order_of_samples_does_not_count(score):
    features, y = task(45, 5)
    order = np.random.default_rng(3).permutation(45)
    assert score(features[order], y[order]) == pytest.approx(score(features, y), abs=1e-6)


@each_score
@pytest.mark.parametrize(
    "labels",
    [
        np.array(["wasp", "bee", "ant"]),
        np.array([7, 0, 3]),
        np.array([-1.0, 1.0, 5.0]),
        pd.Series(["wasp", "bee", "ant"], dtype="category"),
        np.array(["wasp", "bee", "ant"], dtype=object),
    ],
    ids=["texts", "gaps", "floats", "categories", "objects"],
)
def test_names_of_three_labels_do_not_count(score, labels):
    features, y = task(45, 5)
    named = labels[y] if isinstance(labels, np.ndarray) else labels.iloc[y].reset_index(drop=True)
    assert score(features, named) == pytest.approx(score(features, y), abs=1e-6)


@each_score
@pytest.mark.parametrize("pair", [[0, 7], [-1, 1], [False, True], [True, False], ["b", "a"]])
def test_names_of_two_labels_do_not_count(score, pair):
    features, y = task(40, 5, n_classes=2)
    assert score(features, np.array(pair)[y]) == pytest.approx(score(features, y), abs=1e-6)
    assert score(features, [pair[i] for i in y]) == pytest.approx(score(features, y), abs=1e-6)


@each_score
def test_inputs_stay_as_they_are_and_the_result_is_the_same_float(score):
    features, y = task(45, 5)
    features[:, 0] = 1  # a constant among them
    kept, kept_y = features.copy(), y.copy()
    features.setflags(write=False)
    first = score(features, y)
    assert type(first) is float and first == score(features, y)
    assert (features == kept).all() and (y == kept_y).all()


@each_score
def test_single_precision_is_computed_in_double(score):
    features, y = task(45, 5)
    single = features.astype(np.float32)
    assert score(single, y) == pytest.approx(score(single.astype(np.float64), y), abs=1e-12)


@each_score
def test_pandas_is_understood(score):
    features, y = task(45, 5)
    table, column = pd.DataFrame(features), pd.Series(y, index=np.arange(45)[::-1])
    # a table holds its columns one after another, which sums in another order
    assert score(table, column) == pytest.approx(score(features, y), rel=1e-12)


@each_feature_score
@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_features_tell_nothing(score, value):
    y = np.arange(30) % 3
    constant = score(np.full((30, 4), value), y)
    assert np.isfinite(constant)
    if score is not logme:  # LogME has no intercept, so that a constant explains the mean
        assert constant == 0


@each_feature_score
def test_constant_and_repeated_features_are_no_obstacle(score):
    features, y = task(45, 5)
    wide = np.column_stack([features, features[:, 0], np.full(45, 0.1), np.zeros(45)])
    assert np.isfinite(score(wide, y))
    assert score(np.column_stack([features, np.zeros(45)]), y) == pytest.approx(
        score(features, y), abs=0.3 if score is h_score else 1e-9
    )


@each_feature_score
def test_two_samples_are_enough(score):
    assert np.isfinite(score([[0.0, 1.0], [2.0, 5.0]], ["a", "b"]))


# Errors


@each_score
def test_errors_of_features_and_labels(score):
    features, y = task(45, 5)
    with pytest.raises(ValueError, match=r"needs two classes|two classes with"):
        score(features, np.ones(45, int))
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        score(features, y[:-1])
    with pytest.raises(ValueError, match="NaN"):
        score(features, np.where(y == 0, np.nan, y))
    with pytest.raises(ValueError):
        score(features[:1], y[:1])


@pytest.mark.parametrize("score", [*FEATURE_SCORES.values(), leep, probe_score])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_no_numbers_raise(score, value):
    features, y = task(45, 5)
    features[3, 2] = value
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        score(features, y)


@pytest.mark.parametrize("score", [h_score, transrate, leep_of_softmax, nce_of_argmax])
def test_numbers_to_regress_on_are_no_labels(score):
    features, y = task(45, 5)
    with pytest.raises(ValueError, match="continuous"):
        score(features, y + 0.5)


@pytest.mark.parametrize("score", [*FEATURE_SCORES.values(), probe_score])
def test_one_row_is_not_a_table(score):
    with pytest.raises(ValueError, match="2D"):
        score(np.arange(6.0), np.arange(6) % 2)


def test_errors_of_arguments():
    features, y = task(45, 5)
    for score in (logme, probe_score):
        with pytest.raises(ValueError, match="task='regress'"):
            score(features, y, task="regress")
    with pytest.raises(ValueError, match="constant"):
        logme(features, np.full(45, 0.5))
    with pytest.raises(ValueError, match="four samples"):
        probe_score(features[:3], [0.1, 0.2, 0.3])
    with pytest.raises(ValueError, match="1d array"):
        probe_score(features, np.eye(3, dtype=int)[y])
    for eps in (0, -1, np.nan):
        with pytest.raises(ValueError, match="eps"):
            transrate(features, y, eps=eps)
    with pytest.raises(ValueError, match="temperature"):
        free_energy(features, temperature=0)


@pytest.mark.parametrize("score", [lambda p: leep(p, [0, 1, 0]), prediction_entropy])
def test_rows_that_are_no_probabilities_are_named(score):
    good = [[0.5, 0.5], [0.2, 0.8], [1.0, 0.0]]
    score(good)
    for row in ([2.0, -1.0], [3.0, 4.0], [0.0, 0.0]):
        with pytest.raises(ValueError, match="Sample 1: not probabilities"):
            score([good[0], row, good[2]])


# Statistics of batch norm, energy and entropy


@pytest.mark.parametrize("second", [(0.0, 1.0), (1.5, 0.3), (-2.0, 9.0), (0.0, 1e-4)])
def test_gaussian_divergence_is_hellingers_integral(second):
    mean, var = second
    x = np.linspace(-40, 40, 800_001)
    root = np.sqrt(norm.pdf(x, 0, 1)) - np.sqrt(norm.pdf(x, mean, np.sqrt(var)))
    expected = trapezoid(root**2, x) / 2
    found = gaussian_divergence([0.0], [1.0], [mean], [var], eps=1e-12)
    assert found == pytest.approx(expected, abs=1e-6)
    assert gaussian_divergence([mean], [var], [0.0], [1.0], eps=1e-12) == pytest.approx(found)


def test_gaussian_divergence_is_a_mean_over_channels_within_its_bounds():
    rng = np.random.default_rng(0)
    m1, m2 = rng.normal(size=(2, 50)) * 10
    v1, v2 = np.exp(rng.normal(size=(2, 50)) * 2)
    each = [gaussian_divergence(*(np.array([a[i]]) for a in (m1, v1, m2, v2))) for i in range(50)]
    assert gaussian_divergence(m1, v1, m2, v2) == pytest.approx(np.mean(each))
    assert 0 <= min(each) < 0.2 and 0.99 < max(each) <= 1
    assert gaussian_divergence(m1, v1, m1, v1) == 0
    assert gaussian_divergence([0.0], [1.0], [1e100], [1.0]) == 1


def test_gaussian_divergence_does_not_count_what_batch_norm_does_not_see():
    dead = gaussian_divergence([0.0], [0.0], [0.0], [1e-7])
    assert 0 <= dead < 1e-4
    assert gaussian_divergence([0.0], [0.0], [0.0], [1e-7], eps=1e-12) > 0.5
    assert gaussian_divergence([0.0], [0.0], [1.0], [0.0]) == 1


def test_errors_of_gaussian_divergence():
    with pytest.raises(ValueError, match=r"Shapes differ: mean \(2,\), var \(2,\), other_mean"):
        gaussian_divergence([0, 1], [1, 1], [0], [1])
    with pytest.raises(ValueError, match="negative"):
        gaussian_divergence([0], [-1], [0], [1])
    with pytest.raises(ValueError, match="'eps' parameter"):
        gaussian_divergence([0], [1], [0], [1], eps=0)
    with pytest.raises(ValueError, match="other_var contains NaN"):
        gaussian_divergence([0], [1], [0], [np.nan])


@pytest.mark.parametrize("temperature", [0.5, 1.0, 10.0])
def test_free_energy_is_its_formula(temperature):
    logits = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32) * 5
    sums = [sum(np.exp(float(f) / temperature) for f in row) for row in logits]
    found = free_energy(logits, temperature=temperature)
    assert found.shape == (7,) and found.dtype == np.float64
    assert found == pytest.approx(-temperature * np.log(sums), rel=1e-9)


def test_free_energy_of_large_logits_is_finite():
    assert free_energy([[1e5, 0.0], [-1e5, -1e5]]) == pytest.approx([-1e5, 1e5 - np.log(2)])


def test_prediction_entropy_is_scipys_as_a_share():
    p = softmax_rows(20, 6)
    assert prediction_entropy(p) == pytest.approx(entropy(p, axis=1) / np.log(6))
    assert prediction_entropy([[1.0, 0, 0], [1 / 3] * 3]) == pytest.approx([0, 1])
    assert prediction_entropy(np.full((1, 7), 1 / 7))[0] <= 1
    with pytest.raises(ValueError, match="minimum of 2"):
        prediction_entropy([[1.0], [1.0]])


# The scorer


class Columns(TransformerMixin, BaseEstimator):
    """The first columns, as if they were the features of a layer."""

    def __init__(self, stop=1):
        self.stop = stop

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        return X[:, : self.stop]


@pytest.mark.parametrize("name", ["logme", "h_score", "transrate", "probe_score"])
def test_a_search_finds_the_features_that_the_score_prefers(name):
    noise, y = task(90, 2, shift=0)
    X = np.column_stack([noise, 4.0 * np.eye(3)[y] + np.random.default_rng(9).normal(size=(90, 3))])
    search = GridSearchCV(
        Columns(), {"stop": [1, 2, 5]}, scoring=make_transferability_scorer(name), cv=3
    )
    assert search.fit(X, y).best_params_ == {"stop": 5}
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.score(X, y) == make_transferability_scorer(name)(Columns(5), X, y)
    assert clone(search).fit(X, y).best_score_ == search.best_score_


def test_a_search_over_all_samples_scores_each_candidate_once():
    X, y = load_iris(return_X_y=True)
    every = np.arange(len(X))
    scorer = make_transferability_scorer("h_score", shrinkage=False)
    search = GridSearchCV(PCA(), {"n_components": [1, 2]}, scoring=scorer, cv=[(every, every)]).fit(
        X, y
    )
    expected = [h_score_raw(PCA(n).fit_transform(X), y) for n in (1, 2)]
    assert search.cv_results_["mean_test_score"] == pytest.approx(expected)


def test_the_scorer_passes_options_and_can_be_pickled():
    X, y = load_iris(return_X_y=True)
    pca = PCA(2).fit(X)
    for scorer in (
        make_transferability_scorer("transrate", eps=0.1),
        make_transferability_scorer(transrate, eps=0.1),
    ):
        again = pickle.loads(pickle.dumps(scorer))
        assert again(pca, X, y) == transrate(pca.transform(X), y, eps=0.1)
        assert repr(again) == repr(scorer)
    assert repr(scorer) == "make_transferability_scorer(transrate, eps=0.1)"
    assert repr(make_transferability_scorer("logme")) == "make_transferability_scorer('logme')"
    mine = pickle.loads(pickle.dumps(make_transferability_scorer(tiny_score, power=2)))
    assert mine(pca, X, y) == np.abs(pca.transform(X)).mean() ** 2


def test_the_scorer_says_what_it_needs():
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ValueError, match="score='logm': expected a callable or one of 'h_score'"):
        make_transferability_scorer("logm")
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(X, y)
    with pytest.raises(TypeError, match="Pipeline has no transform"):
        make_transferability_scorer("logme")(pipeline, X, y)
    assert make_transferability_scorer("logme")(pipeline[:-1], X, y) == logme(
        StandardScaler().fit_transform(X), y
    )


def explained_by_hand(theta, y, smoothing):
    """Leave each sample out and make the predictor of the others anew."""
    total = 0.0
    for i, (row, label) in enumerate(zip(theta, y, strict=True)):
        others = np.arange(len(y)) != i
        same = others & (y == label)
        prior = same.sum() / others.sum()
        given = (theta[same].sum(0) + smoothing * prior) / (theta[others].sum(0) + smoothing)
        total += (given * row).sum()
    return total / len(y)


@pytest.mark.parametrize("smoothing", [0.01, 1.0])
def test_the_explained_share_leaves_each_sample_out(smoothing):
    rng = np.random.default_rng(0)
    theta, y = rng.dirichlet(np.full(7, 0.3), 20), rng.integers(0, 3, 20)
    expected = explained_by_hand(theta, y, smoothing)
    assert explained_share(theta, y, smoothing=smoothing) == pytest.approx(expected)


def test_a_source_class_for_each_sample_explains_nothing_and_one_for_each_label_all():
    y = np.repeat([0, 7], 20)
    assert explained_share(np.eye(40), y) < 0.5  # where LEEP is at its maximum
    assert explained_share(np.eye(2)[(y == 7).astype(int)], y) > 0.99
    noise = np.random.default_rng(0).dirichlet(np.ones(50), 40)
    assert explained_share(noise, y) == pytest.approx(0.5, abs=0.05)


def test_the_explained_share_wants_probabilities_and_a_positive_smoothing():
    with pytest.raises(ValueError, match="softmax"):
        explained_share([[3.0, -1.0], [0.5, 0.5]], [0, 1])
    with pytest.raises(ValueError, match="'smoothing' parameter"):
        explained_share(np.eye(2), [0, 1], smoothing=0)


X, Y = task()
MASKED = np.ma.masked_greater(X, 1.0)


@pytest.mark.parametrize(
    ("score", "name", "arguments"),
    [
        (logme, "features", (MASKED, Y)),
        (h_score, "features", (MASKED, Y)),
        (transrate, "features", (MASKED, Y)),
        (probe_score, "features", (MASKED, Y)),
        (leep, "probabilities", (MASKED, Y)),
        (explained_share, "probabilities", (MASKED, Y)),
        (free_energy, "logits", (MASKED,)),
        (prediction_entropy, "probabilities", (MASKED,)),
        (gaussian_divergence, "other_mean", (X[0], X[0], MASKED[0], X[0])),
    ],
)
def test_masked_values_are_refused(score, name, arguments):
    with pytest.raises(ValueError, match=f"^{name} holds masked values"):
        score(*arguments)


@pytest.mark.parametrize("features", [X[0], X[:1], X[:, :0], [["a"], ["b"]]])
def test_errors_about_features_name_them(features):
    with pytest.raises(ValueError, match=r"^features: "):
        h_score(features, Y[: len(features)])


@pytest.mark.parametrize("scale", [1e-300, 1e300])
def test_logme_of_targets_of_any_size(scale):
    y = X[:, 0] + 0.5 * X[:, 1] ** 2
    expected = logme(X, y, task="regression") - np.log(scale)
    assert logme(X, y * scale, task="regression") == pytest.approx(expected)


def test_a_scorer_of_another_type_is_refused():
    with pytest.raises(ValueError, match="score="):
        make_transferability_scorer(["logme"])
