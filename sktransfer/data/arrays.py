"""The modality of numeric arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.utils import InputTags, check_array

from .base import digest_array, plain_array
from .modality import Modality, register_modality
from .parts import NumberParts

__all__ = ["ArrayModality"]


class ArrayModality(Modality):
    """Numeric arrays of any shape, which are the input of a network as float32."""

    name = "array"
    noun = "arrays"

    def check(
        self,
        X: Any,
        *,
        image_shape: tuple[int, ...] | None = None,
        validate: Callable[..., Any] = check_array,
    ) -> np.ndarray:
        if hasattr(X, "detach"):  # a tensor
            X = X.detach().cpu().numpy()
        if np.ma.isMaskedArray(X):
            X = plain_array(X, "X")
        return validate(X, dtype=np.float32, allow_nd=True)

    def digest(self, sample: np.ndarray) -> bytes:
        return digest_array(sample)

    def example(self, shape: tuple[int, ...] | None = None) -> np.ndarray | None:
        if shape is None:
            return None
        return np.cos(1.7 * np.arange(np.prod(shape))).astype(np.float32).reshape(shape)

    def parts(self, sample: np.ndarray) -> NumberParts:
        return NumberParts(np.asarray(self.read(sample), np.float32))

    def set_tags(self, input_tags: InputTags, *, from_table: bool = False) -> None:
        input_tags.two_d_array = True
        input_tags.three_d_array = input_tags.string = False


register_modality(ArrayModality())
