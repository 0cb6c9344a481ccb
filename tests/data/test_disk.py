import os

import pytest

from sktransfer.data import CacheError, disk, new_folder, replace_file


def write(place, text):
    with new_folder(place) as folder:
        (folder / "part").write_text(text)


def test_a_file_has_the_new_content_or_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "state"
    replace_file(path, b"one ", b"file")
    assert path.read_bytes() == b"one file"

    def full(number):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match="No space left"):
        replace_file(path, b"two")
    assert path.read_bytes() == b"one file"
    assert os.listdir(tmp_path) == ["state"]  # nothing half-written is left


def test_a_folder_is_complete_or_is_what_it_was(tmp_path):
    write(tmp_path / "a" / "entry", "old")
    write(tmp_path / "a" / "entry", "new")
    assert (tmp_path / "a" / "entry" / "part").read_text() == "new"
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "a" / "entry") as folder:
        (folder / "part").write_text(str(1 / 0))
    assert (tmp_path / "a" / "entry" / "part").read_text() == "new"
    assert os.listdir(tmp_path / "a") == ["entry"]


def test_the_folder_of_another_process_that_was_faster_stays(tmp_path, monkeypatch):
    place, rename = tmp_path / "entry", os.rename

    def late(source, target):
        """Another process moves its folder there just before each of ours."""
        if target == place and not place.exists():
            place.mkdir()
            (place / "part").write_text("theirs")
        rename(source, target)

    monkeypatch.setattr(disk.os, "rename", late)
    write(place, "ours")
    assert (place / "part").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["entry"]


def test_a_folder_that_cannot_be_moved_is_an_error(tmp_path, monkeypatch):
    def refused(source, target):
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(disk.os, "rename", refused)
    with pytest.raises(CacheError, match="Permission denied"):
        write(tmp_path / "entry", "ours")
    assert os.listdir(tmp_path) == []


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path):
    for name in (".new-old", ".old-old", ".new-recent"):
        (tmp_path / name).mkdir()
        if name.endswith("-old"):
            os.utime(tmp_path / name, (0, 0))
    write(tmp_path / "entry", "content")
    assert sorted(os.listdir(tmp_path)) == [".new-recent", "entry"]
