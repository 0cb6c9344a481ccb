"""Word vectors in every form, that several test files share."""

import numpy as np
import pytest
import torch

WORDS = ["the", "film", "is", "good", "n't", "do", "'s", "it", ",", ".", "café", "bad"]


MATRIX = np.random.default_rng(0).standard_normal((len(WORDS), 5)).round(4).astype(np.float32)


VECTORS = dict(zip(WORDS, MATRIX, strict=True))


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


def assert_embedded_as_by_gensim(backbone, kv, words):
    ids = backbone.preprocess(" ".join(words))
    found = backbone.stages["embedding"](ids[None])[0].detach().numpy()
    np.testing.assert_allclose(found[: len(words)], [kv[w] for w in words], atol=1e-6, rtol=0)
    assert not found[len(words) :].any()
