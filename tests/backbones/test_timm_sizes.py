"""Transformers of timm at other input sizes, and cut into blocks."""

import pickle
import sys
from itertools import chain

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from torch.testing import assert_close

import sktransfer
from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    list_layers,
    load_backbone,
)
from sktransfer.backbones.layers import takes_size
from sktransfer.backbones.stages import cut_of, stages_of
from sktransfer.features.choices import candidate_sizes
from sktransfer.features.output import Output, store_key
from sktransfer.selection.proposals import input_sizes
from tests.backbones.whole_chain import trained_stages, whole_chain
from tests.support import images, random_backbone

timm = pytest.importorskip("timm")
# of timm 1.0.31, where it interpolates relative positions
pytestmark = pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
from tests.backbones.timm_networks import SIDE  # noqa: E402  (registers the networks)

X, Y = images(12), np.array(["ant", "bee"] * 6)
SMALL = ["timm:tiny_dinov3", "timm:tiny_eva02", "timm:tiny_beit", "timm:tiny_swinv2"]
SMALL += ["timm:tiny_naflex"]


def output_of_stages(backbone, x):
    for stage in stages_of(backbone).values():
        x = stage(x)
    return x


def built_for(name, side, state):
    """Return timm's own network for a size, with tensors that timm makes of those of another."""
    if "tiny_swin" in name:  # built for a size, it has windows of another one
        made = timm.create_model(name.removeprefix("timm:")).eval()
        made.load_state_dict(state)
        made.set_input_size((side, side))
        return made
    if "naflex" in name:  # takes any size
        made = timm.create_model(name.removeprefix("timm:")).eval()
        made.load_state_dict(state)
        return made
    made = timm.create_model(name.removeprefix("timm:"), img_size=side).eval()
    convert = getattr(sys.modules[type(made).__module__], "checkpoint_filter_fn", None)
    made.load_state_dict(convert(dict(state), made) if convert else state, strict=False)
    return made


@torch.inference_mode()
def assert_as_by_timm(name, sides):
    backbone = random_backbone(name)
    before = {key: tensor.clone() for key, tensor in backbone.module.state_dict().items()}
    for side in sides:
        made = backbone.with_image_size(side)
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        expected = built_for(name, side, before)(x)
        assert_close(made.module(x), expected, rtol=1e-5, atol=1e-5)
        assert_close(output_of_stages(made, x.clone()), expected, rtol=1e-5, atol=1e-5)
        assert list_layers(made) == list_layers(backbone)
        assert made.fingerprint == backbone.fingerprint
    after = backbone.module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize("name", SMALL)
