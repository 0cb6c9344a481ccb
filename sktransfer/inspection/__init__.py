"""Look at data and models: confusions, maps of features, near duplicates, label issues."""

from .confusion import ConfusionDisplay
from .duplicates import NearDuplicates, find_near_duplicates
from .feature_map import FeatureMapDisplay
from .history import TrainingHistoryDisplay
from .label_issues import LabelIssues, find_label_issues

__all__ = [
    "ConfusionDisplay",
    "FeatureMapDisplay",
    "LabelIssues",
    "NearDuplicates",
    "TrainingHistoryDisplay",
    "find_label_issues",
    "find_near_duplicates",
]
