import pytest
import torch

from sktransfer.backbones import LayerInfo, pool, pooled_width


def test_a_grid_is_the_means_of_quadrants():
    x = torch.randn(2, 3, 4, 6)
    parts = [x[:, :, i : i + 2, j : j + 3].mean((2, 3)) for i in (0, 2) for j in (0, 3)]
    found = pool(x, "grid").reshape(2, 3, 4)
    torch.testing.assert_close(found, torch.stack(parts, 2))
    last = pool(x.movedim(1, -1)[:, :, :4], "grid", square=True)  # channels last, square
    torch.testing.assert_close(last, pool(x[..., :4], "grid"))
    assert pooled_width(LayerInfo("conv", (3, 4, 6), False, True, 3), "grid") == 12


def test_tokens_have_no_quadrants():
    with pytest.raises(ValueError, match=r"pooling='grid'.* \(2, 5, 3\)"):
        pool(torch.randn(2, 5, 3), "grid")
