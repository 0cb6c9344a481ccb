import json
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sktransfer import (
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    list_layers,
    load_backbone,
    save,
)
from sktransfer import load as load_model
from tests.backbones.encoder_support import (
    QWEN,
    SMALL,
    TEXTS,
    add_sentence,
    load,
    run,
    tiny_tokenizer,
    token_vectors,
    transformers,
    write_folder,
    write_network,
)


@pytest.fixture(scope="module")
def library():
    return pytest.importorskip("sentence_transformers")


@pytest.fixture(scope="module")
def qwen(folders, tmp_path_factory):
    """A folder of a decoder, as that of Qwen3-Embedding."""
    folder = shutil.copytree(folders["qwen3"], tmp_path_factory.mktemp("qwen") / "encoder")
    add_sentence(folder, {"pooling_mode": "lasttoken"}, "Normalize", max_seq_length=16)
    texts = {"prompts": {"query": "on the mat the", "document": ""}, "default_prompt_name": None}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(texts))
    return folder


def encoded(library, folder, texts=TEXTS, **settings):
    """What sentence-transformers computes, alone and in one batch."""
    model = library.SentenceTransformer(str(folder), device="cpu")
    together = model.encode(texts, convert_to_tensor=True, **settings)
    alone = model.encode(texts, convert_to_tensor=True, batch_size=1, **settings)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    return alone


def assert_equals_library(library, folder):
    rows = torch.stack(run(load(folder), TEXTS))
    torch.testing.assert_close(rows, encoded(library, folder), rtol=1e-5, atol=1e-5)


OLD = {
    "mean": "mean_tokens",
    "cls": "cls_token",
    "max": "max_tokens",
    "lasttoken": "lasttoken",
    "weightedmean": "weightedmean_tokens",
    "mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
}


@pytest.mark.parametrize("pooling", [*OLD, ("cls", "mean"), ("lasttoken", "max")], ids=str)
def test_poolings_are_those_of_the_library(pooling, library, folder):
    add_sentence(folder, {"pooling_mode": pooling})
    assert_equals_library(library, folder)
    modes = [pooling] if isinstance(pooling, str) else pooling
    old = {f"pooling_mode_{key}": mode in modes for mode, key in OLD.items()}
    now = torch.stack(run(load(folder), TEXTS))
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(old))
    in_order = ("max", "lasttoken") if pooling == ("lasttoken", "max") else pooling
    if in_order == pooling:  # earlier files have one order
        assert torch.equal(torch.stack(run(load(folder), TEXTS)), now)


def test_the_order_of_poolings_in_earlier_files_is_that_of_the_library(library, folder):
    old = {f"pooling_mode_{key}": True for key in OLD.values()}
    add_sentence(folder, old, "Normalize")
    assert_equals_library(library, folder)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_decoder_with_its_last_token_is_what_the_library_gives(side, library, qwen, tmp_path):
    qwen = shutil.copytree(qwen, tmp_path / "qwen")
    file = qwen / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"padding_side": side}))
    assert_equals_library(library, qwen)
    backbone = load(qwen)
    assert list(backbone.stages) == ["embeddings", "layer.0", "layer.1", "norm", "sentence"]


def write_module(folder, path, tensors=None, **settings):
    (folder / path).mkdir()
    (folder / path / "config.json").write_text(json.dumps(settings))
    if tensors is not None:
        save_file(tensors, folder / path / "model.safetensors")


def dense(n, m, seed=0, **more):
    generator = torch.Generator().manual_seed(seed)
    tensors = {"linear.weight": torch.randn(m, n, generator=generator)}
    return tensors | {
        name: torch.randn(*shape, generator=generator) for name, shape in more.items()
    }


def test_modules_behind_the_pooling_are_those_of_the_library(library, folder):
    kinds = ["Dense", "LayerNorm", "Dropout", "Dense", "Normalize"]
    add_sentence(folder, {"pooling_mode": "mean"}, *kinds)
    relu = {"activation_function": "torch.nn.modules.activation.ReLU"}
    sizes = {"in_features": 16, "out_features": 12}
    tensors = dense(16, 12, **{"linear.bias": (12,)})
    write_module(folder, "2_Dense", tensors, bias=True, **sizes, **relu)
    norm = {"norm.weight": torch.rand(12), "norm.bias": torch.rand(12)}
    write_module(folder, "3_LayerNorm", norm, dimension=12)
    write_module(folder, "4_Dropout", dropout=0.3)
    sizes = {"in_features": 12, "out_features": 6, "use_residual": True}
    tensors = dense(12, 6, 1, **{"residual.weight": (6, 12)})
    write_module(folder, "5_Dense", tensors, bias=False, **sizes)  # Tanh by default
    texts = {"truncate_dim": 4, "prompts": {"q": "the cat", "": ""}, "default_prompt_name": "q"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(texts))
    assert_equals_library(library, folder)
    backbone = load(folder)
    behind = ["dense_2", "layernorm_3", "dropout_4", "dense_5", "normalize_6", "truncate"]
    assert list(backbone.stages)[-7:] == ["sentence", *behind]
    assert backbone.preprocess.prompt == "the cat"
    model = load(folder, None).module
    assert model.dense_2.linear.weight.shape == (12, 16)


