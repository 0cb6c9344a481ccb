"""Scores of how well features suit a task, linear probes and folds: arrays in, numbers out.

No torch and no networks.
"""

from .folds import make_folds, make_probe_folds, subsample
from .probes import PROBE_C, LinearProbe, OneScale, judge, summarise
from .scorer import make_transferability_scorer
from .scores import explained_share, h_score, leep, logme, nce, probe_score, transrate
from .shift import free_energy, gaussian_divergence, prediction_entropy

__all__ = [
    "PROBE_C",
    "LinearProbe",
    "OneScale",
    "explained_share",
    "free_energy",
    "gaussian_divergence",
    "h_score",
    "judge",
    "leep",
    "logme",
    "make_folds",
    "make_probe_folds",
    "make_transferability_scorer",
    "nce",
    "prediction_entropy",
    "probe_score",
    "subsample",
    "summarise",
    "transrate",
]
