"""Train the last stages of a backbone: rows, augmentation, head, loop and the two estimators."""

from .callbacks import StopAtTime
from .classifier import FineTunedClassifier
from .regressor import FineTunedRegressor
from .schedule import training_length

__all__ = [
    "FineTunedClassifier",
    "FineTunedRegressor",
    "StopAtTime",
    "training_length",
]
