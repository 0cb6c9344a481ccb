"""Tests do not fail because a later version of another library deprecates something."""

import subprocess
import sys

import pytest

from tests.support import TESTS

FILES = [
    "data/test_images.py",
    "data/test_targets.py",
    "engines/test_engine.py",
    "features/test_compute.py",
    "features/test_extractor.py",
    "finetuning/test_training.py",
]


@pytest.mark.sweep
def test_deprecations_by_torch_numpy_and_pillow_fail_no_test():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.later_versions"]
    command += ["-p", "no:cacheprovider", *(f"tests/{name}" for name in FILES)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "from_numpy is deprecated" in done.stdout
    assert "open is deprecated" in done.stdout
