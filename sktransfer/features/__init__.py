"""From samples to features through the store: the extractor, direct use and layer choice."""

from .base import (
    BackboneEstimator,
    Count,
    all_or_nothing,
    checked_samples,
    reported,
)
from .choices import (
    LayerChoice,
    SizeChoice,
    candidate_layers,
    choose_layer,
    layer_of_tokens,
)
from .compute import compute_outputs, describe_runs
from .extractor import PretrainedFeatureExtractor, fitted_without_samples, learns_from_samples
from .function import FeatureFunction
from .generations import nothing_stored
from .output import (
    Output,
    check_outputs,
    empty_table,
    engine_for_outputs,
    layers_of,
    prepare_probe,
    probe_batch,
    side_of,
    store_key,
)
from .pipelines import (
    NetworkStep,
    check_refit,
    find_network,
    fitted_network,
    is_frozen,
    takes_most_probable,
)
from .pretrained import (
    ClassProbabilities,
    PretrainedClassifier,
    mapped_logits,
    resolve_class_map,
)
from .store import FeatureStore, as_store
from .streams import Stream, compute_inputs
from .word_weights import TokenWeights, has_ranks, takes_weights

__all__ = [
    "BackboneEstimator",
    "ClassProbabilities",
    "Count",
    "FeatureFunction",
    "FeatureStore",
    "LayerChoice",
    "NetworkStep",
    "Output",
    "PretrainedClassifier",
    "PretrainedFeatureExtractor",
    "SizeChoice",
    "Stream",
    "TokenWeights",
    "all_or_nothing",
    "as_store",
    "candidate_layers",
    "check_outputs",
    "check_refit",
    "checked_samples",
    "choose_layer",
    "compute_inputs",
    "compute_outputs",
    "describe_runs",
    "empty_table",
    "engine_for_outputs",
    "find_network",
    "fitted_network",
    "fitted_without_samples",
    "has_ranks",
    "is_frozen",
    "layer_of_tokens",
    "layers_of",
    "learns_from_samples",
    "mapped_logits",
    "nothing_stored",
    "prepare_probe",
    "probe_batch",
    "reported",
    "resolve_class_map",
    "side_of",
    "store_key",
    "takes_most_probable",
    "takes_weights",
]
