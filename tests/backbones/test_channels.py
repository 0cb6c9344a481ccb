"""Networks for images of more than three channels, through the whole chain."""

import pickle

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.base import clone
from torch import nn

from sktransfer import (
    Augmentation,
    FineTunedClassifier,
    ImagePreprocessing,
    PretrainedFeatureExtractor,
    TransferClassifier,
    load,
    load_backbone,
    register_backbone,
    save,
    to_onnx,
)
from sktransfer.inspection import saliency
from tests.support import random_backbone, tiny_backbone

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (24, 20, 24, 5), dtype=np.uint8)
Y = np.repeat(["field", "water"], 12)
X[Y == "water", :, :, 4] //= 3  # the classes differ in the last channel alone


@pytest.fixture
def lite():
    return load_backbone("efficientnet_lite0", channels=5, image_size=32)


@pytest.fixture
def small():
    return tiny_backbone().with_channels(5)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "crossvit_tiny_240"])
def test_first_layers_of_timm_are_adapted_as_timm_adapts_them(name):
    timm = pytest.importorskip("timm")
    plain = random_backbone(f"timm:{name}")
    network = plain.with_channels(5)
    reference = timm.create_model(name, in_chans=5).eval()
    tensors = dict(plain.module.state_dict())
    for layer in np.atleast_1d(reference.pretrained_cfg["first_conv"]):
        weight = tensors[f"{layer}.weight"]
        tensors[f"{layer}.weight"] = timm.models.adapt_input_conv(5, weight)
    reference.load_state_dict(tensors)
    inputs = torch.randn(2, *network.input_shape)
    with torch.inference_mode():
        torch.testing.assert_close(network.module(inputs), reference(inputs))


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 6])
def test_equal_channels_give_the_output_for_grey_images(n):
    plain = load_backbone("efficientnet_lite0", image_size=64)
    grey = RNG.integers(0, 256, (80, 70, 1), dtype=np.uint8)
    wanted = PretrainedFeatureExtractor(plain).fit_transform([grey])
    features = PretrainedFeatureExtractor(plain.with_channels(n))
    assert np.allclose(features.fit_transform([grey.repeat(n, 2)]), wanted, atol=1e-4)


def test_three_channels_change_nothing_and_other_tensors_are_shared(lite):
    plain = load_backbone("efficientnet_lite0")
    assert plain.with_channels(3) is plain
    assert load_backbone("efficientnet_lite0", channels=5, image_size=32) is lite
    assert plain.module.stem.conv.weight.shape[1] == 3
    own = dict(lite.module.named_parameters())
    shared = [name for name, tensor in plain.module.named_parameters() if own[name] is tensor]
    assert len(shared) == len(own) - 1
    assert lite.fingerprint != plain.fingerprint


def test_each_channel_may_have_its_mean_and_standard_deviation():
    pairs = [(0.1, 0.2), (0.2, 0.3), (0.3, 0.4), (0.4, 0.5)]
    network = load_backbone("efficientnet_lite0", channels=pairs)
    assert network.preprocess.mean == (0.1, 0.2, 0.3, 0.4)
    assert network.preprocess.std == (0.2, 0.3, 0.4, 0.5)
    again = pickle.loads(pickle.dumps(network))
    assert again.preprocess == network.preprocess
    assert again.fingerprint == network.fingerprint


@pytest.mark.parametrize("channels", [0, -1, True, 2.5, "four", [], [(0.5, 0.0)], [(0.5,)], [0.5]])
def test_channels_that_are_none_are_refused(channels):
    with pytest.raises(ValueError, match="give their number, or a pair"):
        load_backbone("efficientnet_lite0", channels=channels)


def test_a_network_that_does_not_begin_with_a_convolution_is_refused():
    network = load_backbone(
        nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)),
        preprocess=ImagePreprocessing(18, 16, (0.5,) * 3, (0.5,) * 3),
    )
    with pytest.raises(ValueError, match="does not begin with a convolution of three channels"):
        network.with_channels(5)
    with pytest.raises(ValueError, match=r"no channels to change.*ImagePreprocessing"):
        load_backbone(nn.Linear(4, 2), channels=5)


GROUPED = [nn.Conv2d(3, 6, 3, groups=3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2)]


def test_a_first_convolution_with_groups_is_named():
    preprocess = ImagePreprocessing(18, 16, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match="its first convolution, '0', has 3 groups"):
        load_backbone(nn.Sequential(*GROUPED), preprocess=preprocess, channels=5)
    five = ImagePreprocessing(18, 16, mean=(0.5,) * 5, std=(0.25,) * 5)
    network = load_backbone(nn.Sequential(*GROUPED), preprocess=five)
    with pytest.raises(ValueError, match=r"'0', takes 3 channels.* has 5 means"):
        PretrainedFeatureExtractor(network).fit(X)


