"""Draw samples: small pictures, or lines of text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ..data import Modality, take
from ..features import find_network

__all__ = ["draw_preview", "nested_axes", "previews_of", "samples_of"]


def samples_of(estimator: Any, X: Any) -> tuple[Sequence[Any], Modality]:
    """Return the samples that the network of an estimator is given, and their modality.

    Parameters
    ----------
    estimator : estimator of sktransfer, or a fitted pipeline with one
    X : list, array, Series or DataFrame

    Returns
    -------
    samples : sequence
    modality : Modality
    """
    found = find_network(estimator)
    return found.check(X), found.modality


def previews_of(
    samples: Sequence[Any], modality: Modality, rows: Iterable[int], side: int = 160
) -> list[Any]:
    """Return a picture or a line of text for some samples.

    Parameters
    ----------
    samples : sequence
    modality : Modality
    rows : sequence of int
    side : int, default=160
        Of a picture, in pixels.

    Returns
    -------
    list of PIL.Image.Image or str
        A sample that cannot be read has the error as its text.
    """
    found = []
    for sample in take(samples, list(rows)):
        try:
            found.append(modality.preview(sample, side))
        except Exception as error:  # decoders raise anything
            found.append(f"unreadable: {error}")
    return found


def draw_preview(ax: Any, preview: Any, title: str = "") -> None:
    """Draw a picture or a line of text into axes without ticks."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title, fontsize="small")
    if isinstance(preview, str):
        lines = textwrap.fill(textwrap.shorten(preview, 120, placeholder=" …"), 22)
        ax.text(0.5, 0.5, lines, ha="center", va="center", fontsize="x-small", parse_math=False)
        for spine in ax.spines.values():
            spine.set_alpha(0.3)
    else:
        ax.imshow(np.asarray(preview))
        ax.set_frame_on(False)


def nested_axes(ax: Any, n_rows: int, n_columns: int, **ratios: Any) -> tuple[Any, np.ndarray]:
    """Divide the place of axes, which are hidden, into a table of axes.

    Parameters
    ----------
    ax : matplotlib Axes
        Of a grid of axes, as ``plt.subplots`` makes them.
    n_rows, n_columns : int
    **ratios
        Of the grid, such as ``width_ratios``.

    Returns
    -------
    grid : GridSpecFromSubplotSpec
    axes : ndarray of shape (n_rows, n_columns), of functions that make the axes
    """
    place = ax.get_subplotspec()
    if place is None:
        raise ValueError("ax must be in a grid of axes, as plt.subplots or add_subplot make it.")
    ax.set_axis_off()
    grid = place.subgridspec(n_rows, n_columns, **ratios)
    make = [
        [(lambda at=grid[i, j]: ax.figure.add_subplot(at)) for j in range(n_columns)]
        for i in range(n_rows)
    ]
    return grid, np.array(make, dtype=object).reshape(n_rows, n_columns)
