"""What one raw sample is: check a collection, open, digest and group samples; check labels.

A modality, such as image, text or array, is one object; ``register_modality`` adds another.
No torch: everything here works on paths, arrays and texts. ``disk`` holds what the caches of all
packages share.
"""

from .arrays import ArrayModality
from .base import (
    CONTROLS,
    UnreadableSamplesError,
    digest_array,
    forward_strides,
    named_among,
    printable,
    shorten,
    take,
    unwrap_column,
)
from .columns import split_columns, without_missing
from .datasets import from_dataset
from .disk import CacheError, checksum, claim_file, new_folder, replace_file, writing
from .folders import list_files, list_splits, load_image_folder
from .images import ImageModality, as_samples
from .interrupts import check_interrupt, kept_interrupts, was_interrupted
from .labels import check_labels, check_numbers, check_target, check_weights, naming
from .links import documentation_link
from .modality import Modality, SampleView, get_modality, register_modality
from .parts import ImageParts, NumberParts, Parts, TextParts
from .pixels import digest, open_image, read_image
from .progress import progress
from .tables import LEADING_ZERO, load_image_table, open_table
from .targets import (
    ClassTarget,
    IndicatorTarget,
    NumericTarget,
    Target,
    class_target,
    encode_target,
    find_task,
    is_numbers,
    open_target,
)
from .texts import TextModality, as_texts, pad_rows, padded_length
from .versions import package_versions, warn_later_versions

__all__ = [
    "CONTROLS",
    "LEADING_ZERO",
    "ArrayModality",
    "CacheError",
    "ClassTarget",
    "ImageModality",
    "ImageParts",
    "IndicatorTarget",
    "Modality",
    "NumberParts",
    "NumericTarget",
    "Parts",
    "SampleView",
    "Target",
    "TextModality",
    "TextParts",
    "UnreadableSamplesError",
    "as_samples",
    "as_texts",
    "check_interrupt",
    "check_labels",
    "check_numbers",
    "check_target",
    "check_weights",
    "checksum",
    "claim_file",
    "class_target",
    "digest",
    "digest_array",
    "documentation_link",
    "encode_target",
    "find_task",
    "forward_strides",
    "from_dataset",
    "get_modality",
    "is_numbers",
    "kept_interrupts",
    "list_files",
    "list_splits",
    "load_image_folder",
    "load_image_table",
    "named_among",
    "naming",
    "new_folder",
    "open_image",
    "open_table",
    "open_target",
    "package_versions",
    "pad_rows",
    "padded_length",
    "printable",
    "progress",
    "read_image",
    "register_modality",
    "replace_file",
    "shorten",
    "split_columns",
    "take",
    "unwrap_column",
    "warn_later_versions",
    "was_interrupted",
    "without_missing",
    "writing",
]