@pytest.mark.parametrize("path", ["os.system", "torch.nn.modules.activation.Own", "own.Tanh"])
def test_no_activation_is_imported_because_a_file_names_it(path, folder):
    add_sentence(folder, {"pooling_mode": "mean"}, "Dense")
    sizes = {"in_features": 16, "out_features": 12}
    write_module(folder, "2_Dense", dense(16, 12), activation_function=path, **sizes)
    with pytest.raises(ValueError, match=r"2_Dense.*No class is imported because a file names it"):
        load(folder)


@pytest.mark.parametrize("kind", ["CNN", "LSTM", "Own"])
def test_unknown_modules_are_refused_with_the_way_out(kind, folder):
    add_sentence(folder, {"pooling_mode": "mean"}, kind)
    with pytest.raises(ValueError, match=rf"{kind!r}.* not supported.*load_backbone\(module"):
        load(folder)


def test_a_folder_that_begins_with_word_embeddings_is_refused(folder):
    add_sentence(folder, {"pooling_mode": "mean"})
    file = folder / "modules.json"
    file.write_text(file.read_text().replace("models.Transformer", "models.WordEmbeddings"))
    with pytest.raises(ValueError, match=r"'WordEmbeddings' is not supported.*load_backbone"):
        load(folder)


@pytest.mark.slow
def test_prompts_are_names_of_the_folder_or_texts(library, qwen):
    name = f"hf:{qwen}"
    for prompt, settings in {
        "query": {"prompt_name": "query"},
        "document": {"prompt_name": "document"},
        "home dog: ": {"prompt": "home dog: "},
    }.items():
        backbone = load_backbone(name, prompt=prompt)
        rows = torch.stack(run(backbone, TEXTS))
        torch.testing.assert_close(rows, encoded(library, qwen, **settings), rtol=1e-5, atol=1e-5)
        assert load_backbone(backbone, prompt=prompt) is backbone
        again = pickle.loads(pickle.dumps(backbone))
        assert again.preprocess.content_digest == backbone.preprocess.content_digest
        assert again.fingerprint == load_backbone(name).fingerprint
    with pytest.raises(ValueError, match=r"'qeury'.*knows the prompts \['document', 'query'\]"):
        load_backbone(name, prompt="qeury")
    with pytest.raises(ValueError, match=r"prompt='query: ' cannot be applied"):
        load_backbone("efficientnet_lite0", prompt="query: ")


def test_a_prompt_is_part_of_the_key_of_the_store(qwen, tmp_path):
    texts, store = TEXTS[:3], tmp_path / "store"
    plain = PretrainedFeatureExtractor(f"hf:{qwen}", memory=store).fit(texts)
    with_prompt = load_backbone(f"hf:{qwen}", prompt="query")
    with_prompt = PretrainedFeatureExtractor(with_prompt, memory=store)
    without, features = plain.transform(texts), with_prompt.fit_transform(texts)
    assert np.abs(features - without).max() > 1e-3
    np.testing.assert_array_equal(plain.transform(texts), without)
    path = tmp_path / "model.skt"
    save(with_prompt, path)
    np.testing.assert_allclose(load_model(path).transform(texts), features, rtol=1e-6)


def test_the_tokens_of_a_prompt_are_left_out_where_the_folder_says_so(library, folder):
    add_sentence(folder, {"pooling_mode": ["mean", "cls", "weightedmean"], "include_prompt": False})
    name = f"hf:{folder}"
    prompt = "the dog: "
    expected = encoded(library, folder, [text for text in TEXTS if text], prompt=prompt)
    plain, backbone = load_backbone(name), load_backbone(name, prompt=prompt)
    rows = torch.stack(run(backbone, [text for text in TEXTS if text]))
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
    assert backbone.fingerprint != plain.fingerprint
    assert pickle.loads(pickle.dumps(backbone)).fingerprint == backbone.fingerprint
    back = load_backbone(backbone, prompt="")
    assert torch.equal(torch.stack(run(back, TEXTS)), torch.stack(run(plain, TEXTS)))


