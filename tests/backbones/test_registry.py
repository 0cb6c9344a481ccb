import copy
import fnmatch
import functools
import gc
import logging
import os
import pickle
import re
import threading
import weakref
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from sktransfer import (
    ImagePreprocessing,
    PretrainedFeatureExtractor,
    list_backbones,
    load_backbone,
    register_backbone,
)
from sktransfer.backbones import stages_of
from sktransfer.backbones.fingerprint import describe
from sktransfer.backbones.imagenet import imagenet_classes, imagenet_ids, unique_names
from tests.backbones.support import LITES, SMALL, same_bits, saved
from tests.new_process import run_in_new_process
from tests.support import (
    TINY_SIZE,
    TinyNet,
    Vectors,
    images,
    random_backbone,
    tiny_backbone,
)

# names


@pytest.mark.parametrize("pattern", ["vgg*", "resnet?8", "*_lite[01]", "nothing*"])
def test_names_are_listed_by_pattern_and_sorted(pattern):
    assert list_backbones(pattern) == sorted(fnmatch.filter(list_backbones(), pattern))


def test_patterns_pick_names_as_in_a_shell():
    assert list_backbones("efficientnet_lite?") == LITES
    assert list_backbones("nothing*") == []


@pytest.mark.parametrize(
    ("wrong", "near"), [("resnet_18", "resnet18"), ("efficientnet_lite", "efficientnet_lite0")]
)
def test_an_unknown_name_offers_the_nearest(wrong, near):
    with pytest.raises(ValueError, match=f"'{wrong}' is not known. Nearest: .*'{near}'"):
        load_backbone(wrong)


@pytest.mark.parametrize("wrong", [3, None, dict, ["resnet18"]])
def test_what_is_neither_name_nor_network_is_refused(wrong):
    with pytest.raises(TypeError, match=r"a name, a torch.nn.Module or a factory"):
        load_backbone(wrong)


# preprocessing


def test_preprocessing_scales_as_it_says():
    steps = ImagePreprocessing(8, 8, (0.5, 0.25, 0.0), (0.5, 0.25, 1.0))
    image = np.full((8, 8, 3), 51, np.uint8)  # 0.2
    assert steps.input_shape == (3, 8, 8)
    wanted = torch.tensor([-0.6, -0.2, 0.2])
    for form in (image, image.astype(np.float32) / 255):
        torch.testing.assert_close(steps(form), wanted[:, None, None].expand(3, 8, 8))


def test_preprocessing_takes_the_centre_and_leaves_the_image_as_it_is():
    steps = ImagePreprocessing(10, 4, (0.0,) * 3, (1.0,) * 3)
    image = images(1, (10, 20))[0]
    before = image.copy()
    image.flags.writeable = False
    cropped = (steps(image) * 255).round().permute(1, 2, 0)
    assert np.array_equal(cropped, before[3:7, 8:12])
    assert np.array_equal(image, before)


def test_another_image_size_keeps_the_proportion_of_the_resize_and_the_weights():
    backbone = load_backbone("efficientnet_lite0")
    smaller = load_backbone(backbone, image_size=112)
    assert (smaller.preprocess.resize, smaller.preprocess.crop) == (128, 112)
    assert smaller.module is backbone.module
    assert backbone.preprocess.crop == 224
    assert load_backbone(backbone, image_size=224) is backbone


def test_the_proportion_of_the_resize_does_not_drift_from_one_size_to_the_next():
    backbone = load_backbone("efficientnet_lite0")
    for first in (33, 96, 131):
        small = backbone.with_image_size(first)
        for size in (64, 224, 320):
            expected = backbone.with_image_size(size).preprocess
            assert small.with_image_size(size).preprocess == expected


def test_image_size_is_refused_where_there_is_no_size_to_change():
    with pytest.raises(ValueError, match="image_size=64 cannot be applied"):
        load_backbone(Vectors(), image_size=64)


# files


