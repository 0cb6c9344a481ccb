import io
import os
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from PIL import Image
from torch.utils.data import ConcatDataset, Subset, TensorDataset
from torchvision import datasets

from sktransfer import UnreadableSamplesError, from_dataset, load_image_folder, load_image_table
from sktransfer.data import get_modality, list_files, list_splits, open_columns, open_table

open_image = get_modality("image").open


def fill(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(path, "PNG")


def names(X, folder):
    return [Path(path).relative_to(folder).as_posix() for path in X]


def test_sub_folders_are_the_labels(tmp_path):
    fill(tmp_path, "dog/2.png", "dog/1", "cat/old/3.png", "cat/b.png")
    X, y = load_image_folder(tmp_path)
    assert names(X, tmp_path) == ["cat/b.png", "cat/old/3.png", "dog/1", "dog/2.png"]
    assert y.tolist() == ["cat", "cat", "dog", "dog"]
    assert all(type(path) is str for path in X)


def test_hidden_files_and_those_of_systems_are_ignored(tmp_path):
    fill(tmp_path, "a/1.png", "a/.DS_Store", "a/Thumbs.db", ".git/x.png", "__MACOSX/a/1.png")
    assert names(load_image_folder(str(tmp_path))[0], tmp_path) == ["a/1.png"]


def test_a_split_is_chosen_by_name(tmp_path):
    fill(tmp_path, "train/a/1.png", "train/b/2.png", "val/a/3.png", "val/b/4.png")
    assert list_splits(tmp_path) == ["train", "val"]
    X, y = load_image_folder(tmp_path, split="val")
    assert (names(X, tmp_path), y.tolist()) == (["val/a/3.png", "val/b/4.png"], ["a", "b"])
    with pytest.raises(ValueError, match=r"has the splits \['train', 'val'\]: give split="):
        load_image_folder(tmp_path)
    with pytest.raises(ValueError, match=r"split='dev': .* has the sub-folders \['train', 'val'\]"):
        load_image_folder(tmp_path, split="dev")


def test_classes_that_are_named_as_splits_are_classes(tmp_path):
    fill(tmp_path, "test/1.png", "train/2.png")
    assert list_splits(tmp_path) == []
    assert load_image_folder(tmp_path)[1].tolist() == ["test", "train"]


def test_unreadable_files_are_listed(tmp_path):
    fill(tmp_path, "a/1.png", "b/2.png")
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "b" / "empty.jpg").touch()
    with pytest.raises(UnreadableSamplesError, match=r"2 samples (.|\n)*not an image \(8 by") as e:
        load_image_folder(tmp_path)
    bad = names([file for _, file, _ in e.value.problems], tmp_path)
    assert bad == ["a/notes.txt", "b/empty.jpg"]
    with pytest.warns(UserWarning, match=r"Left out: 2 samples (.|\n)*empty.jpg"):
        X, y = load_image_folder(tmp_path, on_error="skip")
    assert (names(X, tmp_path), y.tolist()) == (["a/1.png", "b/2.png"], ["a", "b"])


def test_a_class_without_images_is_named(tmp_path):
    fill(tmp_path, "a/1.png")
    (tmp_path / "b").mkdir()
    with pytest.raises(ValueError, match=r"sub-folders \['b'\] contain no images"):
        load_image_folder(tmp_path)


def test_images_beside_the_classes_are_refused_and_other_files_are_not(tmp_path):
    fill(tmp_path, "a/1.png")
    (tmp_path / "README").write_text("two classes")
    assert len(load_image_folder(tmp_path)[0]) == 1
    fill(tmp_path, "2.png")
    with pytest.raises(ValueError, match=r"1 images, such as .*2.png', are in no sub-folder"):
        load_image_folder(tmp_path)


def test_a_folder_without_sub_folders_is_refused(tmp_path):
    fill(tmp_path, "1.png")
    with pytest.raises(ValueError, match="Each class needs a sub-folder"):
        load_image_folder(tmp_path)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_image_folder(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError):
        load_image_folder(tmp_path / "1.png")


def test_the_home_folder_and_links_are_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path, "photos/a/1.png", "more/2.png")
    os.symlink(tmp_path / "more", tmp_path / "photos" / "b")
    os.symlink(tmp_path / "photos" / "a", tmp_path / "photos" / "a" / "loop")
    X, _ = load_image_folder("~/photos")
    assert names(X, tmp_path / "photos") == ["a/1.png", "b/2.png"]
    assert len(list_files("~/photos")) == 2


def test_another_value_of_on_error_is_refused(tmp_path):
    with pytest.raises(ValueError, match="on_error='ignore'"):
        load_image_folder(tmp_path, on_error="ignore")


@pytest.mark.data
def test_a_data_set_with_splits(hymenoptera):
    files, labels = hymenoptera["train"]
    X, y = load_image_folder(Path(files[0]).parents[2], split="train")
    assert (X, y.tolist()) == ([str(file) for file in files], labels)


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


IMAGES = np.random.default_rng(0).integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)


class Labelled:
    """A data set of pairs that counts how often samples are opened."""

    def __init__(self, **attributes):
        self.n_opened = 0
        vars(self).update(attributes)

    def __len__(self):
        return 4

    def __getitem__(self, i):
        self.n_opened += 1
        return IMAGES[i], [1, 0, 1, 1][i]


