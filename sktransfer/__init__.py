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
from .extractor import PretrainedFeatureExtractor
from .finetune import FineTunedClassifier, FineTunedRegressor
from .layers import list_layers
from .pretrained import PretrainedClassifier
from .samples import UnreadableSamplesError

__all__ = [
    "Backbone",
    "FeatureStore",
    "FineTunedClassifier",
    "FineTunedRegressor",
    "ImagePreprocessing",
    "PretrainedClassifier",
    "PretrainedFeatureExtractor",
    "UnreadableSamplesError",
    "list_backbones",
    "list_layers",
    "load_backbone",
    "load_word_vectors",
    "register_backbone",
]

__version__ = "0.1.0.dev0"
