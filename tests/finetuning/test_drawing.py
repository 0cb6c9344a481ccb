"""Rows of a part of a batch get the random numbers that they get in the whole batch."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from sktransfer.finetuning.drawing import Share, draws_of


@pytest.mark.parametrize(
    "draw",
    [
        nn.Dropout(0.4),
        nn.Dropout(0.4, inplace=True),
        nn.Dropout2d(0.4),
        lambda x: functional.dropout(x, p=0.4),
        lambda x: torch.dropout(x, 0.4, True),
        lambda x: torch.empty(len(x), 1, 1, 1).bernoulli_(0.5) * x,
        lambda x: x + torch.empty_like(x).normal_(0, 0.1),
        lambda x: functional.dropout(x.flatten(0, 1), p=0.4).reshape(x.shape),
        nn.Sequential(nn.Dropout(0.2), nn.Conv2d(4, 4, 3), nn.Dropout2d(0.3), nn.Dropout(0.1)),
    ],
)
@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_parts_together_are_the_whole(draw, order):
    x = torch.randn(7, 4, 5, 5).contiguous(memory_format=order)
    torch.manual_seed(3)
    whole = draw(x.clone())
    parts = []
    for start, stop in ((0, 3), (3, 4), (4, 7)):
        torch.manual_seed(3)
        with draws_of(Share(start, stop, 7)):
            parts.append(draw(x[start:stop].clone()))
    torch.testing.assert_close(torch.cat(parts), whole)
    assert not torch.equal(whole, x)


def test_what_is_no_part_of_a_batch_is_drawn_as_ever():
    torch.manual_seed(3)
    expected = nn.Dropout(0.5)(torch.ones(5, 2)), torch.ones(()).normal_()
    torch.manual_seed(3)
    with draws_of(Share(0, 3, 6)):
        found = nn.Dropout(0.5)(torch.ones(5, 2)), torch.ones(()).normal_()
        quiet = nn.Dropout(0.5).eval()(torch.ones(3, 2))
    assert all(map(torch.equal, expected, found))
    assert quiet.eq(1).all()
    with draws_of(None):
        pass
