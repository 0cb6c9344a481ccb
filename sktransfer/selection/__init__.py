"""Choose a strategy, a layer and a backbone from measurements, and plot the evidence."""

from .blend import Blend
from .blend_display import BlendDisplay
from .candidates import COUNTS, Candidate, ClassifierCandidate
from .display import BackboneRankingDisplay, LayerProbeDisplay, StrategyDisplay, new_axes
from .ranking import BackboneRanking, probe_layers, rank_backbones
from .recommend import recommend_strategy
from .recommendation import Recommendation, StrategyEstimate
from .regressor import TransferRegressor
from .strategies import STRATEGIES, Strategy, available_strategies
from .transfer import TransferClassifier

__all__ = [
    "COUNTS",
    "STRATEGIES",
    "BackboneRanking",
    "BackboneRankingDisplay",
    "Blend",
    "BlendDisplay",
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
    "new_axes",
    "probe_layers",
    "rank_backbones",
    "recommend_strategy",
]
