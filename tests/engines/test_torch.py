from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import fx, nn
from torchvision import models

from sktransfer import FineTunedClassifier, PretrainedFeatureExtractor, list_layers, load_backbone
from sktransfer.backbones import Backbone
from sktransfer.backbones.layers import penultimate
from sktransfer.engines import torch as torch_engine
from sktransfer.engines.torch import FusedConvolution, cast, fold, fuse_convolutions, is_supported
from tests.support import (
    TINY_SIZE,
    Vectors,
    enliven,
    images,
    make_engine,
    random_backbone,
    tiny_backbone,
    tiny_swin,
    tiny_vit,
)

CPU = torch.device("cpu")


def noise(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def engine_of(backbone, *layers, **settings):
    layers = layers or (penultimate(backbone),)
    return make_engine(backbone, layers, **settings)


def plain_features(made, batch):
    with torch.inference_mode():
        return made.run_modules(made.segments, batch)


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def every_layer(build):
    """A backbone, its network as after training, and all its layers with an activation."""
    backbone = build()
    enliven(backbone.module)
    return backbone, list_layers(backbone)[2:]


# the fast form


@pytest.mark.parametrize(
    "name",
    [
        *("efficientnet_lite0", "resnet18", "mobilenet_v3_small", "shallow densenet"),
        *(
            pytest.param(name, marks=pytest.mark.sweep)
            for name in (
                *("densenet121", "shufflenet_v2_x0_5", "inception_v3", "mnasnet0_5"),
                *("squeezenet1_1", "regnet_y_400mf"),
            )
        ),
    ],
)
def test_the_fast_form_gives_what_the_stages_give_at_every_layer(name, recwarn):
    if name == "efficientnet_lite0":
        backbone = load_backbone(name)  # with its real weights
    elif name == "shallow densenet":
        module = models.DenseNet(4, (2, 2), 8, 2, num_classes=3)
        backbone = load_backbone(enliven(module), preprocess=TINY_SIZE)
    else:
        backbone = random_backbone(name)
        enliven(backbone.module)
    side = 75 if name == "inception_v3" else 32
    x = noise(2, 3, side, side)
    for layers in (tuple(list_layers(backbone)), (penultimate(backbone),)):
        made = engine_of(backbone, *layers)
        fast, plain = made(x), plain_features(made, x)
        assert made.has_compared and made.prepared is not made.segments
        assert list(fast) == list(plain) == list(layers)
        assert max(relative(fast[layer], plain[layer]) for layer in layers) < 1e-4
    assert not [w for w in recwarn if "fast form" in str(w.message)]


@pytest.mark.parametrize("build", [tiny_vit, tiny_swin])
def test_the_fast_form_of_transformers_gives_what_the_stages_give(build):
    backbone = load_backbone(build(), preprocess=TINY_SIZE)
    made = engine_of(backbone, *list_layers(backbone))
    x = noise(3, 3, 16, 16)
    plain = plain_features(made, x)
    assert all(relative(f, plain[layer]) < 1e-4 for layer, f in made(x).items())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_every_batch_norm_is_folded(name):
    made = engine_of(random_backbone(name))
    kinds = [type(module) for segment in made.prepared for module in segment.modules()]
    assert nn.BatchNorm2d in [type(m) for s in made.segments for m in s.modules()]
    assert nn.BatchNorm2d not in kinds


class NormAct(nn.BatchNorm2d):
    """A batch norm with an activation, as timm has it; without names for them, an unknown one."""

    def __init__(self, names=("drop", "act")):
        super().__init__(3)
        for name, step in zip(names, (nn.Identity(), nn.ReLU()), strict=True):
            self.add_module(name, step)

    def forward(self, x):
        for step in self.children():
            x = step(super().forward(x) if isinstance(step, nn.Identity) else x)
        return x


@pytest.mark.parametrize(("names", "folded"), [(("drop", "act"), True), (("a", "b"), False)])
def test_a_batch_norm_with_an_activation_is_folded_if_its_parts_are_known(names, folded, recwarn):
    network = nn.Sequential(nn.Conv2d(3, 3, 3), NormAct(names), nn.Conv2d(3, 3, 3))
    backbone = load_backbone(enliven(network), preprocess=TINY_SIZE)
    backbone.opaque = (NormAct,)
    made = engine_of(backbone, *list_layers(backbone))
    x = noise(2, 3, 16, 16)
    fast, plain = engine_of(backbone, list_layers(backbone)[-1]), plain_features(made, x)
    last = list_layers(backbone)[-1]
    assert relative(fast(x)[last], plain[last]) < 1e-5
    kinds = {type(m) for segment in fast.prepared for m in segment.modules()}
    assert (NormAct in kinds) != folded
    assert not [w for w in recwarn if "fast form" in str(w.message)]


class Shared(nn.Module):
    """One convolution before two batch norms, which must not be folded into it."""

    def __init__(self, twice):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])
        self.relu = nn.ReLU(inplace=False)
        self.twice = twice

    def forward(self, x):
        if self.twice:
            return self.norms[1](self.conv(self.relu(self.norms[0](self.conv(x)))))
        y = self.conv(x)
        return self.relu(self.norms[0](y)) + self.relu(self.norms[1](y)) + y


