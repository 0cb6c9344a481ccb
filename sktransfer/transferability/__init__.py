"""Scores of how well features suit a task, linear probes and folds: arrays in, numbers out.

No torch and no networks.
"""

from .blas import one_thread_if_small, small_in_one_thread
from .discriminant import MANY_CLASSES, discriminant, fit_discriminant, indicators
from .dual import Dual, inner_products, scale_of, solve_large_ridge, solve_ridge, unit_rows
from .ensembles import greedy_weights, mixture_weights, temperature
from .folds import hold_out, make_folds, make_probe_folds, make_trial_folds, subsample
from .out_of_fold import out_of_fold_scores, summarise
from .predictions import explained_share, labels_given_classes, leep, nce
from .probes import (
    PROBE_C,
    GlobalScaler,
    LinearProbe,
    RidgeProbe,
    solve_probe,
)
from .scorer import make_transferability_scorer
from .scores import h_score, logme, probe_score, transrate
from .shift import free_energy, gaussian_divergence, prediction_entropy

__all__ = [
    "MANY_CLASSES",
    "PROBE_C",
    "Dual",
    "GlobalScaler",
    "LinearProbe",
    "RidgeProbe",
    "discriminant",
    "explained_share",
    "fit_discriminant",
    "free_energy",
    "gaussian_divergence",
    "greedy_weights",
    "h_score",
    "hold_out",
    "indicators",
    "inner_products",
    "labels_given_classes",
    "leep",
    "logme",
    "make_folds",
    "make_probe_folds",
    "make_transferability_scorer",
    "make_trial_folds",
    "mixture_weights",
    "nce",
    "one_thread_if_small",
    "out_of_fold_scores",
    "prediction_entropy",
    "probe_score",
    "scale_of",
    "small_in_one_thread",
    "solve_large_ridge",
    "solve_probe",
    "solve_ridge",
    "subsample",
    "summarise",
    "temperature",
    "transrate",
    "unit_rows",
]