def own_network():
    torch.manual_seed(0)
    layers = [nn.Conv2d(5, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)]
    return nn.Sequential(*layers).eval()


def test_an_own_network_takes_as_many_channels_as_there_are_means():
    preprocess = ImagePreprocessing(18, 16, mean=(0.5,) * 5, std=(0.25,) * 5)
    network = load_backbone(own_network(), preprocess=preprocess)
    features = PretrainedFeatureExtractor(network, layer="4").fit_transform(X[:3])
    inputs = torch.stack([preprocess(image) for image in X[:3]])
    with torch.inference_mode():
        assert np.allclose(features, network.module(inputs), atol=1e-6)


def test_a_transform_of_the_users_is_given_an_array_with_all_channels():
    def preprocess(image):
        return torch.from_numpy(image.copy()).permute(2, 0, 1) / 255

    network = load_backbone(own_network(), preprocess=preprocess, modality="multichannel")
    features = PretrainedFeatureExtractor(network, layer="4").fit_transform(X[:3])
    with torch.inference_mode():
        wanted = network.module(torch.from_numpy(X[:3]).permute(0, 3, 1, 2) / 255)
    assert np.allclose(features, wanted, atol=1e-6)


def test_a_registered_network_of_five_channels_is_found_by_its_name(tmp_path):
    preprocess = ImagePreprocessing(18, 16, mean=(0.5,) * 5, std=(0.25,) * 5)
    register_backbone("five-channels", own_network, preprocess=preprocess)
    extractor = PretrainedFeatureExtractor("five-channels", memory=tmp_path).fit(X)
    again = pickle.loads(pickle.dumps(extractor))
    assert np.array_equal(again.transform(X), extractor.transform(X))


@pytest.mark.slow
def test_weights_of_a_network_that_was_trained_on_five_channels_are_loaded(tmp_path):
    network = random_backbone("resnet18").with_channels(5)
    torch.save(network.module.state_dict(), tmp_path / "five.pth")
    loaded = load_backbone("resnet18", weights=tmp_path / "five.pth")
    assert loaded.input_shape == (5, 224, 224)
    assert loaded.fingerprint == network.fingerprint
    assert load_backbone("resnet18", weights=tmp_path / "five.pth", channels=5) is loaded


@pytest.mark.slow
def test_images_of_another_number_of_channels_are_named_in_the_error(lite):
    with pytest.raises(ValueError, match=r"shape \(20, 24, 3\) has 3 instead of 5 channels"):
        PretrainedFeatureExtractor(lite).fit_transform(X[..., :3])
    with pytest.raises(ValueError, match="of one image, give"):
        PretrainedFeatureExtractor(lite).fit_transform(X[0])


def test_stored_features_of_four_channels_are_not_those_of_rgba(tmp_path):
    rgba = RNG.integers(0, 256, (3, 20, 24, 4), dtype=np.uint8)
    plain = tiny_backbone()
    both = [
        PretrainedFeatureExtractor(network, memory=tmp_path).fit_transform(rgba)
        for network in (plain, plain.with_channels(4))
    ]
    assert not np.allclose(*both)
    assert np.array_equal(
        PretrainedFeatureExtractor(plain.with_channels(4)).fit_transform(rgba), both[1]
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trainable", "augment"),
    [("head", None), ("head", "strong"), (1, Augmentation("light", n_views=None))],
    ids=["plain", "views", "fresh"],
)
def test_a_tuned_network_sees_all_channels_and_is_saved(small, trainable, augment, tmp_path):
    model = FineTunedClassifier(
        small, trainable=trainable, augment=augment, max_epochs=3, random_state=0
    )
    model = clone(model).fit(X, Y)
    assert model.score(X, Y) == 1
    wanted = model.predict_proba(X)
    assert np.array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), wanted)
    for self_contained in (False, True):
        save(model, tmp_path / "model.skt", self_contained=self_contained)
        again = load(tmp_path / "model.skt", modules={"tinynet": lambda: small.module})
        assert np.allclose(again.predict_proba(X), wanted, atol=1e-6)


@pytest.mark.slow
def test_a_model_is_exported_with_all_channels(small, tmp_path):
    model = TransferClassifier(small, strategy="features", random_state=0).fit(X, Y)
    assert model.score(X, Y) == 1
    to_onnx(model, tmp_path / "model.onnx", X=X[:4])
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    (image,) = session.get_inputs()
    assert image.shape[1:] == [16, 16, 5]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_saliency_shows_the_first_three_channels(small, method):
    model = FineTunedClassifier(small, random_state=0).fit(X, Y)
    maps = saliency(model, X[:2], method=method)
    assert maps.shown[0].shape[2] == 3
    assert np.isfinite(maps.maps[0]).all()
