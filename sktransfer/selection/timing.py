"""How long strategies take: time one forward and one training step, and estimate the rest."""

from __future__ import annotations

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from ..backbones import Backbone, boundary, penultimate, stages_of
from ..data import take
from ..engines import resolve_device
from ..features import Output, compute_outputs, open_sample

__all__ = ["Timing", "measure_timing", "seconds_of", "sizes_within"]

_TIMED = 8  # samples in the probe batch that is timed


@dataclasses.dataclass(frozen=True)
class Timing:
    """Seconds for one sample, measured on a probe batch on this machine.

    Parameters
    ----------
    forward : float
        Opening a sample and running the network.
    step : dict
        One training step's share, by what is trained.
    once : dict
        What is fitted on features of all samples, in seconds for all.
    """

    forward: float
    step: dict[str, Any]
    once: dict[str, Any] = dataclasses.field(default_factory=dict)

    def seconds(self, strategy: str, n_samples: int, max_epochs: int) -> float:
        """Estimate the time to fit a strategy, as if the store were empty."""
        # What is trained runs once more before, so that the head begins as the probe.
        epochs = max_epochs * n_samples * self.step.get(strategy, 0.0)
        return n_samples * self.forward + epochs + self.once.get(strategy, 0.0)


def measure_timing(
    backbone: Backbone, samples: Sequence[Any], trainable: dict[str, Any], *, device: str = "auto"
) -> Timing:
    """Time a probe batch: opened and run forward, and one training step of each strategy.

    Parameters
    ----------
    backbone : Backbone
    samples : sequence
        The first eight are run.
    trainable : dict
        What is trained, by strategy, as ``trainable`` of :class:`FineTunedClassifier`.
    device : str, default="auto"

    Returns
    -------
    Timing
    """
    few = take(samples, range(min(_TIMED, len(samples))))
    outputs = [Output(backbone, penultimate(backbone))]
    on = resolve_device(device)
    forward = seconds_of(lambda: compute_outputs(few, outputs, device=device), on) / len(few)
    opened = [open_sample(sample, backbone)[None] for sample in few]
    batch = torch.cat([x for x in opened if x.shape == opened[0].shape]).to(on)
    # Copies, so that the backbone is given no gradients.
    stages = {name: copy.deepcopy(stage).to(on) for name, stage in stages_of(backbone).items()}
    step = {}
    for name, what in trainable.items():
        n_frozen = boundary(backbone, what)
        last_frozen, x = list(stages)[n_frozen - 1] if n_frozen else None, batch
        if last_frozen is not None:  # run once for all epochs
            with torch.no_grad():
                (x,) = backbone.run(batch, [(last_frozen, "none")], stages=stages)
        run = functools.partial(_step, backbone, stages, last_frozen, x)
        step[name] = seconds_of(run, on) / len(batch)
    return Timing(forward, step)


def sizes_within(
    backbone: Backbone,
    sizes: tuple[int | None, ...],
    samples: Sequence[Any],
    n: int,
    seconds: float,
    device: str = "auto",
) -> tuple[int | None, ...]:
    """Return the input sizes that can be computed in a time: all, the backbone's own, or the least.

    Parameters
    ----------
    backbone : Backbone
    sizes : tuple of int or None
        Ascending; None is the backbone's own.
    samples : sequence
        Of which a few are timed.
    n : int
        The number of samples.
    seconds : float
    device : str, default="auto"

    Returns
    -------
    tuple of int or None
    """
    if len(sizes) == 1:
        return sizes
    shape: Any = backbone.input_shape
    native, few = max(shape[1:]), take(samples, range(min(_TIMED, len(samples))))
    outputs = [Output(backbone, penultimate(backbone))]
    on = resolve_device(device)
    each = seconds_of(lambda: compute_outputs(few, outputs, device=device), on) / len(few)
    for some in (sizes, (None,)):
        share = sum(((size or native) / native) ** 2 for size in some)
        if n * each * share <= seconds:
            return some
    return sizes[:1]


def _step(
    backbone: Backbone, stages: dict[str, nn.Module], after: str | None, x: torch.Tensor
) -> None:
    """Run stages forward and backward, and a head of a few outputs on their pooled result."""
    outputs = [(penultimate(backbone), "avg")]
    (features,) = backbone.run(x, outputs, after=after, stages=stages)
    head = features.new_ones(8, features.shape[1], requires_grad=True)
    nn.functional.linear(features, head).sum().backward()


def seconds_of(action: Callable[..., Any], on: torch.device | None = None) -> float:
    """Time the second run of something; the first one sets things up.

    Parameters
    ----------
    action : callable
    on : torch.device, default=None
        Whose work is waited for.

    Returns
    -------
    float
    """
    action()
    _wait(on)
    start = time.perf_counter()
    action()
    _wait(on)
    return time.perf_counter() - start


def _wait(on: torch.device | None) -> None:
    if on is not None and on.type != "cpu":
        torch.accelerator.synchronize(on)
