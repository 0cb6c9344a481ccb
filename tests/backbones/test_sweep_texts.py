"""Families of networks for texts, and folders of sentence-transformers, through the whole chain.

``pytest -m sweep tests/backbones/test_sweep_texts.py`` makes a small network with random weights
for each, and prints a row: whether its features equal those of the library, for texts of different
lengths together and alone, its layers, what ``trainable=2`` trains, whether the blend, a pickle and
a file of ``save`` give the same, and whether there is an ONNX graph.
"""

import copy
import json
import pickle
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from sktransfer import (
    FineTunedClassifier,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    TransferClassifier,
    list_layers,
    load,
    load_backbone,
    save,
    to_onnx,
)
from tests.backbones.encoder_support import (
    QWEN,
    SMALL,
    T5,
    add_sentence,
    tiny_tokenizer,
    transformers,
    write_network,
)
from tests.backbones.whole_chain import outcome

NARROW = SMALL | {"embedding_size": 8}
GROUPED = SMALL | {"num_key_value_heads": 1}
DECODER = {"vocab_size": 16, "n_layer": 2, "n_head": 2}
LOCAL = {"bos_token_id": 2, "eos_token_id": 3, "cls_token_id": 2, "sep_token_id": 3}
DEBERTA = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "pooler_hidden_size": 16}
WINDOW = QWEN | {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}

# the name of the configuration in transformers, and the settings
FAMILIES = {
    "ALBERT": ("AlbertConfig", NARROW),
    "BERT": ("BertConfig", SMALL),
    "BigBird": ("BigBirdConfig", SMALL | {"attention_type": "original_full"}),
    "Bloom": ("BloomConfig", DECODER | {"hidden_size": 16}),
    "CamemBERT": ("CamembertConfig", SMALL),
    "DeBERTa": ("DebertaConfig", SMALL | DEBERTA),
    "DeBERTa-v2": ("DebertaV2Config", SMALL | DEBERTA | {"conv_kernel_size": 3}),
    "DistilBERT": (
        "DistilBertConfig",
        {"dim": 16, "n_heads": 2, "hidden_dim": 24, "n_layers": 2, "max_position_embeddings": 40},
    ),
    "ELECTRA": ("ElectraConfig", NARROW),
    "ESM": ("EsmConfig", SMALL | {"position_embedding_type": "rotary", "mask_token_id": 1}),
    "EuroBERT": ("EuroBertConfig", QWEN),
    "Falcon": (
        "FalconConfig",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    ),
    "Gemma2": ("Gemma2Config", WINDOW),
    "Gemma3": (
        "Gemma3TextConfig",
        WINDOW | {"use_bidirectional_attention": True, "query_pre_attn_scalar": 8},
    ),
    "GPT-2": ("GPT2Config", DECODER | {"n_embd": 16, "bos_token_id": 2, "eos_token_id": 3}),
    "GTE": ("GteConfig", SMALL),
    "Jina v3": ("JinaEmbeddingsV3Config", SMALL),
    "Llama": ("LlamaConfig", GROUPED),
    "Mistral": ("MistralConfig", GROUPED | {"sliding_window": 4}),
    "ModernBERT": ("ModernBertConfig", SMALL | LOCAL | {"local_attention": 4}),
    "MPNet": ("MPNetConfig", SMALL),
    "mT5": ("MT5Config", T5),
    "NomicBERT": ("NomicBertConfig", SMALL),
    "OPT": (
        "OPTConfig",
        {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 24}
        | {"word_embed_proj_dim": 16, "max_position_embeddings": 40},
    ),
    "Qwen2": ("Qwen2Config", GROUPED),
    "Qwen3": ("Qwen3Config", QWEN),
    "RoBERTa": ("RobertaConfig", SMALL),
    "RoFormer": ("RoFormerConfig", NARROW),
    "T5": ("T5Config", T5),
    "XLM-RoBERTa": ("XLMRobertaConfig", SMALL),
    "XLNet": ("XLNetConfig", {"d_model": 16, "n_layer": 2, "n_head": 2, "d_inner": 24}),
}
WHOLE = {"RoFormer", "XLNet"}  # one stage
WITHOUT_GRAPH = {"XLNet"}  # refused by to_onnx, with the reason

# a folder of sentence-transformers: the family, its pooling, and the modules behind it
SENTENCES = {
    "LaBSE": ("BERT", "cls", ["Dense", "Normalize"]),
    "bge-m3": ("XLM-RoBERTa", "cls", ["Normalize"]),
    "EmbeddingGemma": ("Gemma3", "mean", ["Dense", "Dense", "Normalize"]),
    "gte-modernbert": ("ModernBERT", "cls", []),
    "nomic-embed": ("NomicBERT", "mean", ["LayerNorm", "Normalize"]),
    "Qwen3-Embedding": ("Qwen3", "lasttoken", ["Normalize"]),
    "sentence-t5": ("T5", "mean", ["Dense", "Normalize"]),
    "SGPT": ("GPT-2", "weightedmean", []),
    "two poolings": ("MPNet", ["mean", "max"], ["Dropout"]),
}

WORDS = {"good": "the cat sat home", "bad": "a dog ran on"}
RNG = np.random.default_rng(0)
LABELS = np.array(["bad", "good"] * 12)
TEXTS = [" ".join(RNG.choice(WORDS[y].split(), RNG.integers(1, 9))) for y in LABELS]


