"""All of torchvision and a hundred networks of timm against forward hooks (pytest -m sweep).

Each network adds a row to the table that is printed at the end, or written to the file that
``--sweep-table`` names.
"""

import contextlib
import gc

import pytest
import torch
import torchvision
from torch import nn

from sktransfer.backbones import pool
from sktransfer.backbones.layers import inspect_layers, penultimate, resolve_layer
from sktransfer.backbones.stages import cut_of, stages_of
from tests.support import random_backbone

TORCHVISION = torchvision.models.list_models(module=torchvision.models)
# Small networks of nearly all files of timm; the largest are left out.
TIMM = """
bat_resnext26ts beit_base_patch16_224 botnet26t_256 caformer_s18 cait_xxs24_224 coat_lite_small
coatnet_nano_cc_224 coatnet_pico_rw_224 convformer_s18 convit_tiny convmixer_768_32 convnext_atto
cpubone_b0_bfrobust crossvit_9_240 crossvit_tiny_240 cs3darknet_focus_s csatv2 cspnext_s davit_tiny
deit3_small_patch16_224 deit_tiny_distilled_patch16_224 densenet121 dla34 dpn48b edgenext_small
efficientformer_l1 efficientformerv2_s0 efficientnet_b0 efficientvim_m1 efficientvim_m1_dist
efficientvit_b0 efficientvit_m0 ese_vovnet19b_slim eva02_tiny_patch14_224 fasternet_s fastvit_t8
flexivit_small focalnet_tiny_srf gcvit_xxtiny gernet_s ghostnet_050 ghostnet_100 ghostnetv2_100
gmlp_s16_224 hardcorenas_a hgnet_small hiera_small_224 hieradet_small hrnet_w18_small iformer_s
inception_next_atto inception_resnet_v2 inception_v3 inception_v4 lcnet_050 legacy_seresnet18
legacy_xception levit_128s levit_conv_128s lowformer_b0 mambaout_femto mixer_s16_224
mobilenetv3_small_100 mobilevit_s mobilevit_xxs mobilevitv2_050 mvitv2_small
naflexvit_base_patch16_gap naflexvit_base_patch16_siglip nest_small nextvit_small nf_regnet_b0
pit_s_224 pit_ti_distilled_224 poolformer_s12 pvt_v2_b0 rdnet_tiny regnety_040_sgn regnetz_040
repghostnet_050 repvit_m0_9 res2net50_14w_8s resmlp_12_224 resnest14d resnet18 resnetv2_18
resnetv2_50x1_bit rexnet_100 selecsls42 sequencer2d_s shvit_s1 skresnet18 starnet_s1 swiftformer_s
swin_tiny_patch4_window7_224 swinv2_cr_tiny_224 swinv2_tiny_window8_256 tiny_vit_5m_224
tnt_s_legacy_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11 vgg11_bn
visformer_tiny vit_tiny_patch16_224 vit_tiny_r_s16_p8_224 vitamin_small_224 volo_d1_224 xception41
xcit_nano_12_p8_224
""".split()
# Networks whose pre-logits are no layer, and why. Features there are those of the last one before.
OTHER_DEFAULT = {
    "volo_d1_224": "an auxiliary head takes all tokens beside the class token of the head",
}


def outputs_of_modules(module, x, names):
    """Run a network and return its output and, by name, all tensors that each module returned."""
    found = {}

    def keep(name):
        def hook(_, args, output):
            several = output if isinstance(output, tuple | list) else [output]
            tensors = [x.clone() for x in several if isinstance(x, torch.Tensor)]  # may be changed
            found.setdefault(name, []).extend(tensors)

        return hook

    with contextlib.ExitStack() as stack:
        for name, inner in module.named_modules():
            if name in names and not isinstance(inner, torch.jit.ScriptModule):
                handle = inner.register_forward_hook(keep(name))
                stack.callback(handle.remove)
        return module(x.clone()), found


def outputs_of_stages(backbone, x):
    x = x.clone()
    for name, stage in stages_of(backbone).items():
        x = stage(x)
        yield name, x.clone()


