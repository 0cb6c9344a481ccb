"""Build a Backbone from a name, a module or a file, and cut it into stages.

One file for each source of networks.
"""

from .backbone import Backbone, keep_last
from .fingerprint import describe
from .layers import (
    LayerInfo,
    boundary,
    inspect_layers,
    is_single_classifier,
    list_layers,
    penultimate,
    pooled_width,
    resolve_layer,
    size_step,
    takes_size,
    weighted_layers,
)
from .pooling import POOLINGS, is_channels_last, pool, token_layout
from .preprocessing import ImagePreprocessing, ProcessorPreprocessing
from .registry import (
    list_backbones,
    load_backbone,
    modality_of,
    register_backbone,
    unknown_backbone,
)
from .stages import only_adds, stages_of, trace
from .weights import seeded

__all__ = [
    "POOLINGS",
    "Backbone",
    "ImagePreprocessing",
    "LayerInfo",
    "ProcessorPreprocessing",
    "boundary",
    "describe",
    "inspect_layers",
    "is_channels_last",
    "is_single_classifier",
    "keep_last",
    "list_backbones",
    "list_layers",
    "load_backbone",
    "modality_of",
    "only_adds",
    "penultimate",
    "pool",
    "pooled_width",
    "register_backbone",
    "resolve_layer",
    "seeded",
    "size_step",
    "stages_of",
    "takes_size",
    "token_layout",
    "trace",
    "unknown_backbone",
    "weighted_layers",
]
