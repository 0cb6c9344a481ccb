import os
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

pytest.importorskip("rich")

from sktransfer import load_image_folder
from sktransfer.cli import demo
from tests.support import TESTS


@pytest.fixture
def small(monkeypatch):
    """Make the demonstration small: six digits of each class, two draws, two layers."""
    X, y = load_digits(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(y == label)[:6] for label in range(10)])
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **kwargs: (X[rows], y[rows]))
    settings = {"N_DRAWS": 2, "N_LABELS": 3, "N_TEST": 20, "LAYERS": ["blocks.2", None]}
    for name, value in settings.items():
        monkeypatch.setattr(demo, name, value)
    monkeypatch.setattr(demo, "SETTINGS", {"image_size": 32, "pooling": "flatten"})
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(TESTS.parent)]))


@pytest.mark.sweep  # .ci/run runs all of it
def test_the_demonstration_runs_from_photographs_to_a_new_process(small, capsys, tmp_path):
    before = os.getcwd()
    demo.run()
    output = " ".join(capsys.readouterr().out.split())
    assert "palace" in output
    assert "daisy" in output
    assert "accuracy: 1.00" in output
    assert "80 of 80 predictions equal" in output
    assert "60 digits, 2 layers" in output
    assert len(re.findall(r"\d+\.\d % accuracy \(±", output)) == 2
    assert "selected" in output
    assert os.getcwd() == before


SHORT_EXAMPLE = """
from pathlib import Path
from sklearn.dummy import DummyClassifier
from sktransfer import load_image_folder
X, y = X_test, y_test = load_image_folder("photos")
model = DummyClassifier(strategy="constant", constant="temple").fit(X, y)
Path("report.html").touch()
Path("model.skt").touch()
"""


@pytest.mark.slow
def test_other_predictions_of_the_new_process_are_an_error(monkeypatch):
    def other_process(command, check):
        assert check
        np.save("again.npy", np.array(["temple"] * 60 + ["flower"] * 20))

    monkeypatch.setattr(demo, "EXAMPLE", SHORT_EXAMPLE)
    monkeypatch.setattr(demo.subprocess, "run", other_process)
    with pytest.raises(AssertionError, match="only 60 of 80 predictions are equal"):
        demo.run()


def test_the_demonstration_runs_the_example_of_readme():
    page = (TESTS.parent / "README.md").read_text(encoding="utf-8")
    example = [line for line in page.splitlines() if line.startswith((">>> ", "... "))]
    lines = [line for line in demo.EXAMPLE.splitlines() if line]
    assert sorted(line[4:] for line in example) == sorted(lines)


def test_the_folder_of_photographs_has_40_images_in_each_of_two_classes(tmp_path):
    demo.write_photographs(tmp_path / "photos")
    paths, labels = load_image_folder(tmp_path / "photos")
    assert len(set(paths)) == 80
    assert sorted(labels) == ["flower"] * 40 + ["temple"] * 40


def test_draws_are_stratified_and_disjoint(small, tmp_path):
    digits = demo.Digits(None, tmp_path)
    draws = digits.draws()
    assert len(draws) == 2
    for train, test in draws:
        assert np.bincount(digits.y[train]).tolist() == [3] * 10
        assert len(test) == 20
        assert not set(train) & set(test)


@pytest.mark.sweep
def test_features_are_more_accurate_than_pixels_in_the_full_demonstration(capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(TESTS.parent))
    demo.run()
    output = " ".join(capsys.readouterr().out.split())
    pixels, features = map(float, re.findall(r"(\d+\.\d) % accuracy \(±", output))
    assert features > pixels + 2
