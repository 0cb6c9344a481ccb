"""The application: its commands, and those that list files, networks and caches."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from .labelled import advise, evaluate, rank, report, train
from .unlabelled import extract, predict

_SHOWN = 20  # entries of a list
# Backbones that have no architecture without their weights.
_NEED_WEIGHTS = ("glove_6b_50d",)
_TEXT = "a film"  # the sample of text backbones whose shapes are shown


def make_app() -> typer.Typer:
    """Make the typer application with all commands."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in COMMANDS:
        app.command()(_interruptible(command))
    app.callback()(options)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        print(sys.modules["sktransfer"].__version__)  # type: ignore[attr-defined]
        raise typer.Exit()


def options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Transfer learning with the scikit-learn API."""


def _interruptible(command: Callable[..., None]) -> Callable[..., None]:
    """Print the warnings of a command as notes, and end it by an interrupt that Python drops."""

    @functools.wraps(command)
    def run(*args: Any, **settings: Any) -> None:
        from . import import_or_exit

        import_or_exit("torch")
        from ..data import kept_interrupts
        from .output import show_warning

        warnings.showwarning = show_warning
        try:
            with kept_interrupts():
                command(*args, **settings)
        except BrokenPipeError as error:  # of which typer says nothing
            raise OSError("The pipe to another process of this command broke.") from error

    return run


def inspect(
    path: Annotated[Path, typer.Argument(help="A file that train or sktransfer.save wrote.")],
) -> None:
    """List what is in the file of a model, without loading it."""
    from ..persistence import inspect_file
    from .output import print_rows

    contents = inspect_file(path)
    columns = ["columns"] if "columns" in contents else []
    names = ["estimator", "classes", *columns, "versions", "networks", "modules", "types", "parts"]
    rows = [(name, line) for name in names for line in _described(contents.get(name))]
    print_rows(("part", "contents"), rows, grouped=True)


def _described(value: Any) -> list[str]:
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
    from ..features import FeatureStore
    from .output import print_lines

    store = FeatureStore(folder)
    if not store.path.is_dir():
        raise FileNotFoundError(
            f"There is no feature store in {str(folder)!r}. Pass the folder that was given as "
            "memory= to an estimator."
        )
    if clear:
        store.clear()
    print_lines(f"{len(store):,} entries, {store.nbytes:,} bytes")


def backbones(
    pattern: Annotated[
        str,
        typer.Argument(help="A part of the name, or a shell-style pattern: vgg, 'timm:vit*'."),
    ] = "*",
) -> None:
    """List the names of backbones."""
    from ..backbones import list_backbones
    from .output import print_columns

    shell_style = pattern
    if not any(mark in pattern for mark in "*?["):
        shell_style = f"{pattern}*" if pattern.startswith("timm:") else f"*{pattern}*"
    names = list_backbones(shell_style)
    if not names:
        raise ValueError(f"No backbone matches {pattern!r}. {_hint(pattern, list_backbones())}")
    print_columns(names, f"{len(names)} backbones")


def _hint(pattern: str, names: list[str]) -> str:
    if pattern.startswith("timm:") and find_spec("timm") is None:
        return "The networks of timm require: pip install 'sktransfer[timm]'"
    similar = get_close_matches(pattern.strip("*"), names, n=3)
    if similar:
        return f"Similar names: {', '.join(similar)}."
    return "Run 'sktransfer backbones' to list all names."


def layers(
    name: Annotated[str, typer.Argument(help="The name of a backbone.")],
) -> None:
    """List the layers of a backbone with the shapes of their outputs. No weights are needed."""
    import torch

    from ..backbones import inspect_layers, load_backbone, penultimate
    from .output import print_lines, print_rows

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
    size = f"The input is {shape[-1]} × {shape[-2]} pixels. " if shape else ""
    print_lines("", f"{size}'features' is their number after average pooling.")
    print_lines(f"The default layer is {penultimate(backbone)}.")


def serve(
    path: Annotated[Path, typer.Argument(help="A file that train or sktransfer.save wrote.")],
    host: Annotated[str, typer.Option(help="0.0.0.0 serves other machines, too.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    threads: Annotated[int, typer.Option(min=1, help="Requests computed at once.")] = 4,
    queue: Annotated[int, typer.Option(min=1, help="Open requests; others get status 503.")] = 64,
    max_mb: Annotated[int, typer.Option(min=1, help="Size of a request, in MB.")] = 20,
    explain: Annotated[
        bool, typer.Option(help="Show on the page what a prediction depends on.")
    ] = True,
) -> None:
    """Serve a model: a page with fields for a sample, and predictions as JSON."""
    try:
        import uvicorn

        from .service import make_service
    except ImportError:
        raise ImportError("serve requires: pip install 'sktransfer[serve]'") from None
    from ..persistence import load
    from .output import note
    from .predicting import find_predictor

    model = load(path)
    step = find_predictor(model).step
    step.set_params(verbose=0)
    if hasattr(step, "n_jobs"):  # each request is computed in its own thread
        step.set_params(n_jobs=None)
    service = make_service(model, n_threads=threads, max_bytes=max_mb * 10**6, explain=explain)
    note(f"Serving {path} at http://{host}:{port}; end it by Ctrl-C.")
    uvicorn.run(
        service,
        host=host,
        port=port,
        limit_concurrency=queue + 1,  # from which number on uvicorn refuses
        timeout_graceful_shutdown=5,  # seconds, for connections that send nothing
        log_level="warning",
        ws="none",
    )
    raise KeyboardInterrupt  # it returns after an interrupt only, which it may have caught


def demo() -> None:
    """Run a demonstration on photographs and digits. Takes one or two minutes, works offline."""
    from .demo import run

    run()


COMMANDS = (
    train,
    evaluate,
    predict,
    extract,
    advise,
    rank,
    report,
    inspect,
    backbones,
    layers,
    cache,
    serve,
    demo,
)
