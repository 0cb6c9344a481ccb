import pytest

from tests.cli.running import run

for library in ("jinja2", "captum", "cleanlab", "skops"):
    pytest.importorskip(library)


def test_a_page_about_a_folder_is_written(classes, tiny, tmp_path):
    page = tmp_path / "page.html"
    done = run("report", classes, "-o", page, "--backbone", tiny, "--folds", 2)
    assert done.stdout.startswith("accuracy 1.000 (")
    assert f"wrote {page}" in done.stdout
    assert "Predicting 24 samples in 2 folds." in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "TransferClassifier on tinynet" in text
    assert "24 images" in text


def test_a_saved_model_is_judged_on_samples_that_it_has_not_seen(classes, tiny, tmp_path):
    model, page = tmp_path / "own.skt", tmp_path / "page.html"
    run("train", classes, "-o", model, "--backbone", tiny)
    done = run("report", classes, "-o", page, "--model", model, "--held-out")
    assert "Predicting 24 samples as it is." in done.stderr
    text = page.read_text(encoding="utf-8")
    assert "own.skt" in text
    assert "it was not fitted on them" in text


def test_held_out_samples_need_a_model(classes):
    with pytest.raises(ValueError, match="--held-out needs a saved model"):
        run("report", classes, "--held-out")
