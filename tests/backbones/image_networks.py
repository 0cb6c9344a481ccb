"""Folders of small networks for images in the format of transformers, with random weights.

A family is a function that makes its configuration, the class that is written, and a function that
makes its image processor.
"""

import pytest
import torch

transformers = pytest.importorskip("transformers")
T = transformers

IMAGENET = {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
HALF = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
CLIP = {"image_mean": [0.48, 0.457, 0.408], "image_std": [0.268, 0.261, 0.275]}
DEPTH = 3
VIT = {"hidden_size": 32, "num_hidden_layers": DEPTH, "num_attention_heads": 4}
MLP = VIT | {"intermediate_size": 64}
P16 = MLP | {"image_size": 64, "patch_size": 16}
P14 = VIT | {"image_size": 56, "patch_size": 14}
WIDTHS = {"hidden_sizes": [8, 16, 24, 32]}
PYRAMID = WIDTHS | {"depths": [1, 1, 2, 1]}
NAMES = {"id2label": {0: "cat", 1: "dog", 2: "bee"}, "label2id": {"cat": 0, "dog": 1, "bee": 2}}
SWIN = {"image_size": 64, "patch_size": 4, "embed_dim": 8, "depths": [1, 2, 1]}
SWIN |= {"num_heads": [1, 2, 4], "window_size": 4}
TEXTS = MLP | {"vocab_size": 30, "max_position_embeddings": 8}
TEXTS |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
MOBILE = {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 8, 16, 16, 16, 32, 32]}


def _square(cls, side=64, **settings):
    return lambda: cls(size={"height": side, "width": side}, **settings)


def _cropped(cls, resize=72, side=64, **settings):
    crop = {"height": side, "width": side}
    return lambda: cls(size={"shortest_edge": resize}, crop_size=crop, **settings)


_VIT16 = _square(T.ViTImageProcessor, resample=2, **HALF)
_BIT14 = _cropped(T.BitImageProcessor, 63, 56, do_center_crop=True, resample=3, **IMAGENET)
_CLIP16 = _cropped(T.CLIPImageProcessor, 65, resample=3, **CLIP)
_CONV = {"size": {"shortest_edge": 64}, "crop_pct": 0.875, "resample": 3, **IMAGENET}


def _conv():
    return T.ConvNextImageProcessor(**_CONV)


