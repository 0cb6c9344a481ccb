"""Build a Backbone from a name, a module or a file, and cut it into stages.

One file for each source of networks.
"""

from .base import Backbone
from .fingerprint import describe
from .layers import boundary, list_layers, penultimate, resolve_layer
from .preprocessing import ImagePreprocessing
from .registry import list_backbones, load_backbone, modality_of, register_backbone
from .stages import check_stages, is_checked, stages_of, trace
from .weights import seeded
from .wordvectors import load_word_vectors

__all__ = [
    "Backbone",
    "ImagePreprocessing",
    "boundary",
    "check_stages",
    "describe",
    "is_checked",
    "list_backbones",
    "list_layers",
    "load_backbone",
    "load_word_vectors",
    "modality_of",
    "penultimate",
    "register_backbone",
    "resolve_layer",
    "seeded",
    "stages_of",
    "trace",
]