@pytest.mark.parametrize("twice", [False, True])
def test_what_is_used_twice_is_neither_folded_nor_overwritten(twice, recwarn):
    backbone = load_backbone(enliven(Shared(twice)))
    made = engine_of(backbone, list_layers(backbone)[-1], pooling="flatten")
    x = noise(2, 3, 8, 8)
    with torch.inference_mode():
        wanted = backbone.module(x).flatten(1)
    torch.testing.assert_close(made(x)[made.layers[0]], wanted, rtol=1e-5, atol=1e-5)
    assert made.has_compared and made.prepared is not made.segments
    assert not recwarn


def test_running_leaves_the_network_and_the_batch_as_they_were():
    backbone = tiny_backbone()
    before = {name: tensor.clone() for name, tensor in backbone.module.state_dict().items()}
    made = engine_of(backbone, *list_layers(backbone))
    x = noise(3, 3, 16, 16)
    copy = x.clone()
    made(x)
    assert torch.equal(x, copy)
    after = backbone.module.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert not any(m._forward_hooks for m in backbone.module.modules())
    assert all(p.requires_grad for p in backbone.module.parameters())


def test_features_of_an_early_layer_survive_activations_in_place():
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3))
    module = load_backbone(module)
    x = noise(3, 4)
    features = engine_of(module, "0", "1", "2", pooling="flatten")(x)
    with torch.inference_mode():
        first = module.module[0](x)
    assert (first < 0).any()
    torch.testing.assert_close(features["0"], first)
    torch.testing.assert_close(features["1"], first.relu())


class Times(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def test_where_the_fast_form_is_wrong_the_stages_are_used_with_a_warning():
    conv, norm = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4)
    with torch.no_grad():
        conv.weight *= 1e20
        norm.weight *= 1e20  # the product of both, which folding computes, is infinite
    module = nn.Sequential(Times(1e-20), conv, norm, nn.ReLU(), Times(1e-20), nn.Flatten()).eval()
    backbone = load_backbone(module, preprocess=TINY_SIZE)
    X = images(3, (16, 16))
    with pytest.warns(UserWarning, match="fast form of backbone 'sequential' does not give"):
        features = PretrainedFeatureExtractor(backbone, layer=-1).fit(X).transform(X)
    with torch.inference_mode():
        wanted = backbone.module(torch.stack([TINY_SIZE(image) for image in X]))
    np.testing.assert_allclose(features, wanted, rtol=1e-5, atol=1e-6)


# what runs, and how much


class Explosive(nn.Module):
    def forward(self, x):
        raise RuntimeError("this stage must not run")


def test_layers_after_the_requested_one_do_not_run():
    module = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), Explosive(), nn.Linear(5, 3))
    backbone = load_backbone(module)
    made = engine_of(backbone, "1", "0")
    assert made(noise(2, 4))["1"].shape == (2, 5)
    with pytest.raises(RuntimeError, match="must not run"):
        engine_of(backbone, "3")(noise(2, 4))


def test_the_network_runs_once_for_several_layers():
    backbone = random_backbone("resnet18")
    made = engine_of(backbone, "layer4.1", "layer1.0", "layer4.1", "flatten")
    assert made.layers == ["layer1.0", "layer4.1", "flatten"]
    n_stages = list_layers(backbone).index("flatten") + 1
    assert sum(len(part) for part in made.segments) == n_stages
    together = made(noise(2, 3, 32, 32))
    for layer in made.layers:
        alone = engine_of(backbone, layer)(noise(2, 3, 32, 32))[layer]
        assert torch.equal(alone, together[layer])


