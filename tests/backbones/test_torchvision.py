import gc
import re

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from sktransfer import (
    PretrainedFeatureExtractor,
    list_backbones,
    list_layers,
    load_backbone,
)
from sktransfer.backbones import torchvision as torchvision_source
from sktransfer.backbones.layers import penultimate
from sktransfer.backbones.stages import stages_of
from sktransfer.backbones.weights import load_weights
from tests.backbones.support import LITES, SMALL, SMALL_FILE, same_bits, saved
from tests.support import (
    enliven,
    images,
    random_backbone,
    tiny_vit,
)


def test_every_torchvision_classifier_has_its_name():
    names = torchvision.models.list_models(module=torchvision.models)
    assert len(names) >= 80
    assert set(names) <= set(list_backbones())
    assert {"alexnet", "vgg16", "vgg19", "inception_v3", *LITES} <= set(list_backbones())


@pytest.mark.parametrize(
    "name", ["alexnet", "vgg19", "inception_v3", "efficientnet_b0", "vit_b_16"]
)
def test_torchvision_preprocessing_is_what_the_weights_declare(name):
    published = torchvision.models.get_model_weights(name).DEFAULT
    image = images(1, (300, 400))[0]
    ours = torchvision_source._preprocessing(published)(image)
    theirs = published.transforms()(Image.fromarray(image))
    assert ours.shape == theirs.shape
    difference = (ours - theirs).abs()
    assert difference.mean() < 2e-4
    assert difference.max() < 0.036  # two of 255 steps, where Pillow rounds another way


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param("inception_v3", marks=pytest.mark.sweep), "googlenet"]
)
def test_auxiliary_heads_and_input_transform_of_published_files(name, tmp_path):
    theirs = torchvision.models.get_model(
        name, weights=None, transform_input=True, aux_logits=True, init_weights=False
    )
    enliven(theirs)
    path = saved(theirs.state_dict(), tmp_path / f"{name}.pth")
    backbone = load_backbone(name, weights=path)
    x = torch.randn(1, *backbone.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(backbone.module(x), theirs(x))
    assert penultimate(backbone) == list_layers(backbone)[-2]


@pytest.mark.slow
def test_densenet_files_as_torchvision_publishes_them_are_read(tmp_path):
    state = random_backbone("densenet121").module.state_dict()
    old = {re.sub(r"(layer\d+\.(?:norm|conv))", r"\1.", name): t for name, t in state.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    loaded = load_backbone("densenet121", weights=saved(old, tmp_path / "a.pth"))
    assert same_bits(loaded.module.state_dict(), state)


def test_vit_files_as_torchvision_publishes_them_are_read(tmp_path):
    module = tiny_vit()
    state = {name: torch.rand_like(tensor) for name, tensor in module.state_dict().items()}
    old = {
        n.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2"): state[n] for n in state
    }
    assert "encoder.layers.encoder_layer_0.mlp.linear_1.weight" in old
    load_weights(module, saved(old, tmp_path / "a.pth"))
    assert same_bits(module.state_dict(), state)


def test_an_unpublished_set_names_those_that_are():
    with pytest.raises(ValueError, match=r"'V9' is not published for .*'IMAGENET1K_V1'\]"):
        load_backbone(SMALL, weights="V9")


def test_weights_in_torch_home_are_used_without_asking_the_network(
    tensors, published, offline, registry
):
    backbone = load_backbone(SMALL)
    assert same_bits(backbone.module.state_dict(), tensors)
    assert backbone.loaded_by == (SMALL, "IMAGENET1K_V1")
    assert offline == []


@pytest.mark.parametrize("weights", ["default", "IMAGENET1K_V1"])
def test_a_file_in_torch_home_with_another_hash_is_refused(
    weights, tensors, torch_home, offline, registry
):
    saved(tensors, torch_home / SMALL_FILE)
    with pytest.raises(ValueError, match=rf"{SMALL_FILE}' is damaged.*expected b8a52dc0"):
        load_backbone(SMALL, weights=weights)
    assert offline == []


def test_without_a_network_the_error_says_what_to_bring_where(torch_home, offline, registry):
    with pytest.raises(FileNotFoundError) as info:
        load_backbone(SMALL)
    assert len(offline) == 1
    for part in (SMALL_FILE, "Name or service", offline[0], "begins with b8a52dc0", torch_home):
        assert str(part) in str(info.value)


def test_nothing_is_fetched_where_that_is_not_allowed(torch_home, offline, registry):
    with pytest.raises(FileNotFoundError, match="only fit downloads weights"):
        load_backbone(SMALL, download=False)
    assert offline == []


@pytest.mark.sweep
@pytest.mark.parametrize("name", torchvision.models.list_models(module=torchvision.models))
def test_every_torchvision_network(name, registry):
    gc.collect()  # the network before this one, of up to 2.6 GB
    backbone = random_backbone(name)
    side = backbone.input_shape[-1]
    X = images(2, (side, side + 8))
    for layer in (None, list_layers(backbone)[2]):
        extractor = PretrainedFeatureExtractor(backbone, layer=layer).fit(X)
        features = extractor.transform(X)
        assert features.ndim == 2
        assert np.isfinite(features).all()
        assert features.std() > 0
        alone = np.vstack([extractor.transform(X[i : i + 1]) for i in range(2)])
        scale = np.linalg.norm(features, axis=1)
        assert (np.linalg.norm(alone - features, axis=1) <= 1e-5 * scale).all()
    x = y = torch.stack([backbone.preprocess(image) for image in X])
    with torch.inference_mode():
        for stage in stages_of(backbone).values():
            y = stage(y)
        assert torch.equal(y, backbone.module(x))
