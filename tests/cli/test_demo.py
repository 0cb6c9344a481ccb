import os
import re

import numpy as np
import pytest
from sklearn.datasets import load_digits

pytest.importorskip("rich")

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


def test_the_demonstration_runs_from_photographs_to_a_new_process(small, capsys):
    demo.run()
    output = " ".join(capsys.readouterr().out.split())
    assert "palace" in output
    assert "daisy" in output
    assert "60 digits, 2 layers" in output
    assert output.count("% accuracy") == 2
    assert "20 of 20 predictions equal" in output
    assert "selected" in output


def test_other_predictions_of_the_new_process_are_an_error(small, monkeypatch, tmp_path):
    import rich

    digits = demo.Digits(rich.get_console(), tmp_path)
    digits.first = digits.draws()[0]
    digits.search = digits.searches()["fixed features"].fit(digits.images, digits.y)

    def other_process(command, check):
        assert check
        predicted = digits.search.predict(np.load(tmp_path / "digits.npy"))
        np.save(tmp_path / "again.npy", (predicted + (np.arange(20) < 1)) % 10)

    monkeypatch.setattr(demo.subprocess, "run", other_process)
    with pytest.raises(AssertionError, match="only 19 of 20 predictions are equal"):
        digits.new_process()


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
    pixels, features = map(float, re.findall(r"(\d+\.\d) % accuracy", output))
    assert features > pixels + 2