FAMILIES = {
    "dinov2": (lambda: T.Dinov2Config(**P14), "Dinov2Model", _BIT14),
    "dinov2 with registers": (
        lambda: T.Dinov2WithRegistersConfig(**P14, num_register_tokens=4),
        "Dinov2WithRegistersModel",
        _BIT14,
    ),
    "dinov2 with classes": (
        lambda: T.Dinov2Config(**P14, **NAMES),
        "Dinov2ForImageClassification",
        _BIT14,
    ),
    "dinov3 vit": (
        lambda: T.DINOv3ViTConfig(**P16, num_register_tokens=4),
        "DINOv3ViTModel",
        _square(T.DINOv3ViTImageProcessor, do_resize=True, resample=2, **IMAGENET),
    ),
    "dinov3 convnext": (
        lambda: T.DINOv3ConvNextConfig(**PYRAMID, image_size=64),
        "DINOv3ConvNextModel",
        _square(T.DINOv3ViTImageProcessor, do_resize=True, resample=2, **IMAGENET),
    ),
    "siglip vision": (
        lambda: T.SiglipVisionConfig(**P16),
        "SiglipVisionModel",
        _square(T.SiglipImageProcessor, resample=3, **HALF),
    ),
    "siglip": (
        lambda: T.SiglipConfig(text_config=TEXTS | {"projection_size": 32}, vision_config=P16),
        "SiglipModel",
        _square(T.SiglipImageProcessor, resample=3, **HALF),
    ),
    "clip": (
        lambda: T.CLIPConfig(
            text_config=TEXTS | {"projection_dim": 24},
            vision_config=P16 | {"projection_dim": 24},
            projection_dim=24,
        ),
        "CLIPModel",
        _CLIP16,
    ),
    "clip vision": (lambda: T.CLIPVisionConfig(**P16), "CLIPVisionModel", _CLIP16),
    "clip vision with projection": (
        lambda: T.CLIPVisionConfig(**P16, projection_dim=24),
        "CLIPVisionModelWithProjection",
        _CLIP16,
    ),
    "aimv2": (
        lambda: T.Aimv2VisionConfig(**MLP | {"image_size": 56, "patch_size": 14}),
        "Aimv2VisionModel",
        _cropped(T.CLIPImageProcessor, 56, 56, resample=3, **CLIP),
    ),
    "convnextv2": (
        lambda: T.ConvNextV2Config(**PYRAMID, image_size=64, **NAMES),
        "ConvNextV2ForImageClassification",
        _conv,
    ),
    "convnext": (lambda: T.ConvNextConfig(**PYRAMID, image_size=64), "ConvNextModel", _conv),
    "swin": (lambda: T.SwinConfig(**SWIN, **NAMES), "SwinForImageClassification", _VIT16),
    "swinv2": (lambda: T.Swinv2Config(**SWIN), "Swinv2Model", _VIT16),
    "vit": (lambda: T.ViTConfig(**P16), "ViTModel", _VIT16),
    "vit with classes": (
        lambda: T.ViTConfig(**P16, **NAMES),
        "ViTForImageClassification",
        _VIT16,
    ),
    "vit mae": (lambda: T.ViTMAEConfig(**P16), "ViTMAEModel", _VIT16),
    "vit msn": (lambda: T.ViTMSNConfig(**P16), "ViTMSNModel", _VIT16),
    "beit": (
        lambda: T.BeitConfig(**P16, use_relative_position_bias=True),
        "BeitModel",
        _square(T.BeitImageProcessor, do_center_crop=False, **HALF),
    ),
    "data2vec": (lambda: T.Data2VecVisionConfig(**P16), "Data2VecVisionModel", _VIT16),
    "resnet": (
        lambda: T.ResNetConfig(embedding_size=8, **WIDTHS, depths=[1, 1, 1, 1], **NAMES),
        "ResNetForImageClassification",
        _conv,
    ),
    "regnet": (
        lambda: T.RegNetConfig(embedding_size=8, **WIDTHS, depths=[1, 1, 1, 1], groups_width=8),
        "RegNetModel",
        _conv,
    ),
    "efficientnet": (
        lambda: T.EfficientNetConfig(
            image_size=64, width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320
        ),
        "EfficientNetModel",
        _square(T.EfficientNetImageProcessor, **IMAGENET),
    ),
    "mobilevit": (
        lambda: T.MobileViTConfig(image_size=64, num_attention_heads=2, **MOBILE),
        "MobileViTModel",
        _cropped(T.MobileViTImageProcessor, 72),
    ),
    "mobilenet v2": (
        lambda: T.MobileNetV2Config(image_size=64, depth_multiplier=0.35),
        "MobileNetV2Model",
        _VIT16,
    ),
    "i-jepa": (
        lambda: T.IJepaConfig(**P16),
        "IJepaModel",
        _square(T.ViTImageProcessor, **IMAGENET),
    ),
    "focalnet": (
        lambda: T.FocalNetConfig(image_size=64, embed_dim=8, **WIDTHS, depths=[1, 1, 1, 1]),
        "FocalNetModel",
        _VIT16,
    ),
    "poolformer": (
        lambda: T.PoolFormerConfig(**WIDTHS, depths=[1, 1, 1, 1]),
        "PoolFormerModel",
        _VIT16,
    ),
    "segformer": (
        lambda: T.SegformerConfig(**WIDTHS, depths=[1, 1, 1, 1], decoder_hidden_size=16, **NAMES),
        "SegformerForImageClassification",
        _VIT16,
    ),
}
REFUSED = {
    "siglip2": (
        lambda: T.Siglip2Config(
            text_config=TEXTS | {"projection_size": 32},
            vision_config=MLP | {"num_patches": 16, "patch_size": 16},
        ),
        "Siglip2Model",
        lambda: T.Siglip2ImageProcessor(max_num_patches=16, patch_size=16, **HALF),
    ),
}


def write_image_folder(folder, family):
    """Write a folder with random weights, none of them zero or the same in two channels."""
    config, model, processor = (FAMILIES | REFUSED)[family]
    T.utils.logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = getattr(T, model)(config()).eval()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                is_small = parameter.ndim <= 1 or any(w in name for w in ("pos", "cls", "regis"))
                if is_small:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
                else:
                    parameter.mul_(3)
    network.save_pretrained(folder)
    processor().save_pretrained(folder)
    return folder


def network_of_library(folder):
    """Return the network of transformers that takes the images of a folder."""
    import json

    named = json.loads((folder / "config.json").read_text())["architectures"][0]
    towers = {
        "SiglipModel": "SiglipVisionModel",
        "CLIPModel": "CLIPVisionModelWithProjection",
    }
    network = getattr(T, towers.get(named, named)).from_pretrained(folder).eval()
    if named == "ViTMAEModel":  # without masks, in the order of the patches
        network.config.mask_ratio = 0.0
        network.embeddings.config.mask_ratio = 0.0
    return network


def output_of_network(network, pixels):
    """Return what transformers makes of preprocessed images: logits, or one vector for each."""
    import inspect

    options = {}
    if type(network).__name__ == "ViTMAEModel":
        side = pixels.shape[-1] // 16
        options["noise"] = torch.arange(side * side).repeat(len(pixels), 1).float()
    if "interpolate_pos_encoding" in inspect.signature(network.forward).parameters:
        options["interpolate_pos_encoding"] = True
    with torch.inference_mode():
        found = network(pixel_values=pixels, **options)
    for key in ("logits", "image_embeds", "pooler_output"):
        if found.get(key) is not None:
            return found[key].flatten(1).numpy()
    return found["last_hidden_state"].numpy()


def output_of_library(folder, images, **options):
    """Return what transformers makes of images, which its image processor prepares."""
    processor = T.AutoImageProcessor.from_pretrained(folder)
    pixels = processor(images=images, return_tensors="pt", **options)["pixel_values"]
    return output_of_network(network_of_library(folder), pixels)
