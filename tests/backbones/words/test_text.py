import gzip
import sys

import numpy as np
import pytest

from sktransfer.backbones.words import files
from sktransfer.backbones.wordvectors import load_word_vectors
from tests.backbones.words.support import MATRIX, lines, text_file, vectors_of


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("header", [True, False])
def test_text_files_with_and_without_a_header(tmp_path, header, suffix):
    content = lines(header=header).encode()
    path = tmp_path / f"vectors.txt{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


def test_a_first_line_longer_than_the_recognised_part(tmp_path):
    matrix = np.random.default_rng(0).standard_normal((2, 30_000)).astype(np.float32)
    path = text_file(tmp_path / "v.txt", words=["a", "b"], matrix=matrix)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path), ["a", "b"]), matrix)


def test_words_with_spaces_as_in_glove_840b(tmp_path):
    words = ["at", ". . .", "at name@domain.com", "on"]
    path = text_file(tmp_path / "glove.txt", words=words, matrix=MATRIX[:4], header=False)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path), words), MATRIX[:4])


@pytest.mark.parametrize("header", [True, False])
def test_a_byte_order_mark_is_removed(tmp_path, header):
    (tmp_path / "v.txt").write_text(lines(header=header), encoding="utf-8-sig")
    np.testing.assert_array_equal(vectors_of(load_word_vectors(tmp_path / "v.txt")), MATRIX)


def test_a_first_word_that_ends_with_a_number_does_not_set_the_dimension(tmp_path):
    (tmp_path / "v.txt").write_text("2 000 0.5 0.25\n" + lines(header=False))
    with pytest.raises(ValueError, match="entry 1: not a word and 5 numbers, but b'2 000"):
        load_word_vectors(tmp_path / "v.txt")


def test_windows_line_ends_and_trailing_blank_lines(tmp_path):
    path = tmp_path / "vectors.vec"
    path.write_bytes(lines().replace("\n", " \r\n").encode() + b"\r\n\n")
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


def test_numbers_are_equal_with_and_without_pandas(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((200, 7)) * 10.0 ** rng.integers(-30, 30, (200, 7))
    written = [" ".join(map(repr, row.tolist())).encode() for row in rows]
    for found in (files._by_pandas(written, 7), files._by_numpy(written, 7)):
        np.testing.assert_array_equal(found, rows.astype(np.float32))
    monkeypatch.setitem(sys.modules, "pandas", None)
    path = text_file(tmp_path / "v.txt")
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)
    path.write_text("a 1 2\nb 3 x\n")
    with pytest.raises(ValueError, match="'b' has b'x'"):
        load_word_vectors(path)


@pytest.mark.parametrize("n_numbers", [3, 60_000])
def test_long_lines(tmp_path, n_numbers):
    (tmp_path / "v.txt").write_text("a" + " 1" * n_numbers + "\nb" + " 2" * n_numbers + "\n")
    backbone = load_word_vectors(tmp_path / "v.txt")
    assert vectors_of(backbone, ["a", "b"]).tolist() == [[1.0] * n_numbers, [2.0] * n_numbers]
