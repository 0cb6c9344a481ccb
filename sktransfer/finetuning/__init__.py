"""Train the last stages of a backbone: rows, augmentation, head, loop and the two estimators."""

from .callbacks import StopAtTime
from .classifier import FineTunedClassifier
from .regressor import FineTunedRegressor
from .schedule import auto_batch_size, auto_epochs

__all__ = [
    "FineTunedClassifier",
    "FineTunedRegressor",
    "StopAtTime",
    "auto_batch_size",
    "auto_epochs",
]
