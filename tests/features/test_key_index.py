import numpy as np
import pytest

from sktransfer.features.key_index import KeyIndex, as_keys


def random_keys(n, seed):
    return np.random.default_rng(seed).integers(0, 2**64, (n, 2), np.uint64)


@pytest.mark.parametrize("halves", [1, 2])
def test_keys_are_found_as_in_a_dictionary_and_the_last_of_equal_ones_counts(halves):
    index, expected = KeyIndex(halves), {}
    drawn = np.random.default_rng(0)
    keys = random_keys(500, 1)
    for _ in range(5):
        rows = drawn.integers(0, 400, 300)  # some are twice in one call
        places = drawn.integers(0, 2**40, 300)
        index.add(keys[rows], places)
        expected |= zip(rows.tolist(), places.tolist(), strict=True)
    assert index.find(keys).tolist() == [expected.get(i, -1) for i in range(500)]
    assert len(index) == len(expected)


def test_a_key_of_which_only_a_half_is_equal_is_not_found():
    index = KeyIndex()
    index.add(as_keys([b"a" * 16]), np.array([5]))
    assert index.find(as_keys([b"a" * 16, b"a" * 8 + b"b" * 8, b"b" * 16])).tolist() == [5, -1, -1]
    assert KeyIndex().find(as_keys([b"a" * 16])).tolist() == [-1]


def test_keys_are_removed_by_what_they_map_to():
    index, keys = KeyIndex(), random_keys(100, 2)
    index.add(keys, np.arange(100))
    index.retain(index.places % 2 == 0)
    assert index.find(keys).tolist() == [i if i % 2 == 0 else -1 for i in range(100)]
