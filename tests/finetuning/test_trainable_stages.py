"""trainable="norm" and trainable="bias": some parameters of all stages."""

import pickle

import numpy as np
import pytest
import torch
from skorch.callbacks import Freezer, Unfreezer
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor, load, load_backbone, save
from tests.finetuning.conftest import net_inputs, network, tuned_network
from tests.new_process import run_in_new_process
from tests.support import images

TRAINED = {
    "norm": {"body.1.0.1.weight", "body.1.0.1.bias"},
    "bias": {"body.0.0.0.bias", "body.1.0.1.bias", "body.3.1.bias"},
}
SETTINGS = {"lr": 0.01, "max_epochs": 3, "random_state": 0}
SETTINGS["net_params"] = {"optimizer__weight_decay": 0.1}
OPEN = """
import pickle, sys
import numpy as np
model, X, expected = pickle.load(open(sys.argv[1], "rb"))
assert np.array_equal(model.predict_proba(X), expected)
model.partial_fit(X[:9], ["fly"] * 9)
print(sorted(model.to_backbone().network.changed_tensors()))
"""


def fitted(data, trainable, **settings):
    model = FineTunedClassifier(load_backbone(network()), trainable=trainable)
    return model.set_params(**SETTINGS | settings).fit(*data)


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["norm", "bias"])
def test_only_these_parameters_change(trainable, data):
    model = fitted(data, trainable)
    changed = set(tuned_network(model).changed_tensors())
    assert changed == TRAINED[trainable]
    assert model.frozen_layers_ == []
    # Training the net further, or the model, changes no others.
    model.net_.partial_fit(net_inputs(model, data[0]), np.searchsorted(model.classes_, data[1]))
    assert set(tuned_network(model).changed_tensors()) == TRAINED[trainable]
    model.partial_fit(*data)
    assert set(tuned_network(model).changed_tensors()) == TRAINED[trainable]
    again = model.set_params(warm_start=True).fit(*data)
    assert set(tuned_network(again).changed_tensors()) == TRAINED[trainable]


@pytest.mark.parametrize("trainable", ["norm", "bias"])
def test_the_loss_falls(trainable, data):
    losses = [row["train_loss"] for row in fitted(data, trainable, max_epochs=10).history_]
    assert losses[-1] < losses[0]


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["norm", "bias"])
def test_a_pickle_opens_in_a_new_process_and_goes_on(trainable, data, tmp_path):
    backbone = load_backbone(nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Linear(9, 4)))
    model = FineTunedClassifier(backbone, trainable=trainable, **SETTINGS).fit(*data)
    file = tmp_path / "model.pkl"
    file.write_bytes(pickle.dumps((model, data[0], model.predict_proba(data[0]))))
    assert "bias" in run_in_new_process(OPEN, file)


def test_a_file_has_the_size_of_the_trained_parameters(data):
    n = 20_000
    layers = [nn.Linear(6, n, bias=False), nn.BatchNorm1d(n), nn.Linear(n, 4, bias=False)]
    layers += [nn.ReLU(), nn.Linear(4, 4, bias=False)]
    backbone, settings = load_backbone(nn.Sequential(*layers)), {"max_epochs": 1, "lr": 0.01}
    sizes = {}
    for part in ("norm", "bias", "head"):
        model = FineTunedClassifier(backbone, trainable=part, **settings).fit(*data)
        sizes[part] = len(pickle.dumps(model))
    assert 4 * n < sizes["bias"] - sizes["head"] < 4 * n + 12_000
    assert 8 * n < sizes["norm"] - sizes["head"] < 8 * n + 24_000


@pytest.mark.parametrize("trainable", ["norm", "bias"])
def test_a_network_without_norms_or_biases_is_refused_by_name(trainable, data):
    bare = load_backbone(nn.Sequential(nn.Linear(6, 9, bias=False), nn.Linear(9, 4, bias=False)))
    with pytest.raises(ValueError, match=f"trainable='{trainable}': backbone .* has no "):
        FineTunedClassifier(bare, trainable=trainable).fit(*data)


def test_norms_of_own_classes_are_found(data):
    class RMSNorm2(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(9))

        def forward(self, x):
            return x * self.scale

    backbone = load_backbone(nn.Sequential(nn.Linear(6, 9), RMSNorm2(), nn.Linear(9, 4)))
    model = FineTunedClassifier(backbone, trainable="norm", **SETTINGS).fit(*data)
    assert set(tuned_network(model).changed_tensors()) == {"body.1.1.scale"}


