import pytest
import torch
from torch import nn

from sktransfer.heads import make_head


def test_a_module_that_a_factory_returns_is_copied():
    mine = nn.Linear(3, 2)
    head = make_head(lambda n_features, n_outputs: mine, 3, 2, 0.0, seed=0)
    assert torch.equal(head.weight, mine.weight)
    assert head.weight is not mine.weight


@pytest.mark.parametrize("kind", ["linear", "mlp", nn.Linear])
def test_one_seed_gives_one_head_and_leaves_the_global_generator_alone(kind):
    state = torch.get_rng_state()
    one, two = (make_head(kind, 5, 2, 0.1, seed=3).eval() for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(one(torch.ones(1, 5)), two(torch.ones(1, 5)))
