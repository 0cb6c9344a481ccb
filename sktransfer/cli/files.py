"""The commands inspect and cache."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..features import FeatureStore
from ..persistence import inspect_file
from .output import print_rows

__all__ = ["cache", "inspect"]

_SHOWN = 20  # entries of a list


def inspect(
    path: Annotated[Path, typer.Argument(help="A file that train or sktransfer.save wrote.")],
) -> None:
    """List what is in the file of a model, without loading it."""
    found = inspect_file(path)
    names = ("estimator", "classes", "versions", "networks", "modules", "types", "parts")
    rows = [(name, line) for name in names for line in _lines(found.get(name))]
    print_rows(("part", "contents"), rows, grouped=True)


def _lines(value: Any) -> list[str]:
    """Describe a value, one line for each entry."""
    if isinstance(value, dict):
        numbers = {key: f"{v:,} bytes" if isinstance(v, int) else v for key, v in value.items()}
        return [f"{key} {v}" for key, v in numbers.items()] or ["none"]
    if isinstance(value, list) and all(isinstance(entry, dict) for entry in value):
        lines = [", ".join(f"{k} {v!s:.20}" for k, v in entry.items()) for entry in value]
        return lines or ["none"]
    if isinstance(value, list):
        shown = ", ".join(map(str, value[:_SHOWN]))
        more = f" and {len(value) - _SHOWN} more" if len(value) > _SHOWN else ""
        return [shown + more]
    return [str(value)]


def cache(
    folder: Annotated[Path, typer.Argument(help="The folder that was passed as memory=.")],
    clear: Annotated[bool, typer.Option("--clear", help="Remove all entries.")] = False,
) -> None:
    """Show the number and the size of the entries of a feature store, or remove them."""
    store = FeatureStore(folder)
    if not store.path.is_dir():
        raise FileNotFoundError(
            f"There is no feature store in {str(folder)!r}. Pass the folder that was given as "
            "memory= to an estimator."
        )
    if clear:
        store.clear()
    print(f"{len(store):,} entries, {store.nbytes:,} bytes")
