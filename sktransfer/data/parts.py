"""The parts of a sample that can be left out, to see which of them a prediction depends on."""

from __future__ import annotations

import abc
import re
from typing import Any

import numpy as np

__all__ = ["ImageParts", "NumberParts", "Parts", "TextParts"]

_WORD = re.compile(r"\w+(?:['’\-]\w+)*")
_CELLS = 8  # along each side of an image


class Parts(abc.ABC):
    """The parts of one sample.

    Attributes
    ----------
    shape : tuple of int
        How the parts are arranged: ``(n_words,)``, or ``(rows, columns)`` of cells of an image.
    shown : object
        What the parts belong to, to be shown: the text, or the image.
    spans : list of (int, int) or None
        Where each word of a text begins and ends.
    """

    shape: tuple[int, ...]
    shown: Any
    spans: list[tuple[int, int]] | None = None

    @abc.abstractmethod
    def keep(self, kept: np.ndarray) -> Any:
        """Return the sample without the parts for which ``kept``, of this shape, is False."""


class TextParts(Parts):
    """The words of a text.

    Parameters
    ----------
    text : str
    """

    shown: Any
    spans: list[tuple[int, int]] | None
    shape: tuple[int, ...]

    def __init__(self, text: str):
        self.text = self.shown = text
        self.spans = [match.span() for match in _WORD.finditer(text)]
        self.shape = (len(self.spans),)

    def keep(self, kept: np.ndarray) -> str:
        left, at = [], 0
        for (start, stop), is_kept in zip(self.spans or (), kept, strict=True):
            left += [self.text[at:start], self.text[start:stop] if is_kept else ""]
            at = stop
        return "".join([*left, self.text[at:]])


class ImageParts(Parts):
    """The cells of a grid over an image. A cell that is left out has the mean colour.

    Parameters
    ----------
    image : ndarray of shape (height, width, channels)
    """

    shown: Any
    shape: tuple[int, ...]

    def __init__(self, image: np.ndarray):
        self.image = self.shown = image
        self.shape = tuple(min(_CELLS, side) for side in image.shape[:2])

    def keep(self, kept: np.ndarray) -> np.ndarray:
        rows, columns = (
            np.arange(side) * cells // side
            for side, cells in zip(self.image.shape[:2], self.shape, strict=True)
        )
        colour = self.image.mean((0, 1)).astype(self.image.dtype)
        return np.where(kept[np.ix_(rows, columns)][..., None], self.image, colour)


class NumberParts(Parts):
    """The numbers of an array. A number that is left out is 0.

    Parameters
    ----------
    sample : ndarray
    """

    shown: Any
    shape: tuple[int, ...]

    def __init__(self, sample: np.ndarray):
        self.sample = self.shown = sample
        self.shape = sample.shape

    def keep(self, kept: np.ndarray) -> np.ndarray:
        return np.where(kept, self.sample, 0).astype(self.sample.dtype)
