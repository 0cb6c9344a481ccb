import functools
import re

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.transforms import v2

from sktransfer import (
    Backbone,
    ImagePreprocessing,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    list_layers,
    load_backbone,
)
from sktransfer.backbones import pool, pooled_width
from sktransfer.backbones.layers import LayerInfo, inspect_layers, penultimate, resolve_layer
from sktransfer.backbones.stages import cut_of, has_tensors, stages_of
from sktransfer.engines import ENGINES, TorchEngine
from tests.support import (
    TINY_SIZE,
    TinyNet,
    enliven,
    images,
    random_backbone,
    tiny_backbone,
    tiny_swin,
    tiny_vit,
)


@functools.cache
def skeleton(name):
    """A torchvision network without numbers in it: layers depend on its shapes alone."""
    settings = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    with torch.device("meta"):
        module = models.get_model(name, weights=None, **settings)
    return Backbone(name, module, classes=[str(i) for i in range(1000)])


def in_steps(backbone, x):
    for stage in stages_of(backbone).values():
        x = stage(x)
    return x


def numbered(pattern, n):
    return [pattern.format(i) for i in range(n)]


def residual(*depths):
    return [f"layer{i}.{k}" for i, depth in enumerate(depths, 1) for k in range(depth)]


NETWORKS = {
    "alexnet": [*numbered("features.{}", 13), "avgpool", "flatten", *numbered("classifier.{}", 7)],
    "vgg19": [*numbered("features.{}", 37), "avgpool", "flatten", *numbered("classifier.{}", 7)],
    "resnet18": [
        *("conv1", "bn1", "relu", "maxpool"),
        *residual(2, 2, 2, 2),
        *("avgpool", "flatten", "fc"),
    ],
    "resnet50": [
        *("conv1", "bn1", "relu", "maxpool"),
        *residual(3, 4, 6, 3),
        *("avgpool", "flatten", "fc"),
    ],
    "inception_v3": [
        *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "maxpool1"),
        *("Conv2d_3b_1x1", "Conv2d_4a_3x3", "maxpool2"),
        *("Mixed_5b", "Mixed_5c", "Mixed_5d"),
        *("Mixed_6a", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e"),
        *("Mixed_7a", "Mixed_7b", "Mixed_7c", "avgpool", "dropout", "flatten", "fc"),
    ],
}

