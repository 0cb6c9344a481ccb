from pathlib import Path

import numpy as np
import pytest
from PIL import Image

sources = pytest.importorskip("sktransfer.cli.sources")
Columns = sources.Columns


@pytest.fixture
def folder(tmp_path):
    """Splits "Train" and "val", with one and two images of each of two classes."""
    for split, n in (("Train", 1), ("val", 2)):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            for i in range(n):
                Image.new("RGB", (8, 8)).save(tmp_path / split / name / f"{i}.png")
    return tmp_path


def test_a_folder_with_splits_has_samples_for_training_and_for_testing(folder):
    found = sources.read_source(folder, Columns())
    assert [len(part) for part in (found.X, found.y, found.X_test, found.y_test)] == [2, 2, 4, 4]
    assert {Path(path).parts[-3] for path in found.X} == {"Train"}


def test_an_evaluation_uses_the_split_for_testing(folder):
    found = sources.read_source(folder, Columns(), training=False)
    assert {Path(path).parts[-3] for path in found.X} == {"val"}
    assert found.X_test is None


def test_a_folder_without_splits_has_no_samples_for_testing(folder):
    found = sources.read_source(folder / "val", Columns())
    assert (len(found.X), found.X_test) == (4, None)


def test_texts_come_from_their_column(tmp_path):
    pytest.importorskip("pandas")
    path = tmp_path / "texts.csv"
    path.write_text('review,class\ngood film,1\n"dull, long",0\n', encoding="utf-8")
    found = sources.read_source(path, Columns(text="review"))
    assert found.X == ["good film", "dull, long"]
    assert found.y.tolist() == [1, 0]


def test_labels_that_begin_with_a_zero_stay_text(tmp_path):
    pytest.importorskip("pandas")
    path = tmp_path / "t.csv"
    path.write_text("review,image,label\ngood,a.png,001\ndull,b.png,010\n", encoding="utf-8")
    for columns in (Columns(), Columns(text="review")):
        assert sources.read_source(path, columns).y.tolist() == ["001", "010"]


def test_images_of_a_table_are_beside_it(tmp_path):
    pytest.importorskip("pandas")
    (tmp_path / "t.csv").write_text("path,label\na.png,x\n", encoding="utf-8")
    found = sources.read_source(tmp_path / "t.csv", Columns())
    assert found.X == [str(tmp_path / "a.png")]
    assert np.asarray(found.y).tolist() == ["x"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (Columns(text="words"), r"--text words: the columns are \['review', 'k'\]"),
        (Columns(text="review", label="q"), "--label q"),
        (Columns(text="review"), "no column of labels: give --label"),
    ],
)
def test_a_missing_column_is_an_error_that_names_it(tmp_path, columns, message):
    pytest.importorskip("pandas")
    (tmp_path / "t.csv").write_text("review,k\na,1\n", encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        sources.read_source(tmp_path / "t.csv", columns)


def test_a_source_that_does_not_exist_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        sources.read_source(tmp_path / "none", Columns())
