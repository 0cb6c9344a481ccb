"""Train the last stages of a backbone: rows, augmentation, head, loop and the two estimators."""

from .augment import Augmentation
from .callbacks import StopAtTime
from .classifier import FineTunedClassifier
from .regressor import FineTunedRegressor
from .schedule import training_length

__all__ = [
    "Augmentation",
    "FineTunedClassifier",
    "FineTunedRegressor",
    "StopAtTime",
    "training_length",
]
