import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import softmax

from sktransfer.transferability import greedy_weights, mixture_weights, temperature


def predictions(n_models=5, n=30, k=3, seed=0):
    """Probabilities of models of different quality, and the classes."""
    rng = np.random.default_rng(seed)
    y = rng.integers(k, size=n)
    logits = (
        rng.normal(size=(n_models, n, k))
        + np.linspace(0, 2, n_models)[:, None, None] * (np.eye(k)[y])
    )
    return softmax(logits, axis=2), y


# -- temperature ---------------------------------------------------------------------------------


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("true", [0.3, 1.0, 4.0])
def test_the_temperature_is_the_best_of_a_fine_grid(true, smoothing):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(200, 4))
    y = np.array([rng.choice(4, p=p) for p in softmax(logits, axis=1)])
    weight = rng.uniform(0.5, 2, size=200)
    target = (1 - smoothing) * np.eye(4)[y] + smoothing / 4

    def loss(t):
        return -(weight[:, None] * target * np.log(softmax(true * logits / t, axis=1))).sum()

    found = temperature(true * logits, y, label_smoothing=smoothing, sample_weight=weight)
    grid = np.geomspace(0.05, 20, 2000)
    best = grid[np.argmin([loss(t) for t in grid])]
    assert found == pytest.approx(best, rel=0.01)
    assert smoothing or found == pytest.approx(true, rel=0.3)


def test_a_perfect_model_gets_certain_unless_labels_are_smoothed():
    logits, y = np.eye(3)[[0, 1, 2] * 4], [0, 1, 2] * 4
    assert temperature(logits, y) < 0.1
    assert temperature(logits, y, label_smoothing=1 / 14) > 0.15


def test_a_class_that_cannot_be_predicted_has_minus_infinity():
    logits = [[0.0, 1.0, -np.inf], [1.0, 0.0, -np.inf], [0.0, 2.0, -np.inf]]
    assert 0.01 < temperature(logits, [1, 0, 1], label_smoothing=0.1) < 100


@pytest.mark.parametrize("wrong", [[np.nan, 0], [0, np.inf], [-np.inf, np.nan], [-np.inf, -np.inf]])
def test_logits_without_a_softmax_are_named_by_their_sample(wrong):
    logits = np.zeros((5, 2))
    logits[[2, 4]] = wrong
    with pytest.raises(ValueError, match="infinite for 2 of 5 samples, the first of them sample 2"):
        temperature(logits, [0, 1, 0, 1, 0])


@pytest.mark.parametrize("logits", [[0.1, 0.2], np.zeros((6, 0)), np.zeros((0, 2))])
def test_logits_are_a_table(logits):
    with pytest.raises(ValueError, match=r"logits must have the shape \(n_samples, n_classes\)"):
        temperature(logits, [0, 1])


@pytest.mark.parametrize("y", [[0, 3], [-1, 0], ["a", "b"], [0, 1, 1], [0.5, 1.0]])
def test_columns_are_checked(y):
    with pytest.raises(ValueError, match="y"):
        temperature(np.eye(3)[:2], y)


# -- weights of a mixture ------------------------------------------------------------------------


def test_weights_of_a_mixture_are_the_maximum_of_the_posterior():
    probabilities, y = predictions()
    own = probabilities[:, np.arange(30), y]
    prior = np.array([0.5, 0.1, 1.0, 2.0, 0.4])
    weight = np.random.default_rng(1).uniform(0.5, 2, size=30)

    def posterior(free):
        w = softmax(free)
        return -(weight @ np.log(w @ own) + prior @ np.log(w))

    best = softmax(minimize(posterior, np.zeros(5), tol=1e-12).x)
    found = mixture_weights(probabilities, y, prior=prior, max_iter=5000, sample_weight=weight)
    np.testing.assert_allclose(found, best, atol=1e-4)


def test_steps_are_those_of_expectation_maximisation():
    probabilities, y = predictions()
    w = np.full(5, 0.2)
    for _ in range(3):
        counts = np.full(5, 0.2)
        for i, c in enumerate(y):
            shares = w * probabilities[:, i, c]
            counts += shares / shares.sum()
        w = counts / counts.sum()
    np.testing.assert_allclose(mixture_weights(probabilities, y, max_iter=3), w)


