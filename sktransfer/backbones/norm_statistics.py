"""Compare what batch normalization layers are given with the statistics that they keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .._compat.torch import BatchNormBase

NOISE_DIVERGENCE = 0.17  # of noise in networks for images, where it is 0.14 to 0.2


def keeps_statistics(module: Any) -> bool:
    """Tell whether a module is a batch normalization layer that keeps statistics.

    Parameters
    ----------
    module : torch.nn.Module
    """
    return isinstance(module, BatchNormBase) and module.running_mean is not None


def moments_of(x: torch.Tensor) -> np.ndarray:
    """Return the means of each channel and of its square, for each sample: ``(n, 2, channels)``."""
    x = x.double().flatten(2) if x.ndim > 2 else x.double()[..., None]
    return torch.stack([x.mean(2), (x**2).mean(2)], dim=1).cpu().numpy()


def norm_divergence(moments: np.ndarray, norm: Any) -> float:
    """Compare the :func:`moments_of` samples with the statistics of a batch normalization layer.

    A mean over n samples is off by chance; the squared distance is reduced by the variance that
    this has. See :func:`sktransfer.transferability.gaussian_divergence`.
    """
    from ..transferability import gaussian_divergence  # imports models of scikit-learn

    mean, square = moments.mean(0)
    chance = moments[:, 0].var(0, ddof=1) / len(moments)  # of the mean
    variance = np.maximum(square - mean**2 + chance, 0)
    known = norm.running_mean.double().cpu().numpy()
    offset = np.sqrt(np.maximum((mean - known) ** 2 - chance, 0))
    known_variance = norm.running_var.double().cpu().numpy()
    return gaussian_divergence(known + offset, variance, known, known_variance, eps=norm.eps)


def similarity_of_divergence(divergence: float, noise: float = NOISE_DIVERGENCE) -> float:
    """Return the similarity of samples to the training data of a network.

    It is exp(-(2 divergence / noise)²), of the mean :func:`norm_divergence` over layers and that of
    noise in the same network: 1 for samples like the training data, 0.02 for noise.
    """
    return float(np.exp(-((2 * (divergence / max(noise, 1e-12))) ** 2)))
