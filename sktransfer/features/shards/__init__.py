"""Extract features by shards into Parquet files, in one process or on a cluster."""

from .extract import extract_to
from .loading import iter_features, load_features
from .report import ExtractionReport
from .runner import ExtractionError

__all__ = [
    "ExtractionError",
    "ExtractionReport",
    "extract_to",
    "iter_features",
    "load_features",
]
