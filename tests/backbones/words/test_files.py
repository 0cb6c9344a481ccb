import gzip
import os
import pickle
import struct
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer.backbones.words.files import Subwords
from sktransfer.backbones.wordvectors import load_word_vectors
from tests.backbones.words.support import (
    MATRIX,
    VECTORS,
    WORDS,
    assert_embedded_as_by_gensim,
    binary,
    keyed_vectors,
    lines,
    text_file,
    vectors_of,
)
from tests.support import TESTS


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_binary_files_of_word2vec(tmp_path, suffix, end):
    path = tmp_path / f"vectors.bin{suffix}"
    path.write_bytes(gzip.compress(binary(end=end)) if suffix else binary(end=end))
    np.testing.assert_array_equal(vectors_of(load_word_vectors(str(path))), MATRIX)


@pytest.mark.parametrize("byte", [b"\n", b"7\n", b" 1\n", b"\r\n"])
@pytest.mark.parametrize("dim", [5, 40_000])
def test_binary_numbers_may_contain_line_ends_and_digits(tmp_path, byte, dim):
    matrix = np.random.default_rng(0).standard_normal((3, dim)).astype(np.float32)
    matrix[0, :1].view(np.uint8)[: len(byte)] = np.frombuffer(byte, np.uint8)
    (tmp_path / "v.bin").write_bytes(binary(WORDS[:3], matrix))
    found = vectors_of(load_word_vectors(tmp_path / "v.bin"), WORDS[:3])
    np.testing.assert_array_equal(found, matrix)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_gzipped_files_are_recognised_by_their_content(tmp_path, facebook, fasttext, suffix):
    zipped = tmp_path / f"zipped.bin{suffix}"
    zipped.write_bytes(gzip.compress(binary()))
    np.testing.assert_array_equal(vectors_of(load_word_vectors(zipped)), MATRIX)
    zipped.write_bytes(gzip.compress(facebook.read_bytes()))
    assert_embedded_as_by_gensim(load_word_vectors(zipped), fasttext.wv, ["landlord", "payee"])
    zipped.write_bytes(gzip.compress(facebook.read_bytes())[:-20])
    with pytest.raises(ValueError, match="compressed file is damaged"):
        load_word_vectors(zipped)


def test_a_gz_suffix_without_gzip_content_is_ignored(tmp_path):
    (tmp_path / "v.bin.gz").write_bytes(binary())
    np.testing.assert_array_equal(vectors_of(load_word_vectors(tmp_path / "v.bin.gz")), MATRIX)


@pytest.mark.parametrize("dim", range(2, 6))
def test_binary_numbers_of_any_bytes(tmp_path, dim):
    rng = np.random.default_rng(dim)
    for i in range(40):
        matrix = rng.integers(0, 256, (3, 4 * dim), np.uint8)
        matrix[0, -2:] = (0x35, 0x0A) if i % 2 else (0x0A, 0x35)
        matrix = np.nan_to_num(matrix.view(np.float32), nan=1, posinf=1, neginf=1)
        (tmp_path / f"{i}.bin").write_bytes(binary(["a", "bb", "c"], matrix, end=b""))
        found = vectors_of(load_word_vectors(tmp_path / f"{i}.bin"), ["a", "bb", "c"])
        np.testing.assert_array_equal(found, matrix)


def test_the_file_of_the_benchmark_has_the_word2vec_format(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(TESTS.parent / "benchmarks"))
    words_speed = pytest.importorskip("words_speed", exc_type=ImportError)
    words_speed.large(tmp_path / "large.bin", n_words=10_000, dim=4)
    backbone = load_word_vectors(tmp_path / "large.bin")
    assert backbone.preprocess.vectors.vocabulary.word(10_000) == "w9999"
    assert backbone.stages["embedding"].dim == 4


def test_files_that_gensim_writes_in_the_format_of_word2vec(tmp_path):
    kv = keyed_vectors()
    for name, is_binary in [("v.txt", False), ("v.bin", True)]:
        kv.save_word2vec_format(tmp_path / name, binary=is_binary)
        found = vectors_of(load_word_vectors(tmp_path / name))
        np.testing.assert_array_equal(found, MATRIX)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("was-here",)


