"""Scores of how well features suit a task, linear probes and folds: arrays in, numbers out.

No torch and no networks.
"""

from .ensembles import greedy_weights, log_loss, mixture_weights, temperature
from .folds import (
    check_folds,
    hold_out,
    make_folds,
    make_probe_folds,
    make_trial_folds,
    subsample,
)
from .predictions import (
    explained_share,
    free_energy,
    gaussian_divergence,
    labels_given_classes,
    leep,
    nce,
    prediction_entropy,
)
from .probes import PROBE_C, GlobalScaler, LinearProbe, RidgeProbe, solve_probe
from .ridge import (
    MANY_CLASSES,
    Dual,
    discriminant,
    fit_discriminant,
    indicators,
    inner_products,
    one_thread_if_small,
    out_of_fold_scores,
    scale_of,
    small_in_one_thread,
    solve_large_ridge,
    solve_ridge,
    summarise,
    unit_rows,
)
from .scores import h_score, logme, make_transferability_scorer, probe_score, transrate

__all__ = [
    "MANY_CLASSES",
    "PROBE_C",
    "Dual",
    "GlobalScaler",
    "LinearProbe",
    "RidgeProbe",
    "check_folds",
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
    "log_loss",
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
