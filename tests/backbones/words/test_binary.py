import struct

import numpy as np
import pytest

from sktransfer.backbones.words import files
from sktransfer.backbones.wordvectors import load_word_vectors
from tests.backbones.words.support import MATRIX, WORDS, binary, vectors_of


def test_headers_with_too_large_numbers_raise_before_memory_is_allocated(tmp_path):
    for header in (b"99999999999 300", b"2 99999999999999", b"0 0"):
        (tmp_path / "v.bin").write_bytes(header + b"\na \x00\x00\x80?\xff" * 2)
        with pytest.raises(ValueError, match="announced"):
            load_word_vectors(tmp_path / "v.bin")


def header_of(content):
    """Return the numbers at the beginning of a FastText file, by name, and the rest."""
    size = struct.calcsize(files._HEADER)
    numbers = struct.unpack(files._HEADER, content[:size])
    return dict(zip(files._FIELDS, numbers, strict=True)), content[size:]


def announcing(content, **changes):
    """Return a FastText file whose header holds other numbers."""
    header, rest = header_of(content)
    return struct.pack(files._HEADER, *(header | changes).values()) + rest


def of_shape(content, *shape):
    """Return a FastText file whose matrix has another shape by its header."""
    header, _ = header_of(content)
    known = struct.pack("<2q", header["size"] + header["bucket"], header["dim"])
    return content.replace(known, struct.pack("<2q", *shape), 1)


HUGE = 2**31 - 1


HOSTILE = {
    "103 bytes": lambda good: good[:103],
    "the header alone": lambda good: good[: struct.calcsize(files._HEADER)],
    "a longer file": lambda good: good + b"xyz",
    "a word without an end": lambda good: good[:110] + b"a" * 20_000,
    "quantised": lambda good: good.replace(b"\0" + good[193:209], b"\1" + good[193:209], 1),
    **{
        f"{name}={value}": lambda good, name=name, value=value: announcing(good, **{name: value})
        for name, values in {
            "dim": (0, -1, 7, HUGE),
            "size": (0, -1, 5, HUGE),
            "bucket": (-1, 49, 51, HUGE),
            "n_labels": (1, HUGE),
            "n_pruned": (1, 2**62),
            "minn": (-1,),
            "maxn": (-1, HUGE),
            "t": (float("inf"), float("nan")),
        }.items()
        for value in values
    },
    **{
        f"shape {shape}": lambda good, shape=shape: of_shape(good, *shape)
        for shape in [(2**40, 6), (57, 2**40), (-57, -6), (0, 0), (56, 6), (57, 5), (2**62, 2**62)]
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_fasttext_headers_that_do_not_match_the_file_raise(tmp_path, facebook, name):
    content = HOSTILE[name](facebook.read_bytes())
    assert content != facebook.read_bytes()
    (tmp_path / "hostile.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"hostile\.bin: not a file of word vectors"):
        load_word_vectors(tmp_path / "hostile.bin")


@pytest.mark.parametrize("kind", ["fasttext", "word2vec"])
def test_truncated_binary_files_raise(tmp_path, facebook, kind):
    pytest.importorskip("gensim")
    content = facebook.read_bytes() if kind == "fasttext" else binary(end=b"")
    rng = np.random.default_rng(0)
    for size in rng.integers(20, len(content) - 1, 30).tolist():
        path = tmp_path / f"{size}.bin"
        path.write_bytes(content[:size])
        try:
            found = load_word_vectors(path)
        except ValueError as error:
            assert path.name in str(error)
        else:  # the output layer of FastText may be missing as a whole
            assert kind == "fasttext"
            assert found.fingerprint == load_word_vectors(facebook).fingerprint


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"11 5\n", "11 words of 5 numbers are announced, and 24 bytes follow"),
        (b"13 5\n", "13 words are announced, word 13 is not complete"),
        (b"12 4\n", "announced"),
        (b"12 6\n", "announced"),
    ],
)
def test_word2vec_headers_that_do_not_match_the_file_raise(tmp_path, header, message):
    content = binary(end=b"").replace(b"12 5\n", header)
    (tmp_path / "v.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"v\.bin: .*{message}"):
        load_word_vectors(tmp_path / "v.bin")


def test_max_words_reads_the_beginning_of_a_truncated_file(tmp_path):
    (tmp_path / "v.bin").write_bytes(binary()[:-40])
    found = vectors_of(load_word_vectors(tmp_path / "v.bin", max_words=9), WORDS[:9])
    np.testing.assert_array_equal(found, MATRIX[:9])
