"""The classes of the package whose objects a file may hold, by the names that stand in files."""

from __future__ import annotations

from ..backbones import ImagePreprocessing
from ..backbones.tokenizer import TokenizerPreprocessing
from ..data import ClassTarget, IndicatorTarget, NumericTarget
from ..features import LayerChoice, PretrainedClassifier, PretrainedFeatureExtractor, SizeChoice
from ..features.word_weights import TokenWeights
from ..finetuning import Augmentation, FineTunedClassifier, FineTunedRegressor
from ..selection import TransferClassifier, TransferRegressor
from ..selection.blend import ClassBlend, NumberBlend
from ..selection.judging import BlendPart
from ..selection.linear_models import Discriminant, Linear, Probe
from ..selection.members import Block, Member
from ..selection.models import (
    Conditional,
    Direct,
    FittedOnFeatures,
    Mapped,
    OnFeatures,
)
from ..selection.tuned import TunedMember, TunedNumbers
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
        Block,
        BlendPart,
        ClassBlend,
        ClassTarget,
        Conditional,
        Direct,
        Discriminant,
        FittedOnFeatures,
        ImagePreprocessing,
        IndicatorTarget,
        LayerChoice,
        Linear,
        Mapped,
        Member,
        NumberBlend,
        NumericTarget,
        OnFeatures,
        Probe,
        SizeChoice,
        TokenWeights,
        TokenizerPreprocessing,
        TunedMember,
        TunedNumbers,
    )
}
