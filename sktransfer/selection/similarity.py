"""The size of the data, and their similarity to the data a network was trained on."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from torch import nn

from ..backbones import Backbone, stages_of
from ..backbones.norm_statistics import (
    NOISE_DIVERGENCE,
    keeps_statistics,
    moments_of,
    norm_divergence,
    similarity_of_divergence,
)
from ..data import named_among, take
from ..engines import TorchEngine, resolve_device
from ..features import Output, compute_outputs, engine_for_outputs
from ..transferability import free_energy, prediction_entropy

# Measured by benchmarks/similarity.py; docs/guide/choosing.md has the numbers.
CALIBRATION: dict[str, Any] = {
    # Samples that are run. Divergences of 128 photographs and of 50 differ by 0.002.
    "samples": 128,
    # Images of noise, whose divergence in the same network is the scale.
    "noise_images": 8,
    # Without batch norm: exp(-(entropy / scale) ** power). Photographs have 0.25, noise 0.66.
    "entropy_scale": 0.6,
    "entropy_power": 4.0,
}

_UNTOUCHED = "its batch norms have seen no data"  # and the weights are random
_SINGLE = "one sample has no statistics"


@dataclasses.dataclass(frozen=True)
class Size:
    """The number of samples of each class.

    Parameters
    ----------
    counts : dict
        Samples of each label.
    """

    counts: dict[Any, int]

    @property
    def n_samples(self) -> int:
        return sum(self.counts.values())

    @property
    def smallest(self) -> int:
        """The number of samples of the smallest class."""
        return min(self.counts.values())

    @property
    def smallest_label(self) -> Any:
        return min(self.counts, key=self.counts.__getitem__)


def measure_size(y: np.ndarray) -> Size:
    """Count the samples of each class.

    Parameters
    ----------
    y : ndarray of shape (n_samples,)
    """
    labels, counts = np.unique(y, return_counts=True)
    return Size(dict(zip(labels.tolist(), counts.tolist(), strict=True)))


@dataclasses.dataclass(frozen=True)
class Similarity:
    """The similarity of samples to the data that a network was trained on.

    Parameters
    ----------
    value : float or None
        From 0, like noise, to 1, like the training data. None if it cannot be measured.
    source : {"batch norm", "predictions", ""}
        What it was measured by.
    why : str
        Why there is no value; empty if there is one.
    layers : tuple of str
        The batch norms, from the input to the output.
    divergences : ndarray of shape (n_layers,)
        Mean squared Hellinger distance of each one's channels from its running statistics.
    noise : float
        The mean divergence of noise.
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
    samples: Sequence[Any],
    outputs: np.ndarray | None = None,
    *,
    device: str = "auto",
    watcher: NormWatcher | None = None,
) -> Similarity:
    """Measure the similarity of samples to the data that a network was trained on.

    Parameters
    ----------
    samples : sequence
        128 of them are run, evenly spread over all.
    outputs : ndarray of shape (n_samples, n_classes), default=None
        The network's logits, where it has classes.
    watcher : NormWatcher, default=None
        Through which the samples have been run; None runs them.

    Notes
    -----
    Batch norm keeps the mean and the variance of each channel over the training data. The same
    statistics of the samples, at the inputs of the same layers, are compared with them by the
    squared Hellinger distance of two Gaussians, averaged over channels and then over layers. A
    mean over n samples is off by chance; its squared distance is reduced by the variance that
    this has. With d the divergence of the samples and d_noise that of uniform noise in the same
    network, the similarity is exp(-(2 d / d_noise)²).

    The statistics depend on colours, contrasts, textures and the kinds of objects, and not on how
    these are arranged: photographs with inverted colours have nearly the same statistics.

    Without batch norm the similarity follows from the entropy of the predictions. This is less
    reliable: a network can be certain about samples unlike its training data.

    References
    ----------
    Liu, Wang, Owens, Li (2020). Energy-based out-of-distribution detection. NeurIPS.
    arXiv:2010.03759.
    """
    own: dict[str, Any] = {}
    if outputs is not None and outputs.shape[1] > 1:
        probabilities = softmax(outputs.astype(np.float64), axis=1)
        own["confidence"] = float(probabilities.max(axis=1).mean())
        own["entropy"] = float(prediction_entropy(probabilities).mean())
        own["energy"] = float(free_energy(outputs).mean())
    why = why_no_statistics(backbone, len(samples))
    if why and own and why not in (_UNTOUCHED, _SINGLE):
        return Similarity(by_predictions(own["entropy"]), "predictions", **own)
    if why:
        known = own or why == _SINGLE
        return Similarity(None, why=why if known else f"{why}, and no classes of its own", **own)
    if watcher is None:
        last = [Output(backbone, list(stages_of(backbone))[-1])]
        watcher, rows = NormWatcher(last, device), rows_to_watch(len(samples))
        with named_among(rows):
            compute_outputs(take(samples, rows), last, runner=watcher)
    by_layer = watcher.divergences()
    if not by_layer:
        return Similarity(None, why="no batch norm was reached", **own)
    divergences = np.array(list(by_layer.values()))
    noise = _noise_divergence(watcher)
    value = similarity_of_divergence(float(divergences.mean()), noise)
    return Similarity(value, "batch norm", "", tuple(by_layer), divergences, noise, **own)


