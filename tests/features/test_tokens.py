"""Poolings of the tokens of vision transformers: class token, registers, patches."""

import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from torch import nn

import sktransfer
from sktransfer import (
    FeatureStore,
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    list_layers,
    load_backbone,
    register_backbone,
)
from sktransfer.features import Output, candidate_layers, layers_of, store_key
from tests.backbones.image_networks import transformers, write_image_folder
from tests.support import (
    TINY_SIZE,
    compile_with,
    images,
    random_backbone,
    require_openvino,
    tiny_vit,
)

timm = pytest.importorskip("timm")
import tests.backbones.timm_networks  # noqa: E402, F401  (registers the networks)

X, Y = images(12), np.array(["ant", "bee"] * 6)
# the number of tokens before the patches
NETWORKS = {
    "timm:tiny_dinov3": 5,
    "timm:tiny_eva02": 1,
    "timm:tiny_beit": 1,
    "timm:test_vit": 1,
}


class Mixer(nn.Module):
    """Adds to each token what it makes of itself and of the mean of all."""

    def __init__(self):
        super().__init__()
        self.own, self.all = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x):
        return x + self.own(x).relu() + self.all(x.mean(1, keepdim=True))


class Tokens(nn.Module):
    """A transformer of the user's: patches behind some tokens, mixed by one block."""

    def __init__(self, n_prefix: int = 0, n_outputs: int = 3):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.prefix = nn.Parameter(torch.randn(1, n_prefix, 8)) if n_prefix else None
        self.block = Mixer()
        self.head = nn.Linear(8, n_outputs)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        if self.prefix is not None:
            x = torch.cat([self.prefix.expand(x.shape[0], -1, -1), x], 1)
        return self.head(self.block(x)[:, 0])


