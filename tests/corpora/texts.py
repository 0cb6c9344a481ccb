"""Texts and labels of all kinds, and lists of them."""

import functools
import unicodedata

import numpy as np
import pandas as pd

from sktransfer import PretrainedFeatureExtractor, load_word_vectors
from sktransfer.data import check_labels

from .cases import Case

N = 6  # labels in a case
STRANGE = {
    "empty": "",
    "spaces": " \t\r\n\x0b\x0c\u00a0\u2003",
    "null": "good\0film",
    "control characters": "".join(map(chr, range(32))),
    "a lone surrogate": "film \ud800",
    "surrogates": "".join(map(chr, range(0xD800, 0xD900))),
    "no characters": "\uffff\ufffe\U0010ffff",
    "right to left": "\u202efilm\u202c \u05e9\u05dc\u05d5\u05dd",
    "combining": "e" + "\u0301" * 5000,
    "emoji": "\U0001f469\u200d\U0001f469\u200d\U0001f467 film",
    "one long word": "a" * 10**6,
    "many words": "good film " * 10**5,
    "numbers": "3.14 -1e300 NaN inf 0x10",
    "html": "<script>alert(1)</script>&amp;",
    "format": "%s {0} {film} %n$(x) `x`",
    "a path": "/dev/zero",
    "a url": "http://localhost:1/film.jpg",
    "Turkish": "İSTANBUL ıI",
    "sharp": "STRASSE straße ﬁlm",
}


@functools.cache
def extractor(on_error: str = "raise") -> PretrainedFeatureExtractor:
    names = ["good", "bad", "film", "a", "the"]
    vectors = load_word_vectors(dict(zip(names, np.eye(5, 6, dtype=np.float32), strict=True)))
    return PretrainedFeatureExtractor(vectors, on_error=on_error).fit(["a film"])


def features(X) -> np.ndarray:
    return extractor().transform(X)


def is_table(n: int, found) -> bool:
    return found.shape == (n, 6) and bool(np.isfinite(found).all())


def of_texts(seed: int = 0) -> list[Case]:
    rng = np.random.default_rng(seed)
    texts = dict(STRANGE)
    for form in ("NFC", "NFD", "NFKC", "NFKD"):
        texts[form] = unicodedata.normalize(form, "Ångström ﬁlm é ①")
    for i in range(30):
        texts[f"random {i}"] = "".join(map(chr, rng.integers(0, 0x110000, 200)))
    right = functools.partial(is_table, 1)
    cases = [
        Case(name, functools.partial(features, [text]), right, "right")
        for name, text in texts.items()
    ]
    together = functools.partial(features, list(texts.values()))
    cases.append(Case("all", together, functools.partial(is_table, len(texts)), "right"))
    return cases + of_containers()


def of_containers() -> list[Case]:
    """X that is no list of texts, and lists with other things among the texts."""
    others = [None, float("nan"), 1, 1.5, True, b"film", [], ["film"], {}, (), np.array("film")]
    others += [pd.NA, pd.NaT, np.datetime64("2020"), object, Exception("film"), np.float32(1)]
    cases = [
        Case(f"item {other!r}", functools.partial(features, ["film", other]), bool, "error")
        for other in others
    ]
    bad = [
        "film",
        b"film",
        17,
        None,
        {"film": 1},
        {"film"},
        np.zeros((2, 2)),
        [],
        object(),
        iter("a"),
    ]
    bad += [np.array([]), pd.DataFrame({"a": ["x"], "b": ["y"]}), np.array([["a", "b"]]), 1.5]
    cases += [Case(f"X {x!r:.40}", functools.partial(features, x), bool, "error") for x in bad]
    X, right = ["film", "a good film"], functools.partial(is_table, 2)
    good = [
        tuple(X),
        np.array(X),
        np.array(X, object),
        pd.Series(X),
        pd.Series(X, dtype="category"),
    ]
    good += [pd.DataFrame({"t": X}), np.array(X)[:, None], pd.Series(X, index=[5, 5])]
    return cases + [
        Case(f"X as {type(x).__name__}", functools.partial(features, x), right, "right")
        for x in good
    ]


def of_labels() -> list[Case]:
    """Labels of all types and shapes, whole and missing."""
    good = [
        ["a", "b"] * 3,
        [1, 2] * 3,
        [True, False] * 3,
        [0.0, 1.0] * 3,
        [-5, 10**12] * 3,
        ["", " "] * 3,
        ["ä", "☃"] * 3,
        [np.str_("a"), "b"] * 3,
        pd.Categorical(["x", "y"] * 3),
        pd.Series(["x", "y"] * 3, index=[0] * 6),
        pd.Series([1, 2] * 3, dtype="Int64"),
        pd.Series(["x", "y"] * 3, dtype="string"),
        np.array([[1], [2]] * 3),
        np.array(["x", "y"] * 3, object),
        np.array([1, 2] * 3, np.uint8),
        ("x", "y") * 3,
        ["x" * 10**5, "y"] * 3,
    ]
    bad = [
        None,
        [],
        ["a"] * 5,
        ["a"] * 7,
        "abcdef",
        17,
        {"a": 1},
        [None, "a"] * 3,
        ["a", float("nan")] * 3,
        [1.0, float("nan")] * 3,
        [1.0, float("inf")] * 3,
        ["a", 1] * 3,
        ["a", b"b"] * 3,
        [1.5, 2.5] * 3,
        [pd.NA, "a"] * 3,
        pd.Series([1, None] * 3, dtype="Int64"),
        pd.Series(["x", None] * 3, dtype="category"),
        np.zeros((6, 2, 2)),
        np.zeros((2, 6)),
        [[1, 2], [3]] * 3,
        [{}, []] * 3,
        [object(), object()] * 3,
        np.ma.array([1, 2] * 3, mask=[1, 0] * 3),
        [1 + 2j, 3j] * 3,
        (letter for letter in "ababab"),
    ]
    either = [
        np.array(["2020", "2021"] * 3, "datetime64[Y]"),
        np.eye(6, dtype=int),
        [b"a", b"b"] * 3,
        [{1}, {2}] * 3,
        pd.DataFrame({"a": [1, 2] * 3, "b": [0, 1] * 3}),
    ]
    return [
        Case(f"labels {may} {i} {y!r:.40}", functools.partial(check_labels, y, N), _has_n, may)
        for may, values in (("right", good), ("error", bad), ("either", either))
        for i, y in enumerate(values)
    ]


def _has_n(found) -> bool:
    return len(found) == N
