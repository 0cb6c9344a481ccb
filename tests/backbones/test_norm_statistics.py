"""Statistics of what batch normalization layers are given."""

import numpy as np
import pytest
import torch
from torch import nn

from sktransfer.backbones.norm_statistics import keeps_statistics, moments_of


@pytest.mark.parametrize("shape", [(5, 3), (5, 3, 4), (5, 3, 4, 6)])
def test_moments_are_those_of_each_sample_and_channel(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    moments = moments_of(x)
    assert moments.shape == (5, 2, 3)
    flat = x.reshape(5, 3, -1).double().numpy()
    np.testing.assert_allclose(moments[:, 0], flat.mean(2), atol=1e-12)
    np.testing.assert_allclose(moments[:, 1], (flat**2).mean(2), atol=1e-12)


def test_norms_without_statistics_keep_none():
    assert keeps_statistics(nn.BatchNorm2d(3))
    assert not keeps_statistics(nn.BatchNorm2d(3, track_running_stats=False))
    assert not keeps_statistics(nn.LayerNorm(3))