@pytest.mark.parametrize("suffix", ["kv", "kv.gz"])
def test_pickles_raise_and_their_code_does_not_run(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    kv = keyed_vectors()
    kv.extra = Malicious()
    kv.save(f"saved.{suffix}")
    with pytest.raises(ValueError, match=r"A pickle, .* load it with gensim .*model\.wv"):
        load_word_vectors(f"saved.{suffix}")
    assert not (tmp_path / "was-here").exists()


def test_keyed_vectors_loaded_by_gensim(tmp_path, fasttext):
    models = pytest.importorskip("gensim.models")
    path = str(tmp_path / "saved.kv")
    keyed_vectors().save(path, separately=["vectors"])
    for kv in (models.KeyedVectors.load(path), models.KeyedVectors.load(path, mmap="r")):
        np.testing.assert_array_equal(vectors_of(load_word_vectors(kv)), MATRIX)
    fasttext.wv.save(path)
    again = models.fasttext.FastTextKeyedVectors.load(path)
    assert_embedded_as_by_gensim(load_word_vectors(again), fasttext.wv, ["landlord", "landlords"])


@pytest.mark.parametrize(
    "weights",
    [
        (WORDS, MATRIX),
        [np.array(WORDS), MATRIX.tolist()],
        (WORDS, torch.from_numpy(MATRIX)),
        (WORDS, np.asfortranarray(MATRIX.astype(np.float64))),
        (WORDS, MATRIX[::-1, ::-1].copy()[::-1, ::-1]),
        (WORDS, nn.Parameter(torch.from_numpy(MATRIX.copy()))),
        (WORDS, torch.from_numpy(MATRIX.astype(np.float64)).requires_grad_()),
        VECTORS,
    ],
)
def test_words_and_vectors_in_memory(weights):
    np.testing.assert_array_equal(vectors_of(load_word_vectors(weights)), MATRIX)


def test_keyed_vectors_and_models_in_memory(fasttext):
    np.testing.assert_array_equal(vectors_of(load_word_vectors(keyed_vectors())), MATRIX)
    for weights in (fasttext, fasttext.wv):
        assert_embedded_as_by_gensim(load_word_vectors(weights), fasttext.wv, ["landlord", "lady"])


def test_a_float32_matrix_is_not_copied_or_changed():
    matrix = MATRIX.copy()
    matrix.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        backbone = load_word_vectors((WORDS, matrix))
    shared = backbone.preprocess.vectors.matrix
    assert shared.data_ptr() == matrix.ctypes.data
    table = backbone.stages["embedding"].restricted(np.array([1, 2]))
    train(table, torch.tensor([[1, 2]]))
    np.testing.assert_array_equal(matrix, MATRIX)


def test_the_first_of_equal_words_is_used(tmp_path):
    words = ["a", "b", "a"]
    (tmp_path / "v.bin").write_bytes(binary(words, MATRIX[:3]))
    path = text_file(tmp_path / "v.txt", words=words, matrix=MATRIX[:3])
    for weights in ((words, MATRIX[:3]), path, tmp_path / "v.bin"):
        found = vectors_of(load_word_vectors(weights), ["a", "b"])
        np.testing.assert_array_equal(found, MATRIX[:2])


@pytest.mark.parametrize("form", ["text", "binary", "memory"])
@pytest.mark.parametrize(
    ("bounds", "kept"),
    [
        ({"max_words": 3}, WORDS[:3]),
        ({"vocabulary": ["good", "film", "good", "unheard"]}, ["film", "good"]),
        ({"vocabulary": {"bad", "it", "good"}, "max_words": 2}, ["good", "it"]),
        ({"max_words": 99}, WORDS),
    ],
)
def test_vocabulary_and_max_words_select_words(tmp_path, form, bounds, kept):
    weights = (WORDS, MATRIX)
    if form == "text":
        weights = text_file(tmp_path / "v.txt", header=False)
    elif form == "binary":
        weights = tmp_path / "v.bin"
        weights.write_bytes(binary())
    backbone = load_word_vectors(weights, **bounds)
    vocabulary = backbone.preprocess.vectors.vocabulary
    assert [vocabulary.word(i + 1) for i in range(len(vocabulary))] == kept
    np.testing.assert_array_equal(vectors_of(backbone, kept), [VECTORS[word] for word in kept])
    full = load_word_vectors(weights)
    assert (full.fingerprint == backbone.fingerprint) == (kept == WORDS)


def test_other_files_raise_with_the_reason(tmp_path):
    path = tmp_path / "v.txt"
    cases = {
        b"": "not a file of word vectors",
        b"PK\x03\x04 zip": "Unpack the archive",
        b"\x93NUMPY\x01\x00": r"\(words, matrix\)",
        b"an ordinary text\nof two lines\n": "not a file of word vectors",
        b"3 2\na 1 2\nb 3 4\n": "3 words are announced, the file ends at 2",
        b"0 300\n": "no words",
        b"a 1 2\nb 3\n": "entry 2: not a word and 2 numbers",
        b"a 1 2\nb 3 4 5\n": "entry 2: not a word and 2 numbers",
        b"a 1  2\nb 3  4\n": "entry 1: .* two spaces",
        b"a  1 2\nb  3 4\n": "entry 1: .* two spaces",
        b"a\t1 2\nb\t3 4\n": "entry 1: .* no tab",
        b"2 2\na\t1\t2\nb\t3\t4\n": "entry 1: .* no tab",
        b"a\t1\t2\nb\t3\t4\n": "no tab",
        b"a 1 2\rb 3 4\r": "CR alone",
        b"2 0\na\nb\n": "0 numbers",
        b"a 1 2\nb 3 x\n": "'b' has b'x' for a number",
        b"a 1 2\nb 3 4 \nc nan 1\n": "vector of 'c'.*NaN",
        gzip.compress(lines().encode())[:-20]: "compressed file is damaged",
        b"2 2\na \x00\x00\x80?": "not a file of word vectors that can be read",
        pickle.dumps({"a": [1.0]}): "A pickle",
        b"9" * 5000 + b" 4\na 1 2\n": "entry 2: not a word and 1 numbers",
        b"a 1e39 2\nb 3 4\n": r"v\.txt: the vector of 'a'",
        b"2 2\na 1 2\nb 3 4\nc 5 6\n": "2 words are announced, and more lines follow",
        b"2 2\na 1 2\nb 3 4": "ends inside this line, and its last number",
        b"a 1 2\nb 3 4": "ends inside this line",
        gzip.compress(b"a 1 2\nb 3 4.12"): "ends inside this line",
    }
    for content, message in cases.items():
        path.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_word_vectors(path)
    assert not list(tmp_path.glob("home/word-vectors/.new-*"))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ((["a"], MATRIX), ValueError, "1 words and vectors of shape"),
        ((WORDS, MATRIX[0]), ValueError, "do not match"),
        ({}, ValueError, "0 words"),
        ({"a": [1, 2], "b": [1]}, ValueError, "not a matrix of numbers"),
        ((["a", "b"], [[1, 2], [np.nan, 0]]), ValueError, "vector of 'b'"),
        ((["a", 2], MATRIX[:2]), TypeError, "must be a str"),
        ((WORDS, MATRIX.astype(complex)), ValueError, "complex"),
        ((WORDS, np.ma.masked_less(MATRIX, -1)), ValueError, "masked"),
        ((WORDS, torch.from_numpy(MATRIX).cfloat()), ValueError, "complex"),
        ((WORDS, nn.Embedding(12, 5)), ValueError, "not a matrix of numbers"),
        (3, TypeError, "got int"),
    ],
)
def test_invalid_objects_raise(weights, error, message):
    with pytest.raises(error, match=message):
        load_word_vectors(weights)