def test_another_size_gives_what_timm_gives_for_it(name):
    assert_as_by_timm(name, [SIDE // 2, SIDE * 2])


# A network of each kind of transformer of timm.
FAMILIES = """
beit_base_patch16_224 deit3_small_patch16_224 deit_tiny_distilled_patch16_224 efficientvit_m0
eva02_tiny_patch14_224 maxvit_rmlp_pico_rw_256 naflexvit_base_patch16_gap swinv2_cr_tiny_ns_224
swinv2_tiny_window8_256
vit_base_patch16_clip_224 vit_base_patch16_siglip_224 vit_pe_core_tiny_patch16_384
vit_relpos_small_patch16_224 vit_small_patch14_reg4_dinov2 vit_small_patch16_dinov3
vit_tiny_patch16_224 vit_tiny_r_s16_p8_224
""".split()


@pytest.mark.sweep
@pytest.mark.parametrize("name", FAMILIES)
def test_the_whole_chain_of_each_family_at_two_other_sizes(name, tmp_path, sweep_rows):
    step = 28 if "patch14" in name else 32
    sides, row = [step * 4, step * 9], {}
    sweep_rows.append(row)
    assert_as_by_timm(f"timm:{name}", sides)
    backbone = random_backbone(f"timm:{name}")
    state = backbone.module.state_dict()

    def library(side, x):
        side = backbone.input_shape[1] if side is None else side
        with torch.inference_mode():
            return built_for(f"timm:{name}", side, state)(x).numpy()

    whole_chain(name, backbone, library, tmp_path, row, sizes=sides)


def test_only_tensors_of_positions_are_made_anew():
    backbone = load_backbone("timm:tiny_eva02")
    made = backbone.with_image_size(64)
    own = {t.data_ptr() for t in chain(backbone.module.parameters(), backbone.module.buffers())}
    anew = [n for n, tensor in made.module.named_parameters() if tensor.data_ptr() not in own]
    assert anew == ["pos_embed"]
    assert made.with_image_size(SIDE) is backbone
    assert made.with_image_size(64) is made


@pytest.mark.slow
def test_dinov3_is_cut_into_blocks_and_the_last_two_are_trained():
    backbone = load_backbone("timm:tiny_dinov3")
    assert not cut_of(backbone).why_single
    blocks = [layer for layer in list_layers(backbone) if layer.startswith("blocks.")]
    assert blocks == [f"blocks.{i}" for i in range(4)]
    model = FineTunedClassifier(backbone, trainable=2, image_size=48, max_epochs=1, random_state=0)
    model.fit(X, Y)
    assert model.layer_decay == "auto"
    names = {name for name, p in model.net_.module_.named_parameters() if p.requires_grad}
    assert any("blocks.3" in name for name in names)
    assert not any("blocks.0" in name or "blocks.1" in name for name in names)


def test_a_network_for_several_sizes_is_cut_into_blocks():
    backbone = load_backbone("timm:tiny_naflex")
    blocks = [layer for layer in list_layers(backbone) if layer.startswith("blocks.")]
    assert blocks == [f"blocks.{i}" for i in range(4)]
    assert (backbone.patch_size, backbone.prefix_tokens, backbone.has_class_token) == (8, 3, True)
    model = FineTunedClassifier(backbone, trainable=2, max_epochs=1, random_state=0).fit(X, Y)
    assert trained_stages(model) == ["blocks.2", "blocks.3"]


def test_a_recipe_holds_the_size_and_the_fingerprint_that_of_the_weights():
    backbone = load_backbone("timm:tiny_beit")
    outputs = [Output(backbone.with_image_size(side), "norm") for side in (SIDE, 48, 64)]
    assert [output.image_size for output in outputs] == [SIDE, 48, 64]
    assert len({store_key(output) for output in outputs}) == 3
    assert len({output.backbone.fingerprint for output in outputs}) == 1


def test_sizes_to_choose_from_are_multiples_of_the_patch():
    small = load_backbone("timm:tiny_dinov3")
    assert [b.input_shape[1] for b in candidate_sizes(small)] == [16, 32, 40, 48]
    backbone = random_backbone("timm:test_vit")  # 160 pixels in patches of 16
    assert input_sizes(backbone, None) == (64, 96, 192)


@pytest.mark.slow
def test_an_extractor_of_several_sizes_is_pickled_and_saved(tmp_path):
    name = "timm:tiny_eva02"
    made = PretrainedFeatureExtractor(name, image_size=[16, 48]).fit(X)
    expected = made.transform(X)
    alone = [PretrainedFeatureExtractor(name, image_size=s).fit_transform(X) for s in (16, 48)]
    assert_allclose(expected, np.hstack(alone), rtol=1e-5, atol=1e-6)
    assert_array_equal(pickle.loads(pickle.dumps(made)).transform(X), expected)
    sktransfer.save(made, tmp_path / "features.skt")
    assert_array_equal(sktransfer.load(tmp_path / "features.skt").transform(X), expected)


@pytest.mark.slow
def test_a_file_of_a_tuned_network_holds_its_size_and_its_tensors(tmp_path):
    settings = {"trainable": "all", "image_size": 48, "max_epochs": 1, "random_state": 0}
    model = FineTunedClassifier("timm:tiny_eva02", **settings).fit(X, Y)
    expected = model.predict_proba(X)
    sktransfer.save(model, tmp_path / "a.skt", self_contained=True)
    for opened in (sktransfer.load(tmp_path / "a.skt"), pickle.loads(pickle.dumps(model))):
        assert opened.backbone_.input_shape == (3, 48, 48)
        assert_array_equal(opened.predict_proba(X), expected)
    assert model.to_backbone().input_shape == (3, 48, 48)
    assert_close(opened.backbone_.module.pos_embed, model.backbone_.module.pos_embed)


@pytest.mark.sweep
def test_a_blend_reads_several_sizes_of_a_transformer():
    X = images(24, size=(60, 50))
    model = TransferClassifier(random_backbone("timm:test_vit"), random_state=0)
    model.fit(X, np.array(["a", "b"] * 12))
    assert {output.image_size for output in model.estimator_.outputs} <= {64, 96, 192}
    assert model.predict_proba(X).shape == (24, 2)


def test_the_message_about_a_size_names_one_that_works():
    with pytest.raises(ValueError, match=rf"image_size=64: .*It takes {SIDE}; .*for {SIDE}"):
        PretrainedFeatureExtractor("timm:tiny_hiera", image_size=64).fit(X)
    backbone = load_backbone("timm:tiny_hiera")
    assert takes_size(backbone, SIDE)
    assert not takes_size(backbone, 64)


# class tokens


@pytest.mark.slow
def test_cls_is_an_error_where_there_is_no_class_token():
    patches = random_backbone("timm:test_vit2")
    with pytest.raises(ValueError, match=r"pooling='cls'.*no class token.*'avg' or 'max'"):
        PretrainedFeatureExtractor(patches, layer="blocks.1", pooling=["cls", "avg"]).fit(X)
    tokens = load_backbone("timm:tiny_dinov3")
    assert tokens.has_class_token
    found = PretrainedFeatureExtractor(tokens, layer="norm", pooling="cls").fit_transform(X)
    x = torch.stack([tokens.preprocess(image) for image in X])
    with torch.inference_mode():
        expected = tokens.module.forward_features(x)[:, 0]
    assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert load_backbone("timm:tiny_swinv2").has_class_token is None


# names


@pytest.mark.parametrize(
    ("n_outputs", "first"),
    [(11821, ("n00005787", "benthos")), (21843, ("n00004475", "organism, being"))],
)
def test_networks_of_larger_imagenets_have_the_names_that_timm_knows(
    n_outputs, first, monkeypatch, registry
):
    network = timm.create_model("test_resnet", num_classes=n_outputs)
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: network)
    backbone = random_backbone("timm:resnet18")
    assert (backbone.class_ids[0], backbone.classes[0]) == first
    assert len(set(backbone.classes)) == len(backbone.class_ids) == n_outputs


def test_a_name_on_the_hub_is_given_to_timm(monkeypatch, registry):
    asked = []

    def create(name, **settings):
        asked.append((name, settings["pretrained"]))
        return network

    network = timm.create_model("test_resnet")
    monkeypatch.setattr(timm, "create_model", create)
    backbone = load_backbone("timm:hf-hub:owner/name")
    assert asked == [("hf-hub:owner/name", True)]
    assert backbone.loaded_by == ("timm:hf-hub:owner/name", "default")
    assert pickle.loads(pickle.dumps(backbone)) is backbone
    with pytest.raises(FileNotFoundError, match="downloaded only by fit"):
        load_backbone("timm:hf-hub:owner/other", download=False)
    with pytest.raises(ValueError, match="nothing is downloaded"):
        load_backbone("timm:hf-hub:owner/other", weights=None, download=False)