def own(n_prefix=0, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = Tokens(n_prefix)
    return load_backbone(module, preprocess=TINY_SIZE, **settings)


def opened(backbone, samples=X):
    return torch.stack([backbone.preprocess(sample) for sample in samples])


@pytest.mark.parametrize("name", NETWORKS)
def test_poolings_are_those_of_timms_own_features(name):
    backbone, n = random_backbone(name), NETWORKS[name]
    assert backbone.prefix_tokens == n and backbone.has_class_token
    with torch.inference_mode():
        tokens = backbone.module.forward_features(opened(backbone))
    expected = {
        "cls": tokens[:, 0],
        "avg": tokens[:, n:].mean(1),
        "max": tokens[:, n:].amax(1),
    }
    side = round((tokens.shape[1] - n) ** 0.5)
    grid = tokens[:, n:].transpose(1, 2).unflatten(2, (side, side))
    expected["grid"] = nn.functional.adaptive_avg_pool2d(grid, 2).flatten(1)
    for pooling, values in expected.items():
        extractor = PretrainedFeatureExtractor(backbone, layer="norm", pooling=pooling).fit(X)
        assert_allclose(extractor.transform(X), values, rtol=1e-4, atol=1e-5)
    both = PretrainedFeatureExtractor(backbone, pooling=("cls", "avg")).fit_transform(X)
    assert_allclose(both, torch.cat([expected["cls"], expected["avg"]], 1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["dinov2", "dinov2 with registers", "dinov3 vit", "clip vision"])
def test_poolings_are_those_of_transformers(family, tmp_path):
    folder = write_image_folder(tmp_path / "network", family)
    backbone = load_backbone(f"hf:{folder}")
    network = transformers.AutoModel.from_pretrained(folder).eval()
    with torch.inference_mode():
        found = network(pixel_values=opened(backbone))
    n = 5 if "registers" in family or "dinov3" in family else 1
    assert backbone.prefix_tokens == n
    both = PretrainedFeatureExtractor(backbone, pooling=("cls", "avg")).fit(X)
    classes, patches = np.split(both.transform(X), 2, axis=1)
    at = both.layers_[0]
    tokens = layers_of(backbone)[at]
    assert (tokens.prefix_tokens, tokens.grid) == (n, (4, 4))
    last = found.last_hidden_state
    if family != "clip vision":  # whose norm is that of the class token alone
        assert_allclose(classes, found.pooler_output, rtol=1e-4, atol=1e-5)
    assert_allclose(classes, last[:, 0], rtol=1e-4, atol=1e-5)
    assert_allclose(patches, last[:, n:].mean(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("build", "width"), [(tiny_vit, 12), (Tokens, 8)])
def test_no_layer_has_channels_before_tokens(build, width):
    backbone = load_backbone(build(), preprocess=TINY_SIZE)
    tokens = [info for info in layers_of(backbone).values() if info.has_tokens]
    assert len(tokens) > 1
    assert {info.width for info in tokens} == {width}
    with torch.inference_mode():
        x = opened(backbone)
        outputs = backbone.run(x, [(name, "none") for name in list_layers(backbone)])
        torch.testing.assert_close(outputs[-1], backbone.module(x))


def test_the_class_token_of_torchvisions_networks_is_known():
    backbone = load_backbone(tiny_vit(), preprocess=TINY_SIZE)
    assert (backbone.prefix_tokens, backbone.has_class_token) == (1, True)
    x = opened(backbone)
    with torch.inference_mode():
        logits, (tokens,) = backbone.module(x), backbone.run(x, [("encoder.ln", "none")])
        assert_allclose(backbone.module.heads(tokens[:, 0]), logits, rtol=1e-4, atol=1e-5)
    found = PretrainedFeatureExtractor(backbone, layer="encoder.ln").fit_transform(X)
    assert_allclose(found, tokens[:, 1:].mean(1), rtol=1e-4, atol=1e-5)


def test_the_last_blocks_are_read_side_by_side():
    backbone = random_backbone("timm:tiny_dinov3")
    blocks = ["blocks.1", "blocks.2", "blocks.3"]
    found = PretrainedFeatureExtractor(backbone, layer=blocks, pooling=("cls", "avg"))
    expected = []
    with torch.inference_mode():
        for tokens in backbone.run(opened(backbone), [(block, "none") for block in blocks]):
            expected += [tokens[:, 0], tokens[:, 5:].mean(1)]
    assert_allclose(found.fit_transform(X), torch.cat(expected, 1), rtol=1e-4, atol=1e-5)
    names = found.get_feature_names_out()
    assert names[0].endswith("_blocks.1_cls_0") and names[-1].endswith("_blocks.3_avg_23")


def test_a_tuple_of_poolings_is_the_list():
    backbone = random_backbone("timm:tiny_eva02")
    several, same = (
        PretrainedFeatureExtractor(backbone, pooling=p).fit(X)
        for p in (("cls", "max"), ["cls", "max"])
    )
    assert_array_equal(several.transform(X), same.transform(X))
    assert clone(several).pooling == ("cls", "max")
    with pytest.raises(ValueError, match="give callables or some of"):
        PretrainedFeatureExtractor(backbone, pooling=("cls", "most")).fit(X)


def test_the_default_features_are_what_the_classifier_takes():
    backbone = random_backbone("timm:test_vit")
    with torch.inference_mode():
        x = backbone.module.forward_features(opened(backbone))
        expected = backbone.module.forward_head(x, pre_logits=True)
    found = PretrainedFeatureExtractor(backbone).fit_transform(X)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_cls_is_an_error_before_the_class_token_is_there():
    backbone = random_backbone("timm:tiny_dinov3")
    with pytest.raises(ValueError, match=r"pooling='cls'.*has none: use 'avg'"):
        PretrainedFeatureExtractor(backbone, layer="patch_embed.norm", pooling="cls").fit(X)
    for n_tokens in (0, None):
        network = own(prefix_tokens=n_tokens)
        extractor = PretrainedFeatureExtractor(network, layer="block", pooling="cls")
        if n_tokens is None:  # not known: the first token is taken
            assert extractor.fit(X).transform(X).shape == (12, 8)
        else:
            with pytest.raises(ValueError, match="has no class token"):
                extractor.fit(X)


@pytest.mark.slow
def test_layers_with_a_class_token_are_compared_by_it():
    backbone = random_backbone("timm:tiny_dinov3")
    for pooling in ("cls", ("cls", "avg"), "grid"):
        found = PretrainedFeatureExtractor(backbone, layer="auto", pooling=pooling).fit(X, Y)
        first = found.layer_choice_.layers[0]
        assert first == ("patch_embed.norm" if pooling == "grid" else "blocks.0")
        assert found.layer_choice_.layers[-1] == "norm"


# networks of the user's


def test_a_user_says_how_many_tokens_come_first(tmp_path):
    x = opened(own(3))
    features = {}
    for n in (None, 3):
        backbone = own(3, prefix_tokens=n)
        with torch.inference_mode():
            (tokens,) = backbone.run(x, [("block", "none")])
        found = PretrainedFeatureExtractor(backbone, layer="block").fit(X)
        features[n] = found.transform(X)
        assert_allclose(features[n], tokens[:, n or 0 :].mean(1), rtol=1e-4, atol=1e-5)
        assert_array_equal(pickle.loads(pickle.dumps(found)).transform(X), features[n])
    assert np.abs(features[3] - features[None]).max() > 1e-3

    @register_backbone("three_tokens", preprocess=TINY_SIZE, prefix_tokens=3)
    def three_tokens():
        return own(3).module

    named = PretrainedFeatureExtractor("three_tokens", layer="block").fit(X)
    assert_allclose(named.transform(X), features[3], rtol=1e-5, atol=1e-6)
    sktransfer.save(named, tmp_path / "named.skt", self_contained=True)
    again = sktransfer.load(tmp_path / "named.skt", modules={"three_tokens": three_tokens})
    assert_array_equal(again.transform(X), named.transform(X))


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "one"])
def test_another_number_of_tokens_is_refused(wrong):
    with pytest.raises(ValueError, match="prefix_tokens="):
        own(3, prefix_tokens=wrong)
    with pytest.raises(ValueError, match="prefix_tokens: for modules only"):
        load_backbone("timm:tiny_dinov3", prefix_tokens=1)


def test_patches_of_an_image_that_is_not_square_form_a_rectangle():
    size, scale = (16, 24), (0.5, 0.5, 0.5)
    preprocess = sktransfer.ImagePreprocessing(size, size, scale, scale, "bilinear")
    module = own(1).module
    backbone = load_backbone(module, preprocess=preprocess, prefix_tokens=1)
    assert layers_of(backbone)["block"].grid == (4, 6)
    with torch.inference_mode():
        (tokens,) = backbone.run(opened(backbone), [("block", "none")])
    quarters = tokens[:, 1:].unflatten(1, (2, 2, 2, 3)).mean((2, 4))  # (n, 2, 2, channels)
    found = PretrainedFeatureExtractor(backbone, layer="block", pooling="grid").fit_transform(X)
    expected = quarters.flatten(1, 2).transpose(1, 2).flatten(1)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_head_is_trained_on_the_patches():
    backbone = own(3, prefix_tokens=3, stages=None)
    stages = {"patches": nn.Sequential(nn.Conv2d(3, 8, 4, 4), nn.Flatten(2)), "turn": _Turned()}
    encoder = nn.Sequential(*stages.values())
    network = load_backbone(encoder, preprocess=TINY_SIZE, prefix_tokens=1, stages=stages)
    assert backbone.prefix_tokens == 3
    settings = {"trainable": "head", "max_epochs": 1, "random_state": 0}
    model = FineTunedClassifier(network, **settings).fit(X, Y)
    with torch.inference_mode():
        (tokens,) = network.run(opened(network), [("turn", "none")])
        logits = model.net_.module_.body[-1](tokens[:, 1:].mean(1))
    assert_allclose(model.predict_proba(X), logits.softmax(1), rtol=1e-4, atol=1e-5)
    tuned = model.to_backbone()
    assert tuned.prefix_tokens == 1
    assert_allclose(tuned.module(opened(network)).detach(), logits, rtol=1e-4, atol=1e-5)


class _Turned(nn.Module):
    """Puts one token of zeros before patches."""

    def forward(self, x):
        return nn.functional.pad(x.transpose(1, 2), (0, 0, 1, 0))


# layers


@pytest.mark.parametrize(
    ("name", "without"),
    [("timm:test_vit", {"cat", "add", "norm_pre"}), ("timm:tiny_dinov3", {"cat", "pos_drop"})],
)
def test_layers_that_add_positions_or_a_class_token_are_no_candidates(name, without):
    backbone = random_backbone(name)
    assert candidate_layers(backbone)[:2] == ["patch_embed.norm", "blocks.0"]
    assert without & set(list_layers(backbone)) and not without & set(candidate_layers(backbone))
    infos = layers_of(backbone)
    assert not infos["cat"].has_weights and infos["blocks.0"].has_weights


# engines and stores


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["torch", "openvino", "onnxruntime", "compile"])
def test_all_engines_agree(engine, monkeypatch):
    if engine == "openvino":
        require_openvino()
    if engine == "onnxruntime":
        pytest.importorskip("onnxruntime")
    if engine == "compile":
        compile_with(monkeypatch, lambda graph, inputs: graph.forward)
    backbone = own(3, prefix_tokens=3)
    with torch.inference_mode():
        (tokens,) = backbone.run(opened(backbone), [("block", "none")])
    patches = tokens[:, 3:]
    grid = patches.transpose(1, 2).unflatten(2, (4, 4))
    quarters = nn.functional.adaptive_avg_pool2d(grid, 2).flatten(1)
    expected = torch.cat([tokens[:, 0], patches.mean(1), patches.amax(1), quarters], 1)
    settings = {"pooling": ("cls", "avg", "max", "grid"), "engine": engine}
    found = PretrainedFeatureExtractor(backbone, layer="block", **settings).fit_transform(X)
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_features_of_an_earlier_version_are_not_found(tmp_path):
    """Earlier versions had no number of tokens in their keys, and took the mean of all tokens."""
    backbone = own(3, prefix_tokens=3)
    expected = PretrainedFeatureExtractor(backbone, layer="block").fit_transform(X)
    version, fingerprint, layer, n_tokens, *others = store_key(Output(backbone, "block")).split("|")
    assert (version, n_tokens) == ("v4", "3")
    store = FeatureStore(tmp_path)
    modality = backbone.modality
    digests = [modality.digest(modality.read(sample)) for sample in modality.check(X)]
    before = "|".join(["v3", fingerprint, layer, *others])
    store.put(before, digests, np.full((len(X), 8), 7, np.float32))
    extractor = PretrainedFeatureExtractor(backbone, layer="block", memory=tmp_path).fit(X)
    assert_allclose(extractor.transform(X), expected, rtol=1e-5, atol=1e-6)
    assert len(FeatureStore(tmp_path)) == 2 * len(X)
    assert store_key(Output(own(3), "block")) != store_key(Output(backbone, "block"))


@pytest.mark.sweep
def test_a_blend_of_a_transformer_reads_its_tokens():
    model = TransferClassifier(random_backbone("timm:tiny_dinov3"), random_state=0).fit(X, Y)
    again = pickle.loads(pickle.dumps(model))
    assert_allclose(again.predict_proba(X), model.predict_proba(X), rtol=1e-6)