def test_the_size_of_a_batch_follows_from_each_image_size_of_one_network():
    module = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU())
    backbone = load_backbone(module, preprocess=TINY_SIZE)
    for sides in ((100, 600, 100), (600, 100, 600)):
        found = []
        for side in sides:
            sized = backbone.with_image_size(side)
            found.append(engine_of(sized, list_layers(sized)[-1]).batch_size(noise(3, side, side)))
        assert found == [4 if side == 100 else 1 for side in sides]


def test_pooling_none_keeps_whole_activations():
    made = engine_of(tiny_backbone(), "2", pooling="none")
    assert made(noise(2, 3, 16, 16))["2"].shape == (2, 8, 7, 7)


# a sample's features are its own, to float32 rounding


@pytest.mark.parametrize(
    ("build", "threads"),
    [(Vectors, 1), (Vectors, 2), (tiny_backbone, 1), (tiny_vit, 1), (tiny_swin, 1)],
)
def test_features_do_not_tell_which_batch_a_sample_was_in(build, threads, use_threads):
    use_threads(threads)
    backbone = load_backbone(build())
    shape = (9,) if build is Vectors else (3, 16, 16)
    tensors = list(noise(6, *shape))
    made = engine_of(backbone, *list_layers(backbone)[-3:])
    alone = [made.run([tensor], 1) for tensor in tensors]
    for size in (1, 4, 5, "auto"):
        for layer, features in made.run(tensors, size).items():
            own = np.vstack([one[layer] for one in alone])
            assert np.linalg.norm(features - own) <= 1e-5 * np.linalg.norm(own)


def test_features_are_float32_on_the_cpu_and_without_gradients():
    made = engine_of(tiny_backbone())
    features = made(noise(2, 3, 16, 16))["4"]
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert made.run([noise(3, 16, 16)], 1)["4"].dtype == np.float32


@pytest.mark.slow
def test_bfloat16_is_near_and_float32_all_the_same():
    backbone = load_backbone("efficientnet_lite0")
    x = noise(2, 3, 64, 64)
    layer = penultimate(backbone)
    exact = engine_of(backbone)(x)[layer]
    rough = engine_of(backbone, precision="bfloat16")(x)[layer]
    assert rough.dtype == torch.float32
    assert 1e-4 < relative(rough, exact) < 0.1


# sharing


def test_prepared_stages_share_what_does_not_change():
    backbone = load_backbone(Vectors())
    made = engine_of(backbone, list_layers(backbone)[-1])
    shared = {p.data_ptr() for p in backbone.module.parameters()}
    assert {p.data_ptr() for s in made.prepared for p in s.parameters()} <= shared


