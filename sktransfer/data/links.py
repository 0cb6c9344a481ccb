"""Links to the documentation."""

from __future__ import annotations

import functools
import importlib.metadata

__all__ = ["documentation_link"]


def documentation_link(page: str) -> str:
    """Return the address of a page of the documentation.

    It begins with the project URL "Documentation" in the metadata of the installed package.

    Parameters
    ----------
    page : str
        Such as "generated/sktransfer.TransferClassifier.html".

    Returns
    -------
    str
        Empty if the metadata have no such URL.
    """
    root = _documentation()
    return f"{root.rstrip('/')}/{page}" if root else ""


@functools.cache
def _documentation() -> str:
    try:
        metadata = importlib.metadata.metadata(__name__.partition(".")[0])
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return ""
    pairs = (url.partition(",") for url in metadata.get_all("Project-URL") or ())
    return next((url.strip() for name, _, url in pairs if name.lower() == "documentation"), "")