def test_a_file_that_changed_is_read_again(tensors, tmp_path):
    path = saved(tensors, tmp_path / "a.pth")
    first = load_backbone(SMALL, weights=path)
    assert load_backbone(SMALL, weights=str(path)) is first
    saved({name: tensor + 1 for name, tensor in tensors.items()}, path)
    os.utime(path, ns=(1, 1))
    assert load_backbone(SMALL, weights=path).fingerprint != first.fingerprint


@pytest.mark.parametrize("in_place", [True, False])
def test_a_file_of_the_same_size_and_time_is_read_again(tensors, tmp_path, in_place):
    path, other = tmp_path / "a.pth", tmp_path / "b.pth"
    saved({name: tensor + 2 for name, tensor in tensors.items()}, path)
    first, stat = load_backbone(SMALL, weights=path), path.stat()
    saved({name: tensor + 1 for name, tensor in tensors.items()}, path if in_place else other)
    if not in_place:
        other.replace(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size
    assert load_backbone(SMALL, weights=path).fingerprint != first.fingerprint


# random weights


@pytest.mark.parametrize("name", [SMALL, "efficientnet_lite0", "timm:test_resnet"])
def test_random_weights_warn_repeat_and_leave_the_global_generator_alone(name, forget_backbones):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="initialised at random"):
        first = load_backbone(name, weights=None)
    forget_backbones()
    torch.rand(3)
    moved = torch.get_rng_state()
    second = random_backbone(name)
    assert torch.equal(torch.get_rng_state(), moved)
    assert not torch.equal(before, moved)
    assert second is not first
    assert same_bits(first.module.state_dict(), second.module.state_dict())


# own networks


def test_the_own_module_stays_bit_for_bit_as_it_was():
    module = TinyNet()
    module.train()
    module[5].bias.requires_grad_(False)
    module[0].weight.grad = torch.ones_like(module[0].weight)
    before = copy.deepcopy(module.state_dict())
    backbone = load_backbone(module, preprocess=TINY_SIZE)
    PretrainedFeatureExtractor(backbone).fit_transform(images(5))
    PretrainedFeatureExtractor(module).fit_transform(np.zeros((5, 3, 8, 8)))
    assert same_bits(module.state_dict(), before)
    assert all(child.training for child in module.modules())
    assert [p.requires_grad for p in module.parameters()] == [True] * 4 + [False]
    assert torch.equal(module[0].weight.grad, torch.ones_like(module[0].weight))
    assert not any(m._forward_hooks for m in module.modules())
    assert not any(child.training for child in backbone.module.modules())


def test_a_backbone_does_not_follow_the_module_it_was_made_of():
    module = Vectors()
    backbone = load_backbone(module)
    before = backbone.fingerprint
    with torch.no_grad():
        module.w1.zero_()
    assert load_backbone(backbone).module.w1.any()
    assert load_backbone(module).fingerprint != before


@pytest.mark.parametrize("given", [Vectors(), Vectors, lambda: Vectors()])
def test_a_module_its_class_and_a_factory_are_the_same(given):
    backbone = load_backbone(given)
    assert same_bits(backbone.module.state_dict(), Vectors().state_dict())
    assert (backbone.name, backbone.modality.name) == ("vectors", "array")


def test_a_factory_that_fails_or_returns_something_else_is_named():
    def failing():
        raise KeyError("no such layer")

    with pytest.raises(ValueError, match=r"backbone=<function .*the call failed: 'no such"):
        load_backbone(failing)
    with pytest.raises(TypeError, match=r"must return a torch.nn.Module, got int"):
        load_backbone(lambda: 3)


def test_weights_of_a_named_network_are_a_name_or_a_file():
    with pytest.raises(TypeError, match=r"'resnet18': a name or a file, got <class 'dict'>"):
        load_backbone("resnet18", weights={"fc.weight": 1})


