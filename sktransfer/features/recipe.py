"""Describe what decides a sample's features: a key for the store, an engine for samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..backbones import Backbone, describe, stages_of
from ..engines import Engine, as_pooling, engine_for
from .output import Output, store_key

__all__ = ["Recipe"]


@dataclasses.dataclass(frozen=True)
class Recipe:
    """All that decides a sample's features, except the sample.

    Parameters
    ----------
    backbone : Backbone
    layers : tuple of str
        The layers whose outputs are pooled, in any order.
    pooling : str, callable, tuple or None, default="avg"
        See :func:`sktransfer.engines.pool`; None is "avg", "none" keeps whole activations.
    precision : {"float32", "bfloat16"}, default="float32"
        The type in which the network computes.
    dtype : {"float32", "float16"}, default="float32"
        The type in which features are kept.
    whole : tuple of str, default=()
        Layers, among ``layers``, whose whole activations go to the store as well, as a recipe with
        the pooling "none" has them.
    runtime : {"auto", "torch", "openvino", "onnxruntime", "compile"}, default="auto"
        What runs the network. In float32 it changes the features by their rounding only.
    """

    backbone: Backbone
    layers: tuple[str, ...]
    pooling: str | Callable[..., Any] | tuple[Any, ...] = "avg"
    precision: str = "float32"
    dtype: str = "float32"
    whole: tuple[str, ...] = ()
    runtime: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "pooling", as_pooling(self.pooling))

    def key(self, layer: str | tuple[str, str]) -> str:
        """Describe all that decides the features of one layer, for the store.

        Parameters
        ----------
        layer : str or (str, "none")
            The pair is the whole activation.

        Returns
        -------
        str
        """
        layer, pooling = (layer, self.pooling) if isinstance(layer, str) else layer
        settings = {"precision": self.precision, "dtype": self.dtype, "engine": self.runtime}
        return store_key(Output(self.backbone, layer, pooling), **settings)

    @property
    def whole_outputs(self) -> tuple[tuple[Any, ...], ...]:
        """The whole activations as further outputs of an engine."""
        return tuple(((layer, "none"), layer, "none") for layer in self.whole)

    def engine(
        self,
        device: torch.device,
        stages: Mapping[str, nn.Module] | None = None,
        also: tuple[tuple[Any, ...], ...] = (),
        conversions: Path | None = None,
    ) -> Engine:
        """Return the engine that computes the features.

        Parameters
        ----------
        device : torch.device
        stages : mapping of str to torch.nn.Module, default=None
            Run instead of the backbone's own. Without, the engine is kept beside the backbone.
        also : tuple of (key, str, pooling), default=()
            Further outputs; see :class:`Engine`.
        conversions : Path, default=None
            The folder in which runtimes keep networks that they converted.

        Returns
        -------
        Engine
        """
        backbone = self.backbone
        return engine_for(
            stages_of(backbone) if stages is None else stages,
            self.layers,
            as_pooling(self.pooling),
            also=(*self.whole_outputs, *also),
            engine=self.runtime,
            network=self._network if stages is None else None,
            conversions=conversions,
            kept=backbone.prepared.setdefault("engines", {}) if stages is None else {},
            device=device,
            modality=backbone.modality,
            precision=self.precision,
            dtype=self.dtype,
            opaque=backbone.opaque,
            name=backbone.name,
        )

    def _network(self) -> str:
        """Identify the network that an engine converts."""
        backbone = self.backbone
        stages = list(stages_of(backbone))  # two backbones may cut one network differently
        return "|".join((backbone.fingerprint, str(stages), describe(backbone.modality)))
