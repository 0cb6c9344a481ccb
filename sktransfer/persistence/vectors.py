"""Write and read word vectors: the path of their file and a digest, or the words and numbers."""

from __future__ import annotations

import dataclasses
from typing import Any

from ..backbones import Backbone
from ..backbones.words.formats import Subwords, check_finite_rows
from ..backbones.words.vectors import WordVectors, reopened
from ..backbones.wordvectors import word_backbone
from .archive import DamagedFileError
from .reading import Reader
from .writing import Writer

__all__ = ["read_vectors", "write_vectors"]


def write_vectors(writer: Writer, network: Backbone, self_contained: bool) -> dict[str, Any]:
    """Return the record of a backbone of word vectors.

    Parameters
    ----------
    writer : Writer
    network : Backbone
    self_contained : bool
        Whether the vectors of a file are written, too.

    Returns
    -------
    dict
    """
    preprocess: Any = network.preprocess
    vectors, tokenizer = preprocess.vectors, preprocess.tokenizer
    name = None if tokenizer is None else getattr(tokenizer, "__name__", "tokenizer")
    by_path = vectors.source is not None and not self_contained
    return {
        "name": network.name,
        "digest": vectors.content_digest,
        "tokenizer": None if name is None else writer.name_of(tokenizer, name),
        "source": writer.write(vectors.source) if by_path else None,
        "table": None if by_path else _table(writer, vectors),
    }


def _table(writer: Writer, vectors: WordVectors) -> dict:
    subwords: Any = vectors.subwords
    return {
        "words": writer.write([vectors.vocabulary.word(i + 1) for i in range(vectors.n_words)]),
        "matrix": writer.write(vectors.matrix.numpy()),
        "subwords": None if subwords is None else list(dataclasses.astuple(subwords)),
    }


def read_vectors(reader: Reader, record: dict[str, Any]) -> Backbone:
    """Make a backbone of word vectors again.

    Parameters
    ----------
    reader : Reader
    record : dict

    Returns
    -------
    Backbone

    Raises
    ------
    ValueError
        If the file of vectors on this machine is another one.
    """
    source, name = reader.read(record["source"]), record["tokenizer"]
    if source is None:
        vectors = _read_table(reader, record)
    else:
        vectors = reopened(source, record["digest"])
    tokenizer = None if name is None else reader.find_named(name)
    return word_backbone(record["name"], vectors, tokenizer)


def _read_table(reader: Reader, record: dict) -> WordVectors:
    table = reader.read(record["table"])
    words, matrix = table["words"], table["matrix"]
    subwords = None if table["subwords"] is None else Subwords(*table["subwords"])
    n_rows = len(words) + (0 if subwords is None else subwords.n_buckets)
    if matrix.ndim != 2 or len(matrix) != n_rows:
        raise DamagedFileError(f"{len(words)} words and vectors of shape {matrix.shape}")
    check_finite_rows(words, matrix, "word vectors")
    vectors = WordVectors.from_words(words, matrix, subwords=subwords)
    if vectors.content_digest != record["digest"]:
        raise DamagedFileError("the word vectors are not those that were saved")
    return vectors
