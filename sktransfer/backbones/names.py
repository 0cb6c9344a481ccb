"""Say what is meant by the name of a backbone that is not known."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from ..data import shorten

__all__ = ["unknown_backbone"]


def unknown_backbone(name: str, known: Iterable[str]) -> ValueError:
    """Make the error for an unknown name, with the nearest names or the prefix that is missing.

    Parameters
    ----------
    name : str
    known : iterable of str

    Returns
    -------
    ValueError
    """
    unknown = f"backbone {shorten(name, 80)!r} is not known."
    if "/" in name:
        return ValueError(
            f"{unknown} A sentence encoder of the Hugging Face hub, or in a folder, is "
            f"'hf:{shorten(name, 80)}'. Networks for images are those of torchvision and "
            "'timm:<name>', such as 'timm:vit_base_patch16_224'."
        )
    near = difflib.get_close_matches(name, known, n=5, cutoff=0.4)
    nearest = f"Nearest: {near}; all" if near else "All"
    return ValueError(
        f"{unknown} {nearest}: sktransfer.list_backbones(). A name of your own needs "
        "sktransfer.register_backbone first."
    )