def test_lengths_are_those_of_the_library(library, tmp_path):
    long = [" ".join([*TEXTS[3].split()] * 40), *TEXTS]
    write_folder(tmp_path, "qwen3", max_position_embeddings=700)
    file = tmp_path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model_max_length": 10**30}))
    model = library.SentenceTransformer(str(tmp_path), device="cpu")
    backbone = load(tmp_path)
    assert backbone.preprocess.max_length == model.max_seq_length == 700
    assert len(backbone.preprocess(long[0])) > 640
    rows = torch.stack(run(backbone, long))
    expected = model.encode(long, convert_to_tensor=True)
    torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)


def test_a_router_is_its_default_route_or_refused(library, folder, tmp_path):
    modules = library.sentence_transformer.modules

    def route(pooling):
        return [modules.Transformer(str(folder)), modules.Pooling(16, pooling)]

    made = modules.Router.for_query_document(route("mean"), route("cls"))
    library.SentenceTransformer(modules=[made], device="cpu").save(str(tmp_path / "routed"))
    assert_equals_library(library, tmp_path / "routed")
    file = tmp_path / "routed" / "router_config.json"
    config = json.loads(file.read_text())
    config["parameters"]["default_route"] = None
    file.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"Router.*\['document', 'query'\].*sub_modules"):
        load(tmp_path / "routed")


@pytest.mark.parametrize("last", [[], ["Normalize"]])
def test_a_static_table_is_one_of_word_vectors(last, library, folder, tmp_path):
    modules = library.sentence_transformer.modules
    tokenizer = tiny_tokenizer(0)
    table = torch.randn(len(tokenizer), 8)
    table[3] = 0  # a token whose vector is zero counts
    made = [modules.StaticEmbedding(tokenizer.backend_tokenizer, embedding_weights=table)]
    made += [modules.Normalize()] * len(last)
    library.SentenceTransformer(modules=made, device="cpu").save(str(tmp_path / "static"))
    backbone = load_backbone(f"hf:{tmp_path / 'static'}")
    assert list(backbone.stages) == ["embedding", "sentence"][: 1 + len(last)]
    texts = [*TEXTS, "[SEP] the cat", "cat " * 900]
    extractor = PretrainedFeatureExtractor(backbone).fit(texts)
    expected = encoded(library, tmp_path / "static", texts)
    np.testing.assert_allclose(extractor.transform(texts), expected, rtol=1e-5, atol=1e-5)
    twin = pickle.loads(pickle.dumps(extractor))
    np.testing.assert_array_equal(twin.transform(TEXTS), extractor.transform(TEXTS))


def test_a_folder_of_model2vec_has_weights_and_a_mapping(library, folder, tmp_path):
    modules = library.sentence_transformer.modules
    tokenizer = tiny_tokenizer(0)
    made = modules.StaticEmbedding(tokenizer.backend_tokenizer, embedding_dim=8)
    library.SentenceTransformer(modules=[made], device="cpu").save(str(tmp_path / "static"))
    n = len(tokenizer)
    tensors = {"embeddings": torch.randn(5, 8).half(), "weights": torch.rand(n)}
    tensors["mapping"] = torch.arange(n) % 5
    save_file(tensors, tmp_path / "static" / "model.safetensors")
    extractor = PretrainedFeatureExtractor(f"hf:{tmp_path / 'static'}").fit(TEXTS)
    expected = encoded(library, tmp_path / "static").float()
    np.testing.assert_allclose(extractor.transform(TEXTS), expected, rtol=1e-3, atol=1e-3)


def test_a_network_in_a_folder_of_its_own_is_found(folders, tmp_path):
    shutil.copytree(folders["bert"], tmp_path / "0_Transformer")
    add_sentence(tmp_path, {"pooling_mode": "cls"})
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "0_Transformer" / "sentence_bert_config.json").write_text('{"max_seq_length": 12}')
    backbone = load(tmp_path)
    expected = token_vectors(folders["bert"], TEXTS[0])[0]
    torch.testing.assert_close(run(backbone, TEXTS[:1])[0], expected, rtol=1e-5, atol=1e-5)
    assert backbone.preprocess.max_length == 12


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory):
    """Folders of classifiers: an encoder, and a decoder that looks for the last token."""
    parent = tmp_path_factory.mktemp("classifiers")
    settings = {"id2label": {0: "cat", 1: "dog", 2: "mat"}}
    name = "AutoModelForSequenceClassification"
    of = {"bert": ("BertConfig", SMALL, 0), "qwen3": ("Qwen3Config", QWEN, 0)}
    of["ends with padding"] = ("Qwen3Config", QWEN, 4)  # the id of [SEP], with which texts end
    return {
        key: write_network(parent / key, config, small | settings | {"pad_token_id": padding}, name)
        for key, (config, small, padding) in of.items()
    }


