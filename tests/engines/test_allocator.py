import os
import subprocess
import sys

import pytest

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


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_freed_memory_is_kept_in_a_worker_of_dask_and_returned_afterwards():
    before, nested, within, after = count({"MALLOC_TRIM_THRESHOLD_": "65536"})
    assert nested < before / 4 and within < before / 4  # the first block, and no other
    assert after > before / 2


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of glibc")
def test_other_processes_are_not_changed():
    _, nested, within, after = count({})
    assert abs(nested - after) < 3_000 > abs(within - after)


def count(settings):
    kept = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=kept | settings,
        capture_output=True,
        text=True,
        check=True,
    )
    return [int(number) for number in done.stdout.split()]