def write_modules(folder, kinds):
    """The files of modules behind a pooling to 16 numbers."""
    for i, kind in enumerate(kinds, 2):
        path = folder / f"{i}_{kind}"
        path.mkdir()
        settings, tensors = {}, {}
        if kind == "Dense":
            settings = {"in_features": 16, "out_features": 16, "bias": False}
            tensors = {"linear.weight": torch.randn(16, 16)}
        if kind == "LayerNorm":
            settings = {"dimension": 16}
            tensors = {"norm.weight": torch.rand(16), "norm.bias": torch.rand(16)}
        (path / "config.json").write_text(json.dumps(settings))
        if tensors:
            save_file(tensors, path / "model.safetensors")


def changed_stages(backbone, tuned):
    """The stages whose parameters differ."""
    before, after = backbone.stages, tuned.to_backbone().stages
    pairs = {name: (before[name].state_dict(), after[name].state_dict()) for name in before}
    return [n for n, (a, b) in pairs.items() if any(not torch.equal(a[k], b[k]) for k in a)]


def assert_same(expected, found):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def chain(folder, row, tmp_path):
    """Run all that a backbone is used for, and fill in a row of the table."""
    library = pytest.importorskip("sentence_transformers")
    backbone = load_backbone(f"hf:{folder}")
    row["loads"] = "yes"
    extractor = PretrainedFeatureExtractor(backbone)
    features = extractor.fit_transform(TEXTS)
    expected = library.SentenceTransformer(str(folder), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(features, expected, rtol=1e-5, atol=1e-5)
    alone = np.concatenate([extractor.transform([text]) for text in TEXTS[:6]])
    np.testing.assert_allclose(features[:6], alone, rtol=1e-5, atol=1e-5)
    row["equals"] = float(np.linalg.norm(features - expected) / np.linalg.norm(expected))
    is_whole = len(backbone.stages) == 2
    row["layers"] = "no, one stage" if is_whole else len(list_layers(backbone))
    weights = copy.deepcopy(backbone.module.state_dict())
    n_trained = 1 if is_whole else 2
    tuned = FineTunedClassifier(backbone, trainable=n_trained, max_epochs=2, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # trainings of two epochs do not help
        tuned.fit(TEXTS, LABELS)
        trained = " ".join(changed_stages(backbone, tuned))
        row["trained"] = "no, one stage" if is_whole else trained
        blend = TransferClassifier(backbone, random_state=0).fit(TEXTS, LABELS)
    results = {extractor: features, tuned: tuned.predict_proba(TEXTS)}
    results[blend] = blend.predict_proba(TEXTS)
    assert np.isfinite(results[blend]).all()
    row["blend"] = "yes"
    for step in ("pickle", "save"):
        for i, (model, result) in enumerate(results.items()):
            run = "transform" if model is extractor else "predict_proba"
            if step == "save":
                save(model, tmp_path / f"{i}.skt")
            again = load(tmp_path / f"{i}.skt") if step == "save" else pickled(model)
            assert_same(result, getattr(again, run)(TEXTS))
        row[step] = "yes"
    after = backbone.module.state_dict()
    assert all(torch.equal(weights[key], after[key]) for key in weights)
    path = tmp_path / "features.onnx"  # is compared with the features when it is made
    row["ONNX"] = outcome(lambda: to_onnx(extractor, path, X=TEXTS) or "yes")
    return backbone


def pickled(model):
    return pickle.loads(pickle.dumps(model))


@pytest.mark.sweep
@pytest.mark.parametrize("family", FAMILIES)
def test_families_through_the_whole_chain(family, sweep_rows, tmp_path):
    folder = write_network(tmp_path / "folder", *FAMILIES[family])
    row = {"network": family}
    sweep_rows.append(row)
    backbone = chain(folder, row, tmp_path)
    if family in WHOLE:
        assert row["layers"] == "no, one stage"
    else:
        blocks = [name for name in backbone.stages if name.startswith("layer.")]
        assert [name for name in row["trained"].split() if name != "norm"] == blocks[-2:]
    assert row["ONNX"] == "yes" or family in WITHOUT_GRAPH


@pytest.mark.sweep
@pytest.mark.parametrize("name", SENTENCES)
def test_folders_of_sentence_transformers_through_the_whole_chain(name, sweep_rows, tmp_path):
    family, pooling, kinds = SENTENCES[name]
    folder = write_network(tmp_path / "folder", *FAMILIES[family])
    add_sentence(folder, {"pooling_mode": pooling}, *kinds)
    write_modules(folder, kinds)
    row = {"network": name}
    sweep_rows.append(row)
    chain(folder, row, tmp_path)
    # a norm behind the blocks, or that of the folder, is trained with what follows it
    assert sum("norm" not in name for name in row["trained"].split()) == 2
    assert row["ONNX"] == "yes" or family in WITHOUT_GRAPH


@pytest.mark.sweep
@pytest.mark.parametrize(
    "family", ["ALBERT", "BERT", "DeBERTa-v2", "DistilBERT", "Gemma3", "ModernBERT", "RoBERTa"]
)
def test_classifiers_of_sequences_give_their_probabilities(family, sweep_rows, tmp_path):
    labels = {"id2label": {0: "cat", 1: "dog", 2: "mat"}}
    name = "AutoModelForSequenceClassification"
    config, settings = FAMILIES[family]
    folder = write_network(tmp_path / "folder", config, settings | labels, name)
    tokenizer = tiny_tokenizer(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    inputs = [tokenizer(text, return_tensors="pt") for text in TEXTS]
    with torch.no_grad():
        expected = [model(x.input_ids, x.attention_mask).logits.softmax(1)[0] for x in inputs]
    direct = PretrainedClassifier(f"hf:{folder}").fit(TEXTS)
    assert direct.classes_.tolist() == ["cat", "dog", "mat"]
    np.testing.assert_allclose(direct.predict_proba(TEXTS), torch.stack(expected), atol=1e-6)
    row = {"network": f"{family}, classifier", "layers": len(list_layers(f"hf:{folder}"))}
    sweep_rows.append(row)