@pytest.mark.parametrize(
    ("family", "last"),
    {
        "bert": ["layer.1", "sentence", "classifier"],
        "qwen3": ["layer.1", "norm", "classifier"],
        "ends with padding": ["classifier"],
    }.items(),
)
def test_a_classifier_of_sequences_is_used_directly(family, last, classifiers):
    name = f"hf:{classifiers[family]}"
    assert list_layers(name)[-3:] == last
    direct = PretrainedClassifier(name).fit(TEXTS)
    assert direct.classes_.tolist() == ["cat", "dog", "mat"]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(name[3:]).eval()
    inputs = [tiny_tokenizer(0)(text, return_tensors="pt") for text in TEXTS]
    with torch.no_grad():
        logits = [model(x.input_ids, x.attention_mask).logits[0] for x in inputs]
    expected = torch.stack(logits).softmax(1)
    np.testing.assert_allclose(direct.predict_proba(TEXTS), expected, atol=1e-6)


def test_a_classifier_of_several_labels_at_once_has_features_and_no_classes(folder):
    settings = {"id2label": {0: "cat", 1: "dog"}, "problem_type": "multi_label_classification"}
    name = "AutoModelForSequenceClassification"
    write_network(folder, "BertConfig", SMALL | settings, name)
    features = PretrainedFeatureExtractor(f"hf:{folder}").fit_transform(TEXTS)
    assert features.shape == (len(TEXTS), 16)
    with pytest.raises(ValueError, match="declares no classes"):
        PretrainedClassifier(f"hf:{folder}").fit(TEXTS)


def changed_tensors(change):
    """Write the tensors of a file again, all changed."""

    def write(path):
        tensors = change(load_file(path))
        save_file(tensors, path, metadata={"format": "pt"})

    return write


def first_bytes(n):
    return lambda path: path.write_bytes(path.read_bytes()[:n])


def content(text):
    return lambda path: path.write_text(text, encoding="latin-1")


def setting(**values):
    """Write other values into a JSON file that holds an object."""
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | values))


NO_JSON = {
    "empty": content(""),
    "no UTF-8": content("\xff\xfe"),
    "broken off": content('{"a":'),
    "a list of numbers": content("[1]"),
    "a number": content("3"),
    "deep": content("[" * 100_000),
    "a long number": content('{"max_seq_length": ' + "9" * 5000 + "}"),
}


JSON_FILES = ["config.json", "modules.json", "1_Pooling/config.json", "tokenizer_config.json"]
JSON_FILES += ["sentence_bert_config.json", "config_sentence_transformers.json"]


HOSTILE = {
    "model.safetensors": {
        "empty": first_bytes(0),
        "one byte": first_bytes(1),
        "half a header": first_bytes(300),
        "without its last byte": lambda path: path.write_bytes(path.read_bytes()[:-1]),
        "no safetensors": content("hello " * 100),
        "integers": changed_tensors(lambda t: {k: v.long() for k, v in t.items()}),
        "booleans": changed_tensors(lambda t: {k: v > 0 for k, v in t.items()}),
        "NaN": changed_tensors(lambda t: {k: v * torch.nan for k, v in t.items()}),
        "infinity": changed_tensors(lambda t: {k: v / 0 for k, v in t.items()}),
        "other shapes": changed_tensors(lambda t: {k: v[:1].clone() for k, v in t.items()}),
        "other names": changed_tensors(lambda t: {f"x{k}": v for k, v in t.items()}),
    },
    "tokenizer.json": NO_JSON,
    **dict.fromkeys(JSON_FILES, NO_JSON),
    "modules.json ": {
        "a number for a type": content('[{"type": 3, "path": ""}]'),
        "no type": content('[{"path": ""}]'),
        "no path": content('[{"type": "Pooling"}]'),
    },
    "sentence_bert_config.json ": {
        f"max_seq_length={value}": setting(max_seq_length=value)
        for value in ("x", -1, 0, 1.5, [1], True)
    },
    "config_sentence_transformers.json ": {
        "a number for prompts": content('{"prompts": 3, "default_prompt_name": "query"}'),
        "a number for a prompt": content('{"prompts": {"q": 3}, "default_prompt_name": "q"}'),
    },
    "config.json ": {
        "a trillion layers": setting(num_hidden_layers=10**12),
        "no such family": setting(model_type="x"),
        "text for a size": setting(hidden_size="x"),
        "no heads": setting(num_attention_heads=0),
    },
}