CONTAINED = {
    "vit_b_16": [
        *numbered("encoder.layers.encoder_layer_{}", 12),
        *("encoder.ln", "getitem", "heads"),
    ],
    "swin_t": [
        *("features.0.0", "features.1.0", "features.1.1", "features.3.0", "features.3.1"),
        *numbered("features.5.{}", 6),
        *("features.7.0", "features.7.1", "norm", "avgpool", "flatten", "head"),
    ],
    "maxvit_t": [
        *("stem.0", "stem.1", "blocks.0.layers.0.layers.MBconv"),
        *("blocks.0.layers.0.layers.window_attention", "blocks.0.layers.0.layers.grid_attention"),
        *("blocks.3.layers.1.layers.grid_attention", "classifier.5"),
    ],
    "densenet121": [
        *("features.denseblock1", "features.denseblock2", "features.denseblock3"),
        *("features.denseblock4", "features.norm5", "flatten", "classifier"),
    ],
    "googlenet": ["conv1", "inception3a", "inception4e", "inception5b", "avgpool", "fc"],
    "squeezenet1_0": ["features.0", "features.3", "features.12", "classifier.1", "flatten"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_cut_at_these_places(name):
    assert list_layers(skeleton(name)) == NETWORKS[name]


@pytest.mark.parametrize("name", CONTAINED)
def test_networks_are_cut_between_their_blocks(name):
    layers = list_layers(skeleton(name))
    positions = [layers.index(layer) for layer in CONTAINED[name]]
    assert positions == sorted(positions)
    assert len(set(layers)) == len(layers)


def test_the_default_network_is_cut_at_these_places():
    blocks = numbered("blocks.{}", 16)
    tail = ["head", "pool", "flatten", "dropout", "classifier"]
    assert list_layers("efficientnet_lite0") == ["stem", *blocks, *tail]


@pytest.mark.parametrize(
    "name",
    [
        *("resnet18", "squeezenet1_1", "shufflenet_v2_x0_5"),
        *("densenet121", "efficientnet_lite0", "googlenet"),
        *(
            pytest.param(name, marks=pytest.mark.sweep)
            for name in ("mobilenet_v3_small", "mnasnet0_5", "regnet_y_400mf")
        ),
    ],
)
def test_stages_in_order_are_the_network_bit_for_bit(name):
    backbone = random_backbone(name)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(in_steps(backbone, x), backbone.module(x))


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_stages_of_transformers_in_order_are_the_network_bit_for_bit(build):
    backbone = load_backbone(build())
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert len(list_layers(backbone)) > 8
    with torch.inference_mode():
        assert torch.equal(in_steps(backbone, x), backbone.module(x))


def test_prefix_and_suffix_at_every_cut_are_the_network():
    backbone = random_backbone("resnet18")
    stages = list(stages_of(backbone).values())
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        whole = backbone.module(x)
        for cut in range(1, len(stages)):
            prefix, suffix = nn.Sequential(*stages[:cut]), nn.Sequential(*stages[cut:])
            assert torch.equal(suffix(prefix(x)), whole)


def test_stages_share_the_tensors_of_the_network_and_their_names():
    backbone = random_backbone("resnet18")
    whole = dict(backbone.module.named_parameters())
    parts = [pair for s in stages_of(backbone).values() for pair in s.named_parameters()]
    assert sorted(name for name, _ in parts) == sorted(whole)
    assert all(tensor is whole[name] for name, tensor in parts)


@pytest.mark.parametrize(
    ("name", "layer", "width"),
    [
        ("alexnet", "classifier.5", 4096),
        ("vgg19", "classifier.5", 4096),
        ("resnet18", "flatten", 512),
        ("inception_v3", "flatten", 2048),
        ("googlenet", "dropout", 1024),
        ("squeezenet1_1", "classifier.0", 512),
        ("vit_b_16", "getitem", 768),
        ("swin_t", "flatten", 768),
        ("densenet121", "flatten", 1024),
        ("mobilenet_v3_small", "classifier.2", 1024),
        ("convnext_tiny", "classifier.1", 768),
    ],
)
def test_the_penultimate_layer_is_what_the_classifier_takes(name, layer, width):
    backbone = skeleton(name)
    assert penultimate(backbone) == layer
    side = 299 if name == "inception_v3" else 224
    x = torch.empty(2, 3, side, side, device="meta")
    for at, stage in stages_of(backbone).items():
        x = stage(x)
        if at == layer:
            break
    assert pool(x, "avg").shape == (2, width)


def test_the_penultimate_layer_of_own_networks():
    encoder = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    assert penultimate(load_backbone(encoder)) == list_layers(encoder)[-1] == "1"
    head = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.Softmax(1))
    assert penultimate(load_backbone(head)) == "1"
    assert penultimate(load_backbone(nn.Linear(4, 3))) == "linear"
    assert penultimate(tiny_backbone()) == "4"


# finding a layer


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("layer4.0", "layer4.0"),
        ("layer4", "layer4.1"),
        ("layer1", "layer1.1"),
        (None, "flatten"),
        (-1, "fc"),
        (-2, "flatten"),
        (0, "conv1"),
        (-15, "conv1"),
        (14, "fc"),
        (np.int64(-2), "flatten"),
    ],
)
def test_a_layer_is_found_by_name_module_or_position(asked, found):
    assert resolve_layer(skeleton("resnet18"), asked) == found


@pytest.mark.parametrize("position", [15, -16])
def test_positions_beyond_the_network_are_refused(position):
    with pytest.raises(ValueError, match=rf"layer={position}: .*'resnet18' has 15 layers, -15 to"):
        resolve_layer(skeleton("resnet18"), position)


@pytest.mark.parametrize(
    ("asked", "near"), [("layer4.5", "layer4.1"), ("layer1.0.relu", "layer1.0"), ("fcc", "fc")]
)
def test_an_unknown_layer_offers_the_nearest(asked, near):
    with pytest.raises(ValueError, match=rf"'{asked}' is not a place.*Nearest: .*'{near}'"):
        resolve_layer(skeleton("resnet18"), asked)


def test_a_part_of_a_name_is_no_layer():
    with pytest.raises(ValueError, match="'layer' is not a place"):
        resolve_layer(skeleton("resnet18"), "layer")


# networks of other kinds


