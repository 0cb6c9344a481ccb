"""Extract features by partitions into Parquet files, in one process or on a cluster."""

from .extract import ExtractionReport, extract_to
from .load import iter_features, load_features
from .run import ExtractionError

__all__ = [
    "ExtractionError",
    "ExtractionReport",
    "extract_to",
    "iter_features",
    "load_features",
]
