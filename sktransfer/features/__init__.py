"""From samples to features through the store: the extractor, direct use and layer choice."""

from .base import BackboneEstimator, Count, all_or_nothing
from .class_map import mapped_logits, resolve_class_map
from .compute import compute_features, compute_inputs, compute_outputs, compute_several
from .extractor import PretrainedFeatureExtractor, learns_from_samples
from .function import FeatureFunction
from .layer_choice import LayerChoice, candidate_layers, choose_layer
from .opening import open_sample
from .output import Output, layers_of, probe_batch, store_key
from .passes import describe_passes
from .pipelines import NetworkStep, find_network
from .pretrained import PretrainedClassifier
from .progress import progress
from .recipe import Recipe
from .reporting import reported
from .sizes import SizeChoice
from .store import FeatureStore, as_store
from .streams import Stream
from .tables import check_outputs, empty_table
from .word_weights import TokenWeights, has_ranks, takes_weights

__all__ = [
    "BackboneEstimator",
    "Count",
    "FeatureFunction",
    "FeatureStore",
    "LayerChoice",
    "NetworkStep",
    "Output",
    "PretrainedClassifier",
    "PretrainedFeatureExtractor",
    "Recipe",
    "SizeChoice",
    "Stream",
    "TokenWeights",
    "all_or_nothing",
    "as_store",
    "candidate_layers",
    "check_outputs",
    "choose_layer",
    "compute_features",
    "compute_inputs",
    "compute_outputs",
    "compute_several",
    "describe_passes",
    "empty_table",
    "find_network",
    "has_ranks",
    "layers_of",
    "learns_from_samples",
    "mapped_logits",
    "open_sample",
    "probe_batch",
    "progress",
    "reported",
    "resolve_class_map",
    "store_key",
    "takes_weights",
]
