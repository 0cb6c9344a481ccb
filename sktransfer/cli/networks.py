"""The commands backbones and layers."""

from __future__ import annotations

import warnings
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Annotated

import torch
import typer
from rich.columns import Columns
from rich.console import Console

from ..backbones import Backbone, inspect_layers, list_backbones, load_backbone, penultimate
from .output import print_rows

__all__ = ["backbones", "layers"]

_TIMM = "The networks of timm require: pip install 'sktransfer[timm]'"
# Backbones that have no architecture without their weights.
_NEED_WEIGHTS = ("glove_6b_50d",)
_TEXT = "a film"  # the sample of text backbones whose shapes are shown


def backbones(
    pattern: Annotated[
        str,
        typer.Argument(help="A part of the name, or a shell-style pattern: vgg, 'timm:vit*'."),
    ] = "*",
) -> None:
    """List the names of backbones."""
    names = list_backbones(_as_pattern(pattern))
    if not names:
        raise ValueError(f"No backbone matches {pattern!r}. {_hint(pattern)}")
    console = Console()
    if not console.is_terminal:  # one name a line, for grep and similar programs
        print(*names, sep="\n")
        return
    console.print(Columns(names, padding=(0, 3)))
    console.print(f"[dim]{len(names)} backbones[/]")


def _as_pattern(text: str) -> str:
    if any(mark in text for mark in "*?["):
        return text
    return f"{text}*" if text.startswith("timm:") else f"*{text}*"


def _hint(pattern: str) -> str:
    if pattern.startswith("timm:") and find_spec("timm") is None:
        return _TIMM
    similar = get_close_matches(pattern.strip("*"), list_backbones(), n=3)
    if similar:
        return f"Similar names: {', '.join(similar)}."
    return "Run 'sktransfer backbones' to list all names."


def layers(
    name: Annotated[str, typer.Argument(help="The name of a backbone.")],
) -> None:
    """List the layers of a backbone with the shapes of their outputs. No weights are needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are intended
        backbone = load_backbone(name, weights="default" if name in _NEED_WEIGHTS else None)
    sample = "image" if backbone.input_shape else f"text ({_TEXT!r})"
    shape = backbone.input_shape
    x = torch.zeros(1, *shape) if shape else backbone.preprocess(_TEXT)[None]
    rows = [
        (i, layer.name, " × ".join(map(str, layer.shape)), f"{layer.width:,}")
        for i, layer in enumerate(inspect_layers(backbone, x).values())
    ]
    print_rows(("", "layer", f"output for one {sample}", "features"), rows, right=(0, 3))
    print(f"\n{_size(backbone)}'features' is their number after average pooling.")
    print(f"The default layer is {penultimate(backbone)}.")


def _size(backbone: Backbone) -> str:
    if not backbone.input_shape:
        return ""
    return f"The input is {backbone.input_shape[-1]} × {backbone.input_shape[-2]} pixels. "
