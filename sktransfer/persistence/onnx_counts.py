"""Counts of words as an ONNX graph, for blends of texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from .torch_networks import Source

__all__ = ["counts_model", "counts_source", "words_source"]


def counts_source(vectorizer: Any) -> Source:
    """Return the input of the module that takes the counts."""
    n = len(vectorizer.vocabulary_)
    return Source("counts", torch.rand(2, n).double(), (0,), {})


def words_source(vectorizer: Any, texts: Sequence[str] | None) -> Source:
    """Return the input of the graph that makes the counts."""
    about = {"layout": "(n, most words), words in lower case", "filled with": ""}
    pattern, rows = vectorizer.token_pattern, None
    if texts is not None:
        found = [re.findall(pattern, text.lower()) for text in texts]
        longest = max(1, *map(len, found))
        rows = np.array([words + [""] * (longest - len(words)) for words in found], object)
    return Source("words", torch.empty(0), (0, 1), about | {"pattern": pattern}, rows=rows)


def counts_model(vectorizer: Any) -> Any:
    """Make a graph of a fitted TfidfVectorizer, from words to weighted counts of length 1.

    Parameters
    ----------
    vectorizer : TfidfVectorizer
        With ``sublinear_tf=True`` and the norm "l2", as blends have it.

    Returns
    -------
    onnx.ModelProto
        Its input is "words", ``(n, most words)``, and its output "counts".
    """
    from onnx import TensorProto, helper, numpy_helper

    n = len(vectorizer.vocabulary_)
    constants = {"idf": vectorizer.idf_, "one": np.array(1.0), "zero": np.array(0.0)}
    nodes = [
        _frequencies(vectorizer),
        helper.make_node("Cast", ["frequency"], ["f"], to=TensorProto.DOUBLE),
        helper.make_node("Max", ["f", "one"], ["at_least_one"]),
        helper.make_node("Log", ["at_least_one"], ["logarithm"]),
        helper.make_node("Add", ["logarithm", "one"], ["sublinear"]),
        helper.make_node("Greater", ["f", "zero"], ["occurs"]),
        helper.make_node("Where", ["occurs", "sublinear", "zero"], ["tf"]),
        helper.make_node("Mul", ["tf", "idf"], ["counts"]),
    ]
    graph = helper.make_graph(
        nodes,
        "counts",
        [helper.make_tensor_value_info("words", TensorProto.STRING, ["n", "words"])],
        [helper.make_tensor_value_info("counts", TensorProto.DOUBLE, ["n", n])],
        [numpy_helper.from_array(np.asarray(v, np.float64), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, ir_version=9)


def _frequencies(vectorizer: Any) -> Any:
    """Make a node that counts the words and the pairs of words of a vectorizer."""
    from onnx import helper

    grams = sorted(vectorizer.vocabulary_.items(), key=lambda item: (item[0].count(" "), item[1]))
    n_single = sum(" " not in gram for gram, _ in grams)
    return helper.make_node(
        "TfIdfVectorizer",
        ["words"],
        ["frequency"],
        mode="TF",
        min_gram_length=vectorizer.ngram_range[0],
        max_gram_length=vectorizer.ngram_range[1],
        max_skip_count=0,
        ngram_counts=[0, n_single],
        ngram_indexes=[place for _, place in grams],
        pool_strings=[word for gram, _ in grams for word in gram.split(" ")],
    )