def test_files_are_read_without_gensim(tmp_path, monkeypatch, facebook, fasttext):
    words = [*fasttext.wv.index_to_key, "landladies"]
    expected = {word: fasttext.wv[word] for word in words}
    (tmp_path / "v.bin").write_bytes(binary())
    monkeypatch.setitem(sys.modules, "gensim", None)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(tmp_path / "v.bin")), MATRIX)
    assert_embedded_as_by_gensim(load_word_vectors(facebook), expected, words)


def test_a_model_of_fasttext_without_ngrams_has_the_vectors_of_its_words(tmp_path):
    models = pytest.importorskip("gensim.models")
    words = ["the", "überall", "it", "paid"]
    model = models.FastText([words] * 5, vector_size=6, min_count=1, max_n=0, workers=1, seed=0)
    models.fasttext.save_facebook_model(model, str(tmp_path / "v.bin"))
    for bounds in ({}, {"vocabulary": words[:3]}, {"max_words": 2}):
        backbone = load_word_vectors(tmp_path / "v.bin", **bounds)
        vectors = backbone.preprocess.vectors
        kept = [vectors.vocabulary.word(i + 1) for i in range(vectors.n_words)]
        assert vectors.n_ids == len(kept) + 1 and set(kept) <= set(words)
        np.testing.assert_allclose(vectors_of(backbone, kept), [model.wv[w] for w in kept])


