import dataclasses

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from sktransfer import (
    FineTunedClassifier,
    ImagePreprocessing,
    PretrainedClassifier,
    list_backbones,
    list_layers,
    load_backbone,
)
from sktransfer.backbones.layers import penultimate
from sktransfer.backbones.stages import stages_of
from sktransfer.backbones.timm import load_timm
from tests.support import TinyNet, images, random_backbone, tiny_backbone

timm = pytest.importorskip("timm")
from tests.backbones import timm_networks  # noqa: E402, F401  (registers tiny_dinov3)


def test_timm_networks_are_listed_with_their_prefix():
    assert list_backbones("timm:*") == sorted(f"timm:{name}" for name in timm.list_models())
    assert not any(name.startswith("timm:") for name in list_backbones())


def test_outputs_equal_those_of_timm():
    backbone = random_backbone("timm:test_resnet")
    model = timm.create_model("test_resnet").eval()
    model.load_state_dict(backbone.module.state_dict())
    x = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        y = x
        for stage in stages_of(backbone).values():
            y = stage(y)
        assert torch.equal(y, model(x))
    assert backbone.input_shape == (3, 160, 160)
    assert list_layers(backbone)[-7:] == [
        *("layer1", "layer2", "layer3", "layer4"),
        *("global_pool.pool", "global_pool.flatten", "fc"),
    ]
    assert penultimate(backbone) == "global_pool.flatten"


@pytest.mark.slow
@pytest.mark.parametrize(("name", "n_blocks"), [("test_vit", 6), ("vit_tiny_patch16_224", 12)])
def test_a_timm_transformer_is_cut_between_its_blocks(name, n_blocks):
    layers = list_layers(random_backbone(f"timm:{name}"))
    blocks = [layer for layer in layers if layer.startswith("blocks.")]
    assert blocks == [f"blocks.{i}" for i in range(n_blocks)]


def test_a_local_file_for_a_timm_network(tmp_path):
    state = random_backbone("timm:test_resnet").module.state_dict()
    state = {name: tensor.clone() for name, tensor in state.items()}
    state["fc.bias"] += 1
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file(state, path)
    loaded = load_backbone("timm:test_resnet", weights=path)
    assert all(torch.equal(loaded.module.state_dict()[name], state[name]) for name in state)
    assert loaded.reference is None


def test_an_unknown_timm_name_is_refused():
    with pytest.raises(ValueError, match="timm has no network 'resnett'"):
        load_backbone("timm:resnett")


def test_without_a_network_timm_weights_ask_for_a_local_file(monkeypatch, registry):

    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(FileNotFoundError, match=r"no route to host.*weights='….safetensors'"):
        load_backbone("timm:test_resnet")
    with pytest.raises(FileNotFoundError, match="downloaded only by fit"):
        load_backbone("timm:test_resnet", download=False)


def test_without_timm_the_error_tells_how_to_install_it(monkeypatch, registry):
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'sktransfer\[timm\]'"):
        load_backbone("timm:resnet18", weights="default")


# preprocessing


def presets():
    """Return the distinct settings of the images of all pretrained networks of timm."""
    from timm.models._registry import _model_pretrained_cfgs as published

    found = {}
    for config in published.values():
        config = timm.data.resolve_data_config({}, pretrained_cfg=dataclasses.asdict(config))
        found[repr(sorted(config.items()))] = config
    return list(found.values())


def one_of_each(configs):
    """Keep the smallest of the presets whose geometry is alike."""
    found = {}
    for config in sorted(configs, key=lambda c: -c["input_size"][1]):
        square = config["input_size"][1] == config["input_size"][2]
        crop = np.sign(config["crop_pct"] - 1)
        found[config["crop_mode"], config["interpolation"], square, crop] = config
    return list(found.values())


def photographs(photo):
    """Return wide, high and small images of one photograph, as arrays."""
    photo = Image.fromarray(photo)
    return [np.asarray(photo.resize(size, 3)) for size in [(320, 213), (150, 400), (61, 50)]]


def preprocessing_of(config, monkeypatch) -> ImagePreprocessing:
    """Return what is made of a network of timm with these settings."""
    network = TinyNet()
    network.pretrained_cfg = config
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: network)
    return load_timm("timm:resnet18", None).preprocess


def assert_as_by_timm(preprocess, config, photo):
    expected = timm.data.create_transform(**config)(Image.fromarray(photo))
    found = preprocess(photo)
    assert found.shape == expected.shape == preprocess.input_shape
    levels = (found - expected).abs() * torch.tensor(config["std"])[:, None, None] * 255
    # "center" is resized by torchvision: beside sharp edges a value in 10,000 may be further off.
    n_off = (levels > 2.01).sum()
    assert n_off <= (levels.numel() / 10_000 if config["crop_mode"] == "center" else 0)
    assert levels.max() <= 5