def test_a_tuned_network_is_a_backbone(data):
    model = fitted(data, "norm")
    features = model.to_features().fit(data[0]).transform(data[0])
    assert features.shape == (90, 12)
    more = FineTunedClassifier(model, trainable="bias", **SETTINGS).fit(*data)
    assert more.score(*data) > 0.5


def test_norms_alone_are_trained_for_numbers_too(data):
    X = data[0]
    model = FineTunedRegressor(load_backbone(network()), trainable="norm", **SETTINGS)
    assert set(tuned_network(model.fit(X, X[:, 0])).changed_tensors()) == TRAINED["norm"]


# -- parameters with requires_grad=False in the user's network are not trained ---------------------


FIXED = {"lr": 0.01, "max_epochs": 2, "random_state": 0}
FIXED["net_params"] = {"optimizer__weight_decay": 0.1}


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
        load_backbone(module),
        trainable=trainable,
        train_batch_norm=train_batch_norm,
        **FIXED,
    ).fit(*data)
    assert changed(model, module) - head == expected
    # Nor are they trained by what goes on from it.
    model.partial_fit(*data)
    assert changed(model, module) - head == expected
    again = pickle.loads(pickle.dumps(model)).set_params(warm_start=True).fit(*data)
    assert changed(again, module) - head == expected
    model.net_.partial_fit(data[0], np.searchsorted(model.classes_, data[1]))
    assert changed(model, module) - head == expected
    further = FineTunedClassifier(model, trainable="all", **FIXED).fit(*data)
    assert changed(further, module) - head == {"0.0.bias", "1.weight", "1.bias"}
    assert [p.requires_grad for p in module[0].parameters()] == [False, True, False, False]


@pytest.mark.parametrize("trainable", ["all", 1, "bias"])
def test_a_network_without_parameters_to_train_is_refused(trainable, data):
    backbone = load_backbone(network().requires_grad_(False))
    with pytest.raises(ValueError, match=r"requires_grad=False.*trainable='head'"):
        FineTunedClassifier(backbone, trainable=trainable, **FIXED).fit(*data)
    model = FineTunedClassifier(backbone, trainable="head", **FIXED).fit(*data)
    assert model.score(*data) > 0.5


@pytest.mark.slow
def test_of_a_network_with_adapters_of_peft_only_these_are_trained():
    peft, timm = pytest.importorskip("peft"), pytest.importorskip("timm")
    sizes = {"img_size": 32, "embed_dim": 24, "num_heads": 2, "num_classes": 5}
    module = timm.create_model("vit_tiny_patch16_224", **sizes)  # 12 blocks
    adapted = {"target_modules": ["attn.qkv", "attn.proj"], "modules_to_save": ["head"]}
    module = peft.get_peft_model(module, peft.LoraConfig(r=2, lora_alpha=4, **adapted))
    head = {name for name in module.state_dict() if ".head." in name}  # peft keeps a copy
    learned = {name for name, p in module.named_parameters() if p.requires_grad}
    assert (len(module.state_dict()), len(head), len(learned - head)) == (202, 4, 48)
    X, y = np.stack(images(12, size=(32, 32))).transpose(0, 3, 1, 2) / 255, [0, 1, 2] * 4
    model = FineTunedClassifier(load_backbone(module), trainable="all", **FIXED)
    model.fit(X.astype(np.float32), y)
    assert changed(model, module) - head == learned - head


def test_a_file_without_pickle_keeps_which_are_fixed(data, tmp_path):
    module = partly_fixed()
    model = FineTunedClassifier(load_backbone(module), trainable="all", **FIXED).fit(*data)
    save(model, tmp_path / "model.skt")
    again = load(tmp_path / "model.skt", modules={"sequential": network})
    again.partial_fit(*data)
    assert changed(again, module) == {"0.0.bias", "1.weight", "1.bias", "3.weight", "3.bias"}


def test_callbacks_that_unfreeze_leave_fixed_parameters(data):
    module = partly_fixed()
    callbacks = [Freezer("body.0.*"), Unfreezer("body.0.*", at=2)]
    model = FineTunedClassifier(load_backbone(module), trainable="all", callbacks=callbacks)
    model.set_params(**FIXED).fit(*data)
    assert changed(model, module) - {"3.weight", "3.bias"} == {"0.0.bias", "1.weight", "1.bias"}