def test_own_settings_are_kept():
    backbone = tiny_backbone(name="mine")
    assert (backbone.name, backbone.classes) == ("mine", ("a", "b", "c"))
    assert backbone.modality.name == "image"
    assert repr(backbone) == "<Backbone 'mine': TinyNet, 3 classes>"


def test_own_transforms_get_a_pil_image_in_rgb():
    seen = []

    def transform(image):
        seen.append((type(image), image.mode, image.size, image.getpixel((0, 0))))
        return torch.zeros(3, 16, 16)

    backbone = load_backbone(TinyNet(), preprocess=transform)
    images = [np.full((4, 6), 0.2), np.full((4, 6, 3), 51, np.uint8)]
    PretrainedFeatureExtractor(backbone).fit_transform(images)
    assert set(seen) == {(Image.Image, "RGB", (6, 4), (51, 51, 51))}


# sharing


def made_by_name():
    register_backbone("mine", TinyNet, preprocess=TINY_SIZE)
    return load_backbone("mine")


def at_another_size():
    pytest.importorskip("timm")
    return random_backbone("timm:test_vit").with_image_size(96)


@pytest.mark.parametrize(
    "make",
    [
        made_by_name,
        lambda: load_backbone(TinyNet(), preprocess=TINY_SIZE),
        lambda: made_by_name().with_channels(5),
        at_another_size,
    ],
    ids=["by name", "of a module", "for channels", "at another size"],
)
def test_a_network_made_in_inference_mode_can_be_trained(make, registry):
    with torch.inference_mode():
        backbone = make()
        stages = stages_of(backbone)
    tensors = [backbone.module.state_dict(), *(stage.state_dict() for stage in stages.values())]
    assert not any(tensor.is_inference() for state in tensors for tensor in state.values())


def test_a_name_gives_the_same_object_again():
    first = load_backbone("efficientnet_lite0")
    assert load_backbone("efficientnet_lite0", weights="default") is first
    assert load_backbone("efficientnet_lite0", image_size=112).module is first.module


def test_clone_and_deepcopy_give_the_backbone_itself():
    backbone = tiny_backbone()
    assert clone(backbone) is copy.deepcopy(backbone) is backbone


def test_a_backbone_that_nobody_holds_is_freed():
    backbone = load_backbone(TinyNet(), preprocess=TINY_SIZE)
    PretrainedFeatureExtractor(backbone).fit(images(3)).transform(images(3))
    module = weakref.ref(backbone.module)
    del backbone
    gc.collect()
    assert module() is None


# the registry


def test_a_registered_name_is_known_everywhere(registry):
    @register_backbone("mine", preprocess=TINY_SIZE, classes=["a", "b", "c"])
    def make():
        return TinyNet(1)

    assert "mine" in list_backbones("m*")
    backbone = load_backbone("mine")
    assert load_backbone("mine") is backbone
    assert same_bits(backbone.module.state_dict(), TinyNet(1).state_dict())
    assert backbone.classes == ("a", "b", "c")
    assert isinstance(make(), TinyNet)


def test_a_factory_may_return_a_backbone(registry):
    register_backbone("mine", lambda: tiny_backbone(2, name="other"))
    backbone = load_backbone("mine")
    assert same_bits(backbone.module.state_dict(), TinyNet(2).state_dict())


def test_a_name_registered_again_is_the_new_network(registry):
    register_backbone("mine", lambda: TinyNet(1))
    first = load_backbone("mine")
    register_backbone("mine", lambda: TinyNet(2))
    assert load_backbone("mine").fingerprint != first.fingerprint


def test_a_registered_name_takes_weights_from_a_file(registry, tmp_path):
    register_backbone("mine", lambda: TinyNet(1))
    path = saved(TinyNet(2).state_dict(), tmp_path / "a.pth")
    loaded = load_backbone("mine", weights=path)
    assert same_bits(loaded.module.state_dict(), TinyNet(2).state_dict())


# pickles and fingerprints


