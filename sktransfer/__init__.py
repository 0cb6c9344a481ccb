"""Transfer learning with the scikit-learn API."""

from .backbones import (
    Backbone,
    ImagePreprocessing,
    list_backbones,
    list_layers,
    load_backbone,
    load_word_vectors,
    register_backbone,
)
from .data import UnreadableSamplesError
from .features import FeatureStore, PretrainedClassifier, PretrainedFeatureExtractor
from .finetuning import FineTunedClassifier, FineTunedRegressor
from .selection import (
    BackboneRankingDisplay,
    LayerProbeDisplay,
    StrategyDisplay,
    TransferClassifier,
    TransferRegressor,
    probe_layers,
    rank_backbones,
    recommend_strategy,
)

__all__ = [
    "Backbone",
    "BackboneRankingDisplay",
    "FeatureStore",
    "FineTunedClassifier",
    "FineTunedRegressor",
    "ImagePreprocessing",
    "LayerProbeDisplay",
    "PretrainedClassifier",
    "PretrainedFeatureExtractor",
    "StrategyDisplay",
    "TransferClassifier",
    "TransferRegressor",
    "UnreadableSamplesError",
    "list_backbones",
    "list_layers",
    "load_backbone",
    "load_word_vectors",
    "probe_layers",
    "rank_backbones",
    "recommend_strategy",
    "register_backbone",
]

__version__ = "0.1.0.dev0"
