import re

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import (
    ImagePreprocessing,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    list_layers,
    load_backbone,
)
from sktransfer.backbones import pool, pooled_width
from sktransfer.backbones.layers import LayerInfo, inspect_layers
from sktransfer.engines import torch as torch_engine
from tests.support import TINY_SIZE, images, tiny_backbone, tiny_swin, tiny_vit


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_one_sample_describes_every_layer():
    found = inspect_layers(tiny_backbone(), noise(1, 3, 16, 16))
    assert list(found.values()) == [
        LayerInfo("0", (8, 7, 7), False, True, 8, grid=(7, 7)),
        LayerInfo("1", (8, 7, 7), False, False, 8, grid=(7, 7)),
        LayerInfo("2", (8, 7, 7), False, False, 8, grid=(7, 7)),
        LayerInfo("3", (8, 1, 1), False, False, 8, grid=(1, 1)),
        LayerInfo("4", (8,), False, False, 8),
        LayerInfo("5", (3,), False, True, 3),
    ]


@pytest.mark.parametrize("pooling", ["avg", "max", "flatten", lambda x: x.flatten(2).amax(2)])
@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_widths_are_those_of_pooled_activations(build, pooling):
    backbone = load_backbone(build(), preprocess=TINY_SIZE)
    x = noise(1, 3, 16, 16)
    inspected = inspect_layers(backbone, x)
    assert {layer.has_tokens for layer in inspected.values()} == {True, False} or build is tiny_swin
    for name, layer in list(inspected.items())[::4]:
        if callable(pooling) and len(layer.shape) < 2:
            continue
        extractor = PretrainedFeatureExtractor(backbone, layer=name, pooling=pooling)
        features = extractor.fit_transform(images(1))
        assert features.shape[1] == pooled_width(layer, pooling)


def test_the_first_token_has_the_width_of_a_token_and_needs_tokens():
    layers = inspect_layers(load_backbone(tiny_vit(), preprocess=TINY_SIZE), noise(1, 3, 16, 16))
    assert pooled_width(layers["encoder.ln"], "cls") == layers["encoder.ln"].shape[1] == 12
    with pytest.raises(ValueError, match="no tokens"):
        pooled_width(LayerInfo("conv", (8, 7, 7), False, True, 8), "cls")
    assert pool(torch.ones(1, 5, 12), "cls").shape == (1, 12)


def test_a_network_is_inspected_once_for_each_shape_of_a_sample():
    calls = []
    module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    backbone = load_backbone(module)
    backbone.module.register_forward_hook(lambda *args: calls.append(1))
    first = inspect_layers(backbone, torch.ones(1, 4))
    assert inspect_layers(backbone, torch.zeros(3, 4)) is first
    assert len(calls) == 1  # the stages compute the rest
    deeper = inspect_layers(backbone, torch.ones(1, 2, 4))
    assert deeper["0"].shape == (2, 5)
    assert len(calls) == 2


def test_a_few_shapes_stay_known():
    backbone = load_backbone(nn.Sequential(nn.Flatten(), nn.ReLU()))
    for n in range(1, 30):
        inspect_layers(backbone, torch.ones(1, n))
    assert len(backbone.prepared["inspected"]) == 4


def test_direct_use_prepares_one_engine(monkeypatch):
    made = []
    init = torch_engine.TorchEngine.__init__

    def counting(self, *args, **kwargs):
        made.append(1)
        init(self, *args, **kwargs)

    monkeypatch.setattr(torch_engine.TorchEngine, "__init__", counting)
    model = PretrainedClassifier(tiny_backbone()).fit(images(2))
    assert not made
    model.predict(images(2))
    assert len(made) == 1


def test_fitting_an_extractor_runs_the_network_only_to_inspect_it():
    backbone, calls = tiny_backbone(), []
    backbone.module[0].register_forward_hook(lambda *args: calls.append(len(args[1][0])))
    for layer in ("2", "4", [0, 1]):
        PretrainedFeatureExtractor(backbone, layer=layer).fit(images(2))
    assert calls == [1, 1, 2]  # the network, its stages, and these with two samples


# sizes


def convolutions():
    steps = [nn.Conv2d(3, 4, 7), nn.MaxPool2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    size = ImagePreprocessing(34, 32, (0.5,) * 3, (0.5,) * 3)
    return load_backbone(nn.Sequential(*steps, nn.Linear(4, 2)), preprocess=size)


@pytest.mark.parametrize("size", [1, 6, 9])
def test_a_size_that_is_too_small_names_the_least(size):
    extractor = PretrainedFeatureExtractor(convolutions(), image_size=size)
    with pytest.raises(ValueError, match=rf"image_size={size}: .*least that it takes is 10;.*32"):
        extractor.fit(images(2))
    assert extractor.set_params(image_size=10).fit_transform(images(2)).shape == (2, 4)


@pytest.mark.parametrize(("size", "taken"), [(8, "The least that it takes is"), (24, "It takes")])
def test_a_network_of_one_size_says_so(size, taken):
    backbone = load_backbone(tiny_vit(), preprocess=TINY_SIZE)
    with pytest.raises(ValueError, match=rf"image_size={size}: .*{taken} 16; .*16"):
        PretrainedFeatureExtractor(backbone, image_size=size).fit(images(2))


@pytest.mark.parametrize("size", [0, -3, 4097, 10**6, 2.5, True, "big", (3, 4)])
def test_an_absurd_size_is_refused_before_anything_runs(size):
    expected = rf"image_size={re.escape(repr(size))}: give 1 to 4096 pixels.*32"
    with pytest.raises(ValueError, match=expected):
        load_backbone(convolutions(), image_size=size)


def test_an_error_of_the_network_at_its_own_size_is_not_about_the_size():
    class Broken(nn.Module):
        def forward(self, x):
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        PretrainedFeatureExtractor(load_backbone(Broken(), preprocess=TINY_SIZE)).fit(images(1))


def test_a_few_sizes_stay_prepared():
    backbone = convolutions()
    for size in range(40, 60):
        assert backbone.with_image_size(size).input_shape == (3, size, size)
    assert list(backbone.prepared["sized"]) == [56, 57, 58, 59]
    kept = backbone.with_image_size(56)
    backbone.with_image_size(60)
    assert backbone.with_image_size(56) is kept
    assert list_layers(kept) == list_layers(backbone)
    assert np.isfinite(PretrainedFeatureExtractor(kept).fit_transform(images(1))).all()


def test_a_network_that_does_not_take_one_sample_is_named():
    module = nn.Sequential(nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))
    with pytest.raises(ValueError, match=r"'sequential' does not take samples of shape \(6,\)"):
        PretrainedFeatureExtractor(module).fit(np.zeros((4, 6), np.float32))
