"""Small networks that stand in timm's registry, so that their names are those of backbones.

Their weights are the same whenever they are built, as if they were published.
"""

import torch
from timm.models import register_model
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.hiera import Hiera
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from timm.models.swin_transformer_v2 import SwinTransformerV2

SIDE = 32


def _prepared(cls, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = cls(num_classes=settings.pop("num_classes", 3), **settings)
        for parameter in made.parameters():  # positions and scales may begin as zeros
            torch.nn.init.normal_(parameter, std=0.2)
    images = {"input_size": (3, SIDE, SIDE), "crop_pct": 1.0, "interpolation": "bilinear"}
    scales = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "crop_mode": "center"}
    made.pretrained_cfg = images | scales | {"license": "mit", "tag": "small", "classifier": "head"}
    return made.eval()


_VIT = {"patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "img_size": SIDE}


@register_model
def tiny_dinov3(pretrained=False, dynamic_img_size=True, img_size=SIDE, **kwargs):
    """Build a network like vit_small_patch16_dinov3, which has four registers."""
    positions = {"rope_type": "dinov3", "use_rot_pos_emb": True, "use_abs_pos_emb": False}
    others = {"num_reg_tokens": 4, "use_fc_norm": False, "rope_rotate_half": True}
    sizes = {"dynamic_img_size": dynamic_img_size, "img_size": img_size}
    return _prepared(Eva, **_VIT | positions | others | sizes | {"num_classes": 0})


@register_model
def tiny_eva02(pretrained=False, dynamic_img_size=False, img_size=SIDE, **kwargs):
    """Build a network like eva02_tiny_patch14_224, with both kinds of positions."""
    sizes = {"dynamic_img_size": dynamic_img_size, "img_size": img_size}
    return _prepared(Eva, use_rot_pos_emb=True, swiglu_mlp=True, **_VIT | sizes)


def _without_dynamic_sizes(kwargs):
    if "dynamic_img_size" in kwargs:
        raise TypeError("unexpected keyword argument 'dynamic_img_size'")


@register_model
def tiny_beit(pretrained=False, img_size=SIDE, **kwargs):
    """Build a network like beit_base_patch16_224, with relative positions in each block."""
    _without_dynamic_sizes(kwargs)
    return _prepared(Beit, use_rel_pos_bias=True, init_values=0.1, **_VIT | {"img_size": img_size})


@register_model
def tiny_swinv2(pretrained=False, img_size=SIDE, **kwargs):
    """Build a network like swinv2_tiny_window8_256, whose windows follow the size."""
    _without_dynamic_sizes(kwargs)
    stages = {"embed_dim": 8, "depths": (2, 2), "num_heads": (2, 2), "window_size": 4}
    return _prepared(SwinTransformerV2, patch_size=4, img_size=img_size, **stages)


@register_model
def tiny_hiera(pretrained=False, img_size=SIDE, **kwargs):
    """Build a network like hiera_tiny_224, which timm does not resize."""
    _without_dynamic_sizes(kwargs)
    stages = {"embed_dim": 8, "stages": (1, 1), "q_pool": 1, "mask_unit_attn": (True, False)}
    return _prepared(Hiera, img_size=(img_size, img_size), mask_unit_size=(4, 4), **stages)


@register_model
def tiny_naflex(pretrained=False, **kwargs):
    """Build a network like naflexvit_base_patch16_gap, for images of any size."""
    _without_dynamic_sizes(kwargs)
    settings = {"patch_size": 8, "embed_dim": 24, "depth": 4, "num_heads": 2, "reg_tokens": 2}
    settings |= {"class_token": True, "pos_embed_grid_size": (4, 4), "global_pool": "avg"}
    return _prepared(NaFlexVit, cfg=NaFlexVitCfg(**settings))