class Own(nn.Module):
    """Two steps; what happens in between is given, and depends on the weights."""

    def __init__(self, between, **kwargs):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)  # with which by_value takes one branch for a sample, alone or not
            self.first = nn.Linear(4, 5)
            self.second = nn.Linear(5, 3)
        self.between = between

    def forward(self, x):
        return self.second(self.between(self.first(x)))


def by_value(x):
    return x if x.sum() > 0 else -x


def test_a_network_that_looks_at_values_is_one_layer_and_says_why():
    backbone = load_backbone(Own(by_value))
    X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    assert list_layers(backbone) == ["output"]
    with torch.inference_mode():
        alone = np.vstack([backbone.module(torch.from_numpy(x)[None]) for x in X])
    features = PretrainedFeatureExtractor(backbone, batch_size=1).fit_transform(X)
    np.testing.assert_allclose(features, alone, rtol=1e-5)
    with pytest.raises(ValueError, match=r"not be cut \(TraceError.*control flow\).*stages=\[…\]"):
        resolve_layer(backbone, "first")


def test_a_network_that_does_not_repeat_is_one_layer_and_says_why():
    class Counting(Own):
        calls = 0

        def forward(self, x):
            self.calls += 1
            return self.second(self.first(x) + self.calls)

    with pytest.warns(UserWarning, match="gives other numbers for a sample in another batch"):
        extractor = PretrainedFeatureExtractor(Counting(None)).fit(np.ones((2, 4)))
    assert extractor.layers_ == list_layers(extractor.backbone_) == ["output"]
    assert "its forward depends on" in cut_of(extractor.backbone_).why_single


def test_a_network_with_several_outputs_is_one_layer_and_says_why():
    class Pair(Own):
        def forward(self, x):
            return self.first(x), x

    backbone = load_backbone(Pair(None))
    assert list_layers(backbone) == ["output"]
    assert cut_of(backbone).why_single == "it returns more than one tensor"


def test_a_network_that_computes_nothing_is_one_layer():
    rows = np.ones((3, 4), np.float32)
    extractor = PretrainedFeatureExtractor(nn.Identity()).fit(rows)
    assert list_layers(extractor.backbone_) == ["output"]
    assert np.array_equal(extractor.transform(rows), rows)


def test_a_network_that_can_be_cut_has_no_reason_not_to():
    assert cut_of(skeleton("resnet18")).why_single == ""


def test_optional_arguments_of_forward_do_not_hinder_cutting():
    class Masked(Own):
        def forward(self, x, mask=None, scale=False):
            x = self.first(x)
            x = x if mask is None else x * mask
            x = self.second(x)
            return x if mask is None else x * mask

    backbone = load_backbone(Masked(None))
    assert list_layers(backbone) == ["first", "second"]
    x = torch.ones(2, 4)
    assert torch.equal(in_steps(backbone, x), backbone.module(x))


def test_a_network_that_changes_its_input_in_place_is_cut_and_right():
    class InPlace(Own):
        def forward(self, x):
            return super().forward(x.sub_(0.5).div_(0.25))

    module = InPlace(torch.relu)
    X = np.random.default_rng(0).random((6, 4), np.float32)
    before = X.copy()
    with torch.inference_mode():
        wanted = module(torch.tensor(X))
    extractor = PretrainedFeatureExtractor(module, layer=-1).fit(X)
    assert len(list_layers(extractor.backbone_)) > 2
    np.testing.assert_allclose(extractor.transform(X), wanted, rtol=1e-5, atol=1e-6)
    assert np.array_equal(X, before)


def test_a_value_used_later_prevents_a_cut():
    class Skip(Own):
        def forward(self, x):
            y = self.first(x)
            return self.second(torch.relu(y) + y)

    assert list_layers(Skip(None)) == ["first", "add", "second"]


def test_a_module_called_twice_gives_two_layers():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.step = nn.Linear(4, 4)

        def forward(self, x):
            return self.step(self.step(x))

    backbone = load_backbone(Twice())
    assert list_layers(backbone) == ["step", "step_"]
    x = torch.ones(2, 4)
    assert torch.equal(in_steps(backbone, x), backbone.module(x))


# stages given by the user


def split(module):
    steps = list(module)
    return [nn.Sequential(*steps[a:b]) for a, b in ((0, 3), (3, 5), (5, 6))]


