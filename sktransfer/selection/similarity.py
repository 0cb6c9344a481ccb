"""What there is to go by: how much data, how like the network's own, how long things take."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from ..backbones import Backbone, stages_of
from ..data import UnreadableSamplesError
from ..engines import resolve_device
from ..features import open_sample
from ..transferability import free_energy, gaussian_divergence, prediction_entropy

__all__ = ["Similarity", "Size", "by_predictions", "measure_similarity", "measure_size"]

# Measured by benchmarks/similarity.py; docs/guide/choosing.md has the numbers.
CALIBRATION = {
    # Samples that are run. Divergences of 128 photographs and of 50 differ by 0.002.
    "samples": 128,
    # Images of noise that the network is shown to learn what "unlike" means for it.
    "noise_images": 8,
    # Where the divergence is that of noise, similarity is exp(-4) = 0.02.
    "sharpness": 2.0,
    # Divergence that counts as noise's where samples are no images: Lite0 to 2 are at 0.14 to 0.2.
    "noise_divergence": 0.17,
    # Without batch norm: exp(-(entropy / scale) ** power). Photographs have 0.25, noise 0.66.
    "entropy_scale": 0.6,
    "entropy_power": 4.0,
}

_UNTOUCHED = "its batch norms have seen no data"  # and the weights are random
_BATCH_NORMS = nn.modules.batchnorm._BatchNorm


@dataclasses.dataclass(frozen=True)
class Size:
    """How much data there is.

    Parameters
    ----------
    counts : dict
        Samples of each label.
    """

    counts: dict

    @property
    def n_samples(self) -> int:
        return sum(self.counts.values())

    @property
    def smallest(self) -> int:
        """Samples of the smallest class, which decides."""
        return min(self.counts.values())

    @property
    def smallest_label(self):
        return min(self.counts, key=self.counts.get)


def measure_size(y) -> Size:
    """Count the samples of each class.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)

    Returns
    -------
    Size
    """
    labels, counts = np.unique(y, return_counts=True)
    return Size(dict(zip(labels.tolist(), counts.tolist(), strict=True)))


@dataclasses.dataclass(frozen=True)
class Similarity:
    """How like the samples are to what the network was trained on.

    Parameters
    ----------
    value : float or None
        From 0, like noise, to 1, like the data of the training. None where nothing can tell.
    source : {"batch norm", "predictions", ""}
        What tells.
    why : str
        Why there is no value, else nothing.
    layers : tuple of str
        The batch norms, from the input to the output.
    divergences : ndarray of shape (n_layers,)
        Mean squared Hellinger distance of each one's channels from what they remember.
    noise : float
        The mean divergence of noise, the same way.
    confidence, entropy, energy : float
        Means of the highest probability, of the relative entropy and of the free energy of the
        network's own predictions; NaN where it has no classes.
    """

    value: float | None
    source: str = ""
    why: str = ""
    layers: tuple[str, ...] = ()
    divergences: np.ndarray = dataclasses.field(default_factory=lambda: np.empty(0))
    noise: float = np.nan
    confidence: float = np.nan
    entropy: float = np.nan
    energy: float = np.nan


def measure_similarity(
    backbone: Backbone,
    samples: Sequence,
    outputs: np.ndarray | None = None,
    *,
    device: str = "auto",
) -> Similarity:
    """Compare samples with what the network remembers of its training data.

    Parameters
    ----------
    backbone : Backbone
    samples : sequence
        128 of them are run, evenly spread over all.
    outputs : ndarray of shape (n_samples, n_classes), default=None
        The network's logits, where it has classes.
    device : str, default="auto"

    Returns
    -------
    Similarity

    Notes
    -----
    Batch norm keeps the mean and the variance of each channel over the training data. The same
    statistics of the samples, at the inputs of the same layers, are compared with them by the
    squared Hellinger distance of two Gaussians, averaged over channels and then over layers. A
    mean over n samples is off by chance; its squared distance is reduced by the variance that
    this has. With d the divergence of the samples and d_noise that of uniform noise in the same
    network, the similarity is exp(-(2 d / d_noise)²).

    It sees colours, contrasts, textures and what objects there are on the whole, and nothing of
    how they are arranged: photographs whose colours are inverted have much the same statistics.

    Without batch norm the entropy of the predictions speaks, less reliably: a network can be
    sure of what it has never seen.

    References
    ----------
    Liu, Wang, Owens, Li (2020). Energy-based out-of-distribution detection. NeurIPS.
    arXiv:2010.03759.
    """
    own = _own_predictions(outputs)
    rows = np.unique(np.linspace(0, len(samples) - 1, CALIBRATION["samples"]).astype(int))
    if len(rows) < 2:
        return Similarity(None, why="one sample has no statistics", **own)
    why = _why_no_statistics(backbone)
    if not why:
        return _by_batch_norm(backbone, samples, rows, own, device)
    if own and why != _UNTOUCHED:
        return Similarity(by_predictions(own["entropy"]), "predictions", **own)
    return Similarity(None, why=why if own else f"{why}, and no classes of its own", **own)


def by_predictions(entropy: float) -> float:
    """Return the similarity that the mean entropy of a network's predictions speaks for.

    Parameters
    ----------
    entropy : float
        As a share of the largest possible.

    Returns
    -------
    float
    """
    return float(
        np.exp(-((entropy / CALIBRATION["entropy_scale"]) ** CALIBRATION["entropy_power"]))
    )


def _own_predictions(outputs: np.ndarray | None) -> dict[str, float]:
    if outputs is None or outputs.shape[1] < 2:
        return {}
    probabilities = softmax(outputs.astype(np.float64), axis=1)
    return {
        "confidence": float(probabilities.max(axis=1).mean()),
        "entropy": float(prediction_entropy(probabilities).mean()),
        "energy": float(free_energy(outputs).mean()),
    }


def _why_no_statistics(backbone: Backbone) -> str:
    stages = stages_of(backbone).values()
    norms = [m for stage in stages for m in stage.modules() if _remembers(m)]
    if not norms:
        return "the network has no batch norm"
    untouched = all(not m.running_mean.any() and bool((m.running_var == 1).all()) for m in norms)
    return _UNTOUCHED if untouched else ""


def _remembers(module: nn.Module) -> bool:
    return isinstance(module, _BATCH_NORMS) and module.running_mean is not None


def _by_batch_norm(backbone: Backbone, samples, rows, own: dict, device: str) -> Similarity:
    network, norms = _copy_with_norms(backbone, device)
    layers, divergences = _divergences(network, norms, _opened(backbone, samples, rows))
    if not layers:
        return Similarity(None, why="no batch norm was reached", **own)
    noise = CALIBRATION["noise_divergence"]
    images = _noise(backbone)
    if images is not None:
        opened = _opened(backbone, images, range(len(images)))
        noise = float(_divergences(network, norms, opened)[1].mean())
    share = divergences.mean() / max(noise, 1e-12)
    value = float(np.exp(-((CALIBRATION["sharpness"] * share) ** 2)))
    return Similarity(value, "batch norm", "", layers, divergences, noise, **own)


def _noise(backbone: Backbone):
    """Return samples of noise, where the modality has any and the size is known."""
    if backbone.input_shape is None:
        return None
    n_samples, rng = CALIBRATION["noise_images"], np.random.default_rng(0)
    return backbone.modality.make_noise(n_samples, backbone.input_shape, rng)


def _copy_with_norms(backbone: Backbone, device: str) -> tuple[nn.Module, dict[str, nn.Module]]:
    """Copy the modules, whose hooks are then nobody else's, and share the tensors."""
    on = resolve_device(device)
    tensors = [*backbone.module.parameters(), *backbone.module.buffers()]
    memo = {id(tensor): tensor for tensor in tensors} if on.type == "cpu" else {}
    network = nn.Sequential(*copy.deepcopy(list(stages_of(backbone).values()), memo)).to(on)
    return network, {name: m for name, m in network.named_modules() if _remembers(m)}


