import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor, PretrainedClassifier, load_backbone
from tests.finetuning.conftest import network


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
