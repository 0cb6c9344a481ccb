"""What the source of weights states about their licence."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path
from typing import Any

__all__ = ["licence_of_folder", "licence_of_package"]

_LONGEST = 200  # characters of a statement; some packages put the whole text into their metadata
_FRONT_MATTER = re.compile(r"---\n.*?^license:\s*(\S.*?)\s*$.*?^---$", re.DOTALL | re.MULTILINE)


def licence_of_package(name: str) -> str | None:
    """Return what an installed package states about its licence, and where.

    Parameters
    ----------
    name : str
        Of the distribution.

    Returns
    -------
    str or None
        None if it is not installed or states nothing.
    """
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    for place, text in (("metadata", _in_metadata(found)), ("LICENSE", _in_file(found))):
        if text:
            return f"{text} ({place} of the package {name} {found.version})"
    return None


def _in_metadata(found: importlib.metadata.Distribution) -> str:
    """Return the licence in the metadata of a package, by the newer or the older field."""
    metadata: Any = found.metadata
    fields = [metadata.get(key) or "" for key in ("License-Expression", "License")]
    return next((text for text in fields if text != "UNKNOWN" and 0 < len(text) < _LONGEST), "")


def _in_file(found: importlib.metadata.Distribution) -> str:
    """Return the first line of the licence file of a package, which is the name."""
    for path in found.files or ():
        if path.name.upper().startswith(("LICENSE", "LICENCE")):
            lines = path.read_text().splitlines()
            return next((line.strip() for line in lines if line.strip()), "")[:_LONGEST]
    return ""


def licence_of_folder(folder: Path) -> str | None:
    """Return what the model card in a folder states about the licence, and where.

    Parameters
    ----------
    folder : Path
        Of a network in the format of the Hugging Face hub.

    Returns
    -------
    str or None
    """
    try:
        text = (folder / "README.md").read_text(errors="replace")
    except OSError:
        return None
    found = _FRONT_MATTER.match(text)
    return None if found is None else f"{found[1][:_LONGEST]} (README.md of the model)"