class Scaled(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * torch.arange(1.0, 4.0)


def test_stages_of_the_user_may_make_constants():
    stages = [Scaled(nn.Linear(5, 3)), nn.Linear(3, 2)]
    backbone = load_backbone(nn.Sequential(*stages), stages=stages)
    made = engine_of(backbone, list_layers(backbone)[0])
    x = noise(4, 5)
    with torch.inference_mode():
        (features,) = made(x).values()
        assert torch.equal(features, stages[0](x))


def test_a_network_that_cannot_be_traced_runs_as_it_is():
    class ByValue(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    backbone = load_backbone(ByValue(nn.Linear(5, 3), nn.ReLU()))
    made = engine_of(backbone)
    assert not any(isinstance(m, fx.GraphModule) for s in made.prepared for m in s.modules())
    x = noise(1, 5)
    with torch.inference_mode():
        assert torch.equal(made(x)["output"], backbone.module(x))


@pytest.mark.parametrize(
    "norm",
    [
        nn.utils.parametrizations.weight_norm,
        nn.utils.parametrizations.spectral_norm,
        nn.utils.spectral_norm,
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_weights_that_are_computed_when_asked_for_stay_so(norm):
    conv = norm(nn.Conv2d(3, 6, 3))
    module = nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten())
    enliven(module)
    X = np.random.RandomState(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    found = PretrainedFeatureExtractor(load_backbone(module), layer=-1).fit_transform(X)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_hooks_on_what_could_be_folded_run():
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten())
    module[1].register_forward_hook(lambda module, args, output: output.clamp(max=1.0))
    X = np.random.RandomState(0).normal(size=(5, 3, 8, 8)).astype(np.float32)
    X[3] *= 20  # where the hook acts
    X[0] *= 0.01
    found = PretrainedFeatureExtractor(load_backbone(module), layer=-1).fit_transform(X)
    with torch.inference_mode():
        expected = module.eval()(torch.from_numpy(X)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("way", ["script", "trace"])
def test_compiled_modules_run_whole(way):
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    X = np.random.RandomState(0).normal(size=(5, 4)).astype(np.float32)
    given = torch.from_numpy(X)
    made = torch.jit.script(module) if way == "script" else torch.jit.trace(module, given)
    found = PretrainedFeatureExtractor(load_backbone(made), layer=-1).fit_transform(X)
    np.testing.assert_allclose(found, module(given).detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.fixture(params=[True, False], ids=["fast", "slow"])
def fast(request, monkeypatch):
    """A processor that is fast at bfloat16, and one that is not."""
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: request.param)
    return request.param


def low_engine_of(backbone, *layers, **settings):
    layers = layers or (penultimate(backbone),)
    return make_engine(backbone, layers, precision="bfloat16", **settings)


def types(made):
    return {p.dtype for segment in made.prepared for p in segment.parameters()}


def resnet():
    return random_backbone("resnet18")


@pytest.mark.parametrize(
    "build", [tiny_backbone, tiny_vit, pytest.param(resnet, marks=pytest.mark.sweep)]
)
def test_features_are_near_and_float32(build, fast):
    backbone = build()
    if isinstance(backbone, nn.Module):
        backbone = load_backbone(backbone, preprocess=TINY_SIZE)
    enliven(backbone.module)
    backbone.prepared.pop("engines", None)
    x = noise(2, *backbone.input_shape)
    made = low_engine_of(backbone, *list_layers(backbone))
    rough, exact = made(x), made.run_modules(made.segments, x, torch.float32)
    assert made.casts == fast
    assert types(made) <= {torch.bfloat16 if fast else torch.float32}
    for layer, wanted in exact.items():
        assert rough[layer].dtype == torch.float32
        assert (rough[layer] - wanted).norm() / wanted.norm() < 0.05
    assert made.execution()["precision"] == "bfloat16"


def test_the_network_keeps_its_weights():
    backbone = tiny_backbone()
    before = {name: t.clone() for name, t in backbone.module.state_dict().items()}
    made = low_engine_of(backbone)
    made(noise(1, 3, 16, 16))
    for name, tensor in backbone.module.state_dict().items():
        assert tensor.dtype == before[name].dtype
        assert torch.equal(tensor, before[name])


def test_tensors_that_are_shared_stay_shared_and_integers_stay_integers():
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    module.register_buffer("count", torch.tensor(3))
    copied = cast(module, torch.bfloat16)
    assert copied[0].weight is copied[1].weight
    assert copied[0].weight.dtype == torch.bfloat16
    assert copied.count.dtype == torch.int64


class Constant(nn.Module):
    """Multiplies with a constant of float32 that no cast reaches."""

    def forward(self, x):
        return x.flatten(1) @ torch.eye(x[0].numel())[:, :5]


class Unique(nn.Module):
    """Can neither be copied nor, because of its condition, be traced."""

    def forward(self, x):
        return x if x.isfinite().all() else -x

    def __deepcopy__(self, memo):
        raise RuntimeError("cannot be copied")


@pytest.mark.parametrize("last", [Constant, Unique])
def test_what_does_not_run_with_cast_weights_uses_autocast(last, monkeypatch, recwarn):
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: True)
    network = nn.Sequential(nn.Conv2d(3, 4, 1), last())
    backbone = Backbone("small", network, preprocess=TINY_SIZE)  # load_backbone copies networks
    made = low_engine_of(backbone, list_layers(backbone)[-1])
    x = noise(2, 3, 16, 16)
    (found,), (wanted,) = (
        made(x).values(),
        made.run_modules(made.segments, x, torch.float32).values(),
    )
    assert not made.casts
    assert types(made) <= {torch.float32}
    assert 0 < (found - wanted).norm() / wanted.norm() < 0.05
    assert not recwarn.list


class Rough(nn.Conv2d):
    """Gives other features with weights that are cast."""

    def forward(self, x):
        y = super().forward(x)
        return 2 * y if self.weight.dtype == torch.bfloat16 else y


def test_features_that_are_too_far_off_are_computed_by_autocast(monkeypatch):
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: True)
    backbone = load_backbone(nn.Sequential(Rough(3, 4, 1), nn.Flatten()), preprocess=TINY_SIZE)
    made, x = low_engine_of(backbone), noise(2, 3, 16, 16)
    with pytest.warns(UserWarning, match="does not give the same features"):
        (found,) = made(x).values()
    (wanted,) = made.run_modules(made.segments, x, torch.float32).values()
    assert (found - wanted).norm() / wanted.norm() < 0.05


def test_frozen_stages_of_fine_tuning_have_cast_weights_too(fast):
    weights, outputs = set(), set()

    class Noted(nn.Conv2d):
        def forward(self, x):
            y = super().forward(x)
            if len(x):  # a condition, so that this is not traced
                weights.add(self.weight.dtype)
                outputs.add(y.dtype)
            return y

    network = nn.Sequential(Noted(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    backbone = load_backbone(network, preprocess=TINY_SIZE)
    X, y = images(8), list("abababab")
    model = FineTunedClassifier(backbone, precision="bfloat16", max_epochs=1, random_state=0)
    model.fit(X, y).predict(X)
    assert torch.bfloat16 in outputs
    assert (torch.bfloat16 in weights) == fast


def test_both_forms_share_the_entries_of_the_store(tmp_path, monkeypatch):
    X = images(3)
    settings = {"precision": "bfloat16", "memory": tmp_path}
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: False)
    expected = PretrainedFeatureExtractor(tiny_backbone(), **settings).fit(X).transform(X)
    monkeypatch.setattr(torch_engine, "has_bfloat16", lambda: True)
    found = PretrainedFeatureExtractor(tiny_backbone(), **settings).fit(X).transform(X)
    np.testing.assert_array_equal(found, expected)


ACTIVATIONS = [
    nn.Identity(),
    nn.ReLU(),
    nn.ReLU6(),
    nn.Hardtanh(-0.5, 0.25),
    nn.SiLU(),
    nn.Hardswish(),
    nn.LeakyReLU(0.3),
    nn.GELU(),
]
CONVOLUTIONS = [
    {"kernel_size": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2, "bias": False},
    {"kernel_size": 3, "padding": 2, "dilation": 2},
    {"kernel_size": (1, 5), "groups": 4},
    {"kernel_size": 3, "groups": 8},
]


def fused(*modules):
    if not is_supported():
        pytest.skip("this torch or this processor does not have the operation")
    return fuse_convolutions(fold(nn.Sequential(*modules), ()))


def run(module, x):
    with torch.inference_mode():
        return module(x.contiguous(memory_format=torch.channels_last))


def n_fused(module):
    return sum(isinstance(part, FusedConvolution) for part in module.modules())


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda module: type(module).__name__)
@pytest.mark.parametrize("settings", CONVOLUTIONS, ids=str)
def test_values_are_those_of_the_modules(activation, settings):
    conv = nn.Conv2d(8, 16, **settings)
    made = fused(conv, activation)
    assert n_fused(made) == 1
    n_left = sum(type(part) is type(activation) for part in made.modules())
    assert n_left == int(isinstance(activation, nn.GELU | nn.Identity))
    for shape in ((2, 8, 9, 11), (1, 8, 20, 20), (5, 8, 9, 11)):  # the weights are laid out once
        x = noise(*shape)
        torch.testing.assert_close(run(made, x), activation(conv(x)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", [1, 3, 5, (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_padding_of_tensorflow_is_part_of_the_operation(kernel, dtype):
    timm = pytest.importorskip("timm")
    same = timm.layers.Conv2dSame(8, 16, kernel, stride=2).requires_grad_(False)
    same.to(dtype)
    folded = fold(nn.Sequential(same, nn.ReLU6()), ())
    made = fuse_convolutions(folded, dtype)
    assert n_fused(made) == 1
    for shape in ((2, 8, 9, 11), (1, 8, 20, 20), (2, 8, 9, 12)):  # a layout for each
        x = noise(*shape).to(dtype)
        near = 1e-5 if dtype == torch.float32 else 0.05
        torch.testing.assert_close(run(made, x), nn.ReLU6()(same(x)), atol=near, rtol=near)


def test_a_dilated_convolution_of_timm_runs_as_it_is():
    timm = pytest.importorskip("timm")
    same = timm.layers.Conv2dSame(8, 16, 3, dilation=2)
    made, x = fused(same, nn.ReLU6()), noise(2, 8, 9, 11)
    assert n_fused(made) == 0
    torch.testing.assert_close(run(made, x), nn.ReLU6()(same(x)))


def test_an_output_that_is_used_twice_is_kept():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU()

        def forward(self, x):
            y = self.conv(x)
            return y + self.relu(y)

    module, x = Twice(), noise(2, 3, 5, 5)
    torch.testing.assert_close(run(fused(module), x), module(x))


def test_a_convolution_whose_weight_is_read_is_kept():
    class Read(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.relu = nn.Conv2d(3, 4, 1), nn.ReLU()

        def forward(self, x):
            return self.relu(self.conv(x.to(self.conv.weight.dtype))) * self.conv.weight.norm()

    module, x = Read(), noise(2, 3, 5, 5)
    torch.testing.assert_close(run(fused(module), x), module(x))


class Shifted(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) + 1


def hooked():
    conv = nn.Conv2d(3, 4, 1)
    conv.register_forward_hook(lambda module, args, output: output + 1)
    return conv


@pytest.mark.parametrize(
    "make",
    [
        lambda: Shifted(3, 4, 1),
        hooked,
        lambda: nn.Conv2d(3, 4, 3, padding="same"),
        lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect"),
        lambda: nn.Conv2d(3, 4, 1, dtype=torch.float64),
    ],
)
def test_other_convolutions_run_as_they_are(make):
    conv = make()
    made = fused(conv, nn.ReLU())
    x = noise(2, 3, 6, 6).to(conv.weight.dtype)
    assert n_fused(made) == 0
    torch.testing.assert_close(run(made, x), conv(x).relu())


def test_the_users_weights_are_not_changed():
    conv = nn.Conv2d(3, 4, 1)
    before = conv.weight.detach().clone()
    run(fused(conv, nn.ReLU()), noise(1, 3, 5, 5))
    assert torch.equal(conv.weight, before)
    assert conv.weight.layout == torch.strided


@pytest.mark.parametrize("what", ["raises", "wrong"])
def test_without_the_operation_the_modules_run(what, monkeypatch):
    def broken(self, x):
        if what == "raises":
            raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")
        return x

    monkeypatch.setattr(FusedConvolution, "forward", broken)
    supported = torch_engine.is_supported.__wrapped__()
    assert not supported
    monkeypatch.setattr(torch_engine, "is_supported", lambda dtype: supported)
    backbone = load_backbone(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), preprocess=TINY_SIZE)
    made = make_engine(backbone, ("1",))
    x = noise(2, 3, 16, 16)
    torch.testing.assert_close(
        torch.from_numpy(made.run(x)["1"]), backbone.module(x).mean((2, 3)), rtol=1e-4, atol=1e-5
    )


def test_threads_lay_out_weights_once():
    conv = nn.Conv2d(8, 16, 3)
    made, x = fused(conv, nn.ReLU()), noise(2, 8, 12, 12)
    expected = conv(x).relu()
    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(lambda _: run(made, x), range(40)):
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("activation", ACTIVATIONS[:-1], ids=lambda module: type(module).__name__)
def test_bfloat16_weights_run_as_one_operation_too(activation):
    if not is_supported(torch.bfloat16):
        pytest.skip("this processor does not have the operation in bfloat16")
    conv, x = nn.Conv2d(8, 16, 3, padding=1), noise(2, 8, 9, 11)
    made = fuse_convolutions(fold(nn.Sequential(conv, activation).bfloat16(), ()), torch.bfloat16)
    assert n_fused(made) == 1
    found = run(made, x.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), activation(conv.float()(x)), atol=0.05, rtol=0.05)


def test_convolutions_of_another_type_than_asked_for_are_left():
    made = fold(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), ())
    assert n_fused(fuse_convolutions(made, torch.bfloat16)) == 0
