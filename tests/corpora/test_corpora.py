"""A seeded sample of each corpus every day, all of it in the sweep."""

import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from sktransfer import PretrainedFeatureExtractor
from tests.corpora.cases import ERROR, RIGHT, Case, count, sample
from tests.corpora.images import all_images, of_damaged_files
from tests.corpora.stores import Operations
from tests.corpora.texts import of_labels, of_texts
from tests.corpora.weights import all_weights
from tests.support import tiny_backbone

MAKERS = {
    "images": all_images,
    "texts": lambda folder: of_texts(),
    "labels": lambda folder: of_labels(),
    "weights": all_weights,
}
SIZES = {"images": 400, "texts": 60, "labels": 40, "weights": 3 * 20}


@pytest.mark.filterwarnings("ignore")  # of Pillow
@pytest.mark.parametrize("name", MAKERS)
def test_a_sample_of_each_corpus_is_right_or_one_error(name, tmp_path):
    cases = sample(MAKERS[name](tmp_path), max(SIZES[name] // 4, 30), seed=0)
    outcomes = {case.name: case.outcome() for case in cases}
    assert {n: o for n, o in outcomes.items() if o[0] not in (RIGHT, ERROR)} == {}
    assert len({outcome for outcome, _ in outcomes.values()}) == 2


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MAKERS)
def test_each_corpus_is_right_or_one_error_in_time_and_memory(name, tmp_path):
    cases = MAKERS[name](tmp_path)
    assert len(cases) >= SIZES[name]
    counts, failed = count(cases)
    assert not failed
    assert counts.total() == len(cases)


@pytest.mark.sweep
@pytest.mark.filterwarnings("ignore")
def test_more_damaged_images_are_right_or_one_error():
    for seed in range(1, 11):
        assert not count(of_damaged_files(seed))[1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_is_a_row_of_nan_and_no_other(tmp_path):
    cases = sample(all_images(tmp_path), 60, seed=3)
    samples = [case.run.args[0] for case in cases]
    model = PretrainedFeatureExtractor(tiny_backbone(), on_error="nan").fit(samples[:1])
    found = model.transform(samples)
    bad = {i for i, case in enumerate(cases) if case.outcome()[0] == ERROR}
    assert set(np.flatnonzero(np.isnan(found).all(axis=1))) == bad == set(model.bad_samples_)
    assert np.isfinite(found).all(axis=1).sum() == len(samples) - len(bad)


def run_operations(folder, examples: int, steps: int) -> int:
    """Run sequences of operations on stores, and return the number of operations."""
    machine = type("Sequence", (Operations,), {"folder": folder, "n_operations": 0})
    rules = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=rules)
    return machine.n_operations


def test_no_sequence_of_operations_gives_a_wrong_feature(tmp_path):
    assert run_operations(tmp_path, 15, 20) >= 200


@pytest.mark.sweep
def test_no_sequence_of_ten_thousand_operations_gives_a_wrong_feature(tmp_path):
    assert run_operations(tmp_path, 400, 50) >= 10_000


# the counting itself


def crash():
    import os

    os.kill(os.getpid(), 9)


def test_a_crash_a_wrong_value_and_an_empty_message_are_counted():
    def refuse():
        raise ValueError

    cases = [
        Case("good", lambda: 1, bool),
        Case("crash", crash, bool),
        Case("wrong", lambda: 0, bool),
        Case("nothing said", refuse, bool),
        Case("not refused", lambda: 1, bool, "error"),
        Case("other error", lambda: zlib.decompress(b"x"), bool),
        Case("good again", lambda: 1, bool, "right"),
    ]
    counts, failed = count(cases)
    assert counts == {"right": 2, "crash": 1, "wrong": 4}
    assert [line.partition(":")[0] for line in failed] == [case.name for case in cases[1:-1]]