@pytest.mark.parametrize(
    ("stages", "names"),
    [
        (split, ["stage0", "stage1", "stage2"]),
        (lambda m: dict(zip("xyz", split(m), strict=True)), ["x", "y", "z"]),
    ],
)
def test_stages_of_the_user_are_the_layers(stages, names):
    module = TinyNet()
    backbone = load_backbone(module, preprocess=TINY_SIZE, stages=stages(module))
    assert list_layers(backbone) == names
    assert stages_of(backbone)[names[0]][0].weight is backbone.module[0].weight
    X = images(3)
    features = PretrainedFeatureExtractor(backbone, layer=names[1]).fit_transform(X)
    plain = PretrainedFeatureExtractor(tiny_backbone(), layer="4").fit_transform(X)
    np.testing.assert_allclose(features, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("left_out", [0, 1, 2, 4, 5])
def test_stages_that_are_not_the_network_are_refused(left_out):
    module = nn.Sequential(
        nn.Conv2d(3, 3, 3, padding=1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3, bias=False),
    )
    enliven(module)
    parts = [part for i, part in enumerate(module) if i != left_out]
    backbone = load_backbone(module, preprocess=TINY_SIZE, stages=parts)
    with pytest.raises((ValueError, RuntimeError), match=r"stages of backbone 'sequential'|shape"):
        PretrainedFeatureExtractor(backbone).fit(images(2))


def test_a_missing_activation_is_noticed_whatever_the_first_sample_is():
    module = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten())
    backbone = load_backbone(module, preprocess=TINY_SIZE, stages=[module[0], module[2]])
    with pytest.raises(ValueError, match="do not give the output of the module"):
        PretrainedFeatureExtractor(backbone).fit([np.full((16, 16, 3), 127, np.uint8)])


def test_stages_are_checked_once_for_each_network():
    calls = []
    module = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
    backbone = load_backbone(module)
    backbone.module.register_forward_hook(lambda *args: calls.append(1))
    for _ in range(3):
        inspect_layers(backbone, torch.ones(1, 4))
    assert len(calls) == 1  # its stages compute the same, and two samples run through them


def test_has_tensors_tells_learned_stages():
    assert has_tensors(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    assert not has_tensors(nn.Sequential(nn.ReLU(), nn.Flatten()))


# pooling


MAPS = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2)
TOKENS = torch.arange(2 * 4 * 3.0).reshape(2, 4, 3)


@pytest.mark.parametrize(
    ("activation", "pooling", "wanted"),
    [
        (MAPS, "avg", [[1.5, 5.5, 9.5], [13.5, 17.5, 21.5]]),
        (MAPS, "max", [[3, 7, 11], [15, 19, 23]]),
        (MAPS, "flatten", MAPS.reshape(2, 12).tolist()),
        (MAPS, lambda x: x[:, :2, 0], [[0, 1, 4, 5], [12, 13, 16, 17]]),
        (TOKENS, "avg", [[4.5, 5.5, 6.5], [16.5, 17.5, 18.5]]),
        (TOKENS, "max", [[9, 10, 11], [21, 22, 23]]),
        (TOKENS, "cls", [[0, 1, 2], [12, 13, 14]]),
        (TOKENS, "flatten", TOKENS.reshape(2, 12).tolist()),
        *[(TOKENS[:, 0], how, [[0, 1, 2], [12, 13, 14]]) for how in ("avg", "max", "flatten")],
        (torch.arange(16.0).reshape(1, 2, 2, 2, 2), "avg", [[3.5, 11.5]]),  # video
    ],
)
def test_pooling_makes_a_vector_of_each_activation(activation, pooling, wanted):
    assert pool(activation, pooling).tolist() == wanted


