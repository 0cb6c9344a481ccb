"""Transfer learning with the scikit-learn API."""

from __future__ import annotations

# Nothing is imported here, so that the command line can answer an interrupt soon.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .backbones import (
        Backbone,
        ImagePreprocessing,
        list_backbones,
        list_layers,
        load_backbone,
        register_backbone,
    )
    from .backbones.onnx_files import load_onnx
    from .backbones.wordvectors import load_word_vectors
    from .backbones.zero_shot import make_prompts
    from .data import (
        UnreadableSamplesError,
        from_dataset,
        load_image_folder,
        load_image_table,
    )
    from .features import (
        FeatureStore,
        PretrainedClassifier,
        PretrainedFeatureExtractor,
    )
    from .features.partitions import extract_to, iter_features, load_features
    from .finetuning import (
        Augmentation,
        AverageWeights,
        FineTunedClassifier,
        FineTunedRegressor,
    )
    from .persistence import load, model_card, save, to_onnx
    from .selection import (
        BackboneRankingDisplay,
        BlendDisplay,
        LayerProbeDisplay,
        StrategyDisplay,
        TransferClassifier,
        TransferRegressor,
        probe_layers,
        rank_backbones,
        recommend_strategy,
    )

__all__ = [
    "Augmentation",
    "AverageWeights",
    "Backbone",
    "BackboneRankingDisplay",
    "BlendDisplay",
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
    "extract_to",
    "from_dataset",
    "iter_features",
    "list_backbones",
    "list_layers",
    "load",
    "load_backbone",
    "load_features",
    "load_image_folder",
    "load_image_table",
    "load_onnx",
    "load_word_vectors",
    "make_prompts",
    "model_card",
    "probe_layers",
    "rank_backbones",
    "recommend_strategy",
    "register_backbone",
    "save",
    "to_onnx",
]

__version__ = "0.1.0"

# Packages are imported when a name is used: training and choosing import skorch and torchvision,
# which fixed features do not need.
_PACKAGE_OF = {
    "Augmentation": "finetuning",
    "AverageWeights": "finetuning",
    "Backbone": "backbones",
    "BackboneRankingDisplay": "selection",
    "BlendDisplay": "selection",
    "FeatureStore": "features",
    "FineTunedClassifier": "finetuning",
    "FineTunedRegressor": "finetuning",
    "ImagePreprocessing": "backbones",
    "LayerProbeDisplay": "selection",
    "PretrainedClassifier": "features",
    "PretrainedFeatureExtractor": "features",
    "StrategyDisplay": "selection",
    "TransferClassifier": "selection",
    "TransferRegressor": "selection",
    "UnreadableSamplesError": "data",
    "extract_to": "features.partitions",
    "from_dataset": "data",
    "iter_features": "features.partitions",
    "list_backbones": "backbones",
    "list_layers": "backbones",
    "load": "persistence",
    "load_backbone": "backbones",
    "load_features": "features.partitions",
    "load_image_folder": "data",
    "load_image_table": "data",
    "load_onnx": "backbones.onnx_files",
    "load_word_vectors": "backbones.wordvectors",
    "make_prompts": "backbones.zero_shot",
    "model_card": "persistence",
    "probe_layers": "selection",
    "rank_backbones": "selection",
    "recommend_strategy": "selection",
    "register_backbone": "backbones",
    "save": "persistence",
    "to_onnx": "persistence",
}
_PACKAGES = {"backbones", "data", "engines", "features", "finetuning", "inspection"}
_PACKAGES |= {"persistence", "selection", "transferability"}


def __getattr__(name: str) -> Any:
    from importlib import import_module

    if name in _PACKAGES:
        return import_module(f".{name}", __name__)
    if name not in _PACKAGE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_PACKAGE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
