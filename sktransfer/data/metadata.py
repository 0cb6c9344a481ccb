"""What packages state when they are installed: versions, and the place of the documentation."""

from __future__ import annotations

import importlib.metadata
import sys
import warnings
from collections.abc import Mapping

_PACKAGES = ("torch", "scikit-learn")


def package_versions() -> dict[str, str]:
    """Return the versions of this package and of those that a fitted model depends on."""
    root = __name__.partition(".")[0]
    own = sys.modules[root].__version__  # type: ignore[attr-defined]
    return {root: own} | {name: importlib.metadata.version(name) for name in _PACKAGES}


def warn_later_versions(recorded: Mapping[str, str], what: str) -> None:
    """Warn if a file was written with a later major version of a package.

    ``recorded`` is what :func:`package_versions` returned then; ``what`` names the file.
    """
    installed = package_versions()
    later = [
        f"{name} {recorded[name]} (here: {installed[name]})"
        for name in installed
        if name in recorded and _major(recorded[name]) > _major(installed[name])
    ]
    if later:
        warnings.warn(
            f"{what} was saved with {', '.join(later)}. Predictions may differ, or fail. Install "
            "the same major versions.",
            UserWarning,
            stacklevel=3,
        )


def _major(version: str) -> int:
    first = str(version).partition(".")[0]
    return int(first) if first.isdigit() and len(first) < 6 else 0


def documentation_link(page: str) -> str:
    """Return the address of a page of the documentation, such as "generated/x.html".

    It begins with the project URL "Documentation" in the metadata of the installed package, and is
    empty if there is none.
    """
    try:
        metadata = importlib.metadata.metadata(__name__.partition(".")[0])
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return ""
    pairs = (url.partition(",") for url in metadata.get_all("Project-URL") or ())
    root = next((url.strip() for name, _, url in pairs if name.lower() == "documentation"), "")
    return f"{root.rstrip('/')}/{page}" if root else ""