@pytest.mark.parametrize("image_size", [None, 112])
def test_a_named_backbone_pickles_by_reference(image_size):
    backbone = load_backbone("efficientnet_lite0", image_size=image_size)
    pickled = pickle.dumps(backbone)
    copy = pickle.loads(pickled)
    assert len(pickled) < 1000
    assert copy.module is backbone.module
    assert copy.preprocess == backbone.preprocess


def test_a_reference_to_other_weights_is_refused(registry):
    register_backbone("mine", lambda: TinyNet(1), preprocess=TINY_SIZE)
    pickled = pickle.dumps(PretrainedFeatureExtractor("mine").fit(images(2)))
    assert len(pickled) < 100_000
    assert pickle.loads(pickled).backbone_.name == "mine"
    register_backbone("mine", lambda: TinyNet(2), preprocess=TINY_SIZE)
    with pytest.raises(ValueError, match=r"weights of backbone 'mine'.* not those"):
        pickle.loads(pickled)


def test_a_reference_opens_without_a_network(registry, forget_backbones, published, offline):
    pickled = pickle.dumps(load_backbone(SMALL))
    published.unlink()
    forget_backbones()
    with pytest.raises(FileNotFoundError, match="only fit downloads weights"):
        pickle.loads(pickled)
    assert offline == []


def test_an_own_or_local_network_pickles_by_value(tensors, tmp_path):
    path = saved(tensors, tmp_path / "a.pth")
    local = load_backbone(SMALL, weights=path)
    pickled = pickle.dumps((local, tiny_backbone(3)))
    path.unlink()
    copies = pickle.loads(pickled)
    assert same_bits(copies[0].module.state_dict(), tensors)
    assert same_bits(copies[1].module.state_dict(), TinyNet(3).state_dict())
    assert copies[0].fingerprint == local.fingerprint
    assert copies[1].classes == ("a", "b", "c")


class Scaled(nn.Module):
    """A network whose output depends on more than its parameters."""

    def __init__(self, factor=1.0, offset=0.0, act=torch.tanh):
        super().__init__()
        self.linear = nn.Linear(4, 3)
        nn.init.ones_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.factor = factor
        self.act = act
        self.register_buffer("offset", torch.tensor(offset), persistent=False)

    def forward(self, x):
        return self.act(self.linear(x) * self.factor + self.offset)


def test_a_description_does_not_depend_on_the_file_of_a_class_of_ours():
    first, second = (
        type("Block", (nn.Module,), {"__module__": f"sktransfer.backbones.{file}"})
        for file in ("lite", "words.table")
    )
    assert describe(first) == describe(second) == "sktransfer.Block"
    other = type("Block", (nn.Module,), {"__module__": "timm.layers"})
    assert describe(other) == "timm.layers.Block"


def test_a_fingerprint_repeats():
    assert load_backbone(Scaled()).fingerprint == load_backbone(Scaled()).fingerprint
    assert load_backbone(TinyNet()).fingerprint == tiny_backbone().fingerprint


@pytest.mark.parametrize("change", [{"factor": 2.0}, {"offset": 1.0}, {"act": torch.relu}])
def test_all_that_decides_an_output_is_in_the_fingerprint(change):
    x = torch.ones(1, 4)
    plain, changed = load_backbone(Scaled()), load_backbone(Scaled(**change))
    assert not torch.equal(plain.module(x), changed.module(x))
    assert plain.fingerprint != changed.fingerprint


def test_one_bit_of_a_weight_changes_the_fingerprint():
    module = TinyNet()
    before = load_backbone(module).fingerprint
    with torch.no_grad():
        bit = module[0].weight.view(-1)[7]
        module[0].weight.view(-1)[7] = torch.nextafter(bit, bit + 1)
    assert load_backbone(module).fingerprint != before


@pytest.mark.slow
def test_a_fingerprint_is_the_same_in_another_process():
    code = "from tests.support import *; print(tiny_backbone().fingerprint)"
    assert run_in_new_process(code).strip() == tiny_backbone().fingerprint


def by_mean(x):
    return x.mean((2, 3))


