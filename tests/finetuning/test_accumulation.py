import numpy as np
import pytest
import torch
from torch import nn

from sktransfer import FineTunedClassifier, FineTunedRegressor, load_backbone
from sktransfer.finetuning.accumulation import run_parts
from sktransfer.finetuning.plan import steps_of
from sktransfer.finetuning.tail import Tail
from tests.finetuning.conftest import network


def plain_network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        steps = [nn.Linear(6, 16), nn.ReLU(inplace=True), nn.Linear(16, 12), nn.GELU()]
        return nn.Sequential(*steps, nn.Linear(12, 4))


def fit(data, cls=FineTunedClassifier, module=None, **settings):
    X, y = data
    y = y if cls is FineTunedClassifier else X[:, :2] * 3
    module = plain_network() if module is None else module
    given = {"trainable": "all", "max_epochs": 3, "lr": 1e-2, "random_state": 0} | settings
    return cls(load_backbone(module), **given).fit(X, y)


def assert_close(a, b, rtol=1e-4):
    pairs = zip(
        a._tuned.tail.state_dict().values(), b._tuned.tail.state_dict().values(), strict=True
    )
    for x, y in pairs:
        np.testing.assert_allclose(x.numpy(), y.numpy(), rtol=rtol, atol=1e-5)


@pytest.mark.parametrize(
    ("cls", "batch_size", "accumulate"),
    [
        *[(FineTunedClassifier, 7, 4), (FineTunedClassifier, 1, 32)],
        *[(FineTunedRegressor, 4, 8), (FineTunedRegressor, 16, 2)],
    ],
)
def test_batches_whose_gradients_are_added_train_as_one_large_batch(
    cls, batch_size, accumulate, data
):
    settings = {"validation_fraction": 0.2, "optimizer": "sgd"}
    large = fit(data, cls, batch_size=batch_size * accumulate, **settings)
    found = fit(data, cls, batch_size=batch_size, accumulate=accumulate, **settings)
    assert_close(found, large)
    for a, b in zip(found.history_, large.history_, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-4)
        assert a["valid_loss"] == pytest.approx(b["valid_loss"], rel=1e-4)


def test_weights_of_samples_count_as_in_one_large_batch(data):
    X, y = data
    weight = np.random.default_rng(0).uniform(0, 5, len(y))
    large, found = (
        FineTunedClassifier(
            load_backbone(plain_network()), max_epochs=2, lr=1e-2, random_state=0, **settings
        ).fit(X, y, sample_weight=weight)
        for settings in ({"batch_size": 35}, {"batch_size": 5, "accumulate": 7})
    )
    assert_close(found, large, rtol=1e-3)


def test_no_more_rows_than_a_batch_pass_the_network_at_once(data):
    seen = []
    model = fit(data, batch_size=8, accumulate=3, max_epochs=1, head_init="random")
    first = model._tuned.tail.body[0]
    first.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    model.net_.partial_fit(data[0], np.searchsorted(model.classes_, data[1]))
    assert max(seen) == 8
    assert sum(seen) == 90


def test_parts_have_two_rows_for_batch_norm_that_learns(data):
    model = fit(
        data, module=network(), batch_size=1, accumulate=6, train_batch_norm=True, max_epochs=1
    )
    assert len(model.history_) == 1


def test_the_part_of_a_step_differs_by_one_row_at_most():
    sizes = []

    def step(part, share):
        x, y = part
        assert len(x["x"]) == len(x["weight"]) == len(y)
        sizes.append(len(y))
        return {"loss": torch.tensor(share), "y_pred": (x["x"], x["weight"])}

    batch = ({"x": torch.arange(22.0).reshape(11, 2), "weight": torch.ones(11)}, torch.arange(11))
    found = run_parts(step, batch, 4)
    assert sizes == [4, 4, 3]
    assert float(found["loss"]) == pytest.approx(1.0)
    assert torch.equal(found["y_pred"][0], batch[0]["x"])


def test_auto_counts_the_rows_of_a_step():
    assert steps_of(FineTunedClassifier(), 90) == (16, 20)
    assert steps_of(FineTunedClassifier(accumulate=2), 90) == (32, 40)
    assert steps_of(FineTunedClassifier(accumulate=200), 90) == (90, 60)


# activations that are computed again


@pytest.mark.parametrize("settings", [{}, {"accumulate": 3}, {"trainable": 2}])
def test_checkpointed_stages_train_bit_for_bit_as_others(settings, data):
    settings = {"batch_size": 8} | settings
    found = fit(data, checkpoint_activations=True, **settings)
    assert_close(found, fit(data, **settings), rtol=0)
    pairs = zip(*(m._tuned.tail.parameters() for m in (found, fit(data, **settings))), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_checkpointed_stages_draw_the_same_numbers_again(data):
    def gradient(checkpoint):
        head = {"dropout": 0.5, "checkpoint_activations": checkpoint, "batch_size": 16}
        return fit(data, max_epochs=2, **head)

    a, b = gradient(True), gradient(True)
    assert_close(a, b, rtol=0)
    assert a.history_[-1]["train_loss"] < a.history_[0]["train_loss"]


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.steps = nn.Sequential(*(nn.Sequential(nn.Linear(9, 9), nn.Tanh()) for _ in range(5)))

    def forward(self, x):
        return x + self.steps(x)


def test_checkpointed_stages_keep_less():
    settings = {"square": False, "masked": False, "train_batch_norm": False}
    stages = {str(i): Block() for i in range(3)}
    tail, kept = Tail(stages, nn.Linear(9, 2), precision="float32", **settings).train(), []
    for tail.checkpoint_activations in (False, True):
        n_bytes = []
        hooks = (lambda t, n=n_bytes: (n.append(t.nbytes), t)[1], lambda t: t)
        with torch.autograd.graph.saved_tensors_hooks(*hooks):
            output = tail(torch.randn(500, 9))
        output.sum().backward()
        kept.append(sum(n_bytes))
    assert kept[1] < 0.3 * kept[0]


def test_batch_norm_that_learns_counts_a_batch_once(data):
    settings = {"module": network(), "train_batch_norm": True, "batch_size": 16}
    found, expected = (
        fit(data, checkpoint_activations=c, **settings)._tuned.tail.state_dict()
        for c in (True, False)
    )
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name
