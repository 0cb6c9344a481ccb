import numpy as np
import pytest

from sktransfer.transferability.folds import (
    hold_out,
    make_folds,
    make_probe_folds,
    make_trial_folds,
    subsample,
)

RNG = np.random.default_rng(0)


def test_folds_judge_each_row_once_by_models_that_know_two_classes():
    codes = np.repeat([0, 1, 2], [20, 20, 1])
    folds = make_trial_folds(codes, 0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(41))
    assert all(len(np.unique(codes[train])) > 1 for train, _ in folds)
    assert make_trial_folds(np.array([0, 1, 2]), 0) == []
    among = np.arange(0, 41, 2)
    assert set(np.concatenate([test for _, test in make_trial_folds(codes, 0, among)])) == set(
        among
    )


@pytest.mark.parametrize(
    ("make", "sizes", "n_folds"),
    [
        (make_trial_folds, [49, 50], 5),
        (make_trial_folds, [50, 50], 3),
        (make_trial_folds, [20, 20, 4], 4),
        (make_trial_folds, [20, 20, 1], 2),
        (make_probe_folds, [50, 50], 10),
        (make_probe_folds, [50, 51], 5),
        (make_probe_folds, [50, 4], 4),
        (make_probe_folds, [50, 4, 2], 4),
        (make_probe_folds, [50, 2], 0),
    ],
)
def test_the_number_of_folds_follows_from_the_sizes_of_classes(make, sizes, n_folds):
    assert len(make(np.repeat(range(len(sizes)), sizes), 0)) == n_folds


@pytest.mark.parametrize(("n", "n_folds"), [(3, 3), (100, 10), (101, 5)])
def test_the_number_of_folds_of_numbers_is_at_most_that_of_samples(n, n_folds):
    assert len(make_probe_folds(RNG.normal(size=n), 0)) == n_folds


def test_a_choice_among_more_rows_than_are_probed_uses_all_classes():
    y = np.array([0] * 5000 + [1] * 40)
    rows = subsample(y, 1000, 0)
    assert len(rows) == 1000 and (np.diff(rows) > 0).all()
    assert 6 <= (y[rows] == 1).sum() <= 10
    assert (subsample(y, 1000, 0) == rows).all() and (subsample(y, 1000, 1) != rows).any()
    assert (subsample(y[:10], 1000) == np.arange(10)).all()
    assert len(subsample(RNG.normal(size=3000), 1000, 0)) == 1000


def test_of_rare_classes_among_many_samples_five_are_drawn():
    y = np.array([0] * 10_000 + [1] * 7 + [2] * 2)
    rows = subsample(y, 600, 0)
    assert len(rows) == 600 and np.bincount(y[rows]).tolist() == [593, 5, 2]
    many = subsample(np.arange(1000), 600, 0)  # more classes than rows
    assert len(many) == len(set(many)) == 600


@pytest.mark.parametrize("y", [np.repeat([0, 1], [30, 12]), RNG.normal(size=42)])
def test_folds_test_each_row_once(y):
    folds = make_folds(y, 4, 0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(42))
    assert all(not set(train) & set(test) and len(train) + len(test) == 42 for train, test in folds)
    if y.dtype.kind == "i":
        assert [int(y[test].sum()) for _, test in folds] == [3] * 4


def test_a_hold_out_set_is_stratified_and_leaves_a_row_of_each_group():
    groups = np.repeat([0, 1, 2], [40, 20, 1])
    train, held = hold_out(groups, np.ones(61), 0.3, seed=0)
    assert sorted([*train, *held]) == list(range(61))
    assert np.bincount(groups[held], minlength=3).tolist() == [12, 6, 0]
    assert (held != hold_out(groups, np.ones(61), 0.3, seed=1)[1]).any()


def test_rows_without_a_weight_are_not_held_out():
    weight = np.repeat([0.0, 1.0], 30)
    train, held = hold_out(np.zeros(60, int), weight, 0.5, seed=0)
    assert len(held) == 15 and held.min() >= 30 and len(train) == 45


def test_a_hold_out_set_of_no_rows_is_announced():
    with pytest.warns(UserWarning, match=r"validation_fraction=0.1 of 3 rows"):
        train, held = hold_out(np.arange(3), np.ones(3), 0.1, seed=0)
    assert len(train) == 3 and not len(held)
