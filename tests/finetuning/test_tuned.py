import pickle

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor, PretrainedClassifier, load_backbone
from sktransfer.finetuning.trainable_stages import make_head
from sktransfer.finetuning.tuned import FORMAT, TunedNetwork, build_module, describe_module
from tests.finetuning.conftest import net_inputs, network, tuned_network


def test_the_state_is_data(data):
    model = FineTunedClassifier(load_backbone(network()), trainable=1, head="mlp")
    state = tuned_network(model.set_params(max_epochs=1).fit(*data)).state()
    assert b"sktransfer" not in pickle.dumps(state)
    assert b"torch" not in pickle.dumps(state)
    again = TunedNetwork.from_state(model.backbone_, pickle.loads(pickle.dumps(state)))
    activations = net_inputs(model, data[0])
    expected = tuned_network(model).outputs(activations, device="cpu", precision="float32")
    assert np.array_equal(again.outputs(activations, device="cpu", precision="float32"), expected)


def test_a_file_of_a_later_version_says_what_to_do(data):
    model = FineTunedClassifier(load_backbone(network()), max_epochs=0).fit(*data)
    state = tuned_network(model).state() | {"format": FORMAT + 1}
    with pytest.raises(ValueError, match="install a later version"):
        TunedNetwork.from_state(model.backbone_, state)


@pytest.mark.parametrize(
    "head",
    [
        make_head("linear", 5, 3, 0),
        make_head("mlp", 5, 3, 0),
        nn.Linear(5, 3, bias=False),
        nn.Sequential(nn.Sequential(nn.Linear(5, 3)), nn.ReLU(inplace=True)),
    ],
)
def test_a_head_is_made_again_of_its_description(head):
    state = torch.get_rng_state()
    description = describe_module(head)
    assert b"torch" not in pickle.dumps(description)
    again = build_module(description)
    assert torch.equal(torch.get_rng_state(), state)
    again.load_state_dict(head.state_dict())
    assert repr(again) == repr(head)
    x = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again.eval()(x), head.eval()(x))


def test_a_head_of_other_layers_is_kept_as_a_module(data):
    def head(n_features, n_outputs):
        return nn.Sequential(nn.LayerNorm(n_features), nn.Linear(n_features, n_outputs))

    model = FineTunedClassifier(load_backbone(network()), head=head, max_epochs=1).fit(*data)
    state = pickle.loads(pickle.dumps(tuned_network(model).state()))
    assert isinstance(state["head"], nn.Sequential)
    again = TunedNetwork.from_state(model.backbone_, state)
    activations = net_inputs(model, data[0])
    expected = tuned_network(model).outputs(activations, device="cpu", precision="float32")
    assert np.array_equal(again.outputs(activations, device="cpu", precision="float32"), expected)


# -- outputs ---------------------------------------------------------------------------------------


class Logarithm(nn.Module):
    """A network that returns NaN for negative inputs."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 3)
        with torch.no_grad():
            self.linear.weight.copy_(torch.eye(3, 6))

    def forward(self, x):
        return self.linear(torch.log(x))


@pytest.fixture
def positive(data):
    X, y = data
    return abs(X) + 1, y


def models():
    backbone = load_backbone(Logarithm(), classes=["ant", "bee", "wasp"])
    settings = {"max_epochs": 1, "random_state": 0}
    return [
        PretrainedClassifier(backbone),
        PretrainedClassifier(backbone, class_map="learn"),
        FineTunedClassifier(backbone, **settings),
        FineTunedClassifier(backbone, trainable="all", **settings),
        FineTunedRegressor(backbone, **settings),
    ]


@pytest.mark.parametrize("model", models())
def test_samples_without_finite_outputs_are_named(model, positive):
    X, y = positive
    y = X[:, 0] if isinstance(model, FineTunedRegressor) else y
    model.fit(X, y)
    X = X.copy()
    X[4] = -1
    with pytest.raises(ValueError, match=r"NaN or infinity for 1 of 90 samples.* sample 4\."):
        model.predict(X)


def test_training_samples_without_finite_features_are_named(positive):
    X, y = positive
    X[40] = -1
    model = FineTunedClassifier(Logarithm(), validation_fraction=0.3, random_state=0)
    with pytest.raises(ValueError, match=r"sample 40\."):
        model.fit(X, y)


def test_a_head_with_outputs_of_another_shape_is_refused(data):
    def head(n_features, n_outputs):
        return nn.Sequential(nn.Linear(n_features, n_outputs), nn.Unflatten(1, (n_outputs, 1)))

    model = FineTunedClassifier(load_backbone(network()), head=head)
    with pytest.raises(ValueError, match=r"head= gives outputs of shape \(1, 3, 1\)"):
        model.fit(*data)