def test_the_prior_gives_way_to_samples():
    probabilities, y = predictions(2, 400, seed=2)  # the second model is much better
    for n, least, most in ((4, 0.4, 1.0), (400, 0.0, 0.1)):
        found = mixture_weights(probabilities[:, :n], y[:n], prior=[10.0, 0.1])
        assert least < found[0] < most


@pytest.mark.parametrize("function", [mixture_weights, greedy_weights])
def test_weights_are_as_repeated_samples(function):
    probabilities, y = predictions()
    if function is greedy_weights:  # numbers of three targets
        y = np.eye(3)[y]
    times = np.arange(30) % 3
    rows = np.repeat(np.arange(30), times)
    np.testing.assert_allclose(
        function(probabilities, y, sample_weight=times),
        function(probabilities[:, rows], y[rows]),
    )


@pytest.mark.parametrize("prior", [[1.0], [1, 1, 1, 1, -1], [np.nan] * 5, [0.0] * 5])
def test_a_prior_that_is_none_is_refused(prior):
    with pytest.raises(ValueError, match="prior"):
        mixture_weights(*predictions(), prior=prior)


@pytest.mark.parametrize("function", [mixture_weights, greedy_weights])
def test_predictions_of_another_shape_are_refused(function):
    with pytest.raises(ValueError, match="n_models, n_samples, n_outputs"):
        function(np.eye(3), [0, 1, 2])


@pytest.mark.parametrize("function", [mixture_weights, greedy_weights])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_model_whose_predictions_are_not_finite_is_named(function, value):
    models = [[[0.5, 0.5]] * 2, [[0.5, 0.5], [value, 0.5]]]
    y = [0, 1] if function is mixture_weights else np.eye(2)
    with pytest.raises(ValueError, match=r"model 1 .* NaN or infinite"):
        function(models, y)


@pytest.mark.parametrize("y", [[1.0, 2.0], [[1.0], [2.0]], [[1.0, 2.0, 3.0]] * 2])
def test_numbers_of_another_shape_than_predictions_are_refused(y):
    with pytest.raises(ValueError, match=r"y has the shape .* predictions have 2 numbers for each"):
        greedy_weights([[[1.0, 2.0]] * 2], y)


# -- greedy selection ----------------------------------------------------------------------------


def naive_selection(predictions, loss, n_rounds):
    counts = np.zeros(len(predictions))
    for _ in range(n_rounds):
        losses = []
        for j in range(len(counts)):
            after = counts + np.eye(len(counts))[j]
            losses.append(loss(np.tensordot(after / after.sum(), predictions, 1)))
        counts[np.argmin(losses)] += 1
    return counts / counts.sum()


@pytest.mark.parametrize("n_targets", [1, 2])
def test_selection_is_that_of_a_naive_implementation(n_targets):
    rng = np.random.default_rng(0)
    y = rng.normal(size=(30, n_targets))
    models = y + rng.normal(size=(6, 30, n_targets)) * np.linspace(0.5, 1, 6)[:, None, None]
    weight = rng.uniform(0.5, 2, size=30)
    expected = naive_selection(models, lambda p: (weight[:, None] * (p - y) ** 2).sum(), 15)
    target = y[:, 0] if n_targets == 1 else y
    found = greedy_weights(models, target, n_rounds=15, sample_weight=weight)
    np.testing.assert_allclose(found, expected)


def test_bags_are_the_same_for_the_same_seed_and_give_more_models_a_weight():
    probabilities, y = predictions()
    first, second, other, alone = (
        greedy_weights(probabilities, np.eye(3)[y], n_bags=n_bags, random_state=seed)
        for n_bags, seed in ((7, 3), (7, 3), (7, 4), (1, 3))
    )
    np.testing.assert_array_equal(first, second)
    assert (first != other).any() and first.sum() == pytest.approx(1)
    assert np.count_nonzero(first) > np.count_nonzero(alone)
