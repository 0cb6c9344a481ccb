"""Build a Backbone from a name, a module or a file, and cut it into stages.

One file for each source of networks.
"""

from .base import Backbone
from .fingerprint import describe
from .graphs import trace
from .layer_info import LayerInfo, inspect_layers, is_channels_last, takes_size
from .layers import (
    boundary,
    is_single_classifier,
    list_layers,
    penultimate,
    resolve_layer,
    weighted_layers,
)
from .preprocessing import ImagePreprocessing
from .registry import list_backbones, load_backbone, modality_of, register_backbone
from .stages import stages_of
from .weights import seeded

__all__ = [
    "Backbone",
    "ImagePreprocessing",
    "LayerInfo",
    "boundary",
    "describe",
    "inspect_layers",
    "is_channels_last",
    "is_single_classifier",
    "list_backbones",
    "list_layers",
    "load_backbone",
    "modality_of",
    "penultimate",
    "register_backbone",
    "resolve_layer",
    "seeded",
    "stages_of",
    "takes_size",
    "trace",
    "weighted_layers",
]
