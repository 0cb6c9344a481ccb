"""Look at data and models: confusions, maps of features, near duplicates, label issues."""

from .confusion import ConfusionDisplay
from .duplicates import NearDuplicates, find_near_duplicates
from .feature_map import FeatureMapDisplay
from .history import TrainingHistoryDisplay
from .label_issues import LabelIssues, find_label_issues
from .saliency import Saliency, saliency
from .saliency_display import SaliencyDisplay

__all__ = [
    "ConfusionDisplay",
    "FeatureMapDisplay",
    "LabelIssues",
    "NearDuplicates",
    "Saliency",
    "SaliencyDisplay",
    "TrainingHistoryDisplay",
    "find_label_issues",
    "find_near_duplicates",
    "saliency",
]
