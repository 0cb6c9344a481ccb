"""Classes that texts describe, of networks for images and texts and of sentence encoders."""

import itertools
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, KFold
from torch.nn import functional as F

import sktransfer
from sktransfer import (
    PretrainedClassifier,
    list_layers,
    load_backbone,
    load_word_vectors,
    make_prompts,
)
from sktransfer.backbones import stages_of
from tests.backbones import q4_support as q4
from tests.backbones.encoder_support import write_folder as write_encoder
from tests.backbones.zero_shot_networks import transformers, write_network
from tests.support import images, tiny_backbone

X, Y = images(12, (60, 50)), np.array(["ant", "bee"] * 6)
TEXTS = {"ant": "a photo of an ant", "bee": "the bee on a leaf", "cat": "a cat"}
VECTORS = {"good": [1.0, 0.0], "bad": [-1.0, 0.5], "film": [0.0, 1.0], "book": [0.2, 1.0]}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    """The folder of a family, written once and to be read only."""
    made = {}

    def find(family):
        if family not in made:
            made[family] = write_network(tmp_path_factory.mktemp(family), family)
        return made[family]

    return find


@pytest.fixture
def clip(folder_of):
    return f"hf:{folder_of('clip')}"


def probabilities_of_pipeline(folder, texts):
    """Return what transformers' pipeline makes of the images; of SigLIP, the softmax of logits."""
    pipeline = transformers.pipeline("zero-shot-image-classification", str(folder))
    about = {"candidate_labels": texts, "hypothesis_template": "{}"}
    rows = []
    for image in map(Image.fromarray, X):
        if "siglip" in pipeline.model.config.model_type:
            inputs = pipeline.preprocess(image, **about)
            rows.append(pipeline.forward(inputs)["logits"][0].double().softmax(0).tolist())
        else:
            scores = {entry["label"]: entry["score"] for entry in pipeline(image, **about)}
            rows.append([scores[text] for text in texts])
    return np.array(rows)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["clip", "siglip"])
def test_probabilities_are_those_of_the_pipeline_of_transformers(family, folder_of):
    folder = folder_of(family)
    model = PretrainedClassifier(f"hf:{folder}", prompts=TEXTS).fit(X)
    found = model.predict_proba(X)
    assert_allclose(found, probabilities_of_pipeline(folder, list(TEXTS.values())), atol=1e-6)
    assert found.std(axis=0).min() > 1e-3  # images are told apart
    assert model.classes_.tolist() == ["ant", "bee", "cat"]


def test_texts_of_a_class_are_normalized_and_averaged(folder_of):
    several = {"ant": ["a photo of an ant", "an ant on a leaf"], "bee": ["a bee"]}
    backbone = load_backbone(f"hf:{folder_of('clip')}", prompts=several)
    network = transformers.CLIPModel.from_pretrained(folder_of("clip")).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder_of("clip"))
    rows = []
    with torch.inference_mode():
        for texts in several.values():  # as open_clip's build_zero_shot_classifier
            inputs = tokenizer(texts, padding=True, return_tensors="pt")
            vectors = network.get_text_features(**inputs)
            vectors = getattr(vectors, "pooler_output", vectors)
            rows.append(F.normalize(F.normalize(vectors, dim=-1).mean(0), dim=-1))
        expected = network.logit_scale.exp() * torch.stack(rows)
    assert list_layers(backbone)[-2:] == ["normalized", "prompts"]
    assert_allclose(backbone.stages["prompts"].weight.detach(), expected, atol=1e-5)


@pytest.mark.slow
def test_a_file_needs_no_network_for_texts(tmp_path, forget_backbones):
    folder = write_network(tmp_path / "network", "clip")
    model = PretrainedClassifier(f"hf:{folder}", prompts=TEXTS).fit(X)
    expected = model.predict_proba(X)
    sktransfer.save(model, tmp_path / "model.sktransfer")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    (folder / "tokenizer.json").unlink()
    tensors = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if not name.startswith("text_")}
    assert len(kept) < len(tensors)
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    forget_backbones()
    opened = sktransfer.load(tmp_path / "model.sktransfer")
    forget_backbones()
    for again in (opened, pickle.loads((tmp_path / "model.pickle").read_bytes())):
        assert again.backbone_ is not model.backbone_
        assert_array_equal(again.predict_proba(X), expected)


