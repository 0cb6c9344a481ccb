import numpy as np
import pytest
import torch
from torch import fx, nn

from sktransfer import PretrainedFeatureExtractor, list_layers, load_backbone
from sktransfer.backbones.layers import penultimate
from sktransfer.engines import torch as engine
from sktransfer.engines.base import Recipe, resolve_device
from sktransfer.engines.select import engine_for
from sktransfer.engines.torch import Engine
from tests.support import (
    TINY_SIZE,
    Vectors,
    enliven,
    images,
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
    return Engine(Recipe(backbone, layers, **settings), CPU)


def plain_features(made, batch):
    with torch.inference_mode():
        return made._run(made.plain, batch)


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
        *("efficientnet_lite0", "resnet18", "mobilenet_v3_small", "densenet121"),
        *("inception_v3", "shufflenet_v2_x0_5", "mnasnet0_5", "squeezenet1_1", "regnet_y_400mf"),
    ],
)
def test_the_fast_form_gives_what_the_stages_give_at_every_layer(name, recwarn):
    if name == "efficientnet_lite0":
        backbone = load_backbone(name)  # with its real weights
    else:
        backbone = random_backbone(name)
        enliven(backbone.module)
    side = 75 if name == "inception_v3" else 64
    x = noise(2, 3, side, side)
    for layers in (tuple(list_layers(backbone)), (penultimate(backbone),)):
        made = engine_of(backbone, *layers)
        fast, plain = made(x), plain_features(made, x)
        assert made.segments is not made.plain
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


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_every_batch_norm_is_folded(name):
    made = engine_of(random_backbone(name))
    kinds = [type(module) for segment in made.segments for module in segment.modules()]
    assert nn.BatchNorm2d in [type(m) for s in made.plain for m in s.modules()]
    assert nn.BatchNorm2d not in kinds


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
    assert made.segments is not made.plain
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


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("bias", [True, False])
def test_where_the_fast_form_is_wrong_the_stages_are_used_with_a_warning(bias, monkeypatch):
    prepared = engine._prepared
    monkeypatch.setattr(
        engine, "_prepared", lambda part, opaque: nn.Sequential(prepared(part, opaque), Doubled())
    )
    conv = nn.Conv2d(3, 4, 3, bias=bias)
    if bias:
        nn.init.constant_(conv.bias, 0.5)  # otherwise a black image gives nothing but zeros
    module = nn.Sequential(conv, nn.ReLU(), nn.Flatten())
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
    assert sum(len(part) for part in made.plain) == n_stages
    together = made(noise(2, 3, 64, 64))
    for layer in made.layers:
        alone = engine_of(backbone, layer)(noise(2, 3, 64, 64))[layer]
        assert torch.equal(alone, together[layer])


@pytest.mark.parametrize(("size", "batches"), [(1, 7), (2, 4), (7, 1), (10, 1)])
def test_every_batch_is_of_one_size(size, batches, monkeypatch):
    seen = []
    call = Engine.__call__
    monkeypatch.setattr(Engine, "__call__", lambda self, x: seen.append(len(x)) or call(self, x))
    made = engine_of(load_backbone(Vectors()))
    features = made.run(list(noise(7, 5)), size)
    assert seen == [size] * batches
    assert features[made.layers[0]].shape == (7, 32)


@pytest.mark.parametrize("batch_size", [16, "auto"])
def test_where_memory_is_short_batches_are_halved_with_one_warning(batch_size, monkeypatch):
    made, sizes = engine_of(tiny_backbone(), "2"), []
    x = noise(21, 3, 16, 16)
    expected = made.run(x, batch_size)["2"]
    call, fits = Engine.__call__, 1 if batch_size == "auto" else 5

    def short(self, batch):
        sizes.append(len(batch))
        if len(batch) > fits:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return call(self, batch)

    monkeypatch.setattr(Engine, "__call__", short)
    with pytest.warns(UserWarning, match="do not fit into the memory") as caught:
        found = made.run(x, batch_size)["2"]
    assert len(caught) == 1
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert sizes[:3] == ([16, 8, 4] if batch_size == 16 else [4, 2, 1])
    sizes.clear()
    again = made.run(x, batch_size)["2"]  # what was learned of the device is kept
    np.testing.assert_array_equal(again, found)
    assert set(sizes) == {4 if batch_size == 16 else 1}


def test_a_single_sample_that_does_not_fit_is_an_error(monkeypatch):
    made = engine_of(tiny_backbone(), "2")

    def none(self, batch):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(Engine, "__call__", none)
    with pytest.warns(UserWarning, match="do not fit"), pytest.raises(torch.OutOfMemoryError):
        made.run(noise(3, 3, 16, 16), 2)


@pytest.mark.parametrize(
    ("backbone", "shape", "at_most"),
    [(tiny_backbone, (3, 16, 16), 4), (lambda: load_backbone(Vectors()), (5,), 64)],
)
def test_small_samples_run_in_batches_of_a_bounded_size(backbone, shape, at_most):
    assert engine_of(backbone()).batch_size(noise(*shape)) == at_most