def by_predictions(entropy: float) -> float:
    """Return the similarity that corresponds to the mean entropy of predictions.

    Parameters
    ----------
    entropy : float
        As a share of the largest possible.
    """
    return float(
        np.exp(-((entropy / CALIBRATION["entropy_scale"]) ** CALIBRATION["entropy_power"]))
    )


def why_no_statistics(backbone: Backbone, n_samples: int) -> str:
    """Return why batch norm cannot be compared with samples; empty if it can."""
    if n_samples < 2:
        return _SINGLE
    stages = stages_of(backbone).values()
    norms: list[Any] = [m for stage in stages for m in stage.modules() if keeps_statistics(m)]
    if not norms:
        return "the network has no batch norm"
    untouched = all(not m.running_mean.any() and bool((m.running_var == 1).all()) for m in norms)
    return _UNTOUCHED if untouched else ""


def rows_to_watch(n_samples: int) -> np.ndarray:
    """Return the positions of the samples that are compared, evenly spread over all."""
    return np.unique(np.linspace(0, n_samples - 1, CALIBRATION["samples"]).astype(int))


class NormWatcher(TorchEngine):
    """Run samples through a network, and record what each batch norm is given.

    It takes the place of the engine of some outputs, so that one run gives features and
    statistics. Batches are those of that engine; batch norms are not folded.

    Parameters
    ----------
    outputs : sequence of Output
        Of one backbone.
    """

    backbone: Backbone

    def __init__(self, outputs: Sequence[Output], device: str = "auto"):
        self.backbone = backbone = outputs[0].backbone
        stages, on = stages_of(backbone), resolve_device(device)
        # A copy, so that hooks are on nobody else's modules; on a CPU it shares the tensors.
        tensors = [*backbone.module.parameters(), *backbone.module.buffers()]
        memo = {id(tensor): tensor for tensor in tensors} if on.type == "cpu" else {}
        network = nn.Sequential(*copy.deepcopy(list(stages.values()), memo)).to(on)
        self._norms = {name: m for name, m in network.named_modules() if keeps_statistics(m)}
        self._seen: dict[str, list[np.ndarray]] = {}
        for name, norm in self._norms.items():
            norm.register_forward_pre_hook(functools.partial(self._record, name))
        read: dict[Any, tuple[str, Any]] = {"last": (list(stages)[-1], "avg")}  # runs all norms
        read |= {i: (output.layer, output.pooling) for i, output in enumerate(outputs)}
        super().__init__(
            dict(zip(stages, network, strict=True)),
            read,
            device=on,
            modality=self.backbone.modality,
            opaque=self.backbone.opaque,
        )
        self._usual = engine_for_outputs(outputs, device=self.device)

    def _inspect(self, probe: torch.Tensor) -> int:
        """Run nothing before the samples, which would be recorded."""
        return 1

    def batch_size(self, sample: torch.Tensor) -> int:
        """Return how many samples to run at a time, as the engine of the outputs does."""
        return self._usual.batch_size(sample)

    def is_cheap(self, sample: torch.Tensor, size: int) -> bool:
        return self._usual.is_cheap(sample, size)

    def _run_filled(self, batch: torch.Tensor, size: int) -> dict[str, torch.Tensor]:
        """Run a batch filled up with copies, and record its samples alone."""
        before = {name: len(parts) for name, parts in self._seen.items()}
        pooled = super()._run_filled(batch, size)
        for name, parts in self._seen.items():
            start = before.get(name, 0)
            parts[start:] = [part[: len(batch)] for part in parts[start:]]
        return pooled

    def _record(self, name: str, module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen.setdefault(name, []).append(moments_of(args[0]))

    def divergences(self) -> dict[str, float]:
        """Return the divergence at each batch norm from its statistics, and forget the samples."""
        seen, self._seen = self._seen, {}
        reached = [name for name in self._norms if name in seen]
        return {n: norm_divergence(np.concatenate(seen[n]), self._norms[n]) for n in reached}


def _noise_divergence(watcher: NormWatcher) -> float:
    """Return the mean divergence of noise in the same network, where the modality has any."""
    backbone = watcher.backbone
    if backbone.input_shape is None:
        return NOISE_DIVERGENCE
    n_samples, rng = CALIBRATION["noise_images"], np.random.default_rng(0)
    samples = backbone.modality.make_noise(n_samples, backbone.input_shape, rng)
    if samples is None:
        return NOISE_DIVERGENCE
    watcher.run([backbone.open(sample) for sample in samples], "auto")
    return float(np.mean(list(watcher.divergences().values())))
