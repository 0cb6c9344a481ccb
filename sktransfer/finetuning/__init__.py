"""Train the last stages of a backbone: rows, augmentation, head, loop and the two estimators."""

from .classifier import FineTunedClassifier
from .regressor import FineTunedRegressor

__all__ = ["FineTunedClassifier", "FineTunedRegressor"]
