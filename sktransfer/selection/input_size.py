"""Compare the size of samples with the size of the input of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backbones import Backbone, takes_size

__all__ = ["note_on_size"]

# A larger input that shows more: 288 pixels for weights that were trained with 224. In training,
# objects are enlarged by random crops, so that the best size of a test is larger (Touvron et al.,
# 2019, Fixing the train-test resolution discrepancy, NeurIPS).
_LARGER = 9 / 7
_LOOKED_AT = 20  # samples whose headers are read


def note_on_size(backbone: Backbone, samples: Sequence[Any]) -> str | None:
    """Say what a larger input costs, where samples have more pixels than the network takes.

    Parameters
    ----------
    backbone : Backbone
    samples : sequence

    Returns
    -------
    str or None
        None if the input is not that of the training of the weights, if the network takes no other,
        or if more than half of the samples have too few pixels.
    """
    shape = backbone.input_shape or ()
    if len(shape) != 3 or backbone.native_shape or not hasattr(backbone.preprocess, "with_size"):
        return None
    native = max(shape[1:])
    larger = round(native * _LARGER)
    side = _median_side(backbone, samples)
    if side is None or side < larger or not takes_size(backbone, larger):
        return None
    return (
        f"the samples are larger ({side} pixels) than the input of the network ({native}): "
        f"image_size={larger} may see more, in {(larger / native) ** 2:.1f} times the time"
    )


def _median_side(backbone: Backbone, samples: Sequence) -> int | None:
    places = np.unique(np.linspace(0, len(samples) - 1, _LOOKED_AT).astype(int))
    sides = [backbone.modality.side(samples[i]) for i in places]
    known = [side for side in sides if side is not None]
    return int(np.median(known)) if known else None
