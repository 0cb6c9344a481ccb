"""Small networks for images and texts, with random weights and a tokenizer."""

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

transformers = pytest.importorskip("transformers")

WORDS = "<start> <end> <unk> a an the photo picture of on ant bee leaf cat".split()
_LAYERS = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
_LAYERS |= {"num_attention_heads": 4}
_TEXTS = _LAYERS | {"vocab_size": len(WORDS), "max_position_embeddings": 64}
_TEXTS |= {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
_IMAGES = _LAYERS | {"image_size": 48, "patch_size": 16}
_SIZE = {"height": 48, "width": 48}


def _clip():
    parts = {"text_config": _TEXTS | {"projection_dim": 24}}
    parts |= {"vision_config": _IMAGES | {"projection_dim": 24}}
    network = transformers.CLIPModel(transformers.CLIPConfig(**parts, projection_dim=24))
    return network, transformers.CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=_SIZE)


def _siglip():
    parts = {"text_config": _TEXTS | {"projection_size": 32}, "vision_config": _IMAGES}
    network = transformers.SiglipModel(transformers.SiglipConfig(**parts))
    return network, transformers.SiglipImageProcessor(size=_SIZE)


FAMILIES = {"clip": _clip, "siglip": _siglip}


def write_network(folder, family):
    """Write a folder as ``save_pretrained`` writes it, whose weights tell images apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network, processor = FAMILIES[family]()
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.ndim > 1:
                    parameter.mul_(2)
                elif "logit" in name:
                    parameter.fill_({"logit_scale": 2.5, "logit_bias": -1.5}[name])
                else:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
    network.save_pretrained(folder)
    processor.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer():
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<unk>"))
    words.normalizer = normalizers.Lowercase()
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 0), ("<end>", 1)]
    )
    special = {"bos_token": "<start>", "eos_token": "<end>", "pad_token": "<end>"}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, unk_token="<unk>", model_max_length=64, **special
    )
