import errno
import functools
import mmap
import multiprocessing
import os
import pickle
import resource
import tempfile

import numpy as np
import pytest
import torch

from sktransfer import PretrainedClassifier, PretrainedFeatureExtractor, load_backbone
from sktransfer.features import (
    Output,
    TokenWeights,
    compute_outputs,
    empty_table,
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


# -- arrays of outputs -----------------------------------------------------------------------------

FLOAT = np.dtype(np.float32)


# Tables of more than 1,000 bytes lie on disk.
table_of = functools.partial(empty_table, in_memory=1000)


def in_child(action) -> str:
    """Run an action in a forked child, which a signal may kill, and return what it returns."""
    results = multiprocessing.get_context("fork").SimpleQueue()
    process = multiprocessing.get_context("fork").Process(target=lambda: results.put(action()))
    process.start()
    process.join(60)
    assert process.exitcode == 0  # negative: killed by a signal
    return results.get()


def error_of_a_table(n_bytes: int) -> str:
    try:
        table_of((n_bytes // 4,), FLOAT)[:] = 1
    except OSError as error:
        return str(error)
    return ""


def test_a_small_table_is_in_memory_and_a_large_one_in_a_file():
    small, large = table_of((10, 25), FLOAT), table_of((10, 26), FLOAT)
    assert small.base is None
    assert isinstance(large.base, mmap.mmap)
    large[:] = np.arange(260).reshape(10, 26)
    assert large.flags.writeable and large.flags.c_contiguous
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(large)), large)
    assert type(large) is np.ndarray


def test_arrays_of_objects_stay_in_memory():
    assert table_of((1000,), np.dtype(object)).base is None


def test_a_table_that_the_disk_has_no_room_for_is_an_error(small_disk, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    assert in_child(lambda: error_of_a_table(100_000)) == ""
    message = in_child(lambda: error_of_a_table(1_200_000))
    assert message.startswith(f"[Errno {errno.ENOSPC}] 1.2 MB of temporary disk space")
    assert f"{small_disk} has 0.3 MB free" in message


def test_a_table_above_the_limit_of_file_sizes_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def limited():
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
        return error_of_a_table(1_200_000)

    message = in_child(limited)
    assert message.startswith(f"[Errno {errno.EFBIG}] 1.2 MB of temporary disk space")
    assert str(tmp_path) in message


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, None])
def test_space_is_reserved_where_the_system_cannot_allocate_it(code, small_disk, monkeypatch):
    def refuse(*args):
        raise OSError(code, "not supported")

    if code is None:
        monkeypatch.delattr(os, "posix_fallocate")
    else:
        monkeypatch.setattr(os, "posix_fallocate", refuse)
    monkeypatch.setattr(tempfile, "tempdir", str(small_disk))
    assert in_child(lambda: error_of_a_table(100_000)) == ""
    message = in_child(lambda: error_of_a_table(1_200_000))  # a signal would kill it later
    assert message.startswith(f"[Errno {errno.ENOSPC}] 1.2 MB of temporary disk space")
