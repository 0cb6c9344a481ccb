import threading
import time

import joblib
import numpy as np
import pytest
import torch

from sktransfer import PretrainedFeatureExtractor, load_backbone
from sktransfer.features import Output, compute_outputs
from sktransfer.features.compute import Loader, count_loaders
from tests.support import TINY_SIZE, NotedImages, TinyNet, Vectors, images, tiny_backbone


def wait_for(condition):
    """Wait until a condition holds, and a moment more."""
    deadline = time.monotonic() + 5
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.01)


CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("n_loaders", [0, 1, 3])
def test_results_come_in_the_order_of_the_items(n_loaders):
    def late(i):
        time.sleep(0.01 if i % 3 == 0 else 0)
        return i

    with Loader(n_loaders) as loader:
        assert list(loader.map(late, range(20), 5)) == list(range(20))
        assert list(loader.map(late, [], 5)) == []


def test_results_are_computed_ahead_up_to_a_number():
    begun = []
    with Loader(2) as loader:
        results = loader.map(lambda i: begun.append(i), iter(range(100)), 6)
        next(results), wait_for(lambda: len(begun) >= 6)
        assert sorted(begun) == list(range(6))
        next(results), wait_for(lambda: len(begun) >= 7)
        assert sorted(begun) == list(range(7))


def test_large_results_are_computed_a_few_at_a_time():
    begun = []
    with Loader(1) as loader:
        results = loader.map(lambda i: begun.append(i), range(100), 8, n_bytes=lambda _: 50 * 2**20)
        for _ in range(10):
            next(results)
        wait_for(lambda: len(begun) >= 11)
        assert len(begun) == 11  # the eight at the beginning, and then two at a time


def test_what_takes_no_time_is_done_by_the_calling_thread_in_its_turn():
    with Loader(1) as loader:
        named = loader.map(lambda i: (i, threading.current_thread()), range(6), 3, at_once=bool)
        found, threads = zip(*named, strict=True)
    assert found == tuple(range(6))
    assert threads[0] is not threading.current_thread()
    assert set(threads[1:]) == {threading.current_thread()}


@pytest.mark.parametrize("n_loaders", [0, 1])
def test_what_takes_no_time_does_not_wait_for_others(n_loaders):
    asked = []
    with Loader(n_loaders) as loader:
        items = (asked.append(i) or i for i in range(6))
        results = loader.map(lambda i: i, items, 3, at_once=lambda i: i != 1)
        assert next(results) == 0
        assert asked == [0]
        assert [*results] == [1, 2, 3, 4, 5]


@pytest.fixture
def refuse_threads(monkeypatch):
    """A function after which no thread can be started."""

    def refuse(thread):
        raise AssertionError("a thread was started")

    return lambda: monkeypatch.setattr(threading.Thread, "start", refuse)


def test_arrays_in_the_store_start_no_thread(tmp_path, refuse_threads):
    pictures, backbone = images(20), tiny_backbone()
    extractor = PretrainedFeatureExtractor(backbone, memory=tmp_path, n_jobs=2)
    expected = extractor.fit_transform(pictures)
    refuse_threads()
    np.testing.assert_array_equal(extractor.transform(pictures), expected)


def test_vectors_need_no_loader(refuse_threads):
    X = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    extractor = PretrainedFeatureExtractor(load_backbone(Vectors()), layer=-1, n_jobs=2).fit(X)
    refuse_threads()
    assert extractor.transform(X).shape == (20, 32)


def test_without_threads_nothing_is_computed_ahead():
    begun = []
    with Loader(0) as loader:
        results = loader.map(lambda i: begun.append(i), range(10), 6)
        next(results)
        assert begun == [0]


def test_an_error_is_raised_where_its_result_is_asked_for_and_ends_the_threads():
    def divide(i):
        return 1 / (i - 3)

    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), Loader(2) as loader:
        found = []
        for value in loader.map(divide, range(1000), 8):
            found.append(value)
    assert found == [-1 / 3, -1 / 2, -1]
    assert threading.active_count() == before


def test_operations_of_a_loader_use_one_core_and_others_as_many_as_before(use_threads):
    use_threads(2)
    with Loader(2) as loader:
        assert set(loader.map(lambda i: torch.get_num_threads(), range(4), 4)) == {1}
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(
    ("n_jobs", "device", "expected"),
    [
        *[(None, CPU, 0), (1, CPU, 0), (3, CPU, 3), (-1, CPU, 16), (-3, CPU, 14), (50, CPU, 50)],
        *[("auto", CPU, 12), ("auto", CUDA, 15)],
    ],
)
def test_the_number_of_loaders(n_jobs, device, expected, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 16)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    backbones = [tiny_backbone()]
    assert count_loaders(n_jobs, device, backbones, 1000) == expected
    assert count_loaders(n_jobs, device, backbones, 1) == 0
    monkeypatch.setattr(torch, "get_num_threads", lambda: 16)
    if n_jobs == "auto":
        assert count_loaders(n_jobs, CPU, backbones, 1000) == 4  # a quarter


def test_a_job_of_a_search_uses_one_loader():
    def count():
        return count_loaders("auto", CUDA, [tiny_backbone()], 1000)

    with joblib.parallel_config("threading", n_jobs=2):
        assert joblib.Parallel()(joblib.delayed(count)() for _ in range(2)) == [1, 1]


@pytest.mark.parametrize(("n_jobs", "n_loaders"), [(None, 0), (1, 0), ("auto", 1), (2, 2)])
def test_samples_are_opened_in_threads(n_jobs, n_loaders, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 1)
    X, noted = images(150, (6, 6)), NotedImages()
    (expected,) = compute_outputs(X, [Output(tiny_backbone(), "4")])
    (found,) = compute_outputs(X, [Output(tiny_backbone(modality=noted), "4")], n_jobs=n_jobs)
    assert np.array_equal(found, expected)
    assert len(noted.threads) == 150
    assert ("MainThread" in noted.threads) == (n_loaders == 0)
    assert len(set(noted.threads)) <= max(1, n_loaders)


def test_the_network_runs_while_later_samples_are_opened():
    noted, is_fitted, n_opened = NotedImages(), [], []

    class Patient(torch.nn.Module):
        """Waits in its first batch, which has four samples, until the others are opened."""

        def forward(self, x):
            if len(x) > 1 and is_fitted:  # a condition, so that this is not traced
                wait_for(lambda: len(noted.opened) >= 40)
                n_opened.append(len(noted.opened))
            return x

    network = torch.nn.Sequential(Patient(), *TinyNet())
    backbone = load_backbone(network, preprocess=TINY_SIZE, modality=noted)
    extractor = PretrainedFeatureExtractor(backbone, n_jobs=2).fit(images(5))
    noted.opened.clear(), is_fitted.append(True)
    extractor.transform(images(40, (6, 6)))
    assert set(n_opened) == {40}
