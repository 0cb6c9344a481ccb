"""Folders of small sentence encoders, that several test files share."""

import json

import pytest
import torch

from sktransfer.backbones.huggingface import load_hf

transformers = pytest.importorskip("transformers")


WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran", "home", "The"]


TEXTS = [
    "the cat sat on a mat",
    "",
    "a dog",
    "the dog ran home and the cat sat on a mat and the dog sat on the cat",
    "The unknown dog",
    "the cat ran on a mat",
]


SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
SMALL |= {"num_hidden_layers": 2, "max_position_embeddings": 40}


DISTIL = {"dim": 16, "n_heads": 2, "hidden_dim": 24, "n_layers": 2, "max_position_embeddings": 40}


QWEN = SMALL | {"num_key_value_heads": 1, "head_dim": 8}


DEBERTA = SMALL | {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
DEBERTA |= {"position_buckets": 8, "norm_rel_ebd": "layer_norm", "conv_kernel_size": 3}


T5 = {"d_model": 16, "d_ff": 24, "num_layers": 2, "num_heads": 2, "d_kv": 8}


# the configuration of a family, its settings, its id for padding, and whether a norm ends it
FAMILIES = {
    "bert": (transformers.BertConfig, SMALL, 0, False),
    "roberta": (transformers.RobertaConfig, SMALL, 1, False),
    "distilbert": (transformers.DistilBertConfig, DISTIL, 0, False),
    "mpnet": (transformers.MPNetConfig, SMALL, 1, False),
    "electra": (transformers.ElectraConfig, SMALL | {"embedding_size": 8}, 0, False),
    "albert": (transformers.AlbertConfig, SMALL | {"embedding_size": 8}, 0, False),
    "deberta": (transformers.DebertaV2Config, DEBERTA, 0, False),
    "qwen3": (transformers.Qwen3Config, QWEN, 0, True),
    "t5": (transformers.T5Config, T5, 0, True),
}


# Divided into their modules, so that a row does not depend on others to the last bit.
CUT = ["bert", "roberta", "distilbert", "mpnet", "electra"]


def tiny_tokenizer(padding: int):
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    special = ["[UNK]", "[MASK]", "[CLS]", "[SEP]"]
    special.insert(padding, "[PAD]")
    ids = {word: i for i, word in enumerate([*special, *WORDS])}
    words = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(end, ids[end]) for end in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    names = {f"{end}_token": f"[{end.upper()}]" for end in ("pad", "unk", "cls", "sep", "mask")}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=32, **names
    )


def write_folder(folder, family="bert", **settings):
    """Write a small random network of a family and its tokenizer, as its makers would."""
    config, small, padding, _ = FAMILIES[family]
    return write_network(folder, config.__name__, small | settings, padding=padding)


def write_network(folder, config, settings, auto_class="AutoModel", padding=0):
    """Write a small random network and its tokenizer."""
    tokenizer = tiny_tokenizer(padding)
    settings = {"vocab_size": len(tokenizer), "pad_token_id": padding} | settings
    config = getattr(transformers, config)(**settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, auto_class).from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def add_sentence(folder, pooling: dict, *last: str, **settings):
    """Add what sentence-transformers would: modules, the pooling, settings of texts."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    kinds |= {f"{i + 2}_{kind}": kind for i, kind in enumerate(last)}
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps({"word_embedding_dimension": 16} | pooling)
    )
    if settings:
        (folder / "sentence_bert_config.json").write_text(json.dumps(settings))
    return folder


def load(folder, weights="default"):
    return load_hf(f"hf:{folder}", weights)


def token_vectors(folder, text: str, **settings):
    """What transformers itself computes for the tokens of one text, ``(length, d)``."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    config = transformers.AutoConfig.from_pretrained(folder)
    is_t5 = config.model_type == "t5"
    cls = transformers.T5EncoderModel if is_t5 else transformers.AutoModel
    model = cls.from_pretrained(folder).eval()
    encoded = tokenizer(text, return_tensors="pt", truncation=True, **settings)
    encoded.pop("token_type_ids", None)
    with torch.no_grad():
        return model(**encoded).last_hidden_state[0]


@torch.no_grad()
def run(backbone, texts, until=None):
    """The output of the last stage, or of the one named, for each text."""
    results: list = [None] * len(texts)
    for positions, x in backbone.preprocess.many(texts):
        for name, stage in backbone.stages.items():
            x = stage(x)
            if name == until:
                break
        for i, row in zip(positions, x, strict=True):
            results[i] = row
    return results
