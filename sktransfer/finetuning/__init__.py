"""Train the last stages of a backbone: rows, augmentation, head, loop and the two estimators."""

from .augmentation import Augmentation
from .callbacks import AverageWeights, StopAtTime
from .classifier import FineTunedClassifier
from .distributed import refuse_launcher
from .plan import training_length
from .regressor import FineTunedRegressor

__all__ = [
    "Augmentation",
    "AverageWeights",
    "FineTunedClassifier",
    "FineTunedRegressor",
    "StopAtTime",
    "refuse_launcher",
    "training_length",
]
