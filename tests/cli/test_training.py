import json
import re

import numpy as np
import pytest

import sktransfer
from tests.cli.running import run

pytest.importorskip("skops")


@pytest.fixture
def model(classes, tiny, tmp_path):
    run("train", classes, "-o", tmp_path / "model.skt", "--backbone", tiny)
    return tmp_path / "model.skt"


def test_a_model_is_trained_on_all_samples_after_a_test_on_held_out_ones(classes, tiny, tmp_path):
    path = tmp_path / "model.skt"
    done = run("train", classes, "-o", path, "--backbone", tiny)
    lines = done.stdout.splitlines()
    assert re.fullmatch(r"accuracy [01]\.\d{3} ± 0\.\d{3} on 5 held-out samples", lines[0])
    assert lines[1] == "the weighted mean of"
    assert sum(float(line.split("\t")[0]) for line in lines[3:-1]) == pytest.approx(1, abs=0.03)
    assert lines[-1].startswith(f"saved {path} (")
    assert "Training on 19 samples, 5 are held out." in done.stderr
    assert "Training on all 24 samples." in done.stderr
    assert sktransfer.load(path).classes_.tolist() == ["dark", "light"]


def test_samples_for_testing_that_the_folder_has_are_not_trained_on(classes, tiny, tmp_path):
    (classes / "train").mkdir()
    for name in ("dark", "light"):
        (classes / name).rename(classes / "train" / name)
        (classes / "test" / name).mkdir(parents=True)
        for path in sorted((classes / "train" / name).iterdir())[:3]:
            path.rename(classes / "test" / name / path.name)
    done = run("train", classes, "-o", tmp_path / "m.skt", "--backbone", tiny)
    assert "on 6 held-out samples" in done.stdout
    assert "Training on all" not in done.stderr


@pytest.mark.parametrize("strategy", ["features", "head"])
def test_a_strategy_can_be_given(classes, tiny, tmp_path, strategy):
    out = run("train", classes, "-o", tmp_path / "m", "--backbone", tiny, "--strategy", strategy)
    assert f"strategy {strategy}\n" in out.stdout
    assert sktransfer.load(tmp_path / "m").strategy_ == strategy


def test_few_samples_are_all_used_for_training(classes, tiny, tmp_path):
    for name in ("dark", "light"):
        for path in sorted((classes / name).iterdir())[4:]:
            path.unlink()
    done = run("train", classes, "-o", tmp_path / "m.skt", "--backbone", tiny)
    assert "held-out" not in done.stdout


@pytest.mark.filterwarnings("default:Left out")  # it is printed
def test_a_file_that_is_no_image_is_named_and_left_out(classes, tiny, tmp_path):
    (classes / "dark" / "notes.txt").write_text("no image")
    done = run("train", classes, "-o", tmp_path / "m.skt", "--backbone", tiny)
    assert "Warning: Left out: 1 sample could not be read:" in done.stderr
    assert "notes.txt" in done.stderr
    assert "Training on all 24 samples." in done.stderr


def test_numbers_are_predicted_from_a_table(classes, tiny, tmp_path):
    pytest.importorskip("pandas")
    rows = [
        f"{name}/{i:02}.png,{value + i / 8}"
        for name, value in (("dark", 1), ("light", 2))
        for i in range(12)
    ]
    (classes / "table.csv").write_text("\n".join(["path,target", *rows]))
    done = run("train", classes / "table.csv", "-o", tmp_path / "m.skt", "--backbone", tiny)
    assert done.stdout.startswith("mean absolute error ")
    predicted = sktransfer.load(tmp_path / "m.skt").predict([classes / "dark" / "00.png"])
    assert np.isfinite(predicted).all()
    again = run("evaluate", tmp_path / "m.skt", classes / "table.csv", "--json")
    assert json.loads(again.stdout)["name"] == "mean absolute error"


def test_a_place_where_nothing_can_be_written_is_an_error_before_the_work(classes, tmp_path):
    with pytest.raises(ValueError, match="--output"):
        run("train", classes, "-o", tmp_path / "no" / "m.skt", "--backbone", "no such network")


def test_an_evaluation_reports_the_accuracy_and_each_class(model, classes):
    lines = run("evaluate", model, classes).stdout.splitlines()
    assert re.fullmatch(r"accuracy [01]\.\d{3} ± 0\.\d{3} on 24 held-out samples", lines[0])
    assert lines[1] == "class\tsamples\trecall\tprecision"
    assert [line.split("\t")[:2] for line in lines[2:]] == [["dark", "12"], ["light", "12"]]


def test_an_evaluation_as_json_is_that_of_the_model(model, classes):
    found = json.loads(run("evaluate", model, classes, "--json").stdout)
    X, y = sktransfer.load_image_folder(classes)
    assert found["value"] == sktransfer.load(model).score(X, y)
    assert found["n"] == 24


def test_a_time_budget_of_numbers_is_an_error(classes, tmp_path):
    pytest.importorskip("pandas")
    (classes / "t.csv").write_text("path,target\ndark/00.png,0.5\ndark/01.png,0.7\n")
    with pytest.raises(ValueError, match="--time-budget"):
        run("train", classes / "t.csv", "-o", tmp_path / "m.skt", "--time-budget", 5)
