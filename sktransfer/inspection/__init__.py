"""Look at data and models: confusions, maps of features, near duplicates, label issues."""

from .confusion import ConfusionDisplay
from .duplicates import NearDuplicates, find_near_duplicates
from .explaining import Saliency, saliency
from .facts import Report
from .feature_map import FeatureMapDisplay
from .history import TrainingHistoryDisplay
from .label_issues import LabelIssues, find_label_issues
from .reporting import report
from .saliency_display import SaliencyDisplay

__all__ = [
    "ConfusionDisplay",
    "FeatureMapDisplay",
    "LabelIssues",
    "NearDuplicates",
    "Report",
    "Saliency",
    "SaliencyDisplay",
    "TrainingHistoryDisplay",
    "find_label_issues",
    "find_near_duplicates",
    "report",
    "saliency",
]
