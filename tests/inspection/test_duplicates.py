import numpy as np
import pytest

from sktransfer import PretrainedFeatureExtractor
from sktransfer.inspection import find_near_duplicates
from sktransfer.inspection.duplicates import near_duplicates_of
from tests.support import images, tiny_backbone


def test_equal_and_similar_samples_are_pairs():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(6, 20))
    rows[4], rows[5] = rows[1], 2 * rows[2] + rng.normal(scale=1e-3, size=20)
    found = near_duplicates_of(rows, 0.99)
    assert found.pairs.tolist() == [[1, 4], [2, 5]]
    np.testing.assert_allclose(found.similarity, [1, 1], atol=1e-4)
    assert found.groups == [[1, 4], [2, 5]]
    assert found.redundant.tolist() == [4, 5]
    assert "2 pairs in 2 groups, 6 samples" in repr(found)


def test_many_equal_samples_are_one_group():
    rows = np.tile(np.eye(3)[:2], (50, 1))
    found = near_duplicates_of(rows, 0.9)
    assert [len(group) for group in found.groups] == [50, 50]
    assert len(found.pairs) == 98
    assert len(near_duplicates_of(np.eye(3), 0.9).pairs) == 0
    assert near_duplicates_of(np.eye(3)[:1], 0.9).groups == []


def test_samples_are_compared_by_an_extractor():
    X = images(5)
    X.append(X[2].copy())
    extractor = PretrainedFeatureExtractor(tiny_backbone()).fit(X)
    assert [2, 5] in find_near_duplicates(extractor, X).pairs.tolist()
    with pytest.raises(ValueError, match="threshold=2"):
        find_near_duplicates(extractor, X, threshold=2)


def test_the_threshold_follows_from_how_alike_samples_are():
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 30))
    rows[50:] = rows[:10] + rng.normal(scale=0.1, size=(10, 30))
    expected = [[i, i + 50] for i in range(10)]
    for offset in (0.0, 3.0):  # with it, the cosines of different rows are about 0.9
        found = near_duplicates_of(rows + offset)
        assert sorted(found.pairs.tolist()) == expected


def test_classes_that_differ_in_spread_are_no_duplicates():
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(2, 30)).repeat(30, axis=0)
    spread = np.repeat([[0.3], [0.003]], 30, axis=0)
    rows = centres + spread * rng.normal(size=(60, 30))
    assert len(near_duplicates_of(rows).pairs) == 0
    rows[59] = rows[30] + 1e-5
    assert near_duplicates_of(rows).pairs.tolist() == [[30, 59]]
