"""Parameters with requires_grad=False in the user's network are not trained."""

import pickle

import numpy as np
import pytest
import torch
from skorch.callbacks import Freezer, Unfreezer

from sktransfer import FineTunedClassifier, load, load_backbone, save
from tests.finetuning.conftest import network
from tests.support import images

SETTINGS = {"lr": 0.01, "max_epochs": 2, "random_state": 0}
SETTINGS["net_params"] = {"optimizer__weight_decay": 0.1}


def changed(model, module) -> set[str]:
    """Names of the tensors of the network that the fitted model has with other values."""
    tuned = list(model.to_backbone().module.state_dict().values())
    return {
        name
        for name, tensor in module.state_dict().items()
        if not any(tensor.shape == other.shape and torch.equal(tensor, other) for other in tuned)
    }


def partly_fixed():
    module = network()
    module[0].requires_grad_(False)
    module[0][0].bias.requires_grad_(True)
    return module


@pytest.mark.parametrize(
    ("trainable", "expected"),
    [("all", {"0.0.bias", "1.weight", "1.bias"}), ("bias", {"0.0.bias", "1.bias"})],
)
@pytest.mark.parametrize("train_batch_norm", [False, True])
def test_fixed_parameters_stay_to_the_bit(trainable, expected, train_batch_norm, data):
    module = partly_fixed()
    head = {"3.weight", "3.bias"}
    model = FineTunedClassifier(
        load_backbone(module), trainable=trainable, train_batch_norm=train_batch_norm, **SETTINGS
    ).fit(*data)
    assert changed(model, module) - head == expected
    # Nor are they trained by what goes on from it.
    model.partial_fit(*data)
    assert changed(model, module) - head == expected
    again = pickle.loads(pickle.dumps(model)).set_params(warm_start=True).fit(*data)
    assert changed(again, module) - head == expected
    model.net_.partial_fit(data[0], np.searchsorted(model.classes_, data[1]))
    assert changed(model, module) - head == expected
    further = FineTunedClassifier(model, trainable="all", **SETTINGS).fit(*data)
    assert changed(further, module) - head == {"0.0.bias", "1.weight", "1.bias"}
    assert [p.requires_grad for p in module[0].parameters()] == [False, True, False, False]


@pytest.mark.parametrize("trainable", ["all", 1, "bias"])
def test_a_network_without_parameters_to_train_is_refused(trainable, data):
    backbone = load_backbone(network().requires_grad_(False))
    with pytest.raises(ValueError, match=r"requires_grad=False.*trainable='head'"):
        FineTunedClassifier(backbone, trainable=trainable, **SETTINGS).fit(*data)
    model = FineTunedClassifier(backbone, trainable="head", **SETTINGS).fit(*data)
    assert model.score(*data) > 0.5


@pytest.mark.sweep
def test_of_a_network_with_adapters_of_peft_only_these_are_trained():
    peft, timm = pytest.importorskip("peft"), pytest.importorskip("timm")
    sizes = {"img_size": 32, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
    module = timm.create_model("vit_tiny_patch16_224", **sizes)  # 12 blocks
    config = peft.LoraConfig(r=2, target_modules=["attn.qkv", "attn.proj"], lora_alpha=4)
    peft.inject_adapter_in_model(config, module)
    adapters = {name for name, p in module.named_parameters() if p.requires_grad}
    assert (len(adapters), len(module.state_dict())) == (48, 200)
    X, y = np.stack(images(12, size=(32, 32))).transpose(0, 3, 1, 2) / 255, [0, 1, 2] * 4
    model = FineTunedClassifier(load_backbone(module), trainable="all", **SETTINGS)
    model.fit(X.astype(np.float32), y)
    assert changed(model, module) - {"head.weight", "head.bias"} == adapters


def test_a_file_without_pickle_keeps_which_are_fixed(data, tmp_path):
    module = partly_fixed()
    model = FineTunedClassifier(load_backbone(module), trainable="all", **SETTINGS).fit(*data)
    save(model, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules={"sequential": network})
    again.partial_fit(*data)
    assert changed(again, module) == {"0.0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}


def test_callbacks_that_unfreeze_leave_fixed_parameters(data):
    module = partly_fixed()
    callbacks = [Freezer("body.0.*"), Unfreezer("body.0.*", at=2)]
    model = FineTunedClassifier(load_backbone(module), trainable="all", callbacks=callbacks)
    model.set_params(**SETTINGS).fit(*data)
    assert changed(model, module) - {"3.weight", "3.bias"} == {"0.0.bias", "1.weight", "1.bias"}