@pytest.mark.slow
def test_one_preset_of_each_kind_equals_create_transform(photos, monkeypatch):
    for config in one_of_each(presets()):
        preprocess = preprocessing_of(config, monkeypatch)
        for photo in photographs(photos[0]):
            assert_as_by_timm(preprocess, config, photo)


@pytest.mark.sweep
def test_every_preset_equals_create_transform(photos, monkeypatch):
    for config in presets():
        preprocess = preprocessing_of(config, monkeypatch)
        for photo in photographs(photos[1]):
            assert_as_by_timm(preprocess, config, photo)


@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_float_images_are_preprocessed_as_uint8(crop_mode, photos):
    steps = ImagePreprocessing(
        (40, 56), (48, 32), (0.2, 0.4, 0.6), (1.0,) * 3, "bicubic", crop_mode
    )
    difference = steps(photos[0]) - steps(photos[0].astype(np.float32) / 255)
    assert difference.abs().max() * 255 <= 2


def test_very_thin_images_are_squashed_or_bordered_completely():
    thin = np.zeros((1, 4000, 3), np.uint8)
    thin[:, 2000:] = 255
    for crop_mode in ("squash", "border"):
        x = ImagePreprocessing(16, 16, (0.5,) * 3, (1.0,) * 3, "bilinear", crop_mode)(thin)
        row = x[0, 7 if crop_mode == "border" else 0]
        assert row[:7].max() == -0.5
        assert row[-7:].min() == 0.5
        assert (x == row).all() == (crop_mode == "squash")


def test_another_crop_mode_is_refused():
    with pytest.raises(ValueError, match="crop_mode='centre': one of center, squash, border"):
        ImagePreprocessing(8, 8, (0.0,) * 3, (1.0,) * 3, "bilinear", "centre")


def test_a_network_for_images_that_are_not_square_is_fine_tuned():
    steps = ImagePreprocessing((24, 16), (20, 12), (0.5,) * 3, (0.25,) * 3, "bilinear", "squash")
    backbone = tiny_backbone(preprocess=steps)
    assert backbone.input_shape == (3, 20, 12)
    model = FineTunedClassifier(
        backbone, trainable=1, augment="light", max_epochs=1, random_state=0
    )
    proba = model.fit(images(6), [0, 1] * 3).predict_proba(images(6))
    assert proba.shape == (6, 2)
    assert backbone.with_image_size(10).preprocess == dataclasses.replace(
        steps, resize=(12, 13), crop=10
    )


def test_the_classes_of_a_file_with_other_outputs_are_numbers(tmp_path):
    state = dict(random_backbone("timm:test_resnet").module.state_dict())
    state["fc.weight"], state["fc.bias"] = state["fc.weight"][:3].clone(), state["fc.bias"][:3]
    path = tmp_path / "a.safetensors"
    safetensors.torch.save_file({name: x.clone() for name, x in state.items()}, path)
    loaded = load_backbone("timm:test_resnet", weights=path)
    assert loaded.classes == ("0", "1", "2") and loaded.class_ids is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["tiny_dinov3", pytest.param("eva02_tiny_patch14_224", marks=pytest.mark.sweep)]
)
def test_a_file_has_a_classifier_that_the_published_network_has_not(name, tmp_path):
    backbone = random_backbone(f"timm:{name}")
    assert backbone.classes is None
    network = timm.create_model(name).eval()
    network.load_state_dict(backbone.module.state_dict())
    network.reset_classifier(5)
    safetensors.torch.save_file(network.state_dict(), tmp_path / "a.safetensors")
    before = torch.get_rng_state()
    loaded = load_backbone(f"timm:{name}", weights=tmp_path / "a.safetensors")
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.classes == ("0", "1", "2", "3", "4") and loaded.class_ids is None
    X = images(3)
    x = torch.stack([loaded.preprocess(image) for image in X])
    with torch.inference_mode():
        features, logits = loaded.run(x, [(penultimate(loaded), "avg"), ("head", "none")])
        torch.testing.assert_close(logits, network(x), rtol=1e-5, atol=1e-5)
        expected = network.forward_head(network.forward_features(x), pre_logits=True)
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-5)
    assert PretrainedClassifier(loaded).fit(X).predict_proba(X).shape == (3, 5)


@pytest.mark.slow
def test_a_file_of_a_network_without_classifier_has_no_classes(tmp_path):
    state = random_backbone("timm:tiny_dinov3").module.state_dict()
    safetensors.torch.save_file(state, tmp_path / "a.safetensors")
    assert load_backbone("timm:tiny_dinov3", weights=tmp_path / "a.safetensors").classes is None
