"""trainable="lora": low-rank adapters in all stages."""

import pickle

import numpy as np
import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from sklearn.base import clone
from torch import nn

from sktransfer import (
    FineTunedClassifier,
    FineTunedRegressor,
    PretrainedFeatureExtractor,
    load,
    load_backbone,
    save,
    to_onnx,
)
from sktransfer.backbones import stages_of
from tests.finetuning.conftest import network
from tests.new_process import run_in_new_process

SETTINGS = {"max_epochs": 3, "random_state": 0, "lr": 0.01}
OPEN = """
import sys
import numpy as np
from sktransfer import load
from tests.finetuning.conftest import network
model = load(sys.argv[1], modules={"network": network})
X, y, expected = (np.load(file) for file in sys.argv[2:])
assert np.array_equal(model.predict_proba(X), expected)
model.partial_fit(X, y)
print("trained further")
"""


def fitted(data, trainable="lora", cls=FineTunedClassifier, **settings):
    return cls(network, trainable=trainable).set_params(**SETTINGS | settings).fit(*data)


@pytest.fixture(scope="module")
def samples():
    generator = np.random.default_rng(0)
    y = np.array(["ant", "bee", "wasp"])[np.arange(60) % 3]
    means = 2 * np.eye(6)[np.arange(60) % 3]
    return (generator.normal(size=(60, 6)) + means).astype(np.float32), y


@pytest.fixture(scope="module")
def model(samples):
    return fitted(samples, max_epochs=8)


def base_tensors(model):
    """The tensors of the trained stages without adapters and head, by their names before."""
    module = model.net_.module_
    head = f"body.{len(module.body) - 1}."
    return {
        name.replace(".base_layer", ""): tensor
        for name, tensor in module.state_dict().items()
        if "lora_" not in name and not name.startswith(head)
    }


def test_nothing_changes_before_the_first_step(samples):
    plain, adapted = (fitted(samples, part, max_epochs=0) for part in ("all", "lora"))
    assert np.array_equal(adapted.predict_proba(samples[0]), plain.predict_proba(samples[0]))


def test_adapters_learn_and_all_else_stays_bit_for_bit(model, samples):
    losses = [row["train_loss"] for row in model.history_]
    assert losses[-1] < losses[0]
    assert model.frozen_layers_ == []
    untrained = base_tensors(fitted(samples, "all", max_epochs=0))
    tensors = base_tensors(model)
    assert tensors.keys() == untrained.keys()
    assert all(torch.equal(tensor, untrained[name]) for name, tensor in tensors.items())
    learned = [n for n, p in model.net_.module_.named_parameters() if p.requires_grad]
    assert all(".lora_" in name or "linear" in name for name in learned)


def test_merged_adapters_predict_what_unmerged_ones_do(model, samples):
    unmerged = model.net_.predict_proba(samples[0])
    np.testing.assert_allclose(model.predict_proba(samples[0]), unmerged, atol=1e-6)
    backbone = model.to_backbone()
    layers = [type(m) for stage in stages_of(backbone).values() for m in stage.modules()]
    assert nn.Linear in layers
    assert all(layer.__module__.partition(".")[0] != "peft" for layer in layers)
    features = PretrainedFeatureExtractor(backbone).fit_transform(samples[0])
    np.testing.assert_allclose(features, model.to_features().transform(samples[0]), atol=1e-6)