def by_order(x, p=2):
    return x.norm(p, (2, 3))


class Pooler:
    def __init__(self, p):
        self.p = p

    def pool(self, x):
        return by_order(x, self.p)


def closure(p):
    return lambda x: by_order(x, p)


def keyword_default(p):
    def function(x, *, p=p):
        return by_order(x, p)

    return function


def with_global(p):
    space = {"p": p}
    exec("def function(x): return x * p", space)
    return space["function"]


def long_array(last):
    array = np.zeros(3000)
    array[1500] = last
    return array


class Holder(nn.Module):
    def __init__(self, setting):
        super().__init__()
        self._setting = setting


def hooked(k):
    module = nn.Linear(2, 2)
    nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    module.register_forward_hook(lambda module, args, output: output * k)
    return module


def subclass(method):
    class Base:
        def __call__(self, x, inner=method):
            return getattr(x, inner)((2, 3))

    class Sub(Base):
        pass

    return Sub()


def with_class(*bases, **members):
    """An object of a class made with some members."""
    return type("Made", bases or (Pooler,), members)(*(() if bases else (1,)))


def using(**members):
    cls = type("Constants", (), members)
    return lambda x: x * cls.constant


def long_objects(value):
    array = np.zeros(3000, object)
    array[1500] = value
    return array


def with_settings(settings):
    module = nn.Linear(4, 3)
    nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    module.settings = settings
    return module


class Slots:
    __slots__ = ("p",)

    def __init__(self, p):
        self.p = p


class Named(NamedTuple):
    p: int

    def __call__(self, x):
        return by_order(x, self.p)


def wrapped(p):
    return functools.wraps(np.square)(lambda x: by_order(x, p))


class ScriptedAttribute(nn.Module):
    factor: float

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def by_graph(k):
    return torch.fx.symbolic_trace(ScriptedAttribute(k))


LINEARS = [nn.Linear(4, 4), nn.Linear(4, 4)]
SHARED = {1: (0, 1, 0, 1), 2: (0, 1, 1, 0)}


def tied(k):
    network = nn.Sequential(*(nn.Linear(2, 2, bias=False) for _ in range(3)))
    for layer in network:
        nn.init.ones_(layer.weight)
    network[2].weight = network[k - 1].weight
    return network


class Scripted(nn.Module):
    def forward(self, x):
        return torch.relu(x)


class ScriptedOtherwise(nn.Module):
    def forward(self, x):
        return torch.tanh(x)


LOGGER, LOCK, LOCK_LIKE = logging.getLogger(__name__), threading.Lock(), object()
FACTORS = pd.Series([1.0, 2.0])


