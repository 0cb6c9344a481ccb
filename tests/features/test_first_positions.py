import tracemalloc

import numpy as np
import pytest

from sktransfer.features import compute
from sktransfer.features.compute import FirstPositions


def firsts_of(keys, part=100):
    found, known = [], FirstPositions(len(keys))
    for start in range(0, len(keys), part):
        these = keys[start : start + part]
        found += known.find(these, range(start, start + len(these)))
    return found


def expected(keys):
    known: dict = {}
    return [known.setdefault(key, i) for i, key in enumerate(keys)]


def digests(n, n_distinct):
    drawn = np.random.default_rng(0).integers(0, n_distinct, n)
    return [i.tobytes() * 2 for i in drawn]


@pytest.mark.parametrize("recent", [7, 1000, 10**6])
def test_the_first_of_equal_samples_is_found_however_many_lie_between(recent, monkeypatch):
    monkeypatch.setattr(compute, "_RECENT", recent)
    keys = digests(3000, 1500)
    assert firsts_of(keys) == expected(keys)


def test_digests_of_which_only_a_half_is_equal_are_different_samples(monkeypatch):
    monkeypatch.setattr(compute, "_RECENT", 2)
    a, b = b"a" * 8, b"b" * 8
    keys = [a + a, b + b, a + b, b + a, a + a]
    assert firsts_of(keys, part=1)[:4] == [0, 1, 2, 3]


def test_few_samples_may_be_keys_themselves():
    assert firsts_of(["x", ("y", 1), "x"]) == [0, 1, 0]


def test_beyond_the_bound_old_samples_are_forgotten_and_late_ones_are_found(monkeypatch):
    monkeypatch.setattr(compute, "_RECENT", 100)
    monkeypatch.setattr(compute, "_MOST", 1000)
    distinct = digests(5000, 2**40)
    found = firsts_of([*distinct, *distinct[-500:], distinct[0]])
    assert found[:5000] == list(range(5000))
    assert found[5000:5500] == list(range(4500, 5000))
    assert found[5500] == 5500  # computed once more


def test_memory_for_each_sample_is_a_few_bytes():
    keys = digests(100_000, 2**40)
    tracemalloc.start()
    try:
        known = FirstPositions(len(keys))
        for start in range(0, len(keys), 128):
            known.find(keys[start : start + 128], range(start, min(start + 128, len(keys))))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 40 * len(keys)
