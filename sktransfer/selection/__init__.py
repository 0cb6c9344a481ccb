"""Choose a strategy, a layer and a backbone from measurements, and plot the evidence."""

from .blend import Blend
from .blend_estimator import BlendEstimator, column_networks, columns_read
from .candidates import COUNTS, Candidate, ClassifierCandidate
from .displays import (
    BackboneRankingDisplay,
    BlendDisplay,
    LayerProbeDisplay,
    StrategyDisplay,
    new_axes,
)
from .ranking import BackboneRanking, probe_layers, rank_backbones
from .recommendation import Recommendation, StrategyEstimate, recommend_strategy
from .strategies import RULES, STRATEGIES, Strategy, available_strategies
from .transfer import TransferClassifier, TransferRegressor

__all__ = [
    "COUNTS",
    "RULES",
    "STRATEGIES",
    "BackboneRanking",
    "BackboneRankingDisplay",
    "Blend",
    "BlendDisplay",
    "BlendEstimator",
    "Candidate",
    "ClassifierCandidate",
    "LayerProbeDisplay",
    "Recommendation",
    "Strategy",
    "StrategyDisplay",
    "StrategyEstimate",
    "TransferClassifier",
    "TransferRegressor",
    "available_strategies",
    "column_networks",
    "columns_read",
    "new_axes",
    "probe_layers",
    "rank_backbones",
    "recommend_strategy",
]
