"""Folders of transformers that cannot be used: each error names the family and the way out."""

import pytest

from sktransfer import load_backbone
from tests.backbones.encoder_support import SMALL, write_network
from tests.backbones.image_networks import CLIP, HALF, P16, REFUSED, VIT, transformers

T = transformers
TINY = {"num_hidden_layers": 1, "vocab_size": 50, "num_attention_heads": 4}
LLAMA = TINY | {"hidden_size": 32, "intermediate_size": 64}
SIDE = {"size": {"height": 64, "width": 64}}
SEQUENCES = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_mel_bins": 8}
SEQUENCES |= {"max_source_positions": 20, "encoder_attention_heads": 2}
OWN_MODULE = r"give a module that takes images: load_backbone\(module, preprocess=…\)"
ITSELF = r"Give its encoder itself: load_backbone\(module, preprocess=…, modality="
NO_TOWER = "use a folder of its image encoder"


def vit():
    return T.ViTImageProcessor(**SIDE, **HALF)


# by family: its configuration, its image processor, the way out
IMAGES = {
    "siglip2": (REFUSED["siglip2"][0], REFUSED["siglip2"][2], "siglip2-base-patch16-224"),
    "imagegpt": (
        lambda: T.ImageGPTConfig(n_embd=32, n_layer=2, n_head=2, n_positions=16, vocab_size=20),
        lambda: T.ImageGPTImageProcessor(clusters=[[-1] * 3, [1] * 3], **SIDE),
        OWN_MODULE,
    ),
    "layoutlmv3": (
        lambda: T.LayoutLMv3Config(**P16, vocab_size=30),
        lambda: T.LayoutLMv3ImageProcessor(apply_ocr=False, **SIDE),
        OWN_MODULE,
    ),
    "llava": (
        lambda: T.LlavaConfig(
            vision_config=T.CLIPVisionConfig(**P16), text_config=T.LlamaConfig(**LLAMA)
        ),
        lambda: T.CLIPImageProcessor(**CLIP),
        NO_TOWER,
    ),
    "paligemma": (
        lambda: T.PaliGemmaConfig(
            vision_config=T.SiglipVisionConfig(**P16), text_config=T.GemmaConfig(**LLAMA)
        ),
        lambda: T.SiglipImageProcessor(**SIDE, **HALF),
        NO_TOWER,
    ),
    "perceiver": (
        lambda: T.PerceiverConfig(num_latents=4, d_latents=16, num_self_attends_per_block=1),
        lambda: T.PerceiverImageProcessor(**SIDE, crop_size=SIDE["size"]),
        OWN_MODULE,
    ),
    "qwen2_vl": (T.Qwen2VLConfig, T.Qwen2VLImageProcessor, NO_TOWER),
    "superpoint": (T.SuperPointConfig, T.SuperPointImageProcessor, ITSELF),
    "videomae": (
        lambda: T.VideoMAEConfig(**P16, num_frames=2),
        lambda: T.VideoMAEImageProcessor(size={"shortest_edge": 64}, crop_size=SIDE["size"]),
        OWN_MODULE,
    ),
    "vilt": (
        lambda: T.ViltConfig(**P16, vocab_size=30),
        lambda: T.ViltImageProcessor(),
        OWN_MODULE,
    ),
    "vision-encoder-decoder": (
        lambda: T.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
            T.ViTConfig(**P16), T.BertConfig(**LLAMA)
        ),
        vit,
        ITSELF,
    ),
    "vitpose_backbone": (
        lambda: T.VitPoseBackboneConfig(**VIT | {"image_size": [64, 64], "patch_size": [16, 16]}),
        vit,
        ITSELF,
    ),
}
CLASSES = {
    "siglip2": "Siglip2Model",
    "llava": "LlavaModel",
    "paligemma": "PaliGemmaModel",
    "qwen2_vl": "Qwen2VLModel",
}
# by family: the name of its configuration and the settings, the way out
ANOTHER = "Use a network of another family"
TEXTS = {
    "convbert": ("ConvBertConfig", SMALL | {"embedding_size": 16}, ANOTHER),
    "fnet": ("FNetConfig", SMALL, ANOTHER),
    "mobilebert": (
        "MobileBertConfig",
        SMALL | {"embedding_size": 16, "intra_bottleneck_size": 16, "true_hidden_size": 16},
        ANOTHER,
    ),
    "nystromformer": (
        "NystromformerConfig",
        SMALL | {"num_landmarks": 4, "segment_means_seq_len": 4},
        ANOTHER,
    ),
    "vit": ("ViTConfig", SMALL | {"image_size": 8, "patch_size": 4}, ITSELF),
    "whisper": ("WhisperConfig", SEQUENCES | {"decoder_attention_heads": 2}, ITSELF),
}


@pytest.mark.parametrize("family", IMAGES)
def test_a_folder_of_images_that_cannot_be_used_names_the_family_and_the_way_out(family, tmp_path):
    config, processor, way_out = IMAGES[family]
    made = config()
    made.architectures = [CLASSES.get(family, "AnyModel")]
    made.save_pretrained(tmp_path)
    processor().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=way_out) as refused:
        load_backbone(f"hf:{tmp_path}", weights=None)
    assert f"family {family!r}" in str(refused.value)
    assert len(str(refused.value)) < 700


@pytest.mark.parametrize("family", TEXTS)
def test_a_folder_of_texts_that_cannot_be_used_names_the_family_and_the_way_out(family, tmp_path):
    config, settings, way_out = TEXTS[family]
    write_network(tmp_path, config, settings)
    with pytest.raises(ValueError, match=way_out) as refused:
        load_backbone(f"hf:{tmp_path}")
    assert f"family {family!r}" in str(refused.value)
    assert len(str(refused.value)) < 700