def test_large_activations_run_in_small_batches():
    module = nn.Sequential(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    size = TINY_SIZE.with_size(400)  # 16 * 400 * 400 * 4 = 10.24 MB a sample
    sizes = []
    for side in (100, 350, 400, 600):
        backbone = load_backbone(module, preprocess=size.with_size(side))
        made = engine_of(backbone, list_layers(backbone)[-1])
        sizes.append(made.batch_size(noise(3, side, side)))
    assert sizes == [4, 2, 1, 1]


def test_widths_are_those_of_the_features():
    backbone = tiny_backbone()
    made = engine_of(backbone, "2", "4", pooling="flatten")
    assert made.widths(noise(1, 3, 16, 16)) == {"2": 8 * 7 * 7, "4": 8}


def test_pooling_none_keeps_whole_activations():
    made = engine_of(tiny_backbone(), "2", pooling="none")
    assert made(noise(2, 3, 16, 16))["2"].shape == (2, 8, 7, 7)


# bits


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
    for size in (1, 4, "auto"):
        for layer, features in made.run(tensors, size).items():
            alone = [made.run([tensor], size)[layer] for tensor in tensors]
            assert np.array_equal(features, np.vstack(alone))


def test_features_are_float32_on_the_cpu_and_without_gradients():
    made = engine_of(tiny_backbone())
    features = made(noise(2, 3, 16, 16))["4"]
    assert features.dtype == torch.float32
    assert not features.requires_grad
    assert made.run([noise(3, 16, 16)], 1)["4"].dtype == np.float32


def test_bfloat16_is_near_and_float32_all_the_same():
    backbone = load_backbone("efficientnet_lite0")
    x = noise(2, 3, 64, 64)
    layer = penultimate(backbone)
    exact = engine_of(backbone)(x)[layer]
    rough = engine_of(backbone, precision="bfloat16")(x)[layer]
    assert rough.dtype == torch.float32
    assert 1e-4 < relative(rough, exact) < 0.1


# recipes


def keys(**change):
    settings = {"backbone": tiny_backbone(), "layers": ("4",), "pooling": "avg"} | change
    layer = settings.pop("layer", "4")
    return Recipe(**settings).key(layer)


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
    ],
)
def test_a_key_holds_what_decides_the_features(change):
    assert keys(**change) != keys()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"backbone": tiny_backbone(name="other")},
        {"backbone": tiny_backbone(classes=["x", "y", "z"])},
        {"layers": ("2", "4")},
    ],
)
def test_a_key_holds_nothing_else(change):
    assert keys(**change) == keys()


# sharing


def test_an_engine_is_prepared_once_and_shared_by_equal_recipes():
    backbone = tiny_backbone()
    first = engine_for(Recipe(backbone, ("4",), "avg"), CPU)
    assert engine_for(Recipe(backbone, ("4",), "avg"), CPU) is first
    assert engine_for(Recipe(backbone, ("4",), "max"), CPU) is not first


def test_fits_with_one_image_size_share_an_engine():
    def engine_of_a_fit():
        backbone = load_backbone("efficientnet_lite0", image_size=64)
        return engine_for(Recipe(backbone, ("stem",), "avg"), CPU)

    assert engine_of_a_fit() is engine_of_a_fit()


def test_only_the_engines_used_last_are_kept():
    backbone = tiny_backbone()
    recipes = [Recipe(backbone, (layer,)) for layer in ("1", "2", "3")]
    first, second, third = (engine_for(recipe, CPU) for recipe in recipes)
    assert engine_for(recipes[2], CPU) is third
    assert engine_for(recipes[1], CPU) is second
    assert engine_for(recipes[0], CPU) is not first


def test_prepared_stages_share_what_does_not_change():
    backbone = load_backbone(Vectors())
    made = engine_of(backbone, list_layers(backbone)[-1])
    shared = {p.data_ptr() for p in backbone.module.parameters()}
    assert {p.data_ptr() for s in made.segments for p in s.parameters()} <= shared


def test_a_network_that_cannot_be_traced_runs_as_it_is():
    class ByValue(nn.Sequential):
        def forward(self, x):
            return super().forward(x) if x.sum() > 0 else super().forward(-x)

    backbone = load_backbone(ByValue(nn.Linear(5, 3), nn.ReLU()))
    made = engine_of(backbone)
    assert not any(isinstance(m, fx.GraphModule) for s in made.segments for m in s.modules())
    x = noise(1, 5)
    with torch.inference_mode():
        assert torch.equal(made(x)["output"], backbone.module(x))


# devices


def test_auto_is_the_accelerator_or_the_cpu():
    found = resolve_device("auto")
    has_accelerator = torch.accelerator.is_available()
    assert (found.type != "cpu") is has_accelerator
    assert resolve_device("cpu") == CPU


@pytest.mark.parametrize("device", ["cuda:97", "nonsense", ""])
def test_a_device_that_is_not_there_is_refused(device):
    with pytest.raises(ValueError, match=rf"device='{device}' cannot be used on this machine: ."):
        resolve_device(device)


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
