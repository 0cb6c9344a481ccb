"""What one raw sample is: check a collection, open, digest and group samples; check labels.

No torch: everything here works on paths, arrays and texts.
"""

from .base import UnreadableSamplesError, named_among, take
from .images import as_samples, digest, open_image
from .targets import check_present, encode_target, find_task, is_numbers
from .texts import as_texts, padded_length

__all__ = [
    "UnreadableSamplesError",
    "as_samples",
    "as_texts",
    "check_present",
    "digest",
    "encode_target",
    "find_task",
    "is_numbers",
    "named_among",
    "open_image",
    "padded_length",
    "take",
]
