import numpy as np

from sktransfer.transferability.folds import make_trial_folds


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
