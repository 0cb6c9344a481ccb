"""Convert the values of arrays of images, and name likely mistakes."""

from __future__ import annotations

import warnings

import numpy as np

__all__ = ["check_channels", "to_range", "warn_of_mask"]

# Values of images after the means and standard deviations of ImageNet: from -2.12 to 2.64.
_NORMALISED = 3


def to_range(array: np.ndarray) -> np.ndarray:
    """Convert an array of any numeric type to uint8 in [0, 255] or float32 in [0, 1].

    Parameters
    ----------
    array : ndarray

    Returns
    -------
    ndarray of the same shape

    Raises
    ------
    ValueError
        If values are not finite, or not in the range of their type.
    """
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    if array.dtype == bool:
        return array.astype(np.uint8) * np.uint8(255)
    if array.dtype == np.uint16:
        return np.divide(array, 65535, dtype=np.float32)
    low, high = (array.min(), array.max()) if array.size else (0, 0)
    if not np.isfinite([low, high]).all():
        raise ValueError("contains NaN or infinity")
    if array.dtype.kind != "f" and 0 <= low and high <= 255:
        warn_of_mask(low, high)
        return array.astype(np.uint8, copy=False)
    if array.dtype.kind == "f" and 0 <= low and high <= 1:
        return array.astype(np.float32, copy=False)
    raise ValueError(
        f"{array.dtype} values from {low:g} to {high:g}: give floats in [0, 1], or uint8. "
        f"{_hint(low, high)}"
    )


def warn_of_mask(low: float, high: float) -> None:
    """Warn if the values of an image with 8 bits are 0 and 1 only.

    Parameters
    ----------
    low, high : int
        The least and the greatest value.
    """
    if (low, high) == (0, 1):
        warnings.warn(
            "An image of integers has the values 0 and 1 only, which are both black: 255 is white. "
            "Give a mask as bool, mask.astype(bool).",
            stacklevel=2,
        )


def _hint(low: float, high: float) -> str:
    """Say which conversion probably brings values into [0, 1]."""
    if -1 <= low < 0 and high <= 1:
        return "Perhaps the range is [-1, 1]: give (image + 1) / 2."
    if -_NORMALISED <= low < 0 and high <= _NORMALISED:
        return (
            "Perhaps the means and standard deviations of ImageNet were applied: give images "
            "before this step, which is part of the network's preprocessing."
        )
    return f"Perhaps divide by {_divisor(high)}."


def _divisor(high: float) -> int:
    return next((top for top in (16, 255, 4095) if high <= top), 65535)


def check_channels(array: np.ndarray) -> None:
    """Refuse an array that is not an image ``(h, w, channels)``.

    Parameters
    ----------
    array : ndarray

    Raises
    ------
    ValueError
        If it has another number of axes, no pixels, or not 1, 3 or 4 channels.
    """
    if array.ndim != 3 or 0 in array.shape:
        raise ValueError(
            f"an array of shape {array.shape} is not an image (h, w) or (h, w, channels)"
        )
    if array.shape[2] in (1, 3, 4):
        return
    first = array.shape[0] in (1, 3, 4)
    hint = "; the channels are first: give np.moveaxis(image, 0, -1)" if first else ""
    raise ValueError(
        f"{array.shape[2]} channels{hint}; an image has 1, 3 or 4. Tensors have the channels "
        "first, arrays have them last"
    )
