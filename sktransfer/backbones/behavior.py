"""What a network computes for one fixed sample, to notice that code has changed.

A fingerprint shows other weights, settings and code, as far as these can be described. What it does
not show, the output shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

_NUMBERS = 256  # that remain of a longer output
_LARGEST = 2**26  # numbers of a sample
# Relative L2 distance of two outputs that are the same. Processors differ by their rounding.
_SAME = 1e-3


def sketch(row: np.ndarray) -> np.ndarray:
    """Reduce a row of any shape to 256 numbers whose relative distances are about the same.

    They are sums of its entries with random signs, which are the same for all rows.
    """
    numbers = np.asarray(row, np.float32).ravel()
    padded = np.zeros(-(-numbers.size // _NUMBERS) * _NUMBERS, np.float32)
    padded[: numbers.size] = numbers
    signs = np.random.RandomState(0).randint(0, 2, padded.size) * 2 - 1
    return (padded * signs).reshape(-1, _NUMBERS).sum(axis=0, dtype=np.float32)


def observe(
    backbone: Any, shapes: Sequence[tuple[int, ...] | None] | None = None
) -> dict[str, Any] | None:
    """Run a network on a sample that is always the same.

    Its shape is the first of ``shapes`` that the network takes (see
    :meth:`sktransfer.data.Modality.example`); by default the usual one, and that of samples which
    the network has had. Returns the "shape", and "numbers", a sketch of the output; None if the
    network does not take such a sample, or two runs differ. A network of transformers is run once.
    """
    if shapes is None:
        n_channels = len(getattr(backbone.preprocess, "mean", (0, 0, 0)))
        usual = None if n_channels == 3 else (240, 320, n_channels)
        shapes = usual, next(iter(backbone.prepared.get("inspected", ())), None)
    for shape in shapes:
        sample = backbone.modality.example(shape)
        if sample is None:
            continue
        try:
            if backbone.is_of_folder:  # code of transformers, without draws in this mode
                first = second = _run(backbone, sample)
            else:
                first, second = (_run(backbone, sample) for _ in range(2))
        except Exception:  # own code may raise anything
            continue
        if _distance(first, second) > _SAME:
            return None
        return {"shape": shape and list(shape), "numbers": first.tolist()}
    return None


@torch.inference_mode()
def _run(backbone: Any, sample: Any) -> np.ndarray:
    return sketch(backbone.module(backbone.open(sample)[None].clone()).float().numpy())


def check_behavior(backbone: Any, recorded: dict[str, Any] | None) -> None:
    """Raise ValueError if a network does not compute what :func:`observe` recorded.

    Also if what was recorded is damaged. None is not compared.
    """
    if recorded is None:
        return
    shape, numbers = _checked(recorded)
    observed = observe(backbone, [shape])
    if observed is None or _distance(np.asarray(observed["numbers"], np.float32), numbers) > _SAME:
        raise ValueError(
            f"Backbone {backbone.name!r} does not compute what it computed when the estimator was "
            "saved: its code, its preprocessing or another setting that its fingerprint does not "
            "hold has changed. Use the same code and files, or fit again."
        )


def _checked(recorded: Any) -> tuple[tuple[int, ...] | None, np.ndarray]:
    """Return the shape and the numbers of a record, which may come from a file."""
    try:
        shape = recorded["shape"] and tuple(map(int, recorded["shape"]))
        numbers = np.array(recorded["numbers"], np.float32)
        if numbers.shape == (_NUMBERS,) and 0 <= np.prod(shape or 0, dtype=float) <= _LARGEST:
            return shape, numbers
    except (KeyError, TypeError, ValueError, OverflowError):
        pass
    raise ValueError("the output of the network that the file holds is damaged")


def _distance(numbers: np.ndarray, expected: np.ndarray) -> float:
    if numbers.shape != expected.shape:
        return np.inf
    difference = np.where(numbers == expected, 0, numbers - expected)
    distance = np.linalg.norm(difference) / (np.linalg.norm(np.nan_to_num(expected)) + 1e-8)
    return float(np.nan_to_num(distance, nan=np.inf))