@pytest.mark.parametrize("lengths", [(3, 6), (1, 3), (2, 2), (4, 2), (0, 0)])
def test_ngrams_are_those_of_fasttext(lengths):
    hashes = pytest.importorskip("gensim.models.fasttext").ft_ngram_hashes
    for word in ("cat", "x", "", "überlandlady", "日本語", "a b", "𝄞n"):
        assert Subwords(*lengths, 2_000_000)(word) == hashes(word, *lengths, 2_000_000)


def train(table, ids, steps=3):
    optimizer = torch.optim.SGD(table.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        table(ids).square().sum().backward()
        optimizer.step()


# -- binary ----------------------------------------------------------------------------------------


def test_headers_with_too_large_numbers_raise_before_memory_is_allocated(tmp_path):
    for header in (b"99999999999 300", b"2 99999999999999", b"0 0"):
        (tmp_path / "v.bin").write_bytes(header + b"\na \x00\x00\x80?\xff" * 2)
        with pytest.raises(ValueError, match="announced"):
            load_word_vectors(tmp_path / "v.bin")


# fastText's src/args.cc and src/dictionary.cc: the magic number, the version, the settings, and
# the sizes of the dictionary.
HEADER = "<2i12id3i2q"
FIELDS = (
    *("magic", "version", "dim", "ws", "epoch", "min_count", "neg", "word_ngrams", "loss"),
    *("model", "bucket", "minn", "maxn", "lr_update_rate", "t"),
    *("size", "n_words", "n_labels", "n_tokens", "n_pruned"),
)


def header_of(content):
    """Return the numbers at the beginning of a FastText file, by name, and the rest."""
    size = struct.calcsize(HEADER)
    numbers = struct.unpack(HEADER, content[:size])
    return dict(zip(FIELDS, numbers, strict=True)), content[size:]


def announcing(content, **changes):
    """Return a FastText file whose header holds other numbers."""
    header, rest = header_of(content)
    return struct.pack(HEADER, *(header | changes).values()) + rest


def of_shape(content, *shape):
    """Return a FastText file whose matrix has another shape by its header."""
    header, _ = header_of(content)
    known = struct.pack("<2q", header["size"] + header["bucket"], header["dim"])
    return content.replace(known, struct.pack("<2q", *shape), 1)


HUGE = 2**31 - 1


HOSTILE = {
    "103 bytes": lambda good: good[:103],
    "the header alone": lambda good: good[: struct.calcsize(HEADER)],
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


# -- text ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("header", [True, False])
def test_text_files_with_and_without_a_header(tmp_path, header, suffix):
    content = lines(header=header).encode()
    path = tmp_path / f"vectors.txt{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


@pytest.mark.slow
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
    words = [f"w{i}" for i in range(200)]
    for name in ("pandas", "numpy"):
        if name == "numpy":
            monkeypatch.setitem(sys.modules, "pandas", None)
        path = text_file(tmp_path / f"{name}.txt", words=words, matrix=rows)
        found = vectors_of(load_word_vectors(path), words)
        np.testing.assert_array_equal(found, rows.astype(np.float32))
    path.write_text("a 1 2\nb 3 x\n")
    with pytest.raises(ValueError, match="'b' has b'x'"):
        load_word_vectors(path)


@pytest.mark.parametrize("n_numbers", [3, 60_000])
def test_vectors_of_thousands_of_numbers_are_read(tmp_path, n_numbers):
    (tmp_path / "v.txt").write_text("a" + " 1" * n_numbers + "\nb" + " 2" * n_numbers + "\n")
    backbone = load_word_vectors(tmp_path / "v.txt")
    assert vectors_of(backbone, ["a", "b"]).tolist() == [[1.0] * n_numbers, [2.0] * n_numbers]
