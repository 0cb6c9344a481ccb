"""The classes of the package whose objects a file may hold, by the names that stand in files."""

from __future__ import annotations

from ..backbones import ImagePreprocessing
from ..backbones.text_encoders import TokenizerPreprocessing
from ..data import ClassTarget, IndicatorTarget, NumericTarget
from ..features import (
    LayerChoice,
    Output,
    PretrainedClassifier,
    PretrainedFeatureExtractor,
    SizeChoice,
)
from ..features.word_weights import TokenWeights
from ..finetuning import Augmentation, FineTunedClassifier, FineTunedRegressor
from ..selection import Blend, TransferClassifier, TransferRegressor
from ..selection.candidates import (
    ClassifierCandidate,
    ClassMapCandidate,
    LinearCandidate,
    OwnClassesCandidate,
    TunedCandidate,
)
from ..transferability import GlobalScaler, LinearProbe, RidgeProbe

__all__ = ["ESTIMATORS", "PLAIN"]

# Their state is that of their pickles.
ESTIMATORS = {
    cls.__name__: cls
    for cls in (
        Augmentation,
        FineTunedClassifier,
        FineTunedRegressor,
        GlobalScaler,
        LinearProbe,
        PretrainedClassifier,
        PretrainedFeatureExtractor,
        RidgeProbe,
        TransferClassifier,
        TransferRegressor,
    )
}

# Their state is the values of their attributes. A class that is renamed keeps its name here.
PLAIN = {
    cls.__name__: cls
    for cls in (
        Blend,
        ClassMapCandidate,
        ClassTarget,
        ClassifierCandidate,
        ImagePreprocessing,
        IndicatorTarget,
        LayerChoice,
        LinearCandidate,
        NumericTarget,
        Output,
        OwnClassesCandidate,
        SizeChoice,
        TokenWeights,
        TokenizerPreprocessing,
        TunedCandidate,
    )
}
