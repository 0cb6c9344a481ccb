import pytest
import torch

from sktransfer.backbones import LayerInfo, pool, pooled_width, token_layout


def test_a_grid_is_the_means_of_quadrants():
    x = torch.randn(2, 3, 4, 6)
    parts = [x[:, :, i : i + 2, j : j + 3].mean((2, 3)) for i in (0, 2) for j in (0, 3)]
    found = pool(x, "grid").reshape(2, 3, 4)
    torch.testing.assert_close(found, torch.stack(parts, 2))
    last = pool(x.movedim(1, -1)[:, :, :4], "grid", sides=(9, 9))  # channels last, square
    torch.testing.assert_close(last, pool(x[..., :4], "grid"))
    assert pooled_width(LayerInfo("conv", (3, 4, 6), False, True, 3), "grid") == 12


def test_tokens_have_no_quadrants():
    with pytest.raises(ValueError, match=r"pooling='grid'.* \(2, 5, 3\)"):
        pool(torch.randn(2, 5, 3), "grid")


@pytest.mark.parametrize(
    ("n_tokens", "sides", "prefix_tokens", "expected"),
    [
        (196, (224, 224), 0, (0, (14, 14))),
        (197, (224, 224), 1, (1, (14, 14))),
        (201, (224, 224), 5, (5, (14, 14))),
        (196, (224, 224), 5, (0, (14, 14))),  # before the class token is added, or behind it
        (196, (224, 224), None, (0, (14, 14))),
        (197, (224, 224), None, (0, None)),  # not known
        (1, (224, 224), 1, (0, (1, 1))),  # one vector
        (2, (224, 224), 2, (0, None)),  # what two heads take
        (99, (224, 224), 1, (1, None)),  # some patches are left out
        (25, (64, 96), 1, (1, (4, 6))),
        (61, (100, 160), 1, (1, (6, 10))),  # the last pixels are in no patch
        (197, None, 1, (1, None)),
        (7, None, None, (0, None)),
    ],
)
def test_patches_are_what_forms_a_rectangle(n_tokens, sides, prefix_tokens, expected):
    assert token_layout(n_tokens, sides, prefix_tokens) == expected


def test_class_tokens_and_registers_are_no_positions():
    x = torch.randn(2, 3 + 16, 5)
    where = {"sides": (32, 32), "prefix_tokens": 3}
    image = x[:, 3:].transpose(1, 2).unflatten(2, (4, 4))
    for pooling in ("avg", "max", "grid", ("max", "grid")):
        torch.testing.assert_close(pool(x, pooling, **where), pool(image, pooling))
    torch.testing.assert_close(pool(x, "cls", **where), x[:, 0])
    torch.testing.assert_close(pool(x, "flatten", **where), x.flatten(1))
    torch.testing.assert_close(pool(x, lambda tokens: tokens[:, 1], **where), x[:, 1])
    info = LayerInfo("block", (19, 5), True, True, 5, prefix_tokens=3, grid=(4, 4))
    for pooling in ("avg", "cls", "grid", "flatten", ("cls", "grid")):
        assert pooled_width(info, pooling) == pool(x, pooling, **where).shape[1]
    with pytest.raises(ValueError, match=r"pooling='cls'.*\(2, 16, 5\), has none"):
        pool(x[:, 3:], "cls", **where)


def test_tokens_of_texts_have_no_patches():
    x = torch.randn(2, 16, 5)
    x[0, 9:] = 0
    found = pool(x, "avg", masked=True)
    torch.testing.assert_close(found[0], x[0, :9].mean(0))