def test_a_file_and_a_pickle_keep_the_adapters(model, samples, tmp_path):
    X, y = samples
    save(model, tmp_path / "model.skt")
    loaded = load(tmp_path / "model.skt", modules={"network": network})
    for again in (loaded, pickle.loads(pickle.dumps(model))):
        assert np.array_equal(again.predict_proba(X), model.predict_proba(X))
        before = {k: v.clone() for k, v in again.net_.module_.state_dict().items() if "lora_" in k}
        again.net_.partial_fit(X, np.searchsorted(again.classes_, y))
        after = again.net_.module_.state_dict()
        assert before
        assert not any(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.sweep
def test_a_file_is_trained_further_in_a_new_process(model, samples, tmp_path):
    files = [tmp_path / name for name in ("model.skt", "X.npy", "y.npy", "expected.npy")]
    save(model, files[0])
    for file, array in zip(files[1:], (*samples, model.predict_proba(samples[0])), strict=True):
        np.save(file, array)
    assert "trained further" in run_in_new_process(OPEN, *files)


@pytest.mark.sweep
def test_a_graph_has_merged_weights(model, samples, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    to_onnx(model, tmp_path / "model.onnx", X=samples[0][:4])
    names = [tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer]
    assert not any("lora" in name for name in names)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    named = {session.get_inputs()[0].name: samples[0]}
    outputs = dict(
        zip([o.name for o in session.get_outputs()], session.run(None, named), strict=True)
    )
    expected = model.predict_proba(samples[0])
    np.testing.assert_allclose(outputs["probabilities"], expected, atol=1e-5)


def test_a_config_says_rank_and_layers(samples, tmp_path):
    config = LoraConfig(r=2, lora_alpha=4, lora_dropout=0.1, target_modules=["3.1"])
    model = clone(FineTunedClassifier(network, trainable=config, **SETTINGS)).fit(*samples)
    shapes = {n: tuple(t.shape) for n, t in model.net_.module_.named_parameters() if "lora_" in n}
    assert sorted(shapes.values()) == [(2, 16), (12, 2)]
    save(model, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules={"network": network})
    assert (again.trainable.r, again.trainable.lora_alpha) == (2, 4)
    assert np.array_equal(again.predict(samples[0]), model.predict(samples[0]))
    again.partial_fit(*samples)


def test_convolutions_have_adapters_where_nothing_is_linear():
    images = np.random.default_rng(0).random((8, 3, 12, 12)).astype(np.float32)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU()
    backbone = load_backbone(nn.Sequential(*layers), modality="array")
    model = FineTunedClassifier(backbone, trainable="lora", **SETTINGS)
    model.fit(images, np.arange(8) % 2)
    assert sum("lora_A" in name for name in model.net_.module_.state_dict()) == 2


def test_new_labels_and_numbers(samples):
    X, y = samples
    model = fitted((X, y)).partial_fit(X, np.where(y == "ant", "fly", y))
    assert list(model.classes_) == ["ant", "bee", "fly", "wasp"]
    assert fitted((X, X[:, 0]), cls=FineTunedRegressor).predict(X).shape == (60,)
    assert fitted(samples, lr="auto", max_epochs=0).lr_ == 1e-3


@pytest.mark.parametrize(
    ("trainable", "message"),
    [
        (LoraConfig(bias="all"), r"LoraConfig\(bias='all'\): only the adapters"),
        (LoraConfig(init_lora_weights="pissa"), "Leave init_lora_weights at its default"),
        (LoraConfig(target_modules=["query"]), "backbone 'sequential': Target modules"),
    ],
)
def test_a_config_that_cannot_be_used_names_its_setting(trainable, message, samples):
    with pytest.raises(ValueError, match=message):
        fitted(samples, trainable)


def test_a_network_without_layers_with_a_matrix_says_so(samples):
    backbone = load_backbone(nn.Sequential(nn.BatchNorm1d(6), nn.ReLU()))
    with pytest.raises(ValueError, match="has no linear layer and no convolution"):
        FineTunedClassifier(backbone, trainable="lora").fit(*samples)


def test_adapters_of_a_file_belong_to_its_tensors(model):
    state = model.__getstate__()
    network_state = state["_network"]
    for wrong in ({"r": 10**9}, {"init_lora_weights": "pissa"}, {"target_modules": "(a+)+$"}):
        settings = network_state["settings"]
        changed = settings | {"adapters": settings["adapters"] | wrong}
        other = object.__new__(FineTunedClassifier)
        with pytest.raises(ValueError, match="adapters of the file are not those of its tensors"):
            other.__setstate__(state | {"_network": network_state | {"settings": changed}})


def test_adapters_of_the_users_are_not_added_to(samples):
    module = inject_adapter_in_model(LoraConfig(target_modules=["3"]), network())
    with pytest.raises(ValueError, match="has low-rank adapters, which trainable='all' trains"):
        FineTunedClassifier(load_backbone(module), trainable="lora").fit(*samples)


def conv1d_network():
    from transformers.pytorch_utils import Conv1D

    return nn.Sequential(Conv1D(8, 6), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), Conv1D(3, 8))


@pytest.mark.filterwarnings("error:fan_in_fan_out")
def test_the_linear_layers_of_gpt2_have_adapters(samples, tmp_path):
    pytest.importorskip("transformers")
    model = FineTunedClassifier(conv1d_network, trainable="lora", **SETTINGS).fit(*samples)
    adapters = [n for n in model.net_.module_.state_dict() if ".lora_A" in n]
    assert len(adapters) == 3
    expected = model.predict_proba(samples[0])
    save(model, tmp_path / "a.skt")
    named = load(tmp_path / "a.skt", modules={"conv1d_network": conv1d_network})
    for again in (pickle.loads(pickle.dumps(model)), named):
        np.testing.assert_array_equal(again.predict_proba(samples[0]), expected)
    with torch.inference_mode():
        logits = model.net_.module_(torch.from_numpy(samples[0]))
    np.testing.assert_allclose(logits.softmax(1), expected, atol=1e-5)
