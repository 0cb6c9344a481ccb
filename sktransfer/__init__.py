"""Transfer learning for people who think in scikit-learn."""

from .backbones import (
    Backbone,
    ImagePreprocessing,
    list_backbones,
    load_backbone,
    load_word_vectors,
    register_backbone,
)
from .cache import FeatureStore
from .display import BackboneRankingDisplay, LayerProbeDisplay, StrategyDisplay
from .extractor import PretrainedFeatureExtractor
from .finetune import FineTunedClassifier, FineTunedRegressor
from .layers import list_layers
from .pretrained import PretrainedClassifier
from .ranking import rank_backbones
from .samples import UnreadableSamplesError
from .strategy import TransferClassifier, probe_layers, recommend_strategy

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