def _opened(backbone: Backbone, samples: Sequence, rows: Sequence[int]):
    for i in rows:
        try:
            yield open_sample(samples[i], backbone)[None]
        except Exception as error:
            raise UnreadableSamplesError([(int(i), samples[i], error)]) from error


def _divergences(network: nn.Module, norms: dict, batches) -> tuple[tuple[str, ...], np.ndarray]:
    """Run samples one by one and compare the channels' statistics at each batch norm."""
    seen: dict[str, list[np.ndarray]] = {name: [] for name in norms}

    def note(name):
        def hook(module, args):
            x = args[0].double().flatten(2) if args[0].ndim > 2 else args[0].double()[..., None]
            moments = torch.stack([x.mean(2), (x**2).mean(2)], dim=1)  # (1, 2, channels)
            seen[name].append(moments.cpu().numpy())

        return hook

    hooks = [norm.register_forward_pre_hook(note(name)) for name, norm in norms.items()]
    on = next(iter(norms.values())).running_mean.device
    try:
        with torch.inference_mode():
            for batch in batches:
                network(batch.to(on))
    finally:
        for hook in hooks:
            hook.remove()
    reached = {name: np.concatenate(parts) for name, parts in seen.items() if parts}
    distances = [_distance(moments, norms[name]) for name, moments in reached.items()]
    return tuple(reached), np.array(distances)


def _distance(moments: np.ndarray, norm: nn.Module) -> float:
    """Compare moments of samples ``(n, 2, channels)`` with a batch norm's statistics."""
    mean, square = moments.mean(0)
    chance = moments[:, 0].var(0, ddof=1) / len(moments)  # of the mean
    variance = np.maximum(square - mean**2 + chance, 0)
    known = norm.running_mean.double().cpu().numpy()
    offset = np.sqrt(np.maximum((mean - known) ** 2 - chance, 0))
    known_variance = norm.running_var.double().cpu().numpy()
    return gaussian_divergence(known + offset, variance, known, known_variance, eps=norm.eps)
