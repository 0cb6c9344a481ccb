"""Run commands of the command line in this process."""

import warnings

import pytest

rich = pytest.importorskip("rich")
testing = pytest.importorskip("typer.testing")

from sktransfer.cli.commands import make_app  # noqa: E402


def run(*arguments, input=None):
    """Run a command; an error that users see is raised."""
    console = rich.get_console()
    before = console.__dict__.copy()
    with warnings.catch_warnings():  # commands change how warnings and progress are shown
        result = testing.CliRunner().invoke(make_app(), list(map(str, arguments)), input=input)
    console.__dict__ = before
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def words(text: str) -> list[str]:
    return text.split()
