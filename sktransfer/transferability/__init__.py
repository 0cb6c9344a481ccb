"""Scores of how well features suit a task, linear probes and folds: arrays in, numbers out.

No torch and no networks.
"""

from .folds import hold_out, make_folds, make_probe_folds, make_trial_folds, subsample
from .predictions import explained_share, leep, nce
from .probes import (
    PROBE_C,
    GlobalScaler,
    LinearProbe,
    RidgeProbe,
    out_of_fold_scores,
    solve_probe,
    summarise,
)
from .scorer import make_transferability_scorer
from .scores import h_score, logme, probe_score, transrate
from .shift import free_energy, gaussian_divergence, prediction_entropy

__all__ = [
    "PROBE_C",
    "GlobalScaler",
    "LinearProbe",
    "RidgeProbe",
    "explained_share",
    "free_energy",
    "gaussian_divergence",
    "h_score",
    "hold_out",
    "leep",
    "logme",
    "make_folds",
    "make_probe_folds",
    "make_transferability_scorer",
    "make_trial_folds",
    "nce",
    "out_of_fold_scores",
    "prediction_entropy",
    "probe_score",
    "solve_probe",
    "subsample",
    "summarise",
    "transrate",
]
