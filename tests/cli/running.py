"""Run commands of the command line in this process."""

import pytest

pytest.importorskip("rich")
testing = pytest.importorskip("typer.testing")

from sktransfer.cli.app import make_app  # noqa: E402


def run(*arguments, input=None):
    """Run a command; an error that users see is raised."""
    result = testing.CliRunner().invoke(make_app(), list(map(str, arguments)), input=input)
    if isinstance(result.exception, Exception):
        raise result.exception
    return result


def words(text: str) -> list[str]:
    return text.split()
