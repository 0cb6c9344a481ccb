import io

import numpy as np
import pandas as pd
import polars as pl
import pytest
from PIL import Image

from sktransfer import load_image_table
from sktransfer.data import open_image

FRAME = pd.DataFrame(
    {"id": [7, 8, 9], "file_name": ["a.png", "/b.png", "http://c/d.png"], "label": ["x", "y", "x"]}
)
WRITERS = {
    "csv": lambda frame, path: frame.to_csv(path, index=False),
    "tsv": lambda frame, path: frame.to_csv(path, sep="\t", index=False),
    "parquet": lambda frame, path: frame.to_parquet(path),
    "jsonl": lambda frame, path: frame.to_json(path, orient="records", lines=True),
}


@pytest.mark.parametrize("ending", WRITERS)
def test_names_of_files_begin_in_the_folder_of_the_table(ending, tmp_path):
    WRITERS[ending](FRAME, tmp_path / f"t.{ending}")
    X, y = load_image_table(tmp_path / f"t.{ending}")
    assert X == [str(tmp_path / "a.png"), "/b.png", "http://c/d.png"]
    assert y.tolist() == ["x", "y", "x"]


@pytest.mark.parametrize("ending", WRITERS)
def test_labels_that_begin_with_a_zero_stay_text(ending, tmp_path):
    frame = FRAME.assign(label=["007", "8", "10"], score=[0.5, 0.25, -0.5])
    WRITERS[ending](frame, tmp_path / f"t.{ending}")
    assert load_image_table(tmp_path / f"t.{ending}")[1].tolist() == ["007", "8", "10"]
    numbers = load_image_table(tmp_path / f"t.{ending}", label=["id", "score"])[1]
    assert numbers.tolist() == [[7, 0.5], [8, 0.25], [9, -0.5]]


@pytest.mark.parametrize("frame", [FRAME, pl.from_pandas(FRAME)])
def test_columns_and_the_folder_can_be_given(frame, tmp_path):
    X, y = load_image_table(frame, image="file_name", label="id", folder=tmp_path)
    assert X[0] == str(tmp_path / "a.png")
    assert y.tolist() == [7, 8, 9]


def test_several_images_and_labels_give_arrays():
    frame = FRAME.assign(other="e.png")
    X, y = load_image_table(frame, image=["file_name", "other"], label=["id", "label"])
    assert X.shape == y.shape == (3, 2)
    assert X[0].tolist() == ["a.png", "e.png"]


def test_encoded_images_of_a_parquet_file(tmp_path):
    buffer = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(buffer, "PNG")
    Image.new("RGB", (3, 2), "blue").save(tmp_path / "blue.png")
    cells = [{"bytes": buffer.getvalue(), "path": None}, {"bytes": None, "path": "blue.png"}]
    pd.DataFrame({"image": cells, "label": [0, 1]}).to_parquet(tmp_path / "t.parquet")
    X, y = load_image_table(tmp_path / "t.parquet")
    assert [open_image(sample)[0, 0].tolist() for sample in X] == [[255, 0, 0], [0, 0, 255]]
    assert y.tolist() == [0, 1]


def test_missing_cells_are_none_and_no_labels_are_none():
    X, y = load_image_table(pd.DataFrame({"path": ["a.png", None, np.nan]}))
    assert X == ["a.png", None, None]
    assert y is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image": "photo"}, r"image='photo': the table has the columns \['id', 'file_name'"),
        ({"label": ["id", "kind"]}, r"label=\"\['id', 'kind'\]\": the table has"),
        ({"image": []}, r"image='\[\]': the table has"),
    ],
)
def test_an_unknown_column_is_named(settings, message):
    with pytest.raises(ValueError, match=message):
        load_image_table(FRAME, **settings)


def test_a_table_without_images_or_with_another_ending_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"No column of images among \['id'\]: give image="):
        load_image_table(FRAME[["id"]])
    with pytest.raises(ValueError, match=r"ends in one of \['.csv'"):
        load_image_table(tmp_path / "t.xlsx")
