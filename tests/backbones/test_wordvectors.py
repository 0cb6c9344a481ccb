import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer

from sktransfer.backbones import pool
from sktransfer.backbones.layers import boundary, inspect_layers
from sktransfer.backbones.stages import stages_of
from sktransfer.backbones.wordvectors import load_glove, load_word_vectors, load_word_vectors_named
from tests.backbones.words.conftest import glove, home  # noqa: F401
from tests.backbones.words.support import MATRIX, VECTORS, text_file


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


IDS = torch.tensor([[1, 4, 0, 4], [0, 0, 0, 0], [12, 3, 2, 0]])


def test_the_backbone_has_one_stage_with_weights():
    backbone = load_word_vectors(VECTORS, name="mine")
    assert (backbone.modality.name, backbone.name) == ("text", "mine")
    assert list(stages_of(backbone)) == ["embedding"]
    inspect_layers(backbone, IDS)
    assert boundary(backbone, 1) == 0
    pooled = pool(backbone.stages["embedding"](IDS), "avg", masked=True).detach().numpy()
    np.testing.assert_allclose(pooled[0], (MATRIX[0] + 2 * MATRIX[3]) / 3, rtol=1e-5)
    assert not pooled[1].any()


@pytest.mark.slow
def test_glove_by_name(glove):  # noqa: F811
    assert glove.loaded_by == ("glove_6b_50d", "default")
    with pytest.raises(ValueError, match="has only its own"):
        load_glove("glove_6b_50d", None)
