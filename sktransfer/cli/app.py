"""The command line: a tour, backbones, their layers, names of photographs, feature stores."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import torch

from ..backbones import (
    Backbone,
    check_stages,
    list_backbones,
    load_backbone,
    penultimate,
    stages_of,
)
from ..engines import Recipe, engine_for, resolve_device
from ..features import FeatureStore, PretrainedClassifier

__all__ = ["backbones", "cache", "demo", "layers", "main", "predict"]

try:
    import rich
    import typer
    from rich.columns import Columns
    from rich.console import Console
    from rich.table import Table
except ImportError:  # `main` says so
    typer = None  # type: ignore[assignment]


_INSTALL = "The command line needs typer and rich: pip install 'sktransfer[cli]'"

# What the library raises when it is asked for what cannot be.
_ERRORS = (ImportError, OSError, TypeError, ValueError)
_SMALL = ("glove_6b_50d",)  # mapped rather than read
_TEXT = "a film"
_MANY = 32  # photographs that take long enough for a progress bar


def main() -> None:
    """Run the command line; what the library objects to is one message and exit code 1."""
    if typer is None:
        sys.exit(_INSTALL)
    app = typer.Typer(
        help="Transfer learning for people who think in scikit-learn.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    for command in (demo, backbones, layers, predict, cache):
        app.command()(command)
    try:
        app(prog_name="sktransfer")
    except _ERRORS as error:
        console = Console(stderr=True, style="red", soft_wrap=True)
        console.print(str(error), markup=False, highlight=False)
        sys.exit(1)


def demo() -> None:
    """Take a tour of a minute or two: photographs, digits, a saved model. Works offline."""
    from .demo import run

    run()


def backbones(
    pattern: Annotated[
        str, typer.Argument(help="A part of the name, or shell-style: vgg, 'vgg1?', 'timm:vit*'.")
    ] = "*",
) -> None:
    """List the pretrained networks by name."""
    names = list_backbones(_as_pattern(pattern))
    if not names:
        hint = " Names of timm need: pip install 'sktransfer[timm]'" if ":" in pattern else ""
        raise ValueError(f"No backbone is called {pattern!r}.{hint}")
    if not rich.get_console().is_terminal:  # for grep and its like
        print(*names, sep="\n")
        return
    rich.print(Columns(names, padding=(0, 3)))
    rich.print(f"[dim]{len(names)} backbones[/]")


def _as_pattern(text: str) -> str:
    if any(mark in text for mark in "*?["):
        return text
    return f"{text}*" if text.startswith("timm:") else f"*{text}*"


def layers(
    name: Annotated[str, typer.Argument(help="A backbone, as `sktransfer backbones` lists them.")],
) -> None:
    """List the layers at which a backbone can be cut. Its weights are not needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # random weights are meant
        backbone = load_backbone(name, weights="default" if name in _SMALL else None)
    default = penultimate(backbone)
    one = "image" if backbone.input_shape else f"text ({_TEXT!r})"
    table = Table("", "layer", f"output for one {one}", "features", header_style="bold", box=None)
    for column in (0, 3):
        table.columns[column].justify = "right"
    for i, (layer, shape, n_features) in enumerate(_measured(backbone)):
        style = "bold" if layer == default else None
        size = " × ".join(map(str, shape))
        table.add_row(str(i), layer, size, f"{n_features:,}", style=style)
    rich.print(table)
    side = backbone.input_shape[-1] if backbone.input_shape else 0
    size = f"Images are {side} × {side}; f" if side else "F"
    rich.print(
        f"\n{size}eatures are counted after average pooling. "
        f"Without [bold]layer=[/], features are those of [bold]{default}[/]."
    )


@torch.inference_mode()
def _measured(backbone: Backbone) -> Iterator[tuple[str, tuple[int, ...], int]]:
    """Yield each layer, the shape of its output for one image and its number of features."""
    shape = backbone.input_shape
    x = torch.zeros(1, *shape) if shape else backbone.preprocess(_TEXT)[None]
    check_stages(backbone, x)
    stages = stages_of(backbone)
    widths = engine_for(Recipe(backbone, tuple(stages), "avg"), resolve_device("cpu")).widths(x)
    for layer, stage in stages.items():
        x = stage(x)
        yield layer, tuple(x.shape[1:]), widths[layer]


def predict(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Photographs.")],
    backbone: Annotated[str, typer.Option(help="Whose classes to use.")] = "efficientnet_lite0",
    weights: Annotated[str, typer.Option(help="A published set, or a file.")] = "default",
    k: Annotated[int, typer.Option("-k", min=1, help="How many names for each photograph.")] = 3,
) -> None:
    """Name what is on photographs, with a network's own classes."""
    classifier = PretrainedClassifier(
        backbone, weights=weights, verbose=int(len(paths) > _MANY)
    ).fit(paths)
    table = Table("photograph", "class", "probability", header_style="bold", box=None)
    table.columns[2].justify = "right"
    for path, names, probabilities in zip(paths, *classifier.predict_top_k(paths, k), strict=True):
        for i, (name, p) in enumerate(zip(names, probabilities, strict=True)):
            table.add_row("" if i else str(path), name, f"{p:.1%}", end_section=i == k - 1)
    rich.print(table)


def cache(
    folder: Annotated[Path, typer.Argument(help="What was given as memory=.")],
    clear: Annotated[bool, typer.Option("--clear", help="Remove every entry.")] = False,
) -> None:
    """Say what a feature store holds, or empty it."""
    store = FeatureStore(folder)
    if not store.path.is_file():
        raise FileNotFoundError(f"There is no feature store in {str(folder)!r}.")
    if clear:
        store.clear()
    size = store.path.stat().st_size
    rich.print(f"{len(store):,} entries, {store.nbytes:,} bytes; the file has {size:,} bytes")