PAIRS = {
    "functions": (by_mean, by_order),
    "lambdas of one line": (lambda x: x.mean((2, 3)), lambda x: x.amax((2, 3))),
    "closures": (closure(2), closure(3)),
    "partials": (functools.partial(by_order, p=2), functools.partial(by_order, p=3)),
    "methods": (Pooler(2).pool, Pooler(3).pool),
    "modules": (nn.AdaptiveAvgPool2d(1), nn.AdaptiveMaxPool2d(1)),
    "weights": (Scaled(), Scaled(2.0)),
    "preprocessings": (TINY_SIZE, TINY_SIZE.with_size(8)),
    "transforms": (v2.Resize(8), v2.Resize(9)),
    "lambda transforms": (v2.Lambda(by_mean), v2.Lambda(by_order)),
    "composed": (v2.Compose([v2.Lambda(by_mean)]), v2.Compose([v2.Lambda(by_order)])),
    "first version": (v1.Compose([v1.Lambda(by_mean)]), v1.Compose([v1.Lambda(by_order)])),
    "inner code": (
        lambda x: torch.stack([t.amax((1, 2)) for t in x]),
        lambda x: torch.stack([t.amin((1, 2)) for t in x]),
    ),
    "keyword defaults": (keyword_default(1), keyword_default(2)),
    "globals": (with_global(1), with_global(2)),
    "large arrays": (closure(long_array(0)), closure(long_array(1))),
    "plain objects inside": (Holder([Pooler(1)]), Holder([Pooler(2)])),
    "private settings": (Holder(1), Holder(2)),
    "tensors that are no buffers": (Holder(torch.tensor(1.00001)), Holder(torch.tensor(1.00003))),
    "hooks": (hooked(1), hooked(2)),
    "inherited code": (subclass("amax"), subclass("amin")),
    "class attributes": (with_class(factor=1), with_class(factor=2)),
    "properties": (
        with_class(factor=property(lambda self: 1)),
        with_class(factor=property(lambda self: 2)),
    ),
    "constants of a class that is used": (using(constant=1), using(constant=2)),
    "objects with slots": (Slots(1), Slots(2)),
    "masks of arrays": tuple(np.ma.array([1.0, 2.0], mask=mask) for mask in ([0, 1], [1, 0])),
    "conjugated tensors": (torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 3j]).conj()),
    "named tuples": (Named(1), Named(2)),
    "cached functions": (functools.cache(closure(1)), functools.cache(closure(2))),
    "wrapped functions": (wrapped(1), wrapped(2)),
    "long regular expressions": (re.compile("a" * 300 + "b"), re.compile("a" * 300 + "c")),
    "order of a dictionary": (Holder({"a": 1, "b": 2}), Holder({"b": 2, "a": 1})),
    "long arrays of objects": (Holder(long_objects(1)), Holder(long_objects(2))),
    "what stands beside a logger": (
        Holder({"scale": 1, "log": logging.getLogger("a")}),
        Holder({"scale": 2, "log": logging.getLogger("a")}),
    ),
}
NETWORKS = {
    "class attributes": lambda k: with_class(nn.Module, factor=k),
    "what stands beside a logger": lambda k: with_settings({"scale": k, "log": LOGGER}),
    "order of shared modules": lambda k: nn.ModuleList([LINEARS[i] for i in SHARED[k]]),
    "which weights are shared": tied,
    "scripted code": lambda k: torch.jit.script(Scripted() if k == 1 else ScriptedOtherwise()),
    "attributes of a scripted module": lambda k: torch.jit.script(ScriptedAttribute(float(k))),
    "constants of a graph": by_graph,
    "order of a dictionary": lambda k: with_settings(dict.fromkeys(["ab", "ba"][k - 1])),
}


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_networks_that_differ_have_other_fingerprints(make):
    assert load_backbone(make(1)).fingerprint != load_backbone(make(2)).fingerprint
    assert load_backbone(make(1)).fingerprint == load_backbone(make(1)).fingerprint


def test_a_network_may_hold_or_use_what_cannot_be_told():
    class Logging(nn.Linear):
        def forward(self, x):
            LOGGER.debug("forward %s %s", LOCK, copy.copy(x))
            return super().forward(x)

    network = Logging(4, 3)
    network.labels = pd.Index(["a", "b", "c"])
    network.lock = LOCK_LIKE
    fingerprint = load_backbone(network).fingerprint
    assert fingerprint == load_backbone(network).fingerprint
    network.labels = pd.Index(["a", "b", "d"])
    assert fingerprint != load_backbone(network).fingerprint
    assert describe(lambda a: a * FACTORS.sum()) == describe(lambda a: a * FACTORS.sum())


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_callables_that_differ_are_described_differently_or_refused(pair):
    try:
        first, second = map(describe, pair)
    except ValueError as error:
        assert "cannot be part of a cache key" in str(error)
    else:
        assert first != second


@pytest.mark.parametrize("item", [by_mean, TINY_SIZE, closure(2), v2.Resize(8), "avg", None])
def test_a_description_repeats(item):
    assert describe(item) == describe(copy.deepcopy(item))
    assert " at 0x" not in describe(item)


