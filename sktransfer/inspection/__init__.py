"""Look at data and models: confusions, maps of features, near duplicates, label issues."""

from .displays import ConfusionDisplay, FeatureMapDisplay, TrainingHistoryDisplay
from .duplicates import NearDuplicates, find_near_duplicates
from .explaining import Saliency, SaliencyDisplay, saliency
from .label_issues import LabelIssues, find_label_issues
from .page import ReportData
from .reporting import report

__all__ = [
    "ConfusionDisplay",
    "FeatureMapDisplay",
    "LabelIssues",
    "NearDuplicates",
    "ReportData",
    "Saliency",
    "SaliencyDisplay",
    "TrainingHistoryDisplay",
    "find_label_issues",
    "find_near_duplicates",
    "report",
    "saliency",
]
