import gc
import os
import shutil
import sys
import threading

import numpy as np
import pytest

from sktransfer import PretrainedFeatureExtractor, backbones
from sktransfer.backbones.words import vectors as vectors_module
from sktransfer.backbones.words.vectors import Vocabulary
from sktransfer.backbones.wordvectors import load_word_vectors
from tests.backbones.words.support import MATRIX, text_file, vectors_of


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def garble(path):
    path.write_bytes(b"{")


def flip(path, byte=-1):
    """Change one bit of a file."""
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage"),
    [(n, cut) for n in ("matrix", "letters", "offsets", "hashes", "order", "meta.json")]
    + [(n, flip) for n in ("matrix", "letters", "offsets", "hashes", "order", "meta.json")]
    + [("meta.json", garble), ("order", os.remove), ("", shutil.rmtree)],
)
def test_a_damaged_entry_is_written_again(tmp_path, reads, home, name, damage):
    path = text_file(tmp_path / "v.txt")
    load_word_vectors(path)
    vectors_module._OPEN.clear()
    (entry,) = (home / "word-vectors").iterdir()
    damage(entry / name)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)
    assert len(reads) == 2
    vectors_module._OPEN.clear()
    load_word_vectors(path)
    assert len(reads) == 2
    assert list((home / "word-vectors").iterdir()) == [entry]


@pytest.mark.parametrize("byte", range(0, 600, 37))
def test_a_flipped_bit_in_the_settings_is_detected(tmp_path, reads, home, byte):
    path = text_file(tmp_path / "v.txt")
    fingerprint = load_word_vectors(path).fingerprint
    (settings,) = (home / "word-vectors").glob("*/meta.json")
    flip(settings, byte % len(settings.read_bytes()))
    assert load_word_vectors(path).fingerprint == fingerprint
    assert len(reads) == 2


def test_damaged_tables_do_not_reach_the_feature_store(tmp_path, home):
    path = text_file(tmp_path / "v.txt")
    settings = {"weights": str(path), "memory": tmp_path / "store"}
    texts = ["the film", "good film"]
    expected = PretrainedFeatureExtractor("word-vectors", weights=str(path)).fit_transform(texts)
    for name in ("matrix", "order"):
        backbones.registry._SHARED.clear()
        gc.collect()  # a table in use is not opened again
        (array,) = (home / "word-vectors").glob(f"*/{name}")
        flip(array, 3)
        found = PretrainedFeatureExtractor("word-vectors", **settings).fit_transform(texts)
        np.testing.assert_array_equal(found, expected)


def test_checksums_are_compared_once_in_a_process(tmp_path, monkeypatch, home):
    path = text_file(tmp_path / "v.txt")
    load_word_vectors(path)
    (folder,) = (home / "word-vectors").iterdir()
    for file in folder.iterdir():
        os.utime(file, (1e9, 1e9))  # what was written just now may be written again unseen
    hashed = []
    checksum = vectors_module.checksum
    monkeypatch.setattr(
        vectors_module, "checksum", lambda *parts: hashed.append(len(parts[0])) or checksum(*parts)
    )
    for _ in range(3):
        load_word_vectors(path)
    assert sorted(hashed)[-5:].count(MATRIX.size) == 1
    assert len(hashed) == 5 + 3  # each array once, the settings each time
    flip(folder / "matrix")
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


def test_an_interrupted_write_leaves_no_files(tmp_path, monkeypatch, home):
    path = text_file(tmp_path / "v.txt")

    def broken(self, words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "from_words", classmethod(broken))
        with pytest.raises(KeyboardInterrupt):
            load_word_vectors(path)
    assert list((home / "word-vectors").iterdir()) == []
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


def test_abandoned_folders_are_removed_after_a_day(tmp_path, home):
    old, new = (home / "word-vectors" / name for name in (".new-old", ".new-new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    load_word_vectors(text_file(tmp_path / "v.txt"))
    assert not old.exists()
    assert new.exists()


def test_readers_never_see_an_incomplete_entry(tmp_path):
    folder, wrong = tmp_path / "entry", []

    def fill(write):
        for start in range(0, 300, 100):
            write("matrix", np.arange(start, start + 100, dtype=np.float32))
        return {}

    def look():
        for _ in range(300):
            entry = vectors_module.map_entry(folder, {"v": 1})
            if entry is not None and not np.array_equal(entry[1]["matrix"], np.arange(300)):
                wrong.append(entry)

    threads = [
        threading.Thread(
            target=lambda: [vectors_module.write_entry(folder, {"v": 1}, fill) for _ in "12345"]
        )
        for _ in range(2)
    ]
    threads.append(threading.Thread(target=look))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert vectors_module.map_entry(folder, {"v": 1}) is not None
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["entry"]


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {"SKTRANSFER_HOME": "/h"}, "/h/word-vectors"),
        ("linux", {"XDG_CACHE_HOME": "/x"}, "/x/sktransfer/word-vectors"),
        ("linux", {"HOME": "/u"}, "/u/.cache/sktransfer/word-vectors"),
        ("darwin", {"HOME": "/u"}, "/u/Library/Caches/sktransfer/word-vectors"),
        ("win32", {"LOCALAPPDATA": "/l"}, "/l/sktransfer/word-vectors"),
    ],
)
def test_the_cache_folder_of_each_platform(monkeypatch, platform, variables, expected):
    for name in ("SKTRANSFER_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert vectors_module.cache_folder().as_posix() == expected