@pytest.mark.parametrize("held", [LOCK, torch.eye(2).to_sparse()], ids=["lock", "sparse"])
def test_what_cannot_be_described_is_refused(held):
    with pytest.raises(ValueError, match=r"cannot be part of a cache key"):
        describe(lambda x: (x, held))


def test_random_weights_of_a_registered_network_are_refused(registry):
    register_backbone("mine", lambda: TinyNet(1))
    with pytest.raises(ValueError, match="weights=None: backbone 'mine' was registered"):
        load_backbone("mine", weights=None)


def test_a_pickle_of_a_registered_network_with_a_file_needs_no_file(registry, tmp_path):
    register_backbone("mine", lambda: TinyNet(1), preprocess=TINY_SIZE)
    path = tmp_path / "weights.pth"
    torch.save(TinyNet(2).state_dict(), path)
    made = PretrainedFeatureExtractor("mine", weights=path).fit(images(2))
    expected = made.transform(images(2))
    written = pickle.dumps(made)
    path.unlink()
    assert np.array_equal(pickle.loads(written).transform(images(2)), expected)


@pytest.mark.parametrize("setting", [{"classes": ["a"]}, {"modality": "array"}, {"name": "mine"}])
def test_what_does_not_apply_is_refused(setting):
    with pytest.raises(ValueError, match="for modules only"):
        load_backbone("efficientnet_lite0", **setting)
    with pytest.raises(ValueError, match="for backbones given by name"):
        load_backbone(nn.Linear(2, 2), weights="weights.pth")


def test_a_name_that_resembles_no_other_is_refused_without_suggestions():
    with pytest.raises(ValueError, match=r"'0' is not known\. All: sktransfer\.list_backbones"):
        load_backbone("0")


# what a network computes

FACTOR = 2.0


class Hidden(TinyNet):
    """A network that uses a number which no description of its code shows."""

    def forward(self, x):
        return super().forward(x) * globals()["FACTOR"]


def test_a_pickle_of_a_registered_network_that_computes_something_else_is_refused(
    registry, monkeypatch
):
    register_backbone("mine", Hidden, preprocess=TINY_SIZE)
    first = load_backbone("mine")
    pickled = pickle.dumps(first)
    register_backbone("mine", Hidden, preprocess=TINY_SIZE)  # it is loaded again
    assert pickle.loads(pickled).fingerprint == first.fingerprint
    register_backbone("mine", Hidden, preprocess=TINY_SIZE)
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert load_backbone("mine").fingerprint == first.fingerprint
    with pytest.raises(ValueError, match="does not compute what it computed"):
        pickle.loads(pickled)


def test_a_pickle_of_a_registered_network_that_draws_at_random_is_loaded(registry):
    register_backbone("mine", lambda: nn.Sequential(Drawing(), TinyNet()), preprocess=TINY_SIZE)
    pickled = pickle.dumps(load_backbone("mine"))
    register_backbone("mine", lambda: nn.Sequential(Drawing(), TinyNet()), preprocess=TINY_SIZE)
    assert pickle.loads(pickled).name == "mine"


class Drawing(nn.Module):
    def forward(self, x):
        return x * torch.rand(())


# -- imagenet --------------------------------------------------------------------------------------


def test_imagenet_classes_have_unique_names_in_the_order_of_their_ids():
    assert len(set(imagenet_classes())) == len(set(imagenet_ids())) == 1000
    assert list(imagenet_ids()) == sorted(imagenet_ids())
    named = dict(zip(imagenet_ids(), imagenet_classes(), strict=True))
    assert named["n02219486"] == "ant"
    assert named["n03710637"] == "maillot"
    assert named["n03710721"] == "maillot tank suit"  # "maillot" too, in other lists
    assert load_backbone("efficientnet_lite0").class_ids == imagenet_ids()


def test_two_duplicate_names_are_told_apart_by_their_ids():
    names = unique_names(["crane", "ant", "crane"], ["n1", "n2", "n3"])
    assert names == ("crane (n1)", "ant", "crane (n3)")