@pytest.mark.parametrize(
    ("file", "name"), [(file, name) for file, found in HOSTILE.items() for name in found]
)
def test_hostile_files_of_a_folder_raise_with_the_file_name(folder, file, name):
    add_sentence(folder, {"pooling_mode_mean_tokens": True}, max_seq_length=16)
    HOSTILE[file][name](folder / file.strip())
    with pytest.raises(ValueError, match=re.escape(file.strip())) as refused:
        load(folder)
    assert len(str(refused.value)) < 600


def test_a_huge_max_seq_length_is_limited_by_the_positions(folder):
    add_sentence(folder, {"pooling_mode_mean_tokens": True}, max_seq_length=10**30)
    assert load(folder).preprocess.max_length == 40


@pytest.mark.parametrize("meant", ["document", "search"])
def test_a_saved_prompt_is_a_text_and_not_a_name(meant, folder, tmp_path):
    texts = {"prompts": {"query": meant, "document": "the cat "}, "default_prompt_name": "query"}
    (folder / "config_sentence_transformers.json").write_text(json.dumps(texts))
    assert load_backbone(f"hf:{folder}").preprocess.prompt == meant
    del texts["default_prompt_name"]
    (folder / "config_sentence_transformers.json").write_text(json.dumps(texts))
    backbone = load_backbone(f"hf:{folder}", prompt="query")
    assert backbone.preprocess.prompt == backbone.reference.prompt == meant
    model = PretrainedFeatureExtractor(backbone).fit(TEXTS)
    expected = model.transform(TEXTS)
    save(model, tmp_path / "a.skt")
    modules = {backbone.reference.name: lambda: load_backbone(f"hf:{folder}")}
    named = load_model(tmp_path / "a.skt", modules=modules)
    for again in (pickle.loads(pickle.dumps(model)), load_model(tmp_path / "a.skt"), named):
        np.testing.assert_array_equal(again.transform(TEXTS), expected)


@pytest.mark.parametrize("prompt", [3, b"x", ["query"]])
def test_a_prompt_of_another_type_is_a_type_error(prompt, folder):
    with pytest.raises(TypeError, match=r"prompt=.*give a text"):
        load_backbone(f"hf:{folder}", prompt=prompt)


def test_a_long_prompt_is_shortened_in_messages(qwen):
    for name in (f"hf:{qwen}", "efficientnet_lite0"):
        with pytest.raises(ValueError, match="prompt=") as caught:
            load_backbone(name, prompt="x" * 10_000)
        assert len(str(caught.value)) < 600


@pytest.mark.parametrize("part", ["normalizer", "prompt outside"])
def test_a_changed_tokenizer_is_noticed(part, folder, tmp_path):
    backbone = load_backbone(f"hf:{folder}", prompt="the cat sat ")
    stored = pickle.dumps(backbone)
    model = PretrainedFeatureExtractor(backbone).fit(TEXTS)
    save(model, tmp_path / "a.skt")
    file = folder / "tokenizer.json"
    settings = json.loads(file.read_text())
    if part == "normalizer":
        settings["normalizer"] = {"type": "Replace", "pattern": {"String": "cat"}, "content": "dog"}
    else:
        settings["post_processor"] = None
    file.write_text(json.dumps(settings))
    with pytest.raises(ValueError, match="its preprocessing or another setting"):
        pickle.loads(stored)
    with pytest.raises(ValueError, match="its preprocessing or another setting"):
        load_model(tmp_path / "a.skt")


def test_a_classifier_with_equal_labels_or_of_numbers(folder):
    name = "AutoModelForSequenceClassification"
    write_network(folder, "BertConfig", SMALL | {"id2label": {0: "a", 1: "a", 2: "b"}}, name)
    assert load_backbone(f"hf:{folder}").classes == ("a (0)", "a (1)", "b")
    settings = {"id2label": {0: "a", 1: "b"}, "problem_type": "regression"}
    write_network(folder, "BertConfig", SMALL | settings, name)
    assert load_backbone(f"hf:{folder}").classes is None


@pytest.mark.parametrize("name", ["hf:", "hf: "])
def test_an_empty_name_is_refused(name):
    with pytest.raises(ValueError, match="give a folder or a name of the hub"):
        load_backbone(name)
