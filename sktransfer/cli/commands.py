"""The commands of the command line. Each is a function of a file of this package."""

from __future__ import annotations

from typing import Annotated

import typer

from ..data import package_versions
from .advice import advise, rank
from .extract import extract
from .files import cache, inspect
from .networks import backbones, layers
from .output import results_on_stdout
from .predictions import predict
from .report import report
from .training import evaluate, train

__all__ = ["COMMANDS", "demo", "make_app"]


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
    demo,
)


def make_app() -> typer.Typer:
    """Make the typer application with all commands."""
    app = typer.Typer(
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for command in COMMANDS:
        app.command()(command)
    app.callback()(options)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        print(package_versions()["sktransfer"])
        raise typer.Exit()


def options(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Transfer learning with the scikit-learn API."""
    if context.invoked_subcommand != demo.__name__:  # which shows its progress as its result
        results_on_stdout()
