import os
from pathlib import Path

import pytest
from PIL import Image

from sktransfer import UnreadableSamplesError, load_image_folder
from sktransfer.data import list_files, list_splits


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
