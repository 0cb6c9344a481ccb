"""Checks of the options of several commands."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

__all__ = ["refuse_together"]


def refuse_together(option: str, others: Mapping[str, Any], why: str = "") -> None:
    """Refuse options that have no effect beside one that is given.

    Parameters
    ----------
    option : str
        The name of the given one.
    others : mapping of str to object
        By name, the values of the others: None, False or empty where they are not given.
    why : str, default=""
        The reason, as the end of a sentence.

    Raises
    ------
    typer.BadParameter
        If another is given.
    """
    for name, value in others.items():
        if value is not None and value is not False and value != []:
            reason = f": {why}" if why else ""
            raise typer.BadParameter(f"{option} and {name} exclude each other{reason}.")