@pytest.mark.slow
def test_a_graph_predicts_the_same(clip, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    model = PretrainedClassifier(clip, prompts=TEXTS).fit(X)
    sktransfer.to_onnx(model, tmp_path / "model.onnx", X=X)  # which compares the two
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == ["label", "probabilities"]


def test_several_sizes_are_averaged(clip):
    model = PretrainedClassifier(clip, prompts=TEXTS, image_size=[48, 64]).fit(X)
    single = [
        PretrainedClassifier(clip, prompts=TEXTS, image_size=size).fit(X).predict_proba(X)
        for size in (48, 64)
    ]
    assert_allclose(model.predict_proba(X), np.mean(single, axis=0), atol=1e-6)
    assert abs(single[0] - single[1]).max() > 1e-3


def test_a_search_finds_the_better_templates(clip):
    best = PretrainedClassifier(clip, prompts=TEXTS).fit(X).predict(X)
    candidates = [make_prompts(list(TEXTS), "the leaf of a {}"), TEXTS]
    search = GridSearchCV(PretrainedClassifier(clip), {"prompts": candidates}, cv=KFold(2))
    search.fit(X, best)
    assert search.best_params_ == {"prompts": TEXTS}
    assert search.score(X, best) == 1.0
    assert clone(search.best_estimator_).prompts == TEXTS


def test_labels_keep_their_type(clip):
    model = PretrainedClassifier(clip, prompts={7: "a bee", -1: ["a photo of an ant"]}).fit(X)
    assert model.classes_.tolist() == [-1, 7]
    assert model.predict(X).dtype.kind == "i"
    assert np.array_equal(
        model.predict_proba(X),
        PretrainedClassifier(clip, prompts={"b": "a bee", "a": "a photo of an ant"})
        .fit(X)
        .predict_proba(X),
    )


def test_classes_in_words_can_be_mapped_onto_coarser_labels(clip):
    backbone = load_backbone(clip, prompts=TEXTS)
    model = PretrainedClassifier(backbone, class_map={"insect": ["ant", "bee"], "cat": ["cat"]})
    insect = PretrainedClassifier(backbone).fit(X).predict_proba(X)[:, :2].sum(axis=1)
    assert_allclose(model.fit(X).predict_proba(X)[:, 1], insect, atol=1e-7)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ({}, r"prompts=\{\} names no label"),
        ({"ant": "an ant"}, "prompts names one label, 'ant', whose probability"),
        ({"ant": [], "bee": "a bee"}, r"prompts\['ant'\]=\[\]: give a text"),
        ({"ant": " ", "bee": "a bee"}, r"prompts\['ant'\]=' ': give a text"),
        ({"ant": 3, "bee": "a bee"}, r"prompts\['ant'\]=3: give a text"),
        ({"ant": ["an ant", None], "bee": "a bee"}, r"prompts\['ant'\].*give a text"),
        ({"ant": "an ant", 1: "a bee"}, "Labels of prompts must be of one type"),
        ({"ant": "an ant", None: "a bee"}, "Labels of prompts must be of one type"),
        ({"ant": ["a", "b"], "bee": ["b", "a"]}, "by the same texts"),
        ({"ant": ["a", "a"], "bee": "a"}, "by the same texts"),
        ({"ant": "an ant", "bee": "bee " * 80}, "'bee bee .*has 82 tokens, and .* takes 64"),
    ],
)
def test_prompts_that_describe_no_classes_are_refused(clip, prompts, message):
    with pytest.raises(ValueError, match=message):
        PretrainedClassifier(clip, prompts=prompts).fit(X)


def test_prompts_and_a_class_map_exclude_each_other(clip):
    with pytest.raises(ValueError, match="class_map and prompts both say"):
        PretrainedClassifier(clip, prompts=TEXTS, class_map={"a": 0, "b": 1}).fit(X)


@pytest.mark.parametrize(
    ("load", "why"),
    [
        (tiny_backbone, "it has classes of its own"),
        (lambda: load_backbone(torch.nn.Linear(4, 2)), "not from a folder of transformers"),
    ],
)
def test_a_network_that_reads_no_texts_is_refused_with_the_way_out(load, why):
    with pytest.raises(ValueError, match=f"prompts cannot be used.*{why}.*'hf:openai/clip"):
        load_backbone(load(), prompts=TEXTS)


def test_a_folder_without_a_part_for_texts_is_refused(tmp_path):
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    transformers.ViTModel(config).save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="its folder has no part for texts"):
        load_backbone(f"hf:{tmp_path}", prompts=TEXTS)


# -- texts -----------------------------------------------------------------------------------------