def difference(a, b):
    same = isinstance(a, torch.Tensor) and a.shape == b.shape
    return ((a - b).norm() / b.norm().clamp_min(1e-30)).item() if same else float("inf")


def input_of_classifier(module, x):
    """Return what the last linear layer takes, or the last convolution where there is none."""
    inputs = {}

    def keep(inner, args):
        inputs[type(inner)] = args[0].clone()

    with contextlib.ExitStack() as stack:
        for inner in module.modules():
            if isinstance(inner, nn.Linear | nn.Conv2d):
                stack.callback(inner.register_forward_pre_hook(keep).remove)
        module(x.clone())
    return pool(inputs.get(nn.Linear, inputs.get(nn.Conv2d)), "avg")


def pre_logits(module, x):
    return module.forward_head(module.forward_features(x.clone()), pre_logits=True).flatten(1)


@torch.inference_mode()
def compare(backbone, expected_default):
    """Compare every layer with a hook, every module in feature_info, and the default features."""
    x = torch.randn(1, *backbone.input_shape, generator=torch.Generator().manual_seed(0))
    layers = list(inspect_layers(backbone, x))
    listed = [i["module"] for i in getattr(backbone.module, "feature_info", ()) if "module" in i]
    output, hooked = outputs_of_modules(backbone.module, x, {*layers, *listed})
    features = dict(outputs_of_stages(backbone, x))
    reasons = {name: cut_of(backbone).obstacles.get(name, "it is not called") for name in listed}
    reached = {name: resolve_layer(backbone, name) for name in listed if is_layer(backbone, name)}
    pairs = {name: (features[name], hooked[name]) for name in layers if name in hooked}
    pairs |= {f"feature_info: {m}": (features[at], hooked[m]) for m, at in reached.items()}
    where = {"sides": tuple(x.shape[2:]), "prefix_tokens": backbone.prefix_tokens}
    default = pool(features[penultimate(backbone)], "avg", **where)
    theirs = expected_default(backbone.module, x)
    return {
        "layers": len(layers),
        "compared": len(pairs),
        "unequal": [n for n, (a, b) in pairs.items() if min(difference(a, x) for x in b) > 1e-5],
        "output": difference(features[layers[-1]], output),
        "feature_info": f"{len(reached)} of {len(listed)}",
        "unreached": {name: reasons[name] for name in listed if name not in reached},
        "default": penultimate(backbone),
        "widths": (default.shape[1], theirs.shape[1]),
        "default_difference": difference(default, theirs),
    }


def is_layer(backbone, name):
    try:
        return bool(resolve_layer(backbone, name))
    except ValueError:
        return False


def check(name, expected_default, sweep_rows):
    gc.collect()  # the network before this one, of up to 2.6 GB
    backbone = random_backbone(name)
    # Weights at zero, such as timm's class tokens and scales, would make wrong layers look right.
    generator = torch.Generator().manual_seed(0)
    for parameter in backbone.module.parameters():
        if parameter.count_nonzero() == 0 or parameter.abs().max() < 1e-4:
            parameter.data.normal_(std=0.02, generator=generator)
    row = compare(backbone, expected_default)
    sweep_rows.append({"network": name} | row)
    assert cut_of(backbone).why_single == ""
    assert row["layers"] > 1
    assert row["unequal"] == []
    assert row["output"] <= 1e-5
    return row


@pytest.mark.sweep
@pytest.mark.parametrize("name", TORCHVISION)
def test_layers_of_torchvision_equal_hooks(name, sweep_rows, registry):
    row = check(name, input_of_classifier, sweep_rows)
    assert row["widths"][0] == row["widths"][1]
    assert row["default_difference"] <= 1e-5


@pytest.mark.sweep
@pytest.mark.parametrize("name", TIMM)
def test_layers_of_timm_equal_hooks(name, sweep_rows, registry):
    pytest.importorskip("timm")
    row = check(f"timm:{name}", pre_logits, sweep_rows)
    assert row["widths"][0] == row["widths"][1]
    if name not in OTHER_DEFAULT:
        assert row["default_difference"] <= 1e-4
    assert all(row["unreached"].values())  # each module that is no layer has a reason
