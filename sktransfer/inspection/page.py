"""Render a page of HTML that needs neither a network nor scripts."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .explaining import Saliency
from .saliency_display import overlay, scaled_values

__all__ = ["Shown", "render", "show", "show_saliency"]

_FOLDER = Path(__file__).parent / "templates"
_QUALITY, _SIDE = 82, 256  # of pictures: JPEG quality, and the longer side in pixels


class Shown:
    """What a page shows of a sample: a picture, or a text with marked words.

    Parameters
    ----------
    picture : str, default=""
        A data URI.
    parts : list of (str, float), default=()
        Pieces of a text with values between -1 and 1.
    """

    parts: list[tuple[str, float]]

    def __init__(self, picture: str = "", parts: Iterable[tuple[str, float]] = ()):
        self.picture = picture
        self.parts = list(parts)


def show(preview: Any) -> Shown:
    """Return a picture or a text for a page.

    Parameters
    ----------
    preview : PIL.Image.Image, ndarray of shape (height, width, 3) or str

    Returns
    -------
    Shown
    """
    return Shown(parts=[(preview, 0.0)]) if isinstance(preview, str) else Shown(_uri(preview))


def show_saliency(found: Saliency, i: int) -> Shown:
    """Return the saliency of a sample for a page.

    Parameters
    ----------
    found : Saliency
    i : int
        The position of the sample.

    Returns
    -------
    Shown
    """
    if found.spans[i] is None:
        image = np.ndim(found.shown[i]) == 3
        return Shown(_uri(overlay(found, i))) if image else Shown()
    text, at, parts = found.shown[i], 0, []
    for (start, stop), value in zip(found.spans[i], scaled_values(found.maps[i]), strict=True):
        parts += [(text[at:start], 0.0), (text[start:stop], float(value))]
        at = stop
    return Shown(parts=[*parts, (text[at:], 0.0)])


def _uri(picture: Any) -> str:
    from PIL import Image

    image = picture if isinstance(picture, Image.Image) else Image.fromarray(np.asarray(picture))
    image.thumbnail((_SIDE, _SIDE))
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def render(template: str, **values: Any) -> str:
    """Fill a template.

    Parameters
    ----------
    template : str
        The name of its file.
    **values
        Texts among them are escaped.

    Returns
    -------
    str
    """
    try:
        import jinja2
    except ImportError:
        raise ImportError("Reports need jinja2: pip install 'sktransfer[inspect]'") from None
    loader = jinja2.FileSystemLoader(_FOLDER)
    environment = jinja2.Environment(
        loader=loader,
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = "{:.0%}".format
    environment.filters["number"] = "{:.3g}".format
    return environment.get_template(template).render(values)