def test_texts_are_compared_with_those_of_each_class():
    reviews = load_word_vectors(VECTORS)
    model = PretrainedClassifier(reviews, prompts={"+": ["good film", "good"], "-": "bad book"})
    X = ["good book", "bad film"]
    assert model.fit(X).predict(X).tolist() == ["+", "-"]
    with pytest.raises(ValueError, match="knows no word of 'nothing'"):
        load_backbone(reviews, prompts={"+": "good", "-": "nothing"})


@pytest.mark.parametrize("other", ["film good", "good good film film", ["film", "good"]])
def test_labels_that_a_network_cannot_tell_apart_are_named(other, monkeypatch):
    monkeypatch.setattr("sktransfer.backbones.zero_shot._BLOCK", 2)
    vectors = load_word_vectors({"good": [1.0, 0.0], "film": [0.0, 1.0], "bad": [0.6, 0.8]})
    prompts = {0: "bad", 1: "good", 2: "film", 3: "good film", 4: other}
    with pytest.raises(ValueError, match="one vector for the texts of the labels 3 and 4"):
        load_backbone(vectors, prompts=prompts)
    prompts[4] = ["good", "good", "film"]  # of which one counts twice
    assert load_backbone(vectors, prompts=prompts).labels == list(prompts)


def test_texts_that_a_sentence_encoder_would_cut_off_are_refused(tmp_path):
    name = f"hf:{write_encoder(tmp_path / 'encoder')}"
    begin = "the cat sat on a mat and " * 8
    prompts = {"cat": begin + "the cat", "dog": begin + "the dog"}
    with pytest.raises(ValueError, match=r"'the cat.*has 60 tokens, .*takes 32\. .*'chunk'"):
        PretrainedClassifier(name, prompts=prompts).fit(["a dog"])
    whole = load_backbone(load_backbone(name, long_texts="chunk"), prompts=prompts)
    assert len(set(map(tuple, whole.stages["prompts"].weight.tolist()))) == 2
    with pytest.raises(ValueError, match="lone surrogate"):
        load_backbone(name, prompts={"cat": "a \ud800", "dog": "a dog"})


def test_prompts_pass_a_sentence_encoder_in_batches(tmp_path):
    backbone = load_backbone(f"hf:{write_encoder(tmp_path / 'encoder')}")
    batches = []
    first = next(iter(stages_of(backbone).values()))
    first.register_forward_pre_hook(lambda stage, args: batches.append(len(args[0])))
    words = itertools.product(("the", "a"), ("cat", "dog"), ("mat", "home", "The"))
    texts = [f"{a} {b} on a {c}" for a, b, c in words]
    texts += ["the cat sat on a mat and the dog ran home"]
    rows = load_backbone(backbone, prompts=dict(enumerate(texts))).stages["prompts"].weight
    assert len(batches) < 6 and max(batches) >= 12
    for i in (0, 12):
        alone = load_backbone(backbone, prompts={0: texts[i], 1: texts[6]}).stages["prompts"].weight
        assert_allclose(alone[0].detach(), rows[i].detach(), rtol=1e-5, atol=1e-5)


def test_a_prompt_before_samples_can_differ_from_that_of_classes(tmp_path):
    path = q4.write_q4(tmp_path / "small.bin")
    backbone = load_backbone("e5_small", weights=path, prompts={"+": "good", "-": "bad"})
    other = load_backbone(backbone, prompt="passage")
    assert other.preprocess.prompt == "passage: "
    assert torch.equal(other.stages["prompts"].weight, backbone.stages["prompts"].weight)
    assert load_backbone(backbone, prompt="passage") is other
    assert load_backbone(backbone) is backbone


def test_prompts_are_made_of_names_and_templates():
    assert make_prompts(["ant"], ("a {}", "{}s")) == {"ant": ["a ant", "ants"]}
    assert make_prompts({0: ["ant", "bee"]}, "{}!") == {0: ["ant!", "bee!"]}
    assert make_prompts(np.array([1, 2]), "number {}") == {1: ["number 1"], 2: ["number 2"]}
    assert make_prompts({0: 5, 1: [6, "b"]}, "a {}") == {0: ["a 5"], 1: ["a 6", "a b"]}
    assert make_prompts({0: np.int64(5), 1: True}, "a {}") == {0: ["a 5"], 1: ["a True"]}
    with pytest.raises(TypeError, match=r"labels\[0\]=None: give a name"):
        make_prompts({0: None}, "a {}")
    with pytest.raises(ValueError, match=r"templates: 'a photo' has no \{\}"):
        make_prompts(["ant"], "a photo")
    with pytest.raises(TypeError, match="give a list of labels"):
        make_prompts("ant", "a {}")
