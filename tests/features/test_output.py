import pickle

import numpy as np
import pytest
import torch

from sktransfer import PretrainedClassifier, PretrainedFeatureExtractor, load_backbone
from sktransfer.features import (
    Output,
    TokenWeights,
    compute_outputs,
    engine_for_outputs,
    store_key,
)
from tests.support import TINY_SIZE, TinyNet, images, tiny_backbone


def test_an_extractor_tells_what_it_reads():
    extractor = PretrainedFeatureExtractor(
        tiny_backbone(), image_size=[16, 20], layer=["2", "4"], pooling="max"
    ).fit(images(2))
    sizes_and_layers = [(output.image_size, output.layer) for output in extractor.outputs_]
    assert sizes_and_layers == [(16, "2"), (16, "4"), (20, "2"), (20, "4")]
    assert {output.pooling for output in extractor.outputs_} == {"max"}
    assert extractor.output_names_ == ["16_2", "16_4", "20_2", "20_4"]
    assert sum(output.width for output in extractor.outputs_) == extractor.n_features_out_
    assert extractor.columns_ == (0,)


def test_what_an_extractor_reads_gives_its_features():
    samples = images(3)
    extractor = PretrainedFeatureExtractor(tiny_backbone(), layer=["2", "4"]).fit(samples)
    parts = compute_outputs(samples, extractor.outputs_)
    assert [part.shape[1] for part in parts] == [output.width for output in extractor.outputs_]
    np.testing.assert_allclose(np.hstack(parts), extractor.transform(samples), rtol=1e-5)


def test_an_opened_pickle_reads_the_same():
    extractor = PretrainedFeatureExtractor(tiny_backbone(), image_size=[16, 20]).fit(images(1))
    opened = pickle.loads(pickle.dumps(extractor))
    as_plain = [(x.image_size, x.layer, x.pooling, x.width) for x in extractor.outputs_]
    assert [(x.image_size, x.layer, x.pooling, x.width) for x in opened.outputs_] == as_plain


def test_direct_use_reads_the_last_layer_at_each_size():
    model = PretrainedClassifier(
        load_backbone(TinyNet(3), preprocess=TINY_SIZE, classes=list("abc")), image_size=[16, 20]
    ).fit(images(1))
    last = model.outputs_[0].layer
    assert [(x.image_size, x.layer, x.width) for x in model.outputs_] == [
        (16, last, len(model.classes_)),
        (20, last, len(model.classes_)),
    ]


def test_learned_weights_of_words_are_a_pooling(tmp_path):
    vectors = {"a": [1.0, 0.0], "b": [0.0, 1.0]}
    extractor = PretrainedFeatureExtractor("word-vectors", weights=vectors, pooling="idf")
    (output,) = extractor.fit(["a b", "a"]).outputs_
    assert isinstance(output.pooling, TokenWeights)
    assert output.width == 2 and output.image_size is None


def key(backbone=None, layer="4", pooling="avg", **how):
    return store_key(Output(backbone or tiny_backbone(), layer, pooling), **how)


@pytest.mark.parametrize(
    "change",
    [
        {"backbone": tiny_backbone(1)},
        {"backbone": tiny_backbone(preprocess=TINY_SIZE.with_size(20))},
        {"backbone": load_backbone(tiny_backbone(), image_size=20)},
        {"backbone": load_backbone(tiny_backbone().module)},
        {"layer": "2"},
        {"pooling": "max"},
        {"pooling": torch.flatten},
        {"precision": "bfloat16"},
        {"dtype": "float16"},
    ],
)
def test_a_key_holds_what_decides_the_features(change):
    assert key(**change) != key()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"backbone": tiny_backbone(name="other")},
        {"backbone": tiny_backbone(classes=["x", "y", "z"])},
    ],
)
def test_a_key_holds_nothing_else(change):
    assert key(**change) == key()


def test_an_engine_of_other_stages_is_not_kept_with_the_backbone():
    outputs, cpu = [Output(tiny_backbone(), "4")], torch.device("cpu")
    other = engine_for_outputs(outputs, device=cpu, stages={"4": torch.nn.ReLU()})
    assert engine_for_outputs(outputs, device=cpu) is not other
    assert engine_for_outputs(outputs, device=cpu) is engine_for_outputs(outputs, device=cpu)