def test_the_first_token_needs_tokens():
    with pytest.raises(ValueError, match=r"first token.*\(2, 3, 2, 2\) and no tokens"):
        pool(MAPS, "cls")


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
def test_blocks_that_keep_channels_last_are_pooled_over_positions(pooling, own):
    steps = [v2.Resize((16, 16)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    preprocess = v2.Compose(steps) if own else TINY_SIZE
    backbone = load_backbone(tiny_swin(), preprocess=preprocess)
    X = images(2, (16, 16))
    features = PretrainedFeatureExtractor(backbone, layer="features.1.0", pooling=pooling)
    x = torch.stack([backbone.preprocess(image) for image in X])
    with torch.inference_mode():
        activation = backbone.module.features[:2][0](x)
        activation = backbone.module.features[1][0](activation)  # (2, 4, 4, 12)
    flat = activation.movedim(-1, 1).flatten(2)
    wanted = {"avg": flat.mean(2), "max": flat.amax(2), "flatten": flat.flatten(1)}[pooling]
    np.testing.assert_allclose(features.fit_transform(X), wanted, rtol=1e-4, atol=1e-6)


class TimeFirst(nn.Module):
    """A recurrent network in torch's default layout: time steps before samples inside."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.enc, self.head = nn.GRU(4, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.head(self.enc(x.transpose(0, 1))[0].mean(0))


class Frames(nn.Module):
    """A network that looks at the frames of a clip as if they were samples."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.cnn = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, x):
        return self.cnn(x.flatten(0, 1)).unflatten(0, x.shape[:2]).mean(1)


@pytest.mark.parametrize("network", [TimeFirst, Frames])
@pytest.mark.parametrize("n_steps", [1, 2, 6])
def test_there_is_no_layer_where_samples_have_no_row_each(network, n_steps):
    X = np.random.RandomState(0).normal(size=(70, n_steps, 4)).astype(np.float32)
    backbone = load_backbone(network())
    every = PretrainedFeatureExtractor(backbone, layer=0).fit(X)
    with torch.inference_mode():
        expected = backbone.module(torch.from_numpy(X)).numpy()
    for layer in list_layers(backbone):
        found = every.set_params(layer=layer).fit(X).transform(X)
        alone = np.vstack([every.transform(x[None]) for x in X[:5]])
        np.testing.assert_allclose(found[:5], alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_given_stages_must_give_a_row_for_each_sample():
    module = TimeFirst()

    class Swap(nn.Module):
        def forward(self, x):
            return x.transpose(0, 1)

    class Rest(nn.Module):
        def __init__(self):
            super().__init__()
            self.enc, self.head = module.enc, module.head

        def forward(self, x):
            return self.head(self.enc(x)[0].mean(0))

    backbone = load_backbone(module, stages={"swap": Swap(), "rest": Rest()})
    with pytest.raises(ValueError, match=r"Stages \['swap'\]"):
        inspect_layers(backbone, torch.ones(1, 6, 4))


class Returns(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.what, self.linear = what, nn.Linear(4, 3)

    def forward(self, x):
        return self.what(self.linear(x))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        (lambda x: (x, x), "returns tuple"),
        (lambda x: {"out": x}, "returns dict"),
        (lambda x: x.mean(), "a row for each sample"),
        (lambda x: x.T, "a row for each sample"),
    ],
)
def test_an_output_that_is_not_a_row_for_each_sample_is_told(what, message):
    with pytest.raises(ValueError, match=message):
        PretrainedFeatureExtractor(load_backbone(Returns(what))).fit(np.ones((5, 4), np.float32))


def test_batch_norm_without_statistics_is_told():
    norm = nn.BatchNorm1d(2, track_running_stats=False)
    backbone = load_backbone(nn.Sequential(nn.Linear(4, 8), nn.Unflatten(1, (2, 4)), norm))
    with pytest.warns(UserWarning, match="in another batch"):
        inspect_layers(backbone, torch.randn(1, 4, generator=torch.Generator().manual_seed(0)))


def test_a_pooling_that_works_in_place_changes_nothing_else():
    X = np.random.RandomState(0).normal(size=(6, 3, 16, 16)).astype(np.float32)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3))
    backbone = load_backbone(module, modality="array")

    def clamped(activation):
        return activation.clamp_(0, 0.1).mean((2, 3))

    settings = {"layer": [0, 1]}
    both = PretrainedFeatureExtractor(backbone, pooling=[clamped, "avg"], **settings)
    plain = PretrainedFeatureExtractor(backbone, pooling="avg", **settings)
    found, expected = both.fit_transform(X), plain.fit_transform(X)
    averages = np.hstack([found[:, 4:8], found[:, 13:]])
    np.testing.assert_allclose(averages, expected, rtol=1e-5)


# -- layer info ------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("pooling", ["avg", "flatten", lambda x: x.flatten(2).amax(2)])
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

    class Counted(TorchEngine):
        def __init__(self, *args, **settings):
            made.append(self)
            super().__init__(*args, **settings)

    monkeypatch.setitem(ENGINES, "torch", Counted)
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
