import numpy as np
import pytest
import torch
from torch import nn

from sktransfer.finetuning.trainable_stages import (
    carry_rows,
    make_head,
    solve_new_rows,
    write_rows,
)


def test_a_module_that_a_factory_returns_is_copied():
    mine = nn.Linear(3, 2)
    head = make_head(lambda n_features, n_outputs: mine, 3, 2, seed=0)
    assert torch.equal(head.weight, mine.weight)
    assert head.weight is not mine.weight


@pytest.mark.parametrize("kind", ["linear", "mlp", nn.Linear])
def test_one_seed_gives_one_head_and_leaves_the_global_generator_alone(kind):
    state = torch.get_rng_state()
    one, two = (make_head(kind, 5, 2, seed=3).eval() for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one(torch.ones(1, 5)), two(torch.ones(1, 5)))


def zeros_behind_tanh():
    linear = nn.Linear(4, 2)
    nn.init.zeros_(linear.weight)
    return nn.Sequential(nn.Tanh(), linear)


@pytest.mark.parametrize(
    "head",
    [
        zeros_behind_tanh(),
        nn.Sequential(nn.Linear(4, 2), nn.ReLU()),
        nn.Sequential(nn.LayerNorm(4, elementwise_affine=False), nn.Linear(4, 2)),
        nn.Linear(4, 2, bias=False),
    ],
)
def test_a_head_that_is_more_than_a_linear_layer_cannot_be_the_probe(head):
    with pytest.raises(ValueError, match=r"must be one torch\.nn\.Linear"):
        write_rows(head, np.full((2, 4), 3.0), np.zeros(2))


def test_new_rows_are_fitted_in_a_linear_head_only():
    mlp = make_head("mlp", 64, 3, seed=0)  # whose last layer is as wide as the features
    assert mlp.linear.in_features == 64
    before = mlp.linear.weight.detach().clone()
    features, codes = np.random.default_rng(0).normal(size=(12, 64)), np.arange(12) % 3
    solve_new_rows(features, codes, np.ones(12), mlp, [2], 3)
    assert torch.equal(mlp.linear.weight, before)


@pytest.mark.parametrize("kind", ["linear", "mlp", nn.Linear])
def test_rows_are_carried_into_a_head_of_the_same_kind(kind):
    old, head = make_head(kind, 6, 3, seed=0), make_head(kind, 6, 4, seed=1)
    carry_rows(old, head, [None, 2, 0, None], 3)
    x = torch.randn(5, 6)
    torch.testing.assert_close(head.eval()(x)[:, [2, 1]], old.eval()(x)[:, [0, 2]])


@pytest.mark.parametrize(("old", "new"), [("mlp", "linear"), ("linear", "mlp"), (nn.Linear, "mlp")])
def test_rows_are_not_carried_into_a_head_of_another_kind(old, new):
    old, new = make_head(old, 64, 3, seed=0), make_head(new, 64, 4, seed=0)
    with pytest.raises(ValueError, match=r"head of another kind.* Give the same head="):
        carry_rows(old, new, [0, 1, 2, None], 3)


def test_a_module_as_head_is_an_error_that_shows_the_function():
    with pytest.raises(TypeError, match=r"not a module: def head\(n_in, n_out\): return"):
        make_head(nn.Linear(4, 2), 4, 2, seed=0)