class HuggingFace:
    """The methods of ``datasets.Dataset`` that are used."""

    column_names = ["img", "label"]

    def __init__(self, names):
        label = type("ClassLabel", (), {"names": names})() if names else object()
        self.features = {"img": object(), "label": label}

    def __len__(self):
        return 4

    def __getitem__(self, key):
        if key == "label":
            return [1, 0, 1, 1]
        assert isinstance(key, int)
        return {"img": Image.fromarray(IMAGES[key]), "label": [1, 0, 1, 1][key]}


@pytest.mark.parametrize(
    ("dataset", "labels"),
    [
        (Labelled(), [1, 0, 1, 1]),
        (Labelled(targets=torch.tensor([1, 0, 1, 1])), [1, 0, 1, 1]),
        (
            Labelled(labels=np.array([1, 0, 1, 1]), classes=["no", "yes"]),
            ["yes", "no", "yes", "yes"],
        ),
        (Labelled(targets=[1, 0, 1, 1], target_transform=abs, classes="ab"), [1, 0, 1, 1]),
        (Labelled(targets=[5, 6, 7, 5], classes=["a"]), [5, 6, 7, 5]),
        (Subset(Labelled(targets=[1, 0, 1, 1], classes=["a", "b"]), [1, 2]), ["a", "b"]),
        (ConcatDataset([Labelled(targets=[1, 0, 1, 1]), Labelled()]), [1, 0, 1, 1] * 2),
        (TensorDataset(torch.zeros(2, 3, 4, 4), torch.tensor([3, 4])), [3, 4]),
        (HuggingFace(["no", "yes"]), ["yes", "no", "yes", "yes"]),
        (HuggingFace(None), [1, 0, 1, 1]),
    ],
)
def test_labels_of_a_dataset(dataset, labels):
    X, y = from_dataset(dataset)
    assert y.tolist() == labels
    assert len(X) == len(labels)
    assert open_image(X[1]).shape[2] == 3


def test_known_labels_are_taken_without_opening_samples():
    dataset = Labelled(targets=[1, 0, 1, 1])
    from_dataset(dataset)
    assert dataset.n_opened == 0


def test_image_and_label_can_be_named():
    class Odd(Labelled):
        def __getitem__(self, i):
            return {"photo": IMAGES[i], "kind": "xyyx"[i]}

    X, y = from_dataset(Odd(), image="photo", label="kind")
    assert np.array_equal(open_image(X[3]), IMAGES[3])
    assert y.tolist() == list("xyyx")
    with pytest.raises(TypeError, match=r"without a label\. Give label="):
        from_dataset(Odd())


def test_an_image_folder_of_torchvision(tmp_path):
    for i, name in enumerate("abba"):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(IMAGES[i]).save(tmp_path / name / f"{i}.png")
    X, y = from_dataset(datasets.ImageFolder(tmp_path))
    assert y.tolist() == ["a", "a", "b", "b"]
    assert np.array_equal(open_image(X[1]), IMAGES[3])


def test_a_stream_is_refused():
    with pytest.raises(TypeError, match=r"X, y = zip\(\*dataset\)"):
        from_dataset(iter([(IMAGES[0], 1)]))


def test_several_columns_that_may_be_labels_are_an_error_until_one_is_named():
    table = pd.DataFrame({"path": ["a.jpg", "b.jpg"], "label": [0, 1], "class": ["ant", "bee"]})
    with pytest.raises(ValueError, match=r"\['label', 'class'\]: give label='label'"):
        load_image_table(table)
    assert load_image_table(table, label="class")[1].tolist() == ["ant", "bee"]


def test_a_table_without_a_row_of_names_is_an_error_that_shows_the_row(tmp_path):
    (tmp_path / "table.csv").write_text("a.jpg,ant\nb.jpg,bee\n")
    with pytest.raises(ValueError, match=r"among \['a.jpg', 'ant'\].*such as image,label"):
        load_image_table(tmp_path / "table.csv")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_table_is_named(content, tmp_path):
    (tmp_path / "t.csv").write_text(content)
    with pytest.raises(ValueError, match=r"t\.csv' is empty"):
        load_image_table(tmp_path / "t.csv")


def test_a_boolean_column_of_a_file_has_its_text(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("path,garden,price,more\na.jpg,true,1.50,x\nb.jpg,,2,1.50\nc.jpg,FALSE,3,\n")
    frame, _ = open_table(path)
    assert frame["garden"].fillna("").tolist() == ["true", "", "FALSE"]
    assert frame["price"].tolist() == [1.5, 2, 3]
    assert open_table(path, ["price"])[0]["price"].tolist() == ["1.50", "2", "3"]


def test_columns_of_a_fitted_estimator_are_read_cell_by_cell(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("code,price,is_new\n1,1.50,true\n2,abc,\n3,,false\n4,007,true\n")
    kinds = {"code": "category", "price": "number", "is_new": "number"}
    frame, folder = open_columns(path, kinds)
    assert frame["code"].tolist() == ["1", "2", "3", "4"]
    assert frame["price"].fillna("").tolist() == [1.5, "abc", "", 7]
    assert frame["is_new"].fillna(-1).tolist() == [1, -1, 0, 1]
    assert folder == tmp_path
    with pytest.raises(ValueError, match=r"lacks columns that it had in fit: \['size'\]"):
        open_columns(path, {"size": "number"})
