"""Stages that torch.compile has compiled; here without the compiler of C++, which is slow."""

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, load_backbone
from sktransfer.engines import engine_for
from tests.support import TINY_SIZE, compile_with, images, make_engine, tiny_backbone

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def batches(monkeypatch):
    """Replace the compiler, and note the shapes of the batches that it compiles."""
    seen = []

    def compiler(graph, inputs):
        seen.extend(tuple(x.shape) for x in inputs if x.shape[1:] == (3, 16, 16))
        return graph.forward

    compile_with(monkeypatch, compiler)
    return seen


@pytest.mark.slow
def test_features_are_the_same_and_two_forms_are_compiled(batches):
    X = images(9)
    expected = PretrainedFeatureExtractor(tiny_backbone()).fit(X).transform(X)
    model = PretrainedFeatureExtractor(tiny_backbone(), engine="compile", batch_size=4).fit(X)
    np.testing.assert_allclose(model.transform(X), expected, rtol=1e-4, atol=1e-5)
    for n in (1, 2, 3):
        np.testing.assert_allclose(model.transform(X[:n]), expected[:n], rtol=1e-4, atol=1e-5)
    assert set(batches) == {(1, 3, 16, 16), (4, 3, 16, 16)}
    assert model.execution_ == {
        "engine": "compile",
        "device": "cpu",
        "precision": "float32",
        "layout": "channels_last",
        "batch_size": 4,
    }


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_several_layers_and_precisions(precision):
    backbone, x = tiny_backbone(), torch.randn(3, 3, 16, 16)
    made = make_engine(backbone, ("0", "2"), precision=precision, runtime="compile")
    found, exact = made(x), made.run_modules(made.segments, x, torch.float32)
    for layer, wanted in exact.items():
        far = (found[layer] - wanted).norm() / wanted.norm()
        assert far < (1e-4 if precision == "float32" else 0.05)
    assert made.batch_size(x[0]) == make_engine(backbone, ("0", "2")).batch_size(x[0])


def test_frozen_stages_of_fine_tuning_are_compiled(batches):
    X, y = images(8), list("abababab")
    settings = {"max_epochs": 1, "random_state": 0}
    expected = FineTunedClassifier(tiny_backbone(), **settings).fit(X, y).predict_proba(X)
    model = FineTunedClassifier(tiny_backbone(), engine="compile", **settings).fit(X, y)
    np.testing.assert_allclose(model.predict_proba(X), expected, atol=1e-4)
    assert batches


def test_a_compiler_that_fails_is_an_error(monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    compile_with(monkeypatch, broken)
    model = PretrainedFeatureExtractor(tiny_backbone(), engine="compile").fit(images(1))
    with pytest.raises(ValueError, match=r"(?s)needs Triton .* no compiler here"):
        model.transform(images(1))


def test_other_features_are_an_error(monkeypatch):
    compile_with(monkeypatch, lambda graph, _: lambda *args: [y + 1 for y in graph(*args)])
    model = PretrainedFeatureExtractor(tiny_backbone(), engine="compile").fit(images(1))
    with pytest.raises(RuntimeError, match="gives other features"):
        model.transform(images(1))


def test_texts_are_refused():
    stages, read = {"output": nn.Identity()}, {"output": ("output", "avg")}
    with pytest.raises(ValueError, match="texts differ in length"):
        engine_for(stages, read, kept={}, engine="compile", device=CPU, modality="text")


@pytest.mark.slow
def test_the_users_network_is_not_compiled_itself():
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU())
    backbone = load_backbone(network, preprocess=TINY_SIZE)
    made = make_engine(backbone, ("1",), runtime="compile")
    made(torch.randn(2, 3, 16, 16))
    assert type(backbone.module) is nn.Sequential
    assert not backbone.module[0]._forward_hooks
