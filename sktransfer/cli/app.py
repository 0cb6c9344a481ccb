"""The commands of the command line: demo, backbones, layers, predict, inspect and cache."""

from __future__ import annotations

import sys
import warnings
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch

from ..backbones import (
    Backbone,
    inspect_layers,
    list_backbones,
    load_backbone,
    penultimate,
)
from ..features import FeatureStore, PretrainedClassifier
from ..persistence import inspect_file
from .extract import extract

__all__ = ["backbones", "cache", "demo", "extract", "inspect", "layers", "main", "predict"]

try:
    import rich
    import typer
    from rich.columns import Columns
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table
except ImportError:  # reported by `main`
    typer = None  # type: ignore[assignment]

_INSTALL = "The command line requires typer and rich: pip install 'sktransfer[cli]'"
_TIMM = "The networks of timm require: pip install 'sktransfer[timm]'"

# Exceptions whose message is meant for users; any other one is a bug and keeps its traceback.
_ERRORS = (ImportError, OSError, TypeError, ValueError)
# Backbones that have no architecture without their weights.
_NEED_WEIGHTS = ("glove_6b_50d",)
_TEXT = "a film"  # the sample of text backbones whose shapes are shown
_PROGRESS_FROM = 32  # photographs
_SHOWN = 20  # entries of a list


def main() -> None:
    """Run the command line. Errors are printed as one message, with exit code 1."""
    if typer is None:
        sys.exit(_INSTALL)
    try:
        make_app()(prog_name="sktransfer")
    except _ERRORS as error:
        console = Console(stderr=True, style="red", soft_wrap=True)
        console.print(str(error), markup=False, highlight=False)
        sys.exit(1)


def make_app() -> typer.Typer:
    """Make the typer application with all commands."""
    app = typer.Typer(
        help="Transfer learning with the scikit-learn API.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (demo, backbones, layers, predict, extract, inspect, cache):
        app.command()(command)
    return app


def demo() -> None:
    """Run a demonstration on photographs and digits. Takes one or two minutes, works offline."""
    from .demo import run

    run()


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
    if not rich.get_console().is_terminal:  # one name a line, for grep and similar programs
        print(*names, sep="\n")
        return
    rich.print(Columns(names, padding=(0, 3)))
    rich.print(f"[dim]{len(names)} backbones[/]")


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
    default = penultimate(backbone)
    sample = "image" if backbone.input_shape else f"text ({_TEXT!r})"
    table = Table(
        "", "layer", f"output for one {sample}", "features", header_style="bold", box=None
    )
    for column in (0, 3):
        table.columns[column].justify = "right"
    shape = backbone.input_shape
    x = torch.zeros(1, *shape) if shape else backbone.preprocess(_TEXT)[None]
    for i, layer in enumerate(inspect_layers(backbone, x).values()):
        style = "bold" if layer.name == default else None
        size = " × ".join(map(str, layer.shape))
        table.add_row(str(i), escape(layer.name), size, f"{layer.width:,}", style=style)
    rich.print(table)
    rich.print(f"\n{_size(backbone)}'features' is their number after average pooling.")
    rich.print(f"The default layer is [bold]{default}[/].")


def _size(backbone: Backbone) -> str:
    if not backbone.input_shape:
        return ""
    return f"The input is {backbone.input_shape[-1]} × {backbone.input_shape[-2]} pixels. "


def predict(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Image files.")],
    backbone: Annotated[
        str, typer.Option(help="The backbone whose classes are predicted.")
    ] = "efficientnet_lite0",
    weights: Annotated[
        str, typer.Option(help="The name of published weights, or a file.")
    ] = "default",
    k: Annotated[int, typer.Option("-k", min=1, help="Number of classes for each image.")] = 3,
) -> None:
    """Predict the most probable classes of photographs."""
    verbose = int(len(paths) > _PROGRESS_FROM)
    classifier = PretrainedClassifier(backbone, weights=weights, verbose=verbose).fit(paths)
    table = Table("photograph", "class", "probability", header_style="bold", box=None)
    table.columns[2].justify = "right"
    for path, names, probabilities in zip(paths, *classifier.predict_top_k(paths, k), strict=True):
        for i, (name, p) in enumerate(zip(names, probabilities, strict=True)):
            cells = ["" if i else str(path), name, f"{p:.1%}"]
            table.add_row(*map(escape, cells), end_section=i == k - 1)
    rich.print(table)


def inspect(
    file: Annotated[Path, typer.Argument(help="A file of sktransfer.save.")],
) -> None:
    """List what a file of a fitted model holds, without loading it."""
    found = inspect_file(file)
    table = Table(show_header=False, box=None)
    for name in ("estimator", "classes", "versions", "networks", "modules", "types", "parts"):
        for i, line in enumerate(_lines(found.get(name))):
            table.add_row("" if i else f"[bold]{name}[/]", escape(line))
    rich.print(table)


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
    rich.print(f"{len(store):,} entries, {store.nbytes:,} bytes")
