import os
import subprocess
import sys

import numpy as np
import pytest
from torch import nn

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, extract_to
from sktransfer.engines import engine as engine_module
from tests.new_process import run_in_new_process

PROGRAM = """
import resource, threading
import numpy as np
from sktransfer.engines import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(80):
        np.ones(2**17)  # 1 MB: NumPy asks for huge pages from 4 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

found = [faults()]
with keep_freed_memory():
    with keep_freed_memory():  # of another task
        found.append(faults())
    found.append(faults())
found.append(faults())
print(*found)
"""


@pytest.fixture
def plain_process():
    """New processes have the thresholds that glibc chooses."""
    if any(name.startswith("MALLOC_") for name in os.environ):
        pytest.skip("the environment sets the thresholds of glibc")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_kept_in_a_worker_of_dask_and_returned_afterwards():
    environment = os.environ | {"MALLOC_TRIM_THRESHOLD_": "65536"}  # which is read at the start
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    before, nested, within, after = map(int, done.stdout.split())
    assert nested < before / 4 and within < before / 4  # the first block, and no other
    assert after > before / 2


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_other_processes_are_not_changed(plain_process):
    _, nested, within, after = map(int, run_in_new_process(PROGRAM).split())
    assert abs(nested - after) < 3_000 > abs(within - after)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
@pytest.mark.parametrize("action", ["transform", "fit", "extract_to"])
def test_freed_memory_is_kept_while_features_are_computed_and_networks_are_trained(
    action, monkeypatch, tmp_path
):
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "65536")
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    X, y = np.eye(6, 4, dtype=np.float32), ["a", "b"] * 3
    seen, within, set_thresholds = [], [], engine_module._set_thresholds

    def note(library, *thresholds):
        seen.append(thresholds)
        set_thresholds(library, *thresholds)

    class Watched(nn.Linear):
        def forward(self, x):
            within.append(seen[-1] if seen else None)
            return super().forward(x)

    network = nn.Sequential(Watched(4, 3), nn.Linear(3, 2))
    extractor = PretrainedFeatureExtractor(network).fit(X)
    model = FineTunedClassifier(network, trainable="all", max_epochs=1, random_state=0)
    monkeypatch.setattr(engine_module, "_set_thresholds", note)
    seen.clear()
    within.clear()
    actions = {
        "transform": lambda: extractor.transform(X),
        "fit": lambda: model.fit(X, y),
        "extract_to": lambda: extract_to(tmp_path / "f", extractor, source=list(X)),
    }
    actions[action]()
    raised, as_before = (10**9, 2**25), (65536, 128 * 1024)
    assert within[-1] == raised and seen[-1] == as_before


PLAIN = """
import resource, sys, threading
import torch
from sktransfer import PretrainedFeatureExtractor

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**22)  # 16 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def work():
    found.append(faults())
    network = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Linear(3, 2))
    PretrainedFeatureExtractor(network).fit_transform(torch.ones(5, 4).numpy())
    faults()  # the heap grows once
    found.append(faults())

found = []
if sys.argv[1:] == ["thread"]:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
else:
    work()
print(*found)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="a threshold of glibc")
@pytest.mark.parametrize("place", [pytest.param("main", marks=pytest.mark.sweep), "thread"])
def test_a_plain_process_keeps_freed_activations_once_features_were_computed(place, plain_process):
    before, after = map(int, run_in_new_process(PLAIN, place).split())
    assert after < before / 4
