"""Stored features are used only if the code of today computes the same."""

import json
import shutil
import warnings

import numpy as np
import pytest
import torch

from sktransfer import FeatureStore, PretrainedFeatureExtractor
from tests.corpora.stale import EVERYDAY, WAYS, find_stale
from tests.new_process import run_in_new_process
from tests.support import TINY_SIZE, tiny_backbone

# A pooling whose helper no description of its code can see.
PROJECT = """
def power():
    return {power}

def pooling(x):
    return x.clamp_min(0).mean((2, 3)) ** globals()["power"]()
"""
PROGRAM = """
import json, sys, warnings
import numpy as np
sys.path.insert(0, sys.argv[1])
from project import pooling
from sktransfer import PretrainedFeatureExtractor
from tests.support import tiny_backbone
images = np.random.RandomState(0).randint(0, 255, (12, 20, 20, 3), dtype=np.uint8)
def features(first, last, memory):
    model = PretrainedFeatureExtractor(tiny_backbone(), layer="2", pooling=pooling, memory=memory)
    return model.fit_transform(images[first:last])
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    for samples in sys.argv[3:]:
        first, last = map(int, samples.split("-"))
        found = features(first, last, sys.argv[2])
        assert np.array_equal(found, features(first, last, sys.argv[2]))
error = float(np.abs(found - features(first, last, None)).max())
print(json.dumps([error, [str(w.message) for w in told]]))
"""


@pytest.fixture
def run(tmp_path):
    """Run the program with one version of the project, on some of the images, one after another."""

    def run(power: int, *samples: str) -> tuple[float, list[str]]:
        folder = tmp_path / str(power)
        folder.mkdir(exist_ok=True)
        (folder / "project.py").write_text(PROJECT.format(power=power))
        return json.loads(run_in_new_process(PROGRAM, folder, tmp_path / "store", *samples))

    return run


def test_two_checkouts_keep_their_own_features_after_one_warning(run):
    assert run(1, "0-8") == [0, []]
    error, told = run(2, "0-8")
    assert error < 1e-6
    assert len(told) == 1
    assert "code that it uses" in told[0]
    for power in (1, 2):
        error, told = run(power, "0-12")
        assert error < 1e-6
        assert told == []


@pytest.mark.slow
def test_rows_of_other_code_are_not_mixed_with_those_of_today(run):
    run(1, "4-8")  # the samples in the middle
    run(2, "0-4", "8-12")
    error, _ = run(2, "0-12")
    assert error < 1e-6


def drawn(image):
    return TINY_SIZE(np.asarray(image)) * torch.rand(())


def drawn_pooling(x):
    return x.flatten(1) * torch.rand(())


@pytest.mark.parametrize("where", ["preprocessing", "pooling"])
def test_features_that_differ_between_two_runs_are_not_stored_and_told_once(where, tmp_path):
    images = np.random.RandomState(0).randint(0, 255, (5, 20, 20, 3), dtype=np.uint8)
    store = FeatureStore(tmp_path)
    backbone = tiny_backbone(preprocess=drawn) if where == "preprocessing" else tiny_backbone()
    pooling = "avg" if where == "preprocessing" else drawn_pooling
    model = PretrainedFeatureExtractor(backbone, pooling=pooling, memory=store)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        first = model.fit_transform(images)
        assert not np.array_equal(first, model.transform(images))
    assert sum("differ between two runs" in str(one.message) for one in told) == 1
    assert len(store) == 0


def test_rows_that_are_read_without_a_network_are_not_compared(tmp_path):
    store = FeatureStore(tmp_path)
    store.put("recipe", [b"sample"], np.ones((1, 3), np.float32))
    assert store.get("recipe", [b"sample"])[0].tolist() == [1, 1, 1]


def test_a_cleared_store_is_filled_again(tmp_path):
    images = np.random.RandomState(0).randint(0, 255, (5, 20, 20, 3), dtype=np.uint8)
    store = FeatureStore(tmp_path)
    model = PretrainedFeatureExtractor(tiny_backbone(), memory=store)
    first = model.fit_transform(images)
    store.clear()
    assert len(store) == 0
    np.testing.assert_array_equal(model.transform(images), first)
    assert len(store) == 5


@pytest.mark.parametrize(
    "ways", [EVERYDAY, pytest.param(list(WAYS), marks=pytest.mark.sweep)], ids=["some", "all"]
)
def test_no_change_of_code_gives_features_of_yesterday(ways, tmp_path):
    outcomes = find_stale(tmp_path, ways)
    assert [way for way, outcome in outcomes.items() if outcome == "stale"] == []
    refused = [way for way, outcome in outcomes.items() if outcome == "refused"]
    assert len(refused) <= len(ways) // 10


# A preprocessing that refuses some images, and a pooling, in two versions of a project.
REFUSING = """
import numpy as np
from tests.support import TINY_SIZE

def refused():
    return {refused}

def power():
    return {power}

def preprocess(image):
    if int(np.asarray(image)[0, 0, 0]) in globals()["refused"]():
        raise ValueError("refused")
    return TINY_SIZE(np.asarray(image))

def pooling(x):
    return x.clamp_min(0).mean((2, 3)) ** globals()["power"]()
"""
REFUSING_PROGRAM = """
import sys, warnings
import numpy as np
sys.path.insert(0, sys.argv[1])
from project import pooling, preprocess
from sktransfer import PretrainedFeatureExtractor
from tests.support import tiny_backbone
images = np.random.RandomState(0).randint(0, 255, (8, 20, 20, 3), dtype=np.uint8)
images[:, 0, 0, 0] = range(8)
backbone = tiny_backbone(preprocess=preprocess)
settings = {"layer": "2", "pooling": pooling, "on_error": "nan"}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    rows = [
        PretrainedFeatureExtractor(backbone, memory=memory, **settings).fit_transform(images)
        for memory in (sys.argv[2], None)
    ]
np.save(sys.argv[3], rows)
"""


def run_refusing(folder, store, refused: set, power: int) -> np.ndarray:
    """Return the features with the store and without it, where some images are refused."""
    folder.mkdir()
    (folder / "project.py").write_text(REFUSING.format(refused=refused, power=power))
    run_in_new_process(REFUSING_PROGRAM, folder, store, folder / "rows.npy")
    return np.load(folder / "rows.npy")


@pytest.mark.slow
def test_found_samples_that_cannot_be_opened_any_more_do_not_hide_whether_others_differ(tmp_path):
    gone = {0, 1, 7}  # the first ones and the last
    store, copy = tmp_path / "store", tmp_path / "copy"
    before, _ = run_refusing(tmp_path / "before", store, set(), 1)
    shutil.copytree(store, copy)
    with_store, without = run_refusing(tmp_path / "same", store, gone, 1)
    assert np.isnan(without[list(gone)]).all()
    np.testing.assert_array_equal(with_store, before)  # the next samples were compared
    with_store, without = run_refusing(tmp_path / "other", copy, gone, 2)
    np.testing.assert_allclose(with_store, without, atol=1e-6)
    assert np.isnan(with_store).any(axis=1).nonzero()[0].tolist() == sorted(gone)
